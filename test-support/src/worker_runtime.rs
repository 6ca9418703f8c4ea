//! A worker with a runtime of its own, which a test can end at any moment.

use huddle_firehose::testing::fault::Faults;
use huddle_firehose::testing::mock_relay::MockRelay;
use tokio::runtime::{Builder, Runtime};

use crate::observed_source::{self, Observed};
use crate::running_worker::{Worker, config};
use crate::tables::Database;
use crate::waiting::SLOT_TIMEOUT;

/// A worker with a runtime of its own. A test can end it at any moment, with all its tasks, like a
/// process.
pub struct Process {
    pub worker: Worker,
    runtime: RuntimeGuard,
}

/// An `Option`, because a task of another runtime must not drop it, and a test that panics would.
struct RuntimeGuard(Option<Runtime>);

impl Process {
    pub async fn start(relay: &MockRelay, database: &Database) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (source, store) = (Observed::at(relay), database.store().await);
        let worker = Worker::start_at(config(), source, store, Faults::default());
        let worker = runtime.spawn(worker);
        let worker = worker.await.unwrap();
        let runtime = RuntimeGuard(Some(runtime));
        Self { worker, runtime }
    }

    /// Drains it, and returns the last seq that it has received.
    pub async fn drain(self) -> u64 {
        let status = self.worker.tree.context().status.clone();
        self.worker.drain().await;
        let source = &status.snapshot().sources[observed_source::id().as_str()];
        source.received.seq
    }

    /// Ends it at any point of the code, and waits until nothing of it is left.
    pub async fn crash(mut self) {
        let runtime = self.runtime.0.take().unwrap();
        let ended = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(SLOT_TIMEOUT));
        ended.await.unwrap();
    }
}

impl Drop for RuntimeGuard {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
