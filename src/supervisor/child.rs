//! The description of a child.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorRef, SpawnErr};

use crate::actor::progress::Progress;

type Spawn =
    dyn Fn(Progress, ActorCell) -> BoxFuture<'static, Result<ActorCell, SpawnErr>> + Send + Sync;
type Hook = dyn Fn() + Send + Sync;

/// The description of a child: its name, how to spawn it, and what to call when it has started or
/// ended.
#[derive(Clone)]
pub struct ChildSpec {
    name: Arc<str>,
    spawn: Arc<Spawn>,
    started: Vec<Arc<Hook>>,
    ended: Vec<Arc<Hook>>,
}

impl ChildSpec {
    /// Describes a child that is named `name` in the log, the metrics and `/status`. `actor` and
    /// `arguments` are called for each start. `publish` gets the new actor before anything else
    /// happens.
    pub fn new<A>(
        name: impl Into<Arc<str>>,
        actor: impl Fn() -> A + Send + Sync + 'static,
        arguments: impl Fn(Progress) -> A::Arguments + Send + Sync + 'static,
        publish: impl Fn(ActorRef<A::Msg>) + Clone + Send + Sync + 'static,
    ) -> Self
    where
        A: Actor,
    {
        let spawn = move |progress, supervisor| {
            let (actor, arguments) = (actor(), arguments(progress));
            let publish = publish.clone();
            let spawning: BoxFuture<'static, Result<ActorCell, SpawnErr>> = Box::pin(async move {
                let (child, _task) =
                    Actor::spawn_linked(None, actor, arguments, supervisor).await?;
                publish(child.clone());
                Ok(child.get_cell())
            });
            spawning
        };
        Self {
            name: name.into(),
            spawn: Arc::new(spawn),
            started: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// Also calls `hook` each time that the child has started.
    #[must_use]
    pub fn on_started(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.started.push(Arc::new(hook));
        self
    }

    /// Also calls `hook` each time that the child has ended.
    #[must_use]
    pub fn on_ended(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.ended.push(Arc::new(hook));
        self
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) async fn spawn(
        &self,
        progress: Progress,
        supervisor: ActorCell,
    ) -> Result<ActorCell, SpawnErr> {
        (self.spawn)(progress, supervisor).await
    }

    pub(super) fn has_started(&self) {
        for hook in &self.started {
            hook();
        }
    }

    pub(super) fn has_ended(&self) {
        for hook in &self.ended {
            hook();
        }
    }
}

impl fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChildSpec({})", self.name)
    }
}
