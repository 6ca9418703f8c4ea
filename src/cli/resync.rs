//! `resync`: requests a fetch of whole repositories.

use anyhow::bail;
use clap::Args;
use huddle_firehose::store::plan::ResyncCause;

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::config::Verify;
use huddle_firehose::store::repo_store::{RepoChange, RepoEvent, RepoStore};
use huddle_firehose::worker;

use super::{Configuration, database, print, runtime};

/// Fetch whole repositories again, and make the tables equal to them
///
/// The worker that runs on this database does it, or the next one that is started.
#[derive(Args, Debug)]
pub(crate) struct ResyncCommand {
    /// The DIDs of the repositories
    #[arg(required = true, value_name = "DID", value_parser = Did::parse)]
    dids: Vec<Did>,
    #[command(flatten)]
    configuration: Configuration,
}

impl ResyncCommand {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let config = self.configuration.load_and_log()?;
        if config.verify == Verify::None {
            bail!("verify is none; the worker does not fetch repositories at this level");
        }
        let source = worker::source(&(&config).into())?;
        let interest = worker::rules(&(&config).into(), source.as_ref())?.interest;
        if let Some(did) = self
            .dids
            .iter()
            .find(|did| !interest.wants_did(did.as_str()))
        {
            bail!("{did}: excluded by dids_allow or dids_deny");
        }
        runtime()?.block_on(async {
            let (store, _lock) = database::open_for_request(&config, "resync").await?;
            for did in &self.dids {
                let event = RepoEvent::RequestResync {
                    cause: ResyncCause::Operator,
                };
                store.change(RepoChange::Repo { did, event }).await?;
                print(&format!("{did}\tto be fetched\n"))?;
            }
            Ok(())
        })
    }
}
