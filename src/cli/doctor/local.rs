//! The database and the disk.

use std::path::Path;

use huddle_firehose::config::Config;
use huddle_firehose::store::StoreError;
use huddle_firehose::store::sqlite::path_of;

use super::findings::{Finding, Findings};
use crate::cli::database;

/// With less space a worker soon stops.
const LITTLE_SPACE: u64 = 1 << 30;
const NO_SPACE: u64 = 64 << 20;

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
    let restore =
        "stop the worker, and put a good copy in the place of the file, its -wal and its -shm";
    match store.integrity_fault().await {
        Ok(None) => findings.add("database", Finding::good("the file is sound")),
        Ok(Some(fault)) => findings.add("database", Finding::fault(fault, restore)),
        Err(error) => findings.add("database", Finding::fault(error, restore)),
    }
    let broken = match store.check_rules().await {
        Ok(checked) => checked
            .into_iter()
            .filter(|checked| checked.rows > 0)
            .count(),
        Err(error) => return findings.add("database", Finding::fault(error, restore)),
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
        _ => Finding::fault(
            format_args!("{error:#}"),
            "name another file with --database",
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
