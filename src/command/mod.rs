//! What operators ask for: commands. Each is a row of the table `commands`, written by the command line,
//! the HTTP interface or a test, and carried out by the CommandActor in the order of the rows.
//!
//! A kind of command is a variant of [`Command`] (`kind.rs`). `needs.rs` says what each kind needs, who
//! may give it, and whether it is long. One file for each family of kinds carries them out, and
//! `carry_out.rs` names the function of each. An effect and its audit row are written in one transaction,
//! which also ends the command. So a command that was interrupted by the death of the worker is done
//! again with the same end.

mod actor;
mod backfill;
mod carry_out;
mod cursors;
mod dead_letters;
mod error;
mod kept;
mod kind;
mod letter_progress;
mod lexicon;
mod needs;
mod process;
mod repositories;
mod reprocess;
mod rerun;
mod scope;
mod settings;
mod shared;
mod sinks;
mod sources;
mod step;
mod tasks;

pub use self::actor::{CommandActor, CommandMessage};
pub use self::error::CommandError;
pub use self::kept::{InvalidSetting, KeptSettings, Overlay, SettingChange, SettingName};
pub use self::kind::{
    BulkLetters, Command, CursorSet, FeedPlace, InvalidCommand, Reprocess, object,
};
pub use self::needs::{Needs, Role};
pub use self::rerun::Reruns;
pub use self::scope::{Asked, Live, Scope};
pub use self::settings::{adopt, in_force};
pub use self::shared::{Caller, Commands};
pub use self::step::{carry_out_before_start, carry_out_without_worker};
pub use self::tasks::Tasks;
