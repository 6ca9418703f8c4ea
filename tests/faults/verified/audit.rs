//! Compares the tables with the network, and with the events up to the cursor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use simulated_network::network::Network;
use simulated_network::oracle::{Moment, Oracle, Visibility, What, select};
use simulated_network::record::is_looked_at;

use huddle_firehose::model::Position;
use huddle_firehose::store::sqlite::SqliteStore;

use super::traffic::Said;
use crate::upstream::Upstream;

/// Whether a job, an unconfirmed status, a discovery or a gap is left. Accounts that do not exist
/// are left out, because they never get an answer.
const WORK: &str = "SELECT \
     EXISTS (SELECT 1 FROM repos WHERE urgency IS NOT NULL \
         AND did IN (SELECT value FROM json_each(?)) AND NOT EXISTS ( \
         SELECT 1 FROM accounts WHERE accounts.did = repos.did AND active = 0)) \
     OR EXISTS (SELECT 1 FROM accounts WHERE is_unconfirmed = 1 AND did IN (SELECT did FROM repos)) \
     OR EXISTS (SELECT 1 FROM discoveries WHERE ended_at IS NULL) \
     OR EXISTS (SELECT 1 FROM gaps WHERE closed_at IS NULL)";

pub(crate) async fn has_work(store: &SqliteStore, accounts: &[String]) -> bool {
    sqlx::query_scalar(WORK)
        .bind(serde_json::Value::from(accounts).to_string())
        .fetch_one(store.reader())
        .await
        .unwrap()
}

/// The state of repositories in the tables.
pub(crate) struct Tables {
    cursor: Position,
    /// The rev of a repository's head. `None` if a job is due for it.
    repos: BTreeMap<String, Option<String>>,
    /// Accounts that are inactive, have an unconfirmed status, or were removed once.
    restless: BTreeSet<String>,
    has_gap: bool,
}

impl Tables {
    pub(crate) async fn read(store: &SqliteStore, cursor: Position) -> Self {
        let reader = store.reader();
        let repos: Vec<(String, Option<String>)> = sqlx::query_as(
            "SELECT did, iif(state = 'synchronized' AND has_parked = 0 AND recheck_cause IS NULL, \
             rev, NULL) FROM repos",
        )
        .fetch_all(reader)
        .await
        .unwrap();
        let restless: Vec<String> = sqlx::query_scalar(
            "SELECT did FROM accounts WHERE active = 0 OR is_unconfirmed = 1 OR removed_at IS NOT NULL",
        )
        .fetch_all(reader)
        .await
        .unwrap();
        let gap = "SELECT EXISTS (SELECT 1 FROM gaps WHERE closed_at IS NULL)";
        Self {
            cursor,
            repos: repos.into_iter().collect(),
            restless: restless.into_iter().collect(),
            has_gap: sqlx::query_scalar(gap).fetch_one(reader).await.unwrap(),
        }
    }
}

pub(crate) struct Audit {
    network: Arc<Mutex<Network>>,
    upstream: Arc<Upstream>,
    said: Arc<Mutex<Said>>,
    oddities: Vec<String>,
}

impl Audit {
    pub(crate) fn new(
        network: Arc<Mutex<Network>>,
        upstream: Arc<Upstream>,
        said: Arc<Mutex<Said>>,
    ) -> Self {
        Self {
            network,
            upstream,
            said,
            oddities: Vec::new(),
        }
    }

    /// The DIDs of the network's accounts.
    pub(crate) fn accounts(&self) -> Vec<String> {
        let network = self.network.lock().unwrap();
        let accounts = network.accounts().iter();
        accounts.map(|account| account.did.clone()).collect()
    }

    /// Checks whether the cursor leads: whether an event up to it is neither in the tables nor
    /// known there to be missing.
    pub(crate) fn note_commit(&mut self, tables: &Tables) {
        let cursor = tables.cursor;
        if cursor.seq > 0 {
            self.upstream.note_cursor();
        }
        let network = self.network.lock().unwrap();
        let oracle = network.oracle();
        let Some(reached) = oracle.reached(cursor.seq, cursor.time) else {
            return;
        };
        self.upstream.note_reached(reached);
        if tables.has_gap {
            return;
        }
        let missed = self.upstream.missed();
        let said = self.said.lock().unwrap();
        let mut newest: BTreeMap<&str, (&String, Moment)> = BTreeMap::new();
        for change in oracle.changes() {
            let (What::Put { path, .. } | What::Delete { path }) = &change.what else {
                continue;
            };
            let is_due = change.moment <= reached
                && change.is_in_stream
                && is_looked_at(path)
                && !missed.contains(&change.moment);
            if let Some(rev) = said.revs.get(&change.moment).filter(|_| is_due) {
                let newest = newest.entry(&change.did).or_insert((rev, change.moment));
                *newest = (rev, change.moment).max(*newest);
            }
        }
        for (did, (rev, moment)) in newest {
            let is_known = match tables.repos.get(did) {
                Some(None) => true,
                Some(Some(stands_at)) => stands_at >= rev,
                // A repository without wanted records when it was fetched is not tracked.
                None => was_empty_since(oracle, did, moment),
            };
            if !is_known && !tables.restless.contains(did) {
                let stands_at = tables.repos.get(did);
                self.oddities.push(format!(
                    "the cursor leads: {cursor:?}, and {did} stands at {stands_at:?}, not {rev}"
                ));
            }
        }
    }

    /// Returns all faults, when everything has happened and no work is left.
    pub(crate) fn conclude(&self, shown: &Shown) -> Vec<String> {
        let mut differences = self.oddities.clone();
        let state = self.network.lock().unwrap().oracle().now();
        let live: BTreeMap<String, String> = select(&state, Visibility::Live, is_looked_at)
            .into_iter()
            .map(|(uri, record)| (uri, record.cid.to_string()))
            .collect();
        crate::audit::differ("visible records", &shown.visible, &live, &mut differences);
        if shown.waiting > 0 {
            differences.push(format!("{} frames wait", shown.waiting));
        }
        differences
    }
}

/// Whether a repository had no wanted record at some time, at that moment or later.
fn was_empty_since(oracle: &Oracle, did: &str, moment: Moment) -> bool {
    let mut paths = BTreeSet::new();
    let mut was_empty = false;
    for change in oracle.changes().iter().filter(|change| change.did == did) {
        match &change.what {
            What::Put { path, .. } if is_looked_at(path) => {
                paths.insert(path);
            }
            What::Delete { path } => {
                paths.remove(path);
            }
            What::Status(Some(status)) if status == "deleted" => paths.clear(),
            What::Handle(_) | What::Put { .. } | What::Status(_) => {}
        }
        was_empty |= change.moment >= moment && paths.is_empty();
    }
    was_empty
}

/// The tables in the end.
pub(crate) struct Shown {
    /// The CIDs of records by their URIs.
    visible: BTreeMap<String, String>,
    /// The parked frames of active accounts.
    waiting: i64,
}

impl Shown {
    pub(crate) async fn read(store: &SqliteStore) -> Self {
        let visible: Vec<(String, String)> = sqlx::query_as("SELECT uri, cid FROM visible_records")
            .fetch_all(store.reader())
            .await
            .unwrap();
        let waiting = sqlx::query_scalar(
            "SELECT count(*) FROM kept_parked_commits WHERE did NOT IN ( \
             SELECT did FROM accounts WHERE active = 0)",
        );
        Self {
            visible: visible.into_iter().collect(),
            waiting: waiting.fetch_one(store.reader()).await.unwrap(),
        }
    }
}
