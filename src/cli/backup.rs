//! `backup`: a verified copy of the database, while a worker may run.

use std::path::PathBuf;

use clap::Args;

use super::{Configuration, database, print, runtime};

/// Copy the database to a file, and verify the copy
///
/// The copy is as one transaction left the database. A worker on it goes on meanwhile. The file must
/// not exist; it has its name only when it was opened, checked and counted.
#[derive(Args, Debug)]
pub(crate) struct BackupCommand {
    /// The file to make
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    configuration: Configuration,
}

impl BackupCommand {
    pub(crate) fn execute(&self) -> anyhow::Result<()> {
        let config = self.configuration.load_and_log()?;
        let backup = runtime()?.block_on(async {
            let store = database::open_to_read(&config).await?;
            anyhow::Ok(store.back_up(&self.file).await?)
        })?;
        Ok(print(&format!(
            "{}: {} bytes, {} records, verified\n",
            self.file.display(),
            backup.bytes,
            backup.records
        ))?)
    }
}
