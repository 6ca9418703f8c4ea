//! `account`: shows what is known of an account, and overrides a takedown by the source.

use clap::{ArgAction, Args};

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::command::Command;
use huddle_firehose::store::sqlite::AccountStatus;
use huddle_firehose::telemetry::excerpt::shown;

use super::{Configuration, database, print, request, runtime};

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
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = false, hide_default_value = true,
          conflicts_with = "clear")]
    active: bool,
    /// Let the source decide again
    #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value_t = false, hide_default_value = true)]
    clear: bool,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    configuration: Configuration,
}

impl AccountCommand {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let config = self.configuration.load_and_log()?;
        runtime()?.block_on(async {
            let did = &self.did;
            if self.active || self.clear {
                let command = Command::Account {
                    did: did.clone(),
                    is_shown: self.active,
                };
                request::give(&config, "account", command, self.reason.clone()).await?;
            }
            let store = database::open_to_read(&config).await?;
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
        (false, Some(status)) => format!("{did}\thidden: {}", shown(status)),
        (false, None) => format!("{did}\thidden"),
    };
    if let Some(held) = &status.held_status {
        text += &format!("\tthe source says {}", shown(held));
    }
    if status.is_overridden {
        text += "\toverridden by an operator";
    }
    if let Some(suspected) = &status.suspected_status {
        let suspected = shown(suspected);
        text += &format!("\tits host once said {suspected}; to be confirmed");
    } else if status.is_unconfirmed {
        text += "\tto be confirmed";
    }
    text + "\n"
}
