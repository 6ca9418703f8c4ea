//! `admin token new`: a token for the interface on `admin_listen`.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};

use huddle_firehose::admin::tokens::{NewToken, TokenFile};
use huddle_firehose::command;

use super::{Configuration, print, print_error};

/// The mode of a new file of tokens.
const MODE: u32 = 0o600;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a token for the interface on admin_listen
    #[command(subcommand)]
    Token(Token),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token, show it once, and add its digest to admin_tokens_file
    New(New),
}

#[derive(Args, Debug)]
pub(crate) struct New {
    /// Its name in the audit: letters, digits, hyphens, dots and underscores
    name: String,
    /// What may be done with it
    #[arg(long)]
    role: Role,
    #[command(flatten)]
    configuration: Configuration,
}

/// What may be done with a token.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Role {
    /// Look at everything
    Read,
    /// Also pause, resume, fetch and compare
    Operate,
    /// Also move cursors, change what is kept, and end the worker
    Admin,
}

impl From<Role> for command::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Read => Self::Read,
            Role::Operate => Self::Operate,
            Role::Admin => Self::Admin,
        }
    }
}

impl Command {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let Self::Token(Token::New(new)) = self;
        let config = new.configuration.load()?.config;
        let token = NewToken::make(&new.name, new.role.into())?;
        match &config.admin_tokens_file {
            Some(file) => add(file, &new.name, &token)?,
            None => print_error(&format!(
                "admin_tokens_file is not set; add this line to it:\n{}",
                token.line.trim_end()
            )),
        }
        Ok(print(&(token.secret + "\n"))?)
    }
}

/// Adds the line of the token.
fn add(path: &Path, name: &str, token: &NewToken) -> anyhow::Result<()> {
    if path.exists() && TokenFile::open(path)?.has(name)? {
        bail!("{} has a token named {name} already", path.display());
    }
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(MODE)
        .open(path)
        .with_context(|| format!("cannot write to {}", path.display()))?;
    Ok(file.write_all(token.line.as_bytes())?)
}
