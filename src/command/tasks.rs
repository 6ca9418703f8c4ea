//! Work of commands that takes longer than a step. The CommandActor looks whether it has ended, and carries
//! out other commands meanwhile.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{JoinError, JoinHandle};

/// How often it is looked whether a task has ended.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// The tasks in progress, by the ids of their commands.
#[derive(Debug)]
pub struct Tasks<T>(Arc<Mutex<BTreeMap<i64, JoinHandle<T>>>>);

impl<T> Clone for Tasks<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Tasks<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Send + 'static> Tasks<T> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<i64, JoinHandle<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The result of a command's task, if it has ended. Otherwise the task is begun, or goes on.
    ///
    /// # Errors
    /// If the task panicked.
    pub(super) async fn result_of<F>(
        &self,
        command: i64,
        begin: impl FnOnce() -> F,
    ) -> Option<Result<T, JoinError>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let ended = {
            let mut tasks = self.lock();
            let task = tasks
                .entry(command)
                .or_insert_with(|| tokio::spawn(begin()));
            let has_ended = task.is_finished();
            has_ended.then(|| tasks.remove(&command)).flatten()
        };
        Some(ended?.await)
    }

    /// Ends the tasks of commands that are not among these, since they were cancelled.
    pub(super) fn keep_only(&self, open_commands: &[i64]) {
        self.lock().retain(|command, task| {
            let is_open = open_commands.contains(command);
            if !is_open {
                task.abort();
            }
            is_open
        });
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::oneshot;
    use tokio::task::yield_now;
    use tokio::time::timeout;

    use super::*;

    /// Looks until the task has ended.
    async fn result(tasks: &Tasks<u8>, command: i64) -> Result<u8, JoinError> {
        for _ in 0..1000 {
            match tasks.result_of(command, pending).await {
                Some(result) => return result,
                None => yield_now().await,
            }
        }
        panic!("it has not ended");
    }

    #[tokio::test]
    async fn a_task_is_begun_once_and_its_result_is_given_once() {
        let tasks = Tasks::default();
        assert!(tasks.result_of(1, || async { 7 }).await.is_none());
        assert_eq!(result(&tasks, 1).await.unwrap(), 7);
        assert!(tasks.result_of(1, || async { 8 }).await.is_none());
        assert_eq!(result(&tasks, 1).await.unwrap(), 8);
    }

    #[tokio::test]
    async fn a_task_that_panics_gives_an_error() {
        let tasks = Tasks::default();
        let panics = || async { panic!("on purpose") };
        assert!(tasks.result_of(1, panics).await.is_none());
        assert!(result(&tasks, 1).await.unwrap_err().is_panic());
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_of_a_cancelled_command_ends() {
        let tasks = Tasks::default();
        let (held, ended) = oneshot::channel::<()>();
        let cancelled = || async move {
            let _held = held;
            pending().await
        };
        assert!(tasks.result_of(1, cancelled).await.is_none());
        assert!(tasks.result_of(2, || async { 7 }).await.is_none());
        tasks.keep_only(&[2]);
        // The task is dropped with what it holds.
        let dropped = timeout(Duration::from_secs(60), ended).await;
        assert!(dropped.is_ok(), "it goes on");
        assert_eq!(result(&tasks, 2).await.unwrap(), 7);
        assert_eq!(tasks.lock().len(), 0);
    }
}
