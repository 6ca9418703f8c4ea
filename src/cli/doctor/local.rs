//! The database and the disk.

use std::path::Path;

use huddle_firehose::config::Config;
use huddle_firehose::store::StoreError;
use huddle_firehose::store::sqlite::path_of;

use super::findings::{Finding, Findings};
use crate::cli::{chain, database};

/// With less space a worker soon stops.
const LITTLE_SPACE: u64 = 1 << 30;
const NO_SPACE: u64 = 64 << 20;
/// What to do about a damaged file.
const RESTORE: &str =
    "stop the worker, and put a good copy in the place of the file, its -wal and its -shm";

pub(super) async fn examine(config: &Config, findings: &mut Findings) {
    examine_database(config, findings).await;
    let Ok(path) = path_of(&config.database_url) else {
        return;
    };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    findings.add("disk", writable(folder));
    findings.add("disk", space(folder));
}

async fn examine_database(config: &Config, findings: &mut Findings) {
    let store = match database::open_to_read(config).await {
        Ok(store) => store,
        Err(error) => {
            findings.add("database", refusal(&error));
            return;
        }
    };
    match store.integrity_fault().await {
        Ok(None) => findings.add("database", Finding::good("the file is sound")),
        Ok(Some(fault)) => findings.add("database", Finding::fault(fault, RESTORE)),
        Err(error) => findings.add("database", Finding::fault(error, RESTORE)),
    }
    let broken = match store.check_rules().await {
        Ok(checked) => checked
            .into_iter()
            .filter(|checked| checked.rows > 0)
            .count(),
        Err(error) => return findings.add("database", Finding::fault(error, RESTORE)),
    };
    findings.add(
        "database",
        match broken {
            0 => Finding::good("the tables agree with each other"),
            _ => Finding::fault(
                format_args!("{broken} rules of the tables are broken"),
                "`check` names them; docs/operations.md says what to do",
            ),
        },
    );
}

fn refusal(error: &anyhow::Error) -> Finding {
    match error.downcast_ref() {
        Some(StoreError::Missing(path)) => Finding::good(format_args!(
            "there is none at {} yet; `run` makes it",
            path.display()
        )),
        Some(StoreError::Older(_)) => Finding::warning(
            "its schema is of an older version",
            "`run` brings it up to date; make a copy with the older version before",
        ),
        Some(StoreError::Newer { .. }) => Finding::fault(
            chain(error),
            "run the newer version, or put a copy from before its update in the place of the file",
        ),
        Some(StoreError::Damaged(_)) => Finding::fault(chain(error), RESTORE),
        Some(StoreError::Foreign { .. }) => {
            Finding::fault(chain(error), "name another file with --database")
        }
        _ => Finding::fault(
            chain(error),
            "let the worker's user read the file and write to its folder, and end what else holds it",
        ),
    }
}

/// The worker makes files beside the database.
fn writable(folder: &Path) -> Finding {
    match tempfile::tempfile_in(folder) {
        Ok(_) => Finding::good(format_args!("{} can be written to", folder.display())),
        Err(error) => Finding::fault(
            format_args!("{} cannot be written to: {error}", folder.display()),
            "give the worker's user the folder, or name another file with --database",
        ),
    }
}

fn space(folder: &Path) -> Finding {
    let free = match rustix::fs::statvfs(folder) {
        Ok(space) => space.f_bavail.saturating_mul(space.f_frsize),
        Err(error) => {
            return Finding::warning(
                format_args!("the space of {} is unknown: {error}", folder.display()),
                "look at the disk by other means",
            );
        }
    };
    let text = format!("{} MiB are free in {}", free >> 20, folder.display());
    match free {
        ..NO_SPACE => Finding::fault(text, "make room"),
        NO_SPACE..LITTLE_SPACE => Finding::warning(text, "make room"),
        LITTLE_SPACE.. => Finding::good(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: anyhow::Error) -> String {
        let mut findings = Findings::default();
        findings.add("database", refusal(&error));
        findings.told()
    }

    #[test]
    fn the_advice_fits_what_is_wrong_with_the_database() {
        let newer = StoreError::Newer {
            path: "huddle.db".into(),
            found: 99,
            known: 35,
        };
        let newer = told(newer.into());
        assert!(newer.contains("to do: run the newer version"), "{newer}");
        let cause = || sqlx::Error::Protocol("disk image is malformed".to_owned());
        let damaged = anyhow::Error::from(StoreError::Damaged(cause()));
        let damaged = told(damaged.context("cannot open huddle.db"));
        assert_eq!(
            damaged.matches("disk image is malformed").count(),
            1,
            "{damaged}"
        );
        assert!(
            damaged.contains("to do: stop the worker, and put a good copy"),
            "{damaged}"
        );
        let other = told(StoreError::Unavailable(cause()).into());
        assert!(!other.contains("--database"), "{other}");
    }
}
