//! A disk that takes nothing more: full, or read-only. The worker holds what it has, says so, and goes
//! on by itself once the disk takes something again.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use reqwest::StatusCode;
use test_support::mock_relay::relay;
use test_support::recorded_frames::{frames, last_seq};
use test_support::running_worker::{Worker, config};
use test_support::tables::Database;
use test_support::waiting::soon;
use test_support::worker_process::Program;

use crate::history::History;
use crate::program;

/// Does what may need rights that not everybody has. Where it can't be done, says so.
fn can(command: &str, arguments: &[&str]) -> bool {
    let done = Command::new(command).args(arguments).output();
    let is_done = done.as_ref().is_ok_and(|output| output.status.success());
    if !is_done {
        eprintln!("SKIPPED: {command} {}: {done:?}", arguments.join(" "));
    }
    is_done
}

/// The limit is on the size of a file, which needs no rights and no disk of its own. To SQLite it is an
/// I/O error.
#[tokio::test]
async fn a_file_that_may_not_grow_holds_the_worker_until_it_may() {
    let (frames, database) = (frames(), Database::new());
    let end = last_seq(&frames);
    let relay = relay(frames).await;
    let history = History::recorded_from(&relay.url()).await;

    // 500 KiB: room for the empty tables, and not for all that comes. Where the signal is ignored, the
    // write that would exceed it fails.
    let limited = "trap '' XFSZ; ulimit -S -f 1000; exec \"$0\" \"$@\"";
    let mut command = tokio::process::Command::new("sh");
    command
        .args(["-c", limited, program::PATH])
        .args(program::arguments(&relay, &database))
        .kill_on_drop(true);
    let mut program = Program::start(command).await;
    let told = program.logs("database writes fail").await;
    assert_eq!(told["level"], "ERROR", "{told}");
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

/// A file system of its own, as small as that.
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
async fn a_disk_that_is_full_holds_the_worker_until_there_is_room() {
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
    worker.brings_everything(end, &database).await;
}

/// A file that nobody can open for writing, as long as this lives.
struct ReadOnly<'a>(&'a Path);

impl<'a> ReadOnly<'a> {
    fn make(file: &'a Path) -> Option<Self> {
        fs::set_permissions(file, Permissions::from_mode(0o444)).unwrap();
        let made = Self(file);
        // Root is stopped only by a flag, which not every file system has.
        let is_refused = File::options().append(true).open(file).is_err();
        (is_refused || can("chattr", &["+i", file.to_str().unwrap()])).then_some(made)
    }
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        let _where_it_was_set = Command::new("chattr").arg("-i").arg(self.0).output();
        // SQLite has given the mode of the file to those that it made beside it.
        for file in self.0.parent().unwrap().read_dir().unwrap() {
            let path = file.unwrap().path();
            let _restored = fs::set_permissions(path, Permissions::from_mode(0o644));
        }
    }
}

/// Another process makes the file, because what this one has had open it could go on writing to.
#[tokio::test]
async fn a_file_that_is_read_only_holds_the_worker_until_it_can_be_written_to() {
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
    worker.brings_everything(end, &database).await;
}
