//! The types that all rooms share.

mod cursor;
mod position;

pub use self::cursor::{CursorError, cursor_of, with_cursor};
pub use self::position::{Position, SourceId};
