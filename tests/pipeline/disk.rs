//! A disk that is full or read-only. The worker holds what it has, reports the failure, and
//! continues by itself when writes succeed again. Holds invariants 4.2 and 1.1.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use reqwest::StatusCode;
use test_support::mock_relay::relay;
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::{Worker, config};
use test_support::skipped::skip;
use test_support::tables::Database;
use test_support::waiting::soon;
use test_support::worker_process::{self, Program};

use crate::history::History;
use crate::program;

/// Runs a command that may need special rights. If it fails, prints that and returns `false`.
fn can(command: &str, arguments: &[&str]) -> bool {
    let done = worker_process::command(command).args(arguments).output();
    let is_done = done.as_ref().is_ok_and(|output| output.status.success());
    if !is_done {
        skip(&format!("{command} {}: {done:?}", arguments.join(" ")));
    }
    is_done
}

/// A limit on the size of a file needs no special rights and no separate disk. SQLite sees an I/O
/// error.
#[tokio::test]
async fn a_file_at_its_size_limit_holds_the_worker_until_the_limit_is_lifted() {
    let (frames, database) = (frames(), Database::new());
    let end = last_seq(&frames);
    let relay = relay(frames).await;
    let history = History::recorded_from(&relay.url()).await;

    // 1500 KiB have room for the empty tables, but not for the recording. With the signal ignored, a
    // write beyond the limit fails.
    let limited = "trap '' XFSZ; ulimit -S -f 3000; exec \"$0\" \"$@\"";
    let mut command = tokio::process::Command::from(worker_process::command("sh"));
    command
        .args(["-c", limited, program::PATH])
        .args(program::arguments(&relay, &database))
        .kill_on_drop(true);
    let mut program = Program::start(command).await;
    let line = program.logs("database writes fail").await;
    assert_eq!(line["level"], "ERROR", "{line}");
    let body = program.answers(StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(body.contains("the database is unavailable"), "{body}");
    let cursor = history.assert_whole_while_open(&database).await;
    assert!(cursor < end, "there was room for all");

    let id = program.child.id().unwrap().to_string();
    if !can("prlimit", &["--pid", &id, "--fsize=unlimited"]) {
        return;
    }
    program.logs("database writes succeed again").await;
    program.answers(StatusCode::OK).await;
    soon(async { while history.assert_whole_while_open(&database).await < end {} }).await;
}

/// A small file system for one test.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    fn mount(folder: &'a Path, size: &str) -> Option<Self> {
        let (size, target) = (format!("size={size}"), folder.to_str().unwrap());
        let is_mounted = can("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", target]);
        is_mounted.then(|| Self(folder))
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    while file.write_all(&[0; 1024]).is_ok() {}
}

#[tokio::test]
async fn a_full_disk_holds_the_worker_until_there_is_room() {
    let (frames, database) = (frames(), Database::new());
    let Some(_disk) = Disk::mount(database.folder(), "4m") else {
        return;
    };
    let end = last_seq(&frames);
    let relay = relay(frames).await;
    let history = History::recorded().await;
    let store = database.store().await;
    let filler = database.folder().join("filler");
    fill(&filler);

    let worker = Worker::start_with(config(), &relay, store).await;
    worker.is_blocked_because("database or disk is full").await;
    history.assert_whole_while_open(&database).await;

    fs::remove_file(filler).unwrap();
    worker.completes_recording(end, &database).await;
}

/// A file that no process can open for writing, as long as this value exists.
struct ReadOnly<'a>(&'a Path);

impl<'a> ReadOnly<'a> {
    fn make(file: &'a Path) -> Option<Self> {
        fs::set_permissions(file, Permissions::from_mode(0o444)).unwrap();
        let made = Self(file);
        // Only a flag stops root, and not every file system has it.
        let is_refused = File::options().append(true).open(file).is_err();
        (is_refused || can("chattr", &["+i", file.to_str().unwrap()])).then_some(made)
    }
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        let _where_it_was_set = Command::new("chattr").arg("-i").arg(self.0).output();
        // SQLite has given the same mode to the files that it made beside the database.
        for file in self.0.parent().unwrap().read_dir().unwrap() {
            let path = file.unwrap().path();
            let _restored = fs::set_permissions(path, Permissions::from_mode(0o644));
        }
    }
}

/// Another process makes the file: this process could still write to a file that it has opened
/// before.
#[tokio::test]
async fn a_read_only_file_holds_the_worker_until_it_is_writable() {
    let (frames, database) = (frames(), Database::new());
    let end = last_seq(&frames);
    let relay = relay(frames).await;
    let migrate = ["migrate", "--database-url", &database.url()];
    assert!(can(program::PATH, &migrate));
    let path = database.path();
    let Some(read_only) = ReadOnly::make(&path) else {
        return;
    };
    let worker = Worker::start(&relay, &database).await;
    worker.is_blocked_because("readonly database").await;

    drop(read_only);
    worker.completes_recording(end, &database).await;
}
