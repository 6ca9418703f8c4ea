//! Commands about repositories and the backfill, as a worker carries them out. Holds invariant 13.1.

use std::time::Duration;

use huddle_firehose::command::Command;
use huddle_firehose::config::{Discovering, Start};
use huddle_firehose::model::{CommandRow, CommandState};
use simulated_network::mishap::Endpoint;
use simulated_network::network::Network;
use simulated_network::shape::Shape;
use test_support::commands::{new_command, new_row};
use test_support::simulation::verified::Verified;

use super::{A, B, D, E, few_accounts_with_offers};

/// Gives a command to the worker. Returns its row as it is a moment later.
async fn give(verified: &Verified, command: Command) -> CommandRow {
    let commands = verified.tree.commands().unwrap();
    let row = new_row(commands.submit(&new_command(command)).await.unwrap());
    let row = commands.ended(row.id, Duration::from_secs(2)).await;
    row.unwrap().unwrap()
}

/// Gives a command that is done at once.
async fn done(verified: &Verified, command: Command) {
    let row = give(verified, command).await;
    assert_eq!(row.state, CommandState::Done, "{row:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_by_command_waits_while_it_is_paused_and_ends_when_all_is_fetched() {
    let shape = Shape {
        accounts: 3,
        ..Shape::default()
    };
    let mut network = Network::new(1, shape);
    for number in 0..3 {
        network.write(number, &[A, B], &[]);
    }
    let verified = Verified::start_late_with(1, network, |config| {
        config.start = Start::Live;
        config.backfill = false;
        config.backfill_discovery = Discovering::Repos;
    })
    .await;
    done(&verified, Command::BackfillPause {}).await;
    let started = give(&verified, Command::BackfillStart {}).await;
    assert_eq!(started.state, CommandState::Running, "{started:?}");
    let progress = started.progress.unwrap();
    assert_eq!(
        (&progress["is_paused"], &progress["enumerating"]),
        (&true.into(), &1.into())
    );
    assert_eq!(verified.http.requests(Endpoint::ListRepos), 0);

    done(&verified, Command::BackfillResume {}).await;
    let commands = verified.tree.commands().unwrap();
    verified
        .until("the backfill is over", async || {
            let row = commands.ended(started.id, Duration::ZERO).await;
            row.unwrap().unwrap().state == CommandState::Done
        })
        .await;
    for number in 0..3 {
        assert_eq!(verified.visible(number).await, 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recheck_by_command_finds_what_the_relay_has_lost_and_an_untracked_one_has_nothing_due() {
    let verified = few_accounts_with_offers().await;
    assert_eq!(verified.visible(0).await, 3);
    verified.withhold(|network| {
        network.write(0, &[D, E], &[]);
    });
    let did = verified.did(0);
    let recheck = Command::Recheck { did: did.clone() };
    done(&verified, recheck).await;
    verified
        .until("what was lost is fetched", async || {
            verified.visible(0).await == 5
        })
        .await;
    done(&verified, Command::Untrack { did }).await;
    let due = "SELECT count(*) FROM repos WHERE urgency IS NOT NULL";
    assert_eq!(verified.count(due).await, 0);
}
