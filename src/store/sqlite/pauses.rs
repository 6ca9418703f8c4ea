//! What an operator has paused.

use std::collections::BTreeMap;

use super::script::Script;
use super::{SqliteStore, commands, now, timely};
use crate::model::{Pause, Receipt};
use crate::store::StoreError;

impl SqliteStore {
    /// What is paused, by its name.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn pauses(&self) -> Result<BTreeMap<String, Pause>, StoreError> {
        let rows: Vec<(String, String, String, Option<String>)> =
            sqlx::query_as("SELECT subject, since, actor, reason FROM pauses")
                .fetch_all(self.reader())
                .await?;
        let pauses = rows.into_iter().map(|(subject, since, actor, reason)| {
            let pause = Pause {
                since,
                actor,
                reason,
            };
            (subject, pause)
        });
        Ok(pauses.collect())
    }

    /// Pauses or resumes `subject`, with the receipt of the command that asked for it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn set_pause(
        &self,
        subject: &str,
        is_paused: bool,
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        timely(async {
            let (mut script, now) = (Script::default(), now());
            match is_paused {
                true => script.push(
                    "INSERT OR IGNORE INTO pauses (subject, since, actor, reason) \
                     VALUES (?, ?, ?, ?)",
                    [
                        subject.into(),
                        now.as_str().into(),
                        receipt.audit.actor.as_str().into(),
                        receipt.audit.reason.clone().into(),
                    ],
                ),
                false => script.push("DELETE FROM pauses WHERE subject = ?", [subject.into()]),
            }
            commands::push_receipt(&mut script, receipt, &now);
            let (transaction, _answers) = self.writer.begin_with(script).await?;
            transaction.commit().await
        })
        .await
    }
}
