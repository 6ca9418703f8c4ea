//! What the plan writes comes to what the network holds.

use std::collections::BTreeMap;

use proptest::prelude::*;
use simulated_network::network::Network;
use simulated_network::oracle::{Visibility, select};
use simulated_network::shape::Shape;

use super::follower::Follower;
use crate::store::plan::RepoState;

/// URIs and CIDs of the records that are shown.
type Shown = BTreeMap<String, String>;
/// Handle and status by DID.
type Accounts = BTreeMap<String, (Option<String>, Option<String>)>;

fn shown(follower: &Follower) -> Shown {
    let tables = &follower.tables;
    let is_gone = |did: &String| {
        let account = tables.accounts.get(did);
        account.is_some_and(|account| !account.is_active)
    };
    let shown = tables.records.iter().filter_map(|(uri, record)| {
        let cid = record.cid.clone().filter(|_| !is_gone(&record.did))?;
        Some((uri.clone(), cid))
    });
    shown.collect()
}

fn accounts(follower: &Follower) -> Accounts {
    let accounts = follower.tables.accounts.iter();
    let told = accounts.map(|(did, account)| {
        assert_eq!(account.is_active, account.status.is_none(), "{did}");
        (
            did.clone(),
            (account.handle.clone(), account.status.clone()),
        )
    });
    told.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    /// Whatever the batches, whatever is told again, whatever is fetched in between.
    #[test]
    fn a_network_that_is_followed_is_known_in_the_end(
        network_seed: u64,
        seed: u64,
        rounds in prop::collection::vec(1..60_usize, 1..6),
    ) {
        let mut network = Network::new(network_seed, Shape { accounts: 5, ..Shape::default() });
        let dids: Vec<_> = network.accounts().iter().map(|account| account.did.clone()).collect();
        let mut follower = Follower::new(seed, dids.into_iter());
        let mut heard = 0;
        for steps in rounds {
            network.steps(steps);
            let frames: Vec<_> = network.log()[heard..]
                .iter()
                .map(|entry| entry.frame.clone())
                .collect();
            heard = network.log().len();
            follower.hear(&network, frames.into_iter());
        }
        follower.work(&network);
        // Of a repository that is not tracked nothing is asked when it says no more than `#sync`.
        follower.discover(&network);
        follower.work(&network);

        let host_status = network.oracle().now();
        let live = select(&host_status, Visibility::Live, |path| path.starts_with("com.huddle."));
        let expected: Shown = live
            .into_iter()
            .map(|(uri, record)| (uri, record.cid.to_string()))
            .collect();
        prop_assert_eq!(shown(&follower), expected);
        let expected: Accounts = host_status
            .into_iter()
            .map(|(did, account)| (did, (account.handle, account.status)))
            .collect();
        prop_assert_eq!(accounts(&follower), expected);
        // What is parked of an account that is gone stays until it comes back.
        let tables = &follower.tables;
        for parked in tables.parked.values() {
            prop_assert!(!tables.accounts[&parked.did].is_active);
        }
        prop_assert_eq!(follower.in_state(RepoState::Resyncing), 0);
    }
}
