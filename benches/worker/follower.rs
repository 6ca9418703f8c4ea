//! The measured worker, in a process of its own: the whole worker, with a real socket, the
//! supervision tree and a SQLite file.
//!
//! It is this program again, started with [`COMMAND`]. So its processor time and its memory are
//! those of the worker alone.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use futures_util::future::join_all;
use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::config::{Config, Layers};
use huddle_firehose::worker;
use huddle_firehose::worker::RunningWorker;
use toml::Table;

use crate::replay::Replay;
use crate::usage::{Meter, Usage};
use crate::{runtime, service};

pub(crate) const COMMAND: &str = "follow";

/// Look-ups at once. They have a deadline together with those that wait before them.
const LOOK_UPS: usize = 1_000;
/// How often the process checks whether commits are still parked. Each check is a query.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);
/// A worker that took less than this part of a core for so long waits for something that does not
/// come.
const QUIET_FOR: Duration = Duration::from_secs(2);
const QUIET_PART: u32 = 20;

/// What the worker used, from the first frame until everything that `replay` sent is applied and no
/// commit waits for a key. Its database is at `path`. The accounts `known` are looked up before,
/// because in production this happens once a day for each account and not once for each commit.
pub(crate) fn follow(
    replay: &Replay,
    path: &Path,
    known: &[Did],
    change: impl FnOnce(&mut Config),
) -> Usage {
    let config = service::config(&replay.url, path, |config| {
        // The source says nothing before it is released.
        config.silence_min = config.silence_max;
        change(config);
    });
    std::fs::write(
        config_of(path),
        Table::try_from(&config).unwrap().to_string(),
    )
    .unwrap();
    std::fs::write(
        known_of(path),
        known
            .iter()
            .map(|did| format!("{did}\n"))
            .collect::<String>(),
    )
    .unwrap();
    let mut process = Process::start(path, replay.last_seq);
    assert_eq!(process.read_line(), "ready");
    process.go();
    replay.release();
    let usage = serde_json::from_str(&process.read_line()).unwrap();
    assert!(process.child.wait().unwrap().success());
    usage
}

/// The metrics that the worker of the database at `path` had at its end.
pub(crate) fn metrics(path: &Path) -> String {
    std::fs::read_to_string(metrics_of(path)).unwrap()
}

fn config_of(path: &Path) -> PathBuf {
    path.with_extension("toml")
}

fn known_of(path: &Path) -> PathBuf {
    path.with_extension("dids")
}

fn metrics_of(path: &Path) -> PathBuf {
    path.with_extension("prom")
}

/// The process, seen from outside.
struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(path: &Path, last_seq: u64) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(COMMAND)
            .arg(path)
            .arg(last_seq.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    fn go(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }

    fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

/// The code of the process.
pub(crate) fn run(arguments: &[String]) {
    let [path, last_seq] = arguments else {
        panic!("{COMMAND} DATABASE LAST_SEQ");
    };
    let path = Path::new(path);
    let last_seq = last_seq.parse().unwrap();
    let mut layers = Layers::new();
    let config = config_of(path);
    layers.file(&config, &std::fs::read_to_string(&config).unwrap());
    let config = layers.resolve().unwrap().config;
    let usage = runtime().block_on(async {
        let tree = worker::start((&config).into(), None).await.unwrap();
        look_up(&tree, &known_of(path)).await;
        service::until_connected(&tree).await;
        println!("ready");
        std::io::stdin().read_line(&mut String::new()).unwrap();
        let usage = until_applied(&tree, last_seq).await;
        std::fs::write(metrics_of(path), tree.prometheus().render()).unwrap();
        tree.drain().await.unwrap();
        usage
    });
    println!("{}", serde_json::to_string(&usage).unwrap());
}

/// What this process uses until the cursor is at `last_seq` and every commit that waited for a key
/// has it. A commit may wait for a key that never comes, because a recording has commits that no
/// document's key has signed. Then the end is where the quiet begins.
async fn until_applied(tree: &RunningWorker, last_seq: u64) -> Usage {
    let meter = Meter::start();
    service::wait_for(tree, last_seq).await;
    let mut samples = Vec::new();
    loop {
        let now = meter.read();
        if parked_for_a_key(tree).await == 0 {
            return now;
        }
        if let Some(end) = quiet_since(&samples, &now) {
            return end;
        }
        samples.push(now);
        tokio::time::sleep(SAMPLE_INTERVAL).await;
    }
}

/// The sample since which the process has had next to nothing to do until `now`, if there is one
/// that is old enough.
fn quiet_since(samples: &[Usage], now: &Usage) -> Option<Usage> {
    let mut old_enough = samples.iter().rev();
    let then = old_enough.find(|then| now.elapsed - then.elapsed >= QUIET_FOR)?;
    let processor = now.processor() - then.processor();
    let is_quiet = processor < (now.elapsed - then.elapsed) / QUIET_PART;
    is_quiet.then_some(*then)
}

async fn parked_for_a_key(tree: &RunningWorker) -> u64 {
    let Some(repositories) = &tree.context().repositories else {
        return 0;
    };
    repositories
        .store
        .repo_counts()
        .await
        .unwrap()
        .parked
        .key
        .commits
}

/// Looks up the accounts that the file at `path` lists, one a line.
async fn look_up(tree: &RunningWorker, path: &Path) {
    let known = std::fs::read_to_string(path).unwrap();
    let dids: Vec<Did> = known
        .lines()
        .map(|line| Did::parse(line).unwrap())
        .collect();
    let Some(repositories) = &tree.context().repositories else {
        return;
    };
    let identities = &repositories.verification.identities;
    for some in dids.chunks(LOOK_UPS) {
        let answers = join_all(some.iter().map(|did| identities.get(did))).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }
}
