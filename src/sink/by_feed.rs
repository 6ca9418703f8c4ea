//! Changes as a place of tables writes them: those of each feed together, each row once, and those of
//! accounts apart from those of records.

use std::borrow::Cow;
use std::collections::HashMap;

use super::target::Feeds;
use super::task::Task;
use crate::model::{Change, ChangedAccount, ChangedRecord, ChangedRow, Feed};

/// The changes of each feed, each row once, in its latest state: one statement cannot write a row twice.
/// A feed that is not `known` has no epochs: revs and times decide then.
pub(super) fn by_feed<'a>(
    tasks: &[&'a Task],
    known: &'a Feeds,
) -> Vec<(Cow<'a, Feed>, Vec<&'a Change>)> {
    let mut feeds: Vec<(Cow<'a, Feed>, Vec<&Change>)> = Vec::new();
    let mut places = HashMap::new();
    for Task { feed, change } in tasks {
        let index = feeds.iter().position(|(held, _)| held.id == *feed);
        let index = index.unwrap_or_else(|| {
            let unknown = || {
                Cow::Owned(Feed {
                    id: feed.clone(),
                    epochs: Vec::new(),
                    last: 0,
                })
            };
            let feed = known.get(feed).map_or_else(unknown, Cow::Borrowed);
            feeds.push((feed, Vec::new()));
            feeds.len() - 1
        });
        let key: &str = match &change.row {
            ChangedRow::Account(account) => &account.did,
            ChangedRow::Record(record) => &record.uri,
        };
        let Some((_, changes)) = feeds.get_mut(index) else {
            continue;
        };
        let place = *places.entry((index, key)).or_insert(changes.len());
        match changes.get_mut(place) {
            Some(held) if is_later(held, change, known.contains_key(feed)) => *held = change,
            Some(_) => {}
            None => changes.push(change),
        }
    }
    feeds
}

/// The changes of accounts, and those of records.
#[expect(clippy::type_complexity, reason = "two lists of the same form")]
pub(super) fn by_table<'a>(
    changes: impl IntoIterator<Item = &'a Change>,
) -> (
    Vec<(&'a Change, &'a ChangedAccount)>,
    Vec<(&'a Change, &'a ChangedRecord)>,
) {
    let (mut accounts, mut records) = (Vec::new(), Vec::new());
    for change in changes {
        match &change.row {
            ChangedRow::Account(account) => accounts.push((change, &**account)),
            ChangedRow::Record(record) => records.push((change, &**record)),
        }
    }
    (accounts, records)
}

/// A message that comes once more may stand behind a newer one. Of two epochs the one that comes later is
/// later, where the queue has an order: then it knows the feed. Elsewhere revs and times decide, as for
/// the rows that are there.
fn is_later(held: &Change, change: &Change, is_known: bool) -> bool {
    if held.epoch == change.epoch {
        return change.number >= held.number;
    }
    is_known || age(change) >= age(held)
}

fn age(change: &Change) -> (&str, &str) {
    match &change.row {
        ChangedRow::Account(account) => (&account.time, &account.updated_at),
        ChangedRow::Record(record) => (&record.rev, &record.last_indexed_at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RandomId;

    fn account(feed: &str, did: &str, epoch: &str, number: u64) -> Task {
        let account = ChangedAccount {
            did: did.into(),
            is_active: true,
            status: None,
            handle: None,
            handle_status: "unknown".into(),
            removed_at: None,
            removal_change: None,
            time: "".into(),
            updated_at: "".into(),
        };
        Task {
            feed: RandomId::new(feed),
            change: Change {
                epoch: RandomId::new(epoch),
                number,
                row: ChangedRow::Account(Box::new(account)),
            },
        }
    }

    #[test]
    fn each_row_of_a_feed_is_written_once_in_its_latest_state() {
        let tasks = [
            account("f", "a", "e", 1),
            account("f", "b", "e", 2),
            account("g", "a", "e", 1),
            account("f", "a", "e", 3),
            // It came once more.
            account("f", "a", "e", 1),
            // Numbers of two epochs say nothing: what comes later is later.
            account("f", "b", "h", 1),
        ];
        let known = ["f", "g"].map(|id| {
            let id = RandomId::new(id);
            let feed = Feed {
                id: id.clone(),
                epochs: Vec::new(),
                last: 0,
            };
            (id, feed)
        });
        let known = Feeds::from(known);
        let grouped = by_feed(&tasks.each_ref(), &known);
        let numbers: Vec<(&str, Vec<u64>)> = grouped
            .iter()
            .map(|(feed, changes)| {
                let numbers = changes.iter().map(|change| change.number);
                (feed.id.as_str(), numbers.collect())
            })
            .collect();
        assert_eq!(numbers, [("f", vec![3, 1]), ("g", vec![1])]);
    }

    #[test]
    fn without_an_order_the_later_time_is_later_across_epochs() {
        let at = |epoch: &str, number, time: &str| {
            let mut task = account("f", "a", epoch, number);
            if let ChangedRow::Account(account) = &mut task.change.row {
                account.time = time.into();
            }
            task
        };
        let tasks = [at("h", 1, "2027"), at("e", 9, "2026"), at("e", 8, "2028")];
        let none = Feeds::new();
        let stands = |tasks: &[Task]| {
            let tasks: Vec<&Task> = tasks.iter().collect();
            let grouped = by_feed(&tasks, &none);
            (grouped[0].1[0].epoch.to_string(), grouped[0].1[0].number)
        };
        assert_eq!(stands(&tasks[..2]), ("h".into(), 1));
        assert_eq!(stands(&tasks[1..]), ("e".into(), 9));
    }
}
