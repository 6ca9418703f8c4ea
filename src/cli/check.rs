//! `check`: whether the tables agree with each other.

use anyhow::bail;
use clap::{Args, value_parser};

use huddle_firehose::config::{Config, Verify};
use huddle_firehose::store::repo_store::RepoStore;
use huddle_firehose::store::sqlite::Checked;
use huddle_firehose::telemetry::excerpt::shown;

use super::request::NEXT_RUN;
use super::{Configuration, database, print, runtime};

/// Check whether the tables of the database agree with each other
///
/// It only reads, and a worker may run meanwhile.
#[derive(Args, Debug)]
pub(crate) struct Check {
    /// Instead, have so many repositories compared with their hosts, chosen at random; the worker on this
    /// database does it, or the next one
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
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
    let (marked, has_worker) = runtime()?
        .block_on(async {
            let (store, lock) = database::open_for_request(config, "check").await?;
            anyhow::Ok((store.recheck_sample(count).await?, lock.is_none()))
        })
        .map_err(|error| database::with_path(config, error))?;
    Ok(print(&told_marked(marked, has_worker))?)
}

fn told_marked(marked: u64, has_worker: bool) -> String {
    match (marked, has_worker) {
        (0, _) => {
            "nothing to compare: no repository that is up to date is known, or all are due for a \
                   comparison already\n"
                .to_owned()
        }
        (_, true) => format!("the worker compares {marked} repositories next\n"),
        (_, false) => format!("{marked} repositories to be compared{NEXT_RUN}\n"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compared_says_by_which_run_and_why_nothing_is() {
        let next = "the worker compares 3 repositories next\n";
        assert_eq!(told_marked(3, true), next);
        assert_eq!(
            told_marked(3, false),
            "3 repositories to be compared; no worker runs, so it waits for the next run\n"
        );
        assert!(told_marked(0, false).starts_with("nothing to compare: "));
    }
}
