//! `resync`: requests a fetch of whole repositories.

use clap::Args;

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::command::Command;

use super::{Configuration, print, request, runtime};

/// Fetch whole repositories again, and make the tables equal to them
///
/// The worker that runs on this database does it, or the next one that is started.
#[derive(Args, Debug)]
pub(crate) struct ResyncCommand {
    /// The DIDs of the repositories
    #[arg(required = true, value_name = "DID", value_parser = Did::parse)]
    dids: Vec<Did>,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    configuration: Configuration,
}

impl ResyncCommand {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let config = self.configuration.load_and_log()?;
        runtime()?.block_on(async {
            let when = match request::has_worker(&config).await? {
                true => "",
                false => request::NEXT_RUN,
            };
            for did in &self.dids {
                let command = Command::Resync { did: did.clone() };
                request::give(&config, "resync", command, self.reason.clone()).await?;
                print(&format!("{did}\tto be fetched{when}\n"))?;
            }
            Ok(())
        })
    }
}
