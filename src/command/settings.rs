//! Settings that are changed while the worker runs. What they were is in the tables, so they are in force
//! at each start, until they are reset or the configuration says something new.

use serde_json::{Value, json};

use super::CommandError;
use super::kept::{KeptSettings, Overlay, SettingChange, SettingName};
use super::scope::{Act, Outcome, Run, Scope};
use crate::model::{AuditEntry, AuditOutcome, RunTimeSetting};
use crate::store::StoreError;
use crate::store::plan::InterestSet;
use crate::store::sqlite::SqliteStore;

/// Who changes a setting because of a new configuration.
const CONFIGURATION: &str = "configuration";

pub(super) async fn set(
    run: &Run<'_>,
    name: SettingName,
    change: &SettingChange,
    expects: Option<&[String]>,
) -> Result<Outcome, CommandError> {
    let Changed { before, after } = after_set(run, name, change, expects).await?;
    let setting = RunTimeSetting {
        name: name.as_str().to_owned(),
        value: after.json(name),
        configured: run.scope.configured.json(name),
        set_at: String::new(),
        set_by: run.row.actor.clone(),
    };
    let (act, result) = report(name, &before, &after);
    let receipt = run.receipt(act, result);
    run.scope
        .store
        .set_run_time_setting(&setting, &receipt)
        .await?;
    Ok(Outcome::Ended)
}

pub(super) async fn reset(run: &Run<'_>, name: SettingName) -> Result<Outcome, CommandError> {
    let Changed { before, after } = after_reset(run, name).await?;
    let (act, result) = report(name, &before, &after);
    let receipt = run.receipt(act, result);
    let store = &run.scope.store;
    store
        .reset_run_time_setting(name.as_str(), &receipt)
        .await?;
    Ok(Outcome::Ended)
}

/// The settings before and after a change.
pub(super) struct Changed {
    before: KeptSettings,
    after: KeptSettings,
}

/// What [`set`] would do.
pub(super) async fn after_set(
    run: &Run<'_>,
    name: SettingName,
    change: &SettingChange,
    expects: Option<&[String]>,
) -> Result<Changed, CommandError> {
    let before = run.scope.kept().await?;
    if expects.is_some_and(|seen| seen != before.list(name)) {
        return Err(CommandError::HasChanged(name));
    }
    let list = change.of(before.list(name));
    let after = before.clone().with(name, &list)?;
    Ok(Changed { before, after })
}

/// What [`reset`] would do.
pub(super) async fn after_reset(run: &Run<'_>, name: SettingName) -> Result<Changed, CommandError> {
    let before = run.scope.kept().await?;
    let configured = run.scope.configured.list(name);
    let after = before.clone().with(name, &configured)?;
    Ok(Changed { before, after })
}

/// What the change does, for the audit and for the operator.
fn report(name: SettingName, before: &KeptSettings, after: &KeptSettings) -> (Act, Value) {
    let act = Act {
        before: Some(before.json(name)),
        after: Some(after.json(name)),
    };
    let mut notes = Vec::new();
    let (set_before, set_after) = (set_of(before), set_of(after));
    if !set_before.covers(&set_after) {
        notes.push(
            "older records that are wanted now are not in the tables; a gap is recorded, and \
             repositories that are followed are fetched again; `backfill start` finds the others",
        );
    }
    if !set_after.covers(&set_before) {
        notes.push("what is no longer wanted stays in the tables, and the views hide it");
    }
    if name == SettingName::Validation && before.validation != after.validation {
        notes.push("records that are in the tables are not judged again by this alone");
    }
    let result = json!({
        "name": name,
        "before": before.json(name),
        "after": after.json(name),
        "notes": notes,
    });
    (act, result)
}

fn set_of(kept: &KeptSettings) -> InterestSet {
    InterestSet::new(kept.collections.iter().cloned())
        .allowing(kept.dids_allow.iter().cloned())
        .denying(kept.dids_deny.iter().cloned())
}

impl Scope {
    /// The settings in force: what was set while a worker ran, and else what the configuration says.
    pub(super) async fn kept(&self) -> Result<KeptSettings, CommandError> {
        Ok(in_force(&self.store, &self.configured).await?)
    }
}

/// The settings in force, as `Scope::kept` has them, without a change of what is stored.
///
/// # Errors
/// If the database fails, or holds a setting that this version does not know.
pub async fn in_force(
    store: &SqliteStore,
    configured: &KeptSettings,
) -> Result<KeptSettings, StoreError> {
    let settings = store.run_time_settings().await?;
    Ok(overlay(configured, &settings)?.kept)
}

fn overlay<'a>(
    configured: &KeptSettings,
    settings: &'a [RunTimeSetting],
) -> Result<Overlay<'a>, StoreError> {
    let known = |setting: &&RunTimeSetting| SettingName::parse(&setting.name).is_some();
    if let Some(unknown) = settings.iter().find(|setting| !known(setting)) {
        return Err(unreadable(&unknown.name));
    }
    let overlaid = configured.overlaid(settings);
    overlaid.map_err(|error| unreadable(&error.to_string()))
}

/// The settings in force at the start of a worker. Where the configuration says something else than it
/// did when a setting was changed, the configuration wins, and the change is forgotten.
///
/// # Errors
/// If the database fails, or holds a setting that this version does not know.
pub async fn adopt(
    store: &SqliteStore,
    configured: &KeptSettings,
) -> Result<KeptSettings, StoreError> {
    let settings = store.run_time_settings().await?;
    let Overlay { kept, winning } = overlay(configured, &settings)?;
    for setting in settings.iter().filter(|setting| !winning.contains(setting)) {
        let now = SettingName::parse(&setting.name).map(|name| configured.json(name));
        tracing::warn!(
            setting = setting.name,
            was = %setting.value,
            set_by = setting.set_by,
            set_at = setting.set_at,
            configured = now.as_ref().map(tracing::field::display),
            "the configuration says something new; it replaces what was set at run time"
        );
        let entry = AuditEntry {
            actor: CONFIGURATION.to_owned(),
            command: None,
            action: "setting_reset".to_owned(),
            target: setting.name.clone(),
            before: Some(setting.value.clone()),
            after: now,
            reason: Some("the configuration says something new".to_owned()),
            outcome: AuditOutcome::Ok,
        };
        store.forget_run_time_setting(&setting.name, &entry).await?;
    }
    Ok(kept)
}

fn unreadable(what: &str) -> StoreError {
    StoreError::Corrupt(format!("a setting that was changed at run time: {what}"))
}
