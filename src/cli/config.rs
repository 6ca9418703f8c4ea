//! `config print` and `config check`.

use std::io::{self, Write};

use clap::Subcommand;

use super::Configuration;

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
        // Not print!, which panics where the reader has gone (`config print | head -1`).
        match io::stdout().write_all(text.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        }
    }
}
