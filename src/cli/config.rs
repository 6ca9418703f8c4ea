//! `config print|check`: the configuration. `config set|reset`: settings that are changed while the worker
//! runs.

use std::collections::BTreeMap;

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};

use huddle_firehose::command::{Command as Given, SettingChange, SettingName};
use huddle_firehose::config::Loaded;
use huddle_firehose::store::StoreError;

use super::{Configuration, chain, database, print, print_error, request, runtime};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check the configuration, and print every problem
    Check(Configuration),
    /// Print the effective configuration as TOML, with the origin of each value
    Print(Configuration),
    /// Change a setting in the database, whatever file, environment and flags say
    ///
    /// A worker that runs applies what it has read first, and goes on under the new value.
    Set(Set),
    /// Let file, environment and flags decide about a setting again
    Reset {
        /// The setting
        name: Name,
        /// Why, for the audit
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        configuration: Configuration,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Set {
    /// The setting
    name: Name,
    /// The whole list
    #[arg(value_name = "VALUE,…", value_delimiter = ',', conflicts_with_all = ["add", "remove"])]
    value: Option<Vec<String>>,
    /// Items to add to the list
    #[arg(long, value_name = "ITEM,…", value_delimiter = ',')]
    add: Vec<String>,
    /// Items to remove from the list
    #[arg(long, value_name = "ITEM,…", value_delimiter = ',')]
    remove: Vec<String>,
    /// Why, for the audit
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    configuration: Configuration,
}

/// The settings that can be changed while the worker runs.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Name {
    Collections,
    DidsAllow,
    DidsDeny,
    Validation,
}

impl From<Name> for SettingName {
    fn from(name: Name) -> Self {
        match name {
            Name::Collections => Self::Collections,
            Name::DidsAllow => Self::DidsAllow,
            Name::DidsDeny => Self::DidsDeny,
            Name::Validation => Self::Validation,
        }
    }
}

impl Command {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        match self {
            Self::Check(configuration) => {
                load(configuration)?;
                Ok(print("ok\n")?)
            }
            Self::Print(configuration) => {
                let loaded = load(configuration)?;
                let loaded = runtime()?.block_on(with_run_time(loaded))?;
                Ok(print(&loaded.to_toml()?)?)
            }
            Self::Set(set) => set.execute(),
            Self::Reset {
                name,
                reason,
                configuration,
            } => {
                let name = (*name).into();
                let command = Given::SettingReset { name };
                give(configuration, "config reset", command, reason.clone())
            }
        }
    }
}

impl Set {
    fn execute(&self) -> anyhow::Result<()> {
        let value = match &self.value {
            Some(list) => {
                let list = list.iter().filter(|item| !item.is_empty());
                SettingChange::Whole(list.cloned().collect())
            }
            None => {
                let added = self.add.iter().map(|item| (item.clone(), true));
                let removed = self.remove.iter().map(|item| (item.clone(), false));
                let items: BTreeMap<String, bool> = added.chain(removed).collect();
                if items.is_empty() {
                    bail!("give the whole list, or --add or --remove");
                }
                SettingChange::Items(items)
            }
        };
        let name = self.name.into();
        let command = Given::SettingSet {
            name,
            value,
            expects: None,
        };
        give(
            &self.configuration,
            "config set",
            command,
            self.reason.clone(),
        )
    }
}

fn give(
    configuration: &Configuration,
    name: &str,
    command: Given,
    reason: Option<String>,
) -> anyhow::Result<()> {
    let config = configuration.load_and_log()?;
    runtime()?.block_on(async {
        let row = request::give(&config, name, command, reason).await?;
        request::show(&row)
    })
}

fn load(configuration: &Configuration) -> anyhow::Result<Loaded> {
    let loaded = configuration.load()?;
    for warning in &loaded.warnings {
        print_error(&format!("warning: {warning}"));
    }
    Ok(loaded)
}

/// The configuration with what was changed while a worker ran. A database that does not exist yet, or is
/// of another version, has nothing to add.
async fn with_run_time(loaded: Loaded) -> anyhow::Result<Loaded> {
    let store = match database::open_to_read(&loaded.config).await {
        Ok(store) => store,
        Err(error) => {
            return match error.downcast_ref() {
                Some(StoreError::Missing(_)) => Ok(loaded),
                _ => {
                    print_error(&format!(
                        "warning: settings that were changed at run time are not known: {}",
                        chain(&error)
                    ));
                    Ok(loaded)
                }
            };
        }
    };
    Ok(loaded.with_run_time(&store.run_time_settings().await?)?)
}
