//! The neighbours of one actor that is tested alone. They keep the messages that it sends.
//!
//! Such tests run in paused time, with a [`ScriptedStore`] and a [`ScriptedSource`]. So nothing
//! depends on the machine, and a test that nothing arrives takes no time.
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

/// Longer than any timer of an actor. In paused time it passes at once when nothing else is to do.
const LONG: Duration = Duration::from_secs(600);

/// A pipeline context without a tree: all addresses are empty.
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
        feed: None,
        views: Arc::default(),
        changes_token: None,
        repositories: None,
        listener: None,
        control: None,
        faults,
    };
    Assembly::new(parts).context
}

/// The arguments with which an actor of `context` starts.
pub fn arguments_for(context: &Arc<Context>) -> Arguments<Context> {
    Arguments {
        shared: context.clone(),
        progress: Progress::new(),
        faults: context.faults.clone(),
    }
}

/// Takes the place of an actor at an address, and keeps the messages that arrive.
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

    /// Waits for the next message.
    pub async fn next(&mut self) -> M {
        let message = timeout(LONG, self.mailbox.recv()).await;
        message.expect("a message arrives").unwrap()
    }

    /// Returns the messages that arrive until the actor under test has nothing more to do.
    pub async fn rest(&mut self) -> Vec<M> {
        let mut rest = Vec::new();
        while let Ok(Some(message)) = timeout(LONG, self.mailbox.recv()).await {
            rest.push(message);
        }
        rest
    }

    /// Asserts that nothing arrives.
    pub async fn receives_nothing(&mut self) {
        let rest = self.rest().await;
        assert!(rest.is_empty(), "{rest:?}");
    }
}

/// Passes on every message.
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
        // The test may have dropped the receiver.
        let _sent = sender.send(message);
        Ok(())
    }
}
