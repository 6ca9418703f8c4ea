//! What an operator asks for, in a test.

use huddle_firehose::command::Command;
use huddle_firehose::model::{CommandRow, NewCommand, Submitted};

/// `command` as a test gives it: without a reason, and without a key.
pub fn new_command(command: Command) -> NewCommand {
    let (kind, arguments) = command.into_parts().unwrap();
    NewCommand {
        kind,
        arguments,
        actor: "test".to_owned(),
        reason: None,
        idempotency_key: None,
    }
}

/// The row of a command that was not given before.
pub fn new_row(submitted: Submitted) -> CommandRow {
    match submitted {
        Submitted::New(row) => row,
        other => panic!("it is not new: {other:?}"),
    }
}
