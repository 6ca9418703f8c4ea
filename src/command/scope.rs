//! What commands are carried out with.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;

use super::kept::KeptSettings;
use super::lexicon::Made;
use super::sinks::Answer;
use super::{Command, CommandError, Reruns, Tasks};
use crate::atproto::syntax::Did;
use crate::lexicon::{Schemas, TypedView};
use crate::model::{AuditEntry, AuditOutcome, CommandRow, Receipt, SourceId};
use crate::pipeline;
use crate::repo::Backfill;
use crate::sink::actor::SinkContext;
use crate::source::interest::Interest;
use crate::source::process::records::Rules;
use crate::source::process::verification::Verify;
use crate::store::StoreError;
use crate::store::plan::InterestSet;
use crate::store::sqlite::SqliteStore;

/// What commands are carried out with: by a worker, between two runs of its pipeline, or without a
/// worker.
#[derive(Clone)]
pub struct Scope {
    pub store: Arc<SqliteStore>,
    pub verify: Verify,
    /// What the configuration says.
    pub configured: KeptSettings,
    pub schemas: Schemas,
    /// The views of lexicons.
    pub views: Arc<[TypedView]>,
    /// The indexes that are being made. A large one takes minutes.
    pub index_tasks: Tasks<Made>,
    pub backfill: Backfill,
    /// The log says what becomes of commands. The command line says it by itself.
    pub is_logged: bool,
    /// `None` if no pipeline runs.
    pub live: Option<Live>,
}

/// A worker that runs.
#[derive(Clone)]
pub struct Live {
    pub context: Arc<pipeline::Context>,
    pub sinks: Vec<Arc<SinkContext>>,
    /// What the commands ask of the process.
    pub asked: watch::Sender<Option<Asked>>,
    pub reruns: Reruns,
    /// What the sinks answer that were asked to move their positions back.
    pub rewinds: Tasks<Answer>,
}

/// What a command asks of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Drain, and end.
    Drain,
    /// Drain, carry out the commands that need it, and start again.
    Restart,
}

/// A command that is being carried out.
pub(super) struct Run<'a> {
    pub(super) scope: &'a Scope,
    pub(super) row: &'a CommandRow,
    pub(super) command: &'a Command,
}

/// What a command has changed, for the audit.
#[derive(Clone, Debug, Default)]
pub(super) struct Act {
    pub(super) before: Option<Value>,
    pub(super) after: Option<Value>,
}

/// What became of a command, or of a piece of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The transaction of its effect has ended it.
    Ended,
    /// Its effect is not in the database. The audit row is written with the end.
    Done {
        act: Act,
        result: Value,
        /// What the process has to do as soon as the end is written.
        asked: Option<Asked>,
    },
    /// More of it follows, after `wait`.
    Later { progress: Value, wait: Duration },
    /// More of it follows, after `wait`. The transaction of its effect has written its progress.
    Noted { wait: Duration },
}

impl Scope {
    /// Checks that the repository is fetched when that is due.
    ///
    /// # Errors
    /// If the set of interest or the level exclude it.
    pub(super) async fn check_fetched(&self, did: &Did) -> Result<(), CommandError> {
        if self.verify == Verify::None {
            return Err(CommandError::NothingIsFetched);
        }
        let kept = self.kept().await?;
        let set = InterestSet::new(kept.collections)
            .allowing(kept.dids_allow)
            .denying(kept.dids_deny);
        match set.wants_did(did.as_str()) {
            true => Ok(()),
            false => Err(CommandError::Excluded(did.clone())),
        }
    }

    /// The rules in force, for records that are judged again. Each names its own source.
    pub(super) async fn rules(&self) -> Result<Rules, CommandError> {
        let kept = self.kept().await?;
        let interest = Interest::new(kept.collections)
            .allowing(kept.dids_allow)
            .denying(kept.dids_deny);
        Ok(Rules {
            source: SourceId::new(""),
            interest: Arc::new(interest),
            schemas: self.schemas.clone(),
            policies: kept.validation,
        })
    }

    /// Ends what is in progress of commands that are not among these.
    pub(super) fn keep_only(&self, open_commands: &[i64]) {
        self.index_tasks.keep_only(open_commands);
        if let Some(live) = &self.live {
            live.rewinds.keep_only(open_commands);
            live.reruns.keep_only(open_commands);
        }
    }

    /// Wakes what looks for work in the tables.
    pub(super) fn wake_repositories(&self) {
        let live = self.live.as_ref();
        if let Some(repositories) = live.and_then(|live| live.context.repositories.as_ref()) {
            repositories.wake();
        }
    }
}

impl Run<'_> {
    /// How far the command is; `None` before it has begun.
    pub(super) fn progress<T: DeserializeOwned>(&self) -> Option<T> {
        let progress = self.row.progress.clone()?;
        serde_json::from_value(progress).ok()
    }

    /// Begins a long command: notes its first progress, and in the audit what it is about to do.
    pub(super) async fn begin(&self, progress: Value, act: Act) -> Result<Outcome, StoreError> {
        let mut entry = self.entry(act);
        entry.action += "_begin";
        let store = &self.scope.store;
        store.begin_command(self.row.id, &progress, &entry).await?;
        let wait = Duration::ZERO;
        Ok(Outcome::Noted { wait })
    }

    /// The audit row of an effect.
    pub(super) fn entry(&self, act: Act) -> AuditEntry {
        AuditEntry {
            actor: self.row.actor.clone(),
            command: Some(self.row.id),
            action: self.row.kind.clone(),
            target: self.command.target(),
            before: act.before,
            after: act.after,
            reason: self.row.reason.clone(),
            outcome: AuditOutcome::Ok,
        }
    }

    /// The receipt of an effect that ends the command.
    pub(super) fn receipt(&self, act: Act, result: Value) -> Receipt {
        Receipt {
            audit: self.entry(act),
            result: Some(result),
        }
    }

    /// The receipt of an effect after which more of the command follows.
    pub(super) fn receipt_of_piece(&self, act: Act) -> Receipt {
        Receipt {
            audit: self.entry(act),
            result: None,
        }
    }
}
