//! `repo`: one repository.

use anyhow::Context;
use clap::{Args, Subcommand};

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::command::Command as Given;
use huddle_firehose::telemetry::excerpt::shown_json;

use super::{Configuration, database, print, request, runtime};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Compare repositories with their hosts, and fetch those that differ
    Recheck(Repositories),
    /// Show all that the database knows of a repository, and its history
    Show {
        /// The DID or the handle of its account
        #[arg(value_name = "DID|HANDLE")]
        account: String,
        #[command(flatten)]
        configuration: Configuration,
    },
    /// Forget what is due for repositories, until their accounts write again
    Untrack(Repositories),
}

#[derive(Args, Debug)]
pub(crate) struct Repositories {
    /// The DIDs of the repositories
    #[arg(required = true, value_name = "DID", value_parser = Did::parse)]
    dids: Vec<Did>,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    configuration: Configuration,
}

impl Command {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        match self {
            Self::Recheck(repositories) => repositories.give(
                "repo recheck",
                |did| Given::Recheck { did },
                "to be compared",
                true,
            ),
            Self::Show {
                account,
                configuration,
            } => show(account, configuration),
            Self::Untrack(repositories) => repositories.give(
                "repo untrack",
                |did| Given::Untrack { did },
                "nothing is due",
                false,
            ),
        }
    }
}

impl Repositories {
    /// Tells the outcome of each, and whether its work on the network waits for the next run.
    pub(super) fn give(
        &self,
        name: &str,
        command: impl Fn(Did) -> Given,
        outcome: &str,
        needs_network: bool,
    ) -> anyhow::Result<()> {
        let config = self.configuration.load_and_log()?;
        runtime()?.block_on(async {
            let when = match needs_network && !request::has_worker(&config).await? {
                true => request::NEXT_RUN,
                false => "",
            };
            for did in &self.dids {
                let reason = self.reason.clone();
                request::give(&config, name, command(did.clone()), reason).await?;
                print(&format!("{did}\t{outcome}{when}\n"))?;
            }
            Ok(())
        })
    }
}

fn show(account: &str, configuration: &Configuration) -> anyhow::Result<()> {
    let config = configuration.load_and_log()?;
    let text = runtime()?.block_on(async {
        let store = database::open_to_read(&config).await?;
        let handle = account.strip_prefix('@').unwrap_or(account);
        let did = match Did::parse(account) {
            Ok(did) => did,
            Err(_) => store.did_of_handle(handle).await?.with_context(|| {
                format!(
                    "{account} is no DID, and no account in the database claims it as its handle"
                )
            })?,
        };
        let report = store.repo_report(&did).await?;
        anyhow::Ok(serde_json::to_string_pretty(&report)?)
    })?;
    Ok(print(&(shown_json(&text) + "\n"))?)
}
