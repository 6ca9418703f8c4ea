//! Tasks as a place of tables writes them: those of each feed together, and each row once.

use std::collections::HashMap;

use super::target::Feeds;
use super::task::Task;
use crate::model::{Change, ChangedRow, RandomId};

/// The changes of each feed, each row once, in its latest state: one statement cannot write a row twice.
pub(super) fn by_feed<'a>(
    tasks: &'a [Task],
    known: &Feeds,
) -> Vec<(&'a RandomId, Vec<&'a Change>)> {
    let mut feeds: Vec<(&RandomId, Vec<&Change>)> = Vec::new();
    let mut places = HashMap::new();
    for Task { feed, change } in tasks {
        let index = feeds.iter().position(|(id, _)| *id == feed);
        let index = index.unwrap_or_else(|| {
            feeds.push((feed, Vec::new()));
            feeds.len() - 1
        });
        let key = match &change.row {
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
    use crate::model::{ChangedAccount, Feed};

    fn account(feed: &str, did: &str, epoch: &str, number: u64) -> Task {
        let account = ChangedAccount {
            did: did.to_owned(),
            is_active: true,
            status: None,
            handle: None,
            handle_status: "unknown".to_owned(),
            removed_at: None,
            removal_change: None,
            time: String::new(),
            updated_at: String::new(),
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
        let grouped = by_feed(&tasks, &Feeds::from(known));
        let numbers: Vec<(&str, Vec<u64>)> = grouped
            .iter()
            .map(|(feed, changes)| {
                let numbers = changes.iter().map(|change| change.number);
                (feed.as_str(), numbers.collect())
            })
            .collect();
        assert_eq!(numbers, [("f", vec![3, 1]), ("g", vec![1])]);
    }

    #[test]
    fn without_an_order_the_later_time_is_later_across_epochs() {
        let at = |epoch: &str, number, time: &str| {
            let mut task = account("f", "a", epoch, number);
            if let ChangedRow::Account(account) = &mut task.change.row {
                time.clone_into(&mut account.time);
            }
            task
        };
        let tasks = [at("h", 1, "2027"), at("e", 9, "2026"), at("e", 8, "2028")];
        let stands = |tasks: &[Task]| {
            let grouped = by_feed(tasks, &Feeds::new());
            (grouped[0].1[0].epoch.to_string(), grouped[0].1[0].number)
        };
        assert_eq!(stands(&tasks[..2]), ("h".to_owned(), 1));
        assert_eq!(stands(&tasks[1..]), ("e".to_owned(), 9));
    }
}
