//! The tables that the plan writes end equal to the network. Holds invariant 2.2.

use std::collections::BTreeMap;

use proptest::prelude::*;
use simulated_network::network::Network;
use simulated_network::oracle::{Visibility, select};
use simulated_network::shape::Shape;

use super::follower::Follower;
use crate::store::plan::RepoState;

/// URIs and CIDs of the visible records.
type Visible = BTreeMap<String, String>;
/// Handle and status by DID.
type Accounts = BTreeMap<String, (Option<String>, Option<String>)>;

fn visible(follower: &Follower) -> Visible {
    let tables = &follower.tables;
    let is_inactive = |did: &String| {
        let account = tables.accounts.get(did);
        account.is_some_and(|account| !account.is_active)
    };
    let visible = tables.records.iter().filter_map(|(uri, record)| {
        let cid = record.cid.clone().filter(|_| !is_inactive(&record.did))?;
        Some((uri.clone(), cid))
    });
    visible.collect()
}

fn accounts(follower: &Follower) -> Accounts {
    let accounts = follower.tables.accounts.iter();
    let accounts = accounts.map(|(did, account)| {
        assert_eq!(account.is_active, account.status.is_none(), "{did}");
        (
            did.clone(),
            (account.handle.clone(), account.status.clone()),
        )
    });
    accounts.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    /// For any batches, repeated events and fetches in between.
    #[test]
    fn the_tables_equal_the_network_in_the_end(
        network_seed: u64,
        seed: u64,
        rounds in prop::collection::vec(1..60_usize, 1..6),
    ) {
        let mut network = Network::new(network_seed, Shape { accounts: 5, ..Shape::default() });
        let dids: Vec<_> = network.accounts().iter().map(|account| account.did.clone()).collect();
        let mut follower = Follower::new(seed, dids.into_iter());
        let mut delivered = 0;
        for steps in rounds {
            network.steps(steps);
            let frames: Vec<_> = network.log()[delivered..]
                .iter()
                .map(|entry| entry.frame.clone())
                .collect();
            delivered = network.log().len();
            follower.receive(&network, frames.into_iter());
        }
        follower.work(&network);
        // A repository that is not tracked is not fetched because of a `#sync`, so a discovery has
        // to find it.
        follower.discover(&network);
        follower.work(&network);

        let expected_accounts = network.oracle().now();
        let live = select(&expected_accounts, Visibility::Live, |path| path.starts_with("com.huddle."));
        let expected: Visible = live
            .into_iter()
            .map(|(uri, record)| (uri, record.cid.to_string()))
            .collect();
        prop_assert_eq!(visible(&follower), expected);
        let expected: Accounts = expected_accounts
            .into_iter()
            .map(|(did, account)| (did, (account.handle, account.status)))
            .collect();
        prop_assert_eq!(accounts(&follower), expected);
        // Parked commits of an inactive account stay until it is active again.
        let tables = &follower.tables;
        for parked in tables.parked.values() {
            prop_assert!(!tables.accounts[&parked.did].is_active);
        }
        prop_assert_eq!(follower.in_state(RepoState::Resyncing), 0);
    }
}
