//! Settings that an operator has changed while the worker ran.

use super::script::Script;
use super::{SqliteStore, audit, commands, now, timely};
use crate::model::{AuditEntry, Receipt, RunTimeSetting};
use crate::store::StoreError;

impl SqliteStore {
    /// All of them.
    ///
    /// # Errors
    /// If the database fails, or a row is not what this version writes.
    pub async fn run_time_settings(&self) -> Result<Vec<RunTimeSetting>, StoreError> {
        let rows: Vec<(String, String, String, String, String)> = sqlx::query_as(
            "SELECT name, value, configured, set_at, set_by FROM run_time_settings ORDER BY name",
        )
        .fetch_all(self.reader())
        .await?;
        let settings = rows
            .into_iter()
            .map(|(name, value, configured, set_at, set_by)| {
                Ok(RunTimeSetting {
                    name,
                    value: audit::parse(Some(value))?.unwrap_or_default(),
                    configured: audit::parse(Some(configured))?.unwrap_or_default(),
                    set_at,
                    set_by,
                })
            });
        settings.collect()
    }

    /// Writes one, with the receipt of the command that asked for it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn set_run_time_setting(
        &self,
        setting: &RunTimeSetting,
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        timely(async {
            let (mut script, now) = (Script::default(), now());
            script.push(
                "INSERT OR REPLACE INTO run_time_settings (name, value, configured, set_at, set_by) \
                 VALUES (?, ?, ?, ?, ?)",
                [
                    setting.name.as_str().into(),
                    setting.value.to_string().into(),
                    setting.configured.to_string().into(),
                    now.as_str().into(),
                    setting.set_by.as_str().into(),
                ],
            );
            commands::push_receipt(&mut script, receipt, &now);
            let (transaction, _answers) = self.writer.begin_with(script).await?;
            transaction.commit().await
        })
        .await
    }

    /// Deletes one, with the receipt of the command that asked for it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn reset_run_time_setting(
        &self,
        name: &str,
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        timely(async {
            let (mut script, now) = (deletion(name), now());
            commands::push_receipt(&mut script, receipt, &now);
            let (transaction, _answers) = self.writer.begin_with(script).await?;
            transaction.commit().await
        })
        .await
    }

    /// Deletes one that the configuration replaces, with an audit row.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn forget_run_time_setting(
        &self,
        name: &str,
        entry: &AuditEntry,
    ) -> Result<(), StoreError> {
        timely(async {
            let mut script = deletion(name);
            audit::push(&mut script, entry, &now());
            let (transaction, _answers) = self.writer.begin_with(script).await?;
            transaction.commit().await
        })
        .await
    }
}

fn deletion(name: &str) -> Script {
    let mut script = Script::default();
    script.push(
        "DELETE FROM run_time_settings WHERE name = ?",
        [name.into()],
    );
    script
}
