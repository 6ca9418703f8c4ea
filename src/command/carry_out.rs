//! Which function carries out a kind of command.

use super::scope::{Outcome, Run};
use super::{
    Command, CommandError, backfill, cursors, dead_letters, lexicon, process, repositories,
    reprocess, rerun, settings, sinks, sources,
};

/// Carries out a command, or a piece of a long one.
pub(super) async fn carry_out(run: &Run<'_>) -> Result<Outcome, CommandError> {
    match run.command {
        Command::Account { did, is_shown } => repositories::account(run, did, *is_shown).await,
        Command::BackfillCancel {} => backfill::cancel(run).await,
        Command::BackfillPause {} => backfill::pause(run, true).await,
        Command::BackfillResume {} => backfill::pause(run, false).await,
        Command::BackfillStart {} => backfill::start(run).await,
        Command::CursorReset { source } => {
            cursors::put(run, cursors::reset(run, source).await?).await
        }
        Command::CursorRewind { source, by_seconds } => {
            cursors::put(run, cursors::rewind(run, source, *by_seconds).await?).await
        }
        Command::CursorSet(to) => cursors::put(run, cursors::set(run, to).await?).await,
        Command::DeadLettersDiscard(bulk) => dead_letters::discard(run, bulk).await,
        Command::DeadLettersRetry(bulk) => dead_letters::retry(run, bulk).await,
        Command::Drain {} => process::drain(run),
        Command::LexiconIndex {
            collection,
            column,
            drop,
        } => lexicon::index(run, collection, column, *drop).await,
        Command::LogLevel {
            filter,
            for_seconds,
        } => process::log_level(run, filter, *for_seconds),
        Command::Recheck { did } => repositories::recheck(run, did).await,
        Command::Reprocess(asked) => reprocess::reprocess(run, asked).await,
        Command::Rerun { source, from, to } => rerun::rerun(run, source, *from, *to).await,
        Command::Resync { did } => repositories::resync(run, did).await,
        Command::SettingReset { name } => settings::reset(run, *name).await,
        Command::SettingSet {
            name,
            value,
            expects,
        } => settings::set(run, *name, value, expects.as_deref()).await,
        Command::SinkPause { sink } => sinks::pause(run, sink, true).await,
        Command::SinkRemove { sink } => sinks::remove(run, sink).await,
        Command::SinkResume { sink } => sinks::pause(run, sink, false).await,
        Command::SinkResync { sink } => sinks::resync(run, sink).await,
        Command::SinkRewind { sink, to } => sinks::rewind(run, sink, *to).await,
        Command::SourcePause { source } => sources::pause(run, source, true).await,
        Command::SourceReconnect { source } => sources::reconnect(run, source),
        Command::SourceResume { source } => sources::pause(run, source, false).await,
        Command::Untrack { did } => repositories::untrack(run, did).await,
    }
}

/// Whether a command that needs a stopped pipeline could be carried out now. Nothing is written.
pub(super) async fn check(run: &Run<'_>) -> Result<(), CommandError> {
    match run.command {
        Command::CursorReset { source } => cursors::reset(run, source).await.map(drop),
        Command::CursorRewind { source, by_seconds } => {
            cursors::rewind(run, source, *by_seconds).await.map(drop)
        }
        Command::CursorSet(to) => cursors::set(run, to).await.map(drop),
        Command::SettingReset { name } => settings::after_reset(run, *name).await.map(drop),
        Command::SettingSet {
            name,
            value,
            expects,
        } => {
            let after = settings::after_set(run, *name, value, expects.as_deref());
            after.await.map(drop)
        }
        _ => Ok(()),
    }
}
