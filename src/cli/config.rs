//! `config print` and `config check`.

use clap::Subcommand;

use super::{Configuration, print, print_error};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check the configuration, and print every problem
    Check(Configuration),
    /// Print the effective configuration as TOML, with the origin of each value
    Print(Configuration),
}

impl Command {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let (Self::Check(configuration) | Self::Print(configuration)) = self;
        let loaded = configuration.load()?;
        for warning in &loaded.warnings {
            print_error(&format!("warning: {warning}"));
        }
        let text = match self {
            Self::Check(_) => "ok\n".to_owned(),
            Self::Print(_) => loaded.to_toml()?,
        };
        Ok(print(&text)?)
    }
}
