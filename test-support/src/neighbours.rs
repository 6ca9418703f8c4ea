//! The neighbours of one actor that is tested alone: what it sends them arrives here.
//!
//! Tests of this kind run in paused time, with a [`ScriptedStore`] and a [`ScriptedSource`]. Nothing
//! then depends on the machine, and "nothing arrives" is a statement that costs no time.
//!
//! [`ScriptedSource`]: crate::scripted_source::ScriptedSource

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use huddle_firehose::actor::Arguments;
use huddle_firehose::actor::address::Address;
use huddle_firehose::actor::progress::Progress;
use huddle_firehose::config::Config;
use huddle_firehose::pipeline::Context;
use huddle_firehose::source::Source;
use huddle_firehose::testing::fault::Faults;
use huddle_firehose::worker::{self, Assembly, Parts};
use ractor::{Actor, ActorProcessingErr, ActorRef, Message};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::scripted_store::ScriptedStore;

/// Longer than any timer of an actor. In paused time it passes at once where nothing else is to be done.
const LONG: Duration = Duration::from_secs(600);

/// What the actors of a tree share, without a tree: all addresses are empty.
pub fn context(config: Config, source: Arc<dyn Source>, store: Arc<ScriptedStore>) -> Arc<Context> {
    context_with(config, source, store, Faults::default())
}

pub fn context_with(
    config: Config,
    source: Arc<dyn Source>,
    store: Arc<ScriptedStore>,
    faults: Faults,
) -> Arc<Context> {
    let options = worker::Options::from(&config);
    let parts = Parts {
        rules: worker::rules(&options, source.as_ref()).unwrap(),
        options,
        source,
        store,
        repositories: None,
        listener: None,
        faults,
    };
    Assembly::new(parts).context
}

/// What an actor of `context` is started with.
pub fn arguments_for(context: &Arc<Context>) -> Arguments<Context> {
    Arguments {
        shared: context.clone(),
        progress: Progress::new(),
        faults: context.faults.clone(),
    }
}

/// Stands at an address in the place of an actor, and keeps what is sent there.
pub struct Neighbour<M> {
    mailbox: UnboundedReceiver<M>,
}

impl<M: Message + Debug> Neighbour<M> {
    pub async fn at(address: &Address<M>) -> Self {
        let (sender, mailbox) = unbounded_channel();
        let (actor, _) = Actor::spawn(None, Recorder::default(), sender)
            .await
            .unwrap();
        address.set(actor);
        Self { mailbox }
    }

    /// The next message.
    pub async fn next(&mut self) -> M {
        let message = timeout(LONG, self.mailbox.recv()).await;
        message.expect("a message arrives").unwrap()
    }

    /// The messages that arrive until the actor under test has nothing more to do.
    pub async fn rest(&mut self) -> Vec<M> {
        let mut rest = Vec::new();
        while let Ok(Some(message)) = timeout(LONG, self.mailbox.recv()).await {
            rest.push(message);
        }
        rest
    }

    /// Shows that nothing arrives, however long one waits.
    pub async fn hears_nothing(&mut self) {
        let rest = self.rest().await;
        assert!(rest.is_empty(), "{rest:?}");
    }
}

/// Hands on whatever it gets.
struct Recorder<M>(std::marker::PhantomData<fn() -> M>);

impl<M> Default for Recorder<M> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<M: Message> Actor for Recorder<M> {
    type Msg = M;
    type State = UnboundedSender<M>;
    type Arguments = UnboundedSender<M>;

    async fn pre_start(
        &self,
        _myself: ActorRef<M>,
        sender: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        Ok(sender)
    }

    async fn handle(
        &self,
        _myself: ActorRef<M>,
        message: M,
        sender: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        // The test may have let its end go.
        let _gone = sender.send(message);
        Ok(())
    }
}
