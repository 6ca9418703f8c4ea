//! Everything that a network of many repositories writes is kept and proven.

use std::sync::OnceLock;

use crate::directory::Directory;
use crate::replay::Replay;
use crate::round::Round;
use crate::traffic::{Action, Plan, Traffic};
use crate::{follower, kept, service};

/// What production frames hold: mostly likes, and a few deletions. With this history the commits
/// have the sizes of production frames, 5.4 KB on average.
const PLAN: Plan = Plan {
    accounts: 20_000,
    commits: 60_000,
    history: 12_000,
    action: |random| match random.u32(..100) {
        0..71 => Action::Create("app.bsky.feed.like"),
        71..83 => Action::Create("app.bsky.feed.post"),
        83..93 => Action::Create("app.bsky.feed.repost"),
        93..97 => Action::Create("app.bsky.graph.follow"),
        _ => Action::Delete,
    },
};

/// The whole worker at level `chain`, which knows every account's identity.
pub(crate) fn measure() -> Round {
    static TRAFFIC: OnceLock<Traffic> = OnceLock::new();
    let traffic = TRAFFIC.get_or_init(|| Traffic::new(&PLAN));
    let directory = Directory::start(&traffic.documents);
    let replay = Replay::start_held(&traffic.frames, traffic.frames.len() as u64);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker.db");
    let worker = follower::follow(&replay, &path, &traffic.dids(), |config| {
        service::verify(config, &directory);
        config.collections = vec!["*".parse().unwrap()];
    });
    kept::assert_metrics(&follower::metrics(&path), traffic.frames.len());
    kept::assert_no_doubts(&path);
    Round {
        events: replay.count,
        bare: None,
        worker,
    }
}
