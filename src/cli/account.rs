//! `account`: shows what is known of an account, and overrides a takedown by the source.

use clap::Args;

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::config::Verify;
use huddle_firehose::store::repo_store::{RepoChange, RepoStore};
use huddle_firehose::store::sqlite::{AccountStatus, Options, SqliteStore};

use super::{Configuration, print, runtime};

/// Show the status of an account, or show the account although the source holds it
///
/// A source that takes an account down or suspends it hides the account until the source says that
/// it is active. It makes no difference whether a worker runs on this database.
#[derive(Args, Debug)]
pub(crate) struct AccountCommand {
    /// The DID of the account
    #[arg(value_name = "DID", value_parser = Did::parse)]
    did: Did,
    /// Show the account, whatever the source says of it from now on
    #[arg(long, conflicts_with = "clear")]
    active: bool,
    /// Let the source decide again
    #[arg(long)]
    clear: bool,
    #[command(flatten)]
    configuration: Configuration,
}

impl AccountCommand {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let config = self.configuration.load_and_log()?;
        runtime()?.block_on(async {
            let options = Options {
                create_if_missing: false,
                ..Options::default()
            };
            let store = SqliteStore::open_with(&config.database_url, options).await?;
            let did = &self.did;
            if self.active || self.clear {
                let change = RepoChange::Override {
                    did,
                    is_shown: self.active,
                    is_fetched: config.verify != Verify::None,
                };
                store.change(change).await?;
            }
            let status = store.account_status(did).await?;
            Ok(print(&line(did, status.as_ref()))?)
        })
    }
}

fn line(did: &Did, status: Option<&AccountStatus>) -> String {
    let Some(status) = status else {
        return format!("{did}\tactive\tnothing was said of it\n");
    };
    let mut text = match (status.active, &status.status) {
        (true, _) => format!("{did}\tactive"),
        (false, Some(status)) => format!("{did}\thidden: {status}"),
        (false, None) => format!("{did}\thidden"),
    };
    if let Some(held) = &status.held_status {
        text += &format!("\tthe source says {held}");
    }
    if status.is_overridden {
        text += "\toverridden by an operator";
    }
    if let Some(suspected) = &status.suspected_status {
        text += &format!("\tits host once said {suspected}; to be confirmed");
    } else if status.is_unconfirmed {
        text += "\tto be confirmed";
    }
    text + "\n"
}
