//! `lexicon`: the documents that are in force, and the views that are made from them.

mod check;
mod fetch;
mod index;
mod show;

use anyhow::bail;
use clap::{ArgAction, Subcommand};

use huddle_firehose::atproto::syntax::{Nsid, SyntaxError};
use huddle_firehose::config::check_lexicons;
use huddle_firehose::lexicon::{Lexicons, TypedView};

use super::{Configuration, print, start_log};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check the documents in the folder of --lexicons, and list them
    Check {
        /// Only this document
        #[arg(value_parser = nsid)]
        nsid: Option<Nsid>,
        #[command(flatten)]
        configuration: Configuration,
    },
    /// Fetch published documents, and those that they refer to, into the folder of --lexicons
    ///
    /// DNS says which account may define a name (TXT _lexicon), and the account's host gives the
    /// document with a proof that the account has signed it.
    Fetch {
        /// The documents
        #[arg(value_parser = nsid, required = true)]
        nsids: Vec<Nsid>,
        /// Replace documents that are there already
        #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
              default_missing_value = "true", default_value_t = false, hide_default_value = true)]
        update: bool,
        #[command(flatten)]
        configuration: Configuration,
    },
    /// Make an index on a column of a collection's view
    ///
    /// It takes space, and time whenever a record of the collection is written. A worker that runs makes it,
    /// and writes nothing else meanwhile.
    Index {
        /// The collection
        #[arg(value_parser = nsid)]
        nsid: Nsid,
        /// A property of its records, or the column of it
        property: String,
        /// Drop the index
        #[arg(long, value_name = "BOOL", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
              default_missing_value = "true", default_value_t = false, hide_default_value = true)]
        drop: bool,
        /// Why, for the audit
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        configuration: Configuration,
    },
    /// Show the view of a collection: its columns, and the SQL that makes it
    Show {
        /// The collection
        #[arg(value_parser = nsid)]
        nsid: Nsid,
        #[command(flatten)]
        configuration: Configuration,
    },
}

impl Command {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        match self {
            Self::Check {
                nsid,
                configuration,
            } => {
                let lexicons = check_lexicons(&configuration.load_without_lexicons()?)?;
                Ok(print(&check::list(&lexicons, nsid.as_ref())?)?)
            }
            Self::Fetch {
                nsids,
                update,
                configuration,
            } => {
                let config = configuration.load_without_lexicons()?.config;
                start_log(config.log_format)?;
                fetch::execute(&config, nsids, *update)
            }
            Self::Index {
                nsid,
                property,
                drop,
                reason,
                configuration,
            } => {
                let config = configuration.load_and_log_with_lexicons()?;
                index::execute(&config, nsid, property, *drop, reason.clone())
            }
            Self::Show {
                nsid,
                configuration,
            } => {
                let lexicons = check_lexicons(&configuration.load_without_lexicons()?)?;
                Ok(print(&show::describe(&lexicons, nsid)?)?)
            }
        }
    }
}

fn nsid(text: &str) -> Result<Nsid, SyntaxError> {
    Nsid::parse(text)
}

/// The view of `nsid`.
///
/// # Errors
/// If it has none, with the reason.
fn view_of<'a>(lexicons: &'a Lexicons, nsid: &Nsid) -> anyhow::Result<&'a TypedView> {
    let mut views = lexicons.views.iter();
    if let Some(view) = views.find(|view| view.collection == *nsid) {
        return Ok(view);
    }
    if lexicons.files.contains_key(nsid) {
        bail!("{nsid} has definitions for other documents, and no records, so it has no view");
    }
    if lexicons.schemas.collections().contains(nsid) {
        bail!("{nsid} has a table of its own, which docs/tables.md describes, and no view");
    }
    bail!(
        "no document defines {nsid}; `huddle-firehose lexicon fetch {nsid}` gets it from the network, \
         and --lexicons names the folder that it is in"
    )
}
