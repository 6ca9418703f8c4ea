//! A cold start: no account is known, the directory has every answer at hand, and one commit of
//! ten is kept.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;
use simulated_network::record::WANTED;

use crate::directory::Directory;
use crate::replay::Replay;
use crate::round::Round;
use crate::traffic::{Action, Plan, Traffic};
use crate::{follower, frames, kept, recording, service};

/// The shape of a recording of the testbed.
const PLAN: Plan = Plan {
    accounts: 400,
    commits: 33_000,
    history: 0,
    action: |random| match random.u32(..10) {
        0 => Action::Create(WANTED[random.usize(..WANTED.len())]),
        1..5 => Action::Create("app.bsky.feed.post"),
        _ => Action::Create("app.bsky.feed.like"),
    },
};

/// Frames, and the documents of their accounts.
struct Input {
    frames: Vec<Vec<u8>>,
    documents: Vec<Value>,
}

/// The whole worker at level `chain`, from the first frame until every commit is proven. There is
/// no bare limit: the figures are compared with other systems on the same recording.
pub(crate) fn measure() -> Round {
    static INPUT: OnceLock<Input> = OnceLock::new();
    let recording = std::env::var_os("BENCH_RECORDING");
    let input = INPUT.get_or_init(|| match &recording {
        Some(folder) => load(folder.as_ref()),
        None => {
            let Traffic { frames, documents } = Traffic::new(&PLAN);
            Input { frames, documents }
        }
    });
    let directory = Directory::start(&input.documents);
    let replay = Replay::start_held(&input.frames, input.frames.len() as u64);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.db");
    let worker = follower::follow(&replay, &path, &[], |config| {
        service::verify(config, &directory);
    });
    // A recording of a server also has commits that cannot be proven: of an account that has
    // another key by now.
    if recording.is_none() {
        kept::assert_no_doubts(&path);
    }
    Round {
        events: replay.count,
        bare: None,
        worker,
    }
}

/// Loads `frames.bin` and `plc.jsonl`.
fn load(folder: &Path) -> Input {
    Input {
        frames: frames::load(&folder.join("frames.bin")),
        documents: recording::documents(&folder.join("plc.jsonl")),
    }
}
