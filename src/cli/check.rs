//! `check`: whether the tables agree with each other.

use anyhow::bail;
use clap::Args;

use huddle_firehose::config::{Config, Verify};
use huddle_firehose::store::repo_store::RepoStore;
use huddle_firehose::store::sqlite::Checked;
use huddle_firehose::telemetry::excerpt::shown;

use super::{Configuration, database, print, runtime};

/// Check whether the tables of the database agree with each other
///
/// It only reads, and a worker may run meanwhile.
#[derive(Args, Debug)]
pub(crate) struct Check {
    /// Instead, have so many repositories compared with their hosts, chosen at random; the worker on this
    /// database does it, or the next one
    #[arg(long, value_name = "N")]
    hosts: Option<u32>,
    #[command(flatten)]
    configuration: Configuration,
}

impl Check {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let config = self.configuration.load_and_log()?;
        match self.hosts {
            Some(count) => compare(&config, count),
            None => check(&config),
        }
    }
}

fn compare(config: &Config, count: u32) -> anyhow::Result<()> {
    if config.verify == Verify::None {
        bail!("verify is none; the worker asks no hosts at this level");
    }
    let marked = runtime()?.block_on(async {
        let (store, _lock) = database::open_for_request(config, "check").await?;
        anyhow::Ok(store.recheck_sample(count).await?)
    })?;
    Ok(print(&format!(
        "the worker compares {marked} repositories next\n"
    ))?)
}

fn check(config: &Config) -> anyhow::Result<()> {
    let (fault, checked) = runtime()?.block_on(async {
        let store = database::open_to_read(config).await?;
        anyhow::Ok((store.integrity_fault().await?, store.check_rules().await?))
    })?;
    let file = match &fault {
        None => "ok\tthe file is sound\n".to_owned(),
        Some(fault) => format!("WRONG\tthe file is sound\t{}\n", shown(fault)),
    };
    print(&(file + &checked.iter().map(line).collect::<String>()))?;
    let broken = checked.iter().filter(|checked| checked.rows > 0).count();
    match broken + usize::from(fault.is_some()) {
        0 => Ok(()),
        broken => bail!(
            "{broken} rules are broken; docs/operations.md says what to do (Checking the database)"
        ),
    }
}

fn line(checked: &Checked) -> String {
    let Checked {
        rule,
        rows,
        example,
    } = checked;
    match (rows, example) {
        (0, _) => format!("ok\t{rule}\n"),
        (rows, None) => format!("WRONG\t{rule}\t{rows} rows\n"),
        (rows, Some(example)) => {
            format!("WRONG\t{rule}\t{rows} rows, such as {}\n", shown(example))
        }
    }
}
