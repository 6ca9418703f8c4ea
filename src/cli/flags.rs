//! The forms of flags that clap does not know by itself, and the order of the help.

use std::ffi::{OsStr, OsString};

use clap::Command;

/// Settings that a command which only works on the database makes use of.
const DATABASE: [&str; 1] = ["database_url"];
/// Those of a command that also needs to know the source.
const SOURCE: [&str; 2] = ["database_url", "source_url"];

/// Those of the consumer of a queue.
const CONSUMER: [&str; 4] = ["listen", "lexicons", "plc_url", "allow_private_addresses"];

/// Those of a command about lexicons.
const LEXICONS: [&str; 1] = ["lexicons"];
/// Those of a command about lexicons that works on the database.
const LEXICONS_AND_DATABASE: [&str; 2] = ["lexicons", "database_url"];
/// The same, and the source.
const LEXICONS_DATABASE_AND_SOURCE: [&str; 3] = ["lexicons", "database_url", "source_url"];

/// The commands that make use of a few settings only. All settings are accepted everywhere, so that
/// one set of flags fits all commands.
const SMALL_COMMANDS: &[(&[&str], &[&str])] = &[
    (&["account"], &DATABASE),
    (&["backfill", "cancel"], &DATABASE),
    (&["backfill", "pause"], &DATABASE),
    (&["backfill", "resume"], &DATABASE),
    (&["backfill", "start"], &DATABASE),
    (&["backup"], &DATABASE),
    (&["check"], &DATABASE),
    (&["commands", "audit"], &DATABASE),
    (&["commands", "list"], &DATABASE),
    (&["config", "check"], &[]),
    (&["config", "print"], &[]),
    (&["config", "reset"], &DATABASE),
    (&["config", "set"], &DATABASE),
    (&["consume"], &CONSUMER),
    (&["cursor", "show"], &DATABASE),
    (&["cursor", "set"], &SOURCE),
    (&["cursor", "reset"], &SOURCE),
    (&["cursor", "rewind"], &SOURCE),
    (&["dlq", "discard"], &DATABASE),
    (&["dlq", "export"], &DATABASE),
    (&["dlq", "groups"], &DATABASE),
    (&["dlq", "list"], &DATABASE),
    (&["dlq", "retry"], &LEXICONS_AND_DATABASE),
    (&["dlq", "show"], &DATABASE),
    (&["drain"], &DATABASE),
    (&["lexicon", "check"], &LEXICONS),
    (&["lexicon", "fetch"], &LEXICONS),
    (&["lexicon", "index"], &LEXICONS_AND_DATABASE),
    (&["lexicon", "show"], &LEXICONS),
    (&["log-level"], &DATABASE),
    (&["migrate"], &DATABASE),
    (&["repo", "recheck"], &DATABASE),
    (&["repo", "show"], &DATABASE),
    (&["repo", "untrack"], &DATABASE),
    (&["reprocess"], &LEXICONS_DATABASE_AND_SOURCE),
    (&["source", "pause"], &SOURCE),
    (&["source", "reconnect"], &SOURCE),
    (&["source", "resume"], &SOURCE),
    (&["status"], &DATABASE),
];

/// Puts the options that a small command makes use of before the settings.
pub(super) fn in_order_of_use(command: Command) -> Command {
    SMALL_COMMANDS
        .iter()
        .fold(command, |command, (path, used)| at(command, path, used))
}

fn at(command: Command, path: &[&str], used: &[&str]) -> Command {
    if let Some((name, rest)) = path.split_first() {
        return command.mut_subcommand(*name, |command| at(command, rest, used));
    }
    let command = command.mut_arg("config", |config| config.display_order(1));
    used.iter().fold(command, |command, id| {
        command.mut_arg(*id, |setting| {
            setting.help_heading(None::<&str>).display_order(0)
        })
    })
}

/// Joins `--flag true` to `--flag=true` for every flag that is true or false.
///
/// Clap takes the value of a flag either always or never from the next argument. Here `--flag` may
/// stand alone, and what follows it may be another argument.
pub(super) fn join_booleans(
    command: &Command,
    arguments: impl IntoIterator<Item = OsString>,
) -> Vec<OsString> {
    let mut flags = Vec::new();
    collect_booleans(command, &mut flags);
    let mut joined: Vec<OsString> = Vec::new();
    let mut is_over = false;
    for argument in arguments {
        is_over |= argument == "--";
        let is_value = argument == "true" || argument == "false";
        match joined.last_mut() {
            Some(flag)
                if is_value && !is_over && flags.iter().any(|known| flag == OsStr::new(known)) =>
            {
                flag.push("=");
                flag.push(argument);
            }
            _ => joined.push(argument),
        }
    }
    joined
}

/// The flags that stand alone or have their value behind a `=`.
fn collect_booleans(command: &Command, flags: &mut Vec<String>) {
    for argument in command.get_arguments() {
        if argument.is_require_equals_set()
            && let Some(name) = argument.get_long()
        {
            flags.push(format!("--{name}"));
        }
    }
    for command in command.get_subcommands() {
        collect_booleans(command, flags);
    }
}

#[cfg(test)]
mod tests {
    use clap::{Arg, ArgAction};

    use super::*;

    fn joined(arguments: &[&str]) -> Vec<String> {
        let boolean = Arg::new("flag")
            .long("flag")
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true);
        let command = Command::new("huddle").subcommand(Command::new("run").arg(boolean));
        join_booleans(&command, arguments.iter().map(OsString::from))
            .into_iter()
            .map(|argument| argument.into_string().unwrap())
            .collect()
    }

    #[test]
    fn a_boolean_takes_its_value_from_the_next_argument_only_if_that_is_one() {
        assert_eq!(joined(&["run", "--flag", "true"]), ["run", "--flag=true"]);
        assert_eq!(
            joined(&["run", "--flag", "false", "x"]),
            ["run", "--flag=false", "x"]
        );
        assert_eq!(joined(&["run", "--flag", "x"]), ["run", "--flag", "x"]);
        assert_eq!(
            joined(&["run", "--flag=false", "true"]),
            ["run", "--flag=false", "true"]
        );
        assert_eq!(
            joined(&["run", "--other", "true"]),
            ["run", "--other", "true"]
        );
        assert_eq!(joined(&["--", "--flag", "true"]), ["--", "--flag", "true"]);
    }
}
