//! `resync`: requests a fetch of whole repositories.

use clap::Args;

use huddle_firehose::command::Command;

use super::repo::Repositories;

/// Fetch whole repositories again, and make the tables equal to them
///
/// The worker that runs on this database does it, or the next one that is started.
#[derive(Args, Debug)]
pub(crate) struct ResyncCommand {
    #[command(flatten)]
    repositories: Repositories,
}

impl ResyncCommand {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let command = |did| Command::Resync { did };
        self.repositories
            .give("resync", command, "to be fetched", true)
    }
}
