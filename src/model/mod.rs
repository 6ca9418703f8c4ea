//! The words that all rooms share.

mod change;
mod command;
mod cursor;
mod dead_letter;
mod error_group;
mod feed;
mod gap;
mod handle_status;
mod judgement;
mod parked;
mod position;
mod repo_counts;
mod trips;
mod validity;

pub use self::change::{Change, ChangedAccount, ChangedRecord, ChangedRow};
pub use self::command::{
    AuditEntry, AuditOutcome, AuditRow, CommandEnd, CommandRow, CommandState, CursorMark,
    NewCommand, Pause, Receipt, RunTimeSetting, Submitted,
};
pub use self::cursor::{CursorError, cursor_of, with_cursor};
pub use self::dead_letter::{DeadLetter, Stage};
pub use self::error_group::error_group;
pub use self::feed::{Epoch, Feed, FeedPosition, InvalidPosition, RandomId};
pub use self::gap::{Gap, GapCause};
pub use self::handle_status::HandleStatus;
pub use self::judgement::Judgement;
pub use self::parked::{ParkedCount, ParkedCounts, ParkedReason};
pub use self::position::{Position, SourceId};
pub use self::repo_counts::{BackfillCounts, RepoCounts, Resynced};
pub use self::trips::Trips;
pub use self::validity::Validity;
