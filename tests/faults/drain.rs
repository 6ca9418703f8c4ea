//! What a stop in good order leaves behind.

use std::sync::Arc;
use std::time::Duration;

use huddle_firehose::actors::{Context, Parts};
use huddle_firehose::fault::Faults;
use huddle_firehose::protocol::syntax::Did;
use huddle_firehose::supervision::tree::Tree;
use huddle_firehose::worker;

use crate::config;
use crate::model::Model;
use crate::schedule::Schedule;
use crate::script::ScriptedSource;
use crate::store::ModelStore;

/// Otherwise only the next checkpoint would, and here none is near.
#[tokio::test(start_paused = true)]
async fn a_drain_writes_the_cursor_behind_events_that_needed_nothing() {
    let model = Arc::new(Model::of_recording());
    let store = Arc::new(ModelStore::new(
        model.clone(),
        Arc::new(Schedule::default()),
    ));
    let source = Arc::new(ScriptedSource::new(model.frames.clone(), 0));
    let mut config = config(0);
    config.collections = vec!["com.nobody.*".parse().unwrap()];
    config.dids_allow = vec![Did::parse("did:plc:nobody").unwrap()];
    config.checkpoint_interval = Duration::from_secs(100_000);
    config.checkpoint_events = u64::MAX;
    let context = Context::new(Parts {
        rules: worker::rules(&config, source.as_ref()).unwrap(),
        config,
        source,
        store: store.clone(),
        listener: None,
        faults: Faults::default(),
    });
    let tree = Tree::start(context.clone()).await.unwrap();
    tree.silence(Duration::from_secs(60)).await;
    assert_eq!(store.position(), 0, "written before it had to be");
    let settled = context.ledger.settled_through().seq;
    tree.drain().await.unwrap();
    assert_eq!(settled, model.last_seq());
    assert_eq!(store.position(), settled);
}
