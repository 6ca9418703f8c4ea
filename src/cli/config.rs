//! `config print` and `config check`.

use clap::Subcommand;

use super::{Configuration, print};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say whether the configuration may be used, or all that is wrong with it
    Check(Configuration),
    /// Print the configuration in force as TOML, with the place where each value was set
    Print(Configuration),
}

impl Command {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let (Self::Check(configuration) | Self::Print(configuration)) = self;
        let loaded = configuration.load()?;
        for warning in &loaded.warnings {
            eprintln!("warning: {warning}");
        }
        let text = match self {
            Self::Check(_) => "ok\n".to_owned(),
            Self::Print(_) => loaded.to_toml()?,
        };
        Ok(print(&text)?)
    }
}
