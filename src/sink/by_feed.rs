//! Tasks as a place of tables writes them: those of each feed together, and each row once.

use std::collections::HashMap;

use super::task::Task;
use crate::model::{Change, ChangedRow, RandomId};

/// The changes of each feed, each row once, in its latest state: one statement cannot write a row twice.
pub(super) fn by_feed(tasks: &[Task]) -> Vec<(&RandomId, Vec<&Change>)> {
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
            Some(held) if is_later(held, change) => *held = change,
            Some(_) => {}
            None => changes.push(change),
        }
    }
    feeds
}

/// A message that comes once more may stand behind a newer one.
fn is_later(held: &Change, change: &Change) -> bool {
    held.epoch != change.epoch || change.number >= held.number
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ChangedAccount;

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
        let grouped = by_feed(&tasks);
        let numbers: Vec<(&str, Vec<u64>)> = grouped
            .iter()
            .map(|(feed, changes)| {
                let numbers = changes.iter().map(|change| change.number);
                (feed.as_str(), numbers.collect())
            })
            .collect();
        assert_eq!(numbers, [("f", vec![3, 1]), ("g", vec![1])]);
    }
}
