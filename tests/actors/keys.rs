//! Tests how long a DecoderActor holds a batch whose keys are not known yet. The directory follows a
//! script. Holds invariant 11.12.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::config::Verify;
use huddle_firehose::delivery::segment::Segment;
use huddle_firehose::identity::{Identities, Identity, Limits, Resolve, ResolveError};
use huddle_firehose::model::Position;
use huddle_firehose::pipeline::decoder::{DecoderActor, WorkAvailable};
use huddle_firehose::pipeline::messages::{DecodedBatch, DecodedItem};
use huddle_firehose::pipeline::{self, Context};
use huddle_firehose::source::clock::SourceClock;
use huddle_firehose::source::process::Processor;
use huddle_firehose::source::process::verification::Verification;
use huddle_firehose::store::plan::effect::{Effect, Predecessor};
use huddle_firehose::worker;
use ractor::{Actor, ActorRef};
use simulated_network::http::document;
use simulated_network::network::Network;
use simulated_network::shape::Shape;
use test_support::neighbours::{Neighbour, arguments_for, context};
use test_support::running_worker::config;
use test_support::scripted_source::ScriptedSource;
use test_support::scripted_store::ScriptedStore;
use tokio::time::{Instant, sleep};

const PATH: &str = "com.huddle.slotOffer/key-0";
const SECOND: Duration = Duration::from_secs(1);

/// The network as PLC directory, which answers after `delay`.
struct Directory {
    network: Arc<Mutex<Network>>,
    delay: Duration,
}

impl Resolve for Directory {
    fn resolve<'a>(&'a self, did: &'a Did) -> BoxFuture<'a, Result<Identity, ResolveError>> {
        Box::pin(async move {
            sleep(self.delay).await;
            let network = self.network.lock().unwrap();
            let account = network.account(did.as_str()).unwrap();
            let json = document(account, "https://host.test").to_string();
            Ok(Identity::parse(did, json.as_bytes()).unwrap())
        })
    }
}

/// A decoder at level `chain`, and the network whose events it reads.
struct Decoding {
    context: Arc<Context>,
    filter: Neighbour<DecodedBatch>,
    decoder: ActorRef<WorkAvailable>,
    network: Arc<Mutex<Network>>,
    entered: usize,
}

impl Decoding {
    /// Starts a decoder. The directory answers after `delay`, to at most `in_flight` at the same time.
    async fn start(delay: Duration, in_flight: usize) -> Self {
        let shape = Shape {
            accounts: 4,
            ..Shape::default()
        };
        let network = Arc::new(Mutex::new(Network::new(3, shape)));
        let entered = network.lock().unwrap().log().len();
        let directory = Directory {
            network: network.clone(),
            delay,
        };
        let limits = Limits {
            plc_in_flight: in_flight,
            ..Limits::default()
        };
        let identities = Identities::new(directory, limits);
        let context = verifying(&identities);
        context.ledger.restart_at(Position::default(), None);
        let filter = Neighbour::at(&context.filter).await;
        Self {
            decoder: spawn(&context).await,
            context,
            filter,
            network,
            entered,
        }
    }

    /// Enters what has happened since as one batch.
    fn enter(&mut self, happen: impl FnOnce(&mut Network)) {
        let mut network = self.network.lock().unwrap();
        happen(&mut network);
        let frames = network.log()[self.entered..].iter();
        let segments: Vec<_> = frames
            .map(|entry| Segment::Frame(entry.frame.clone()))
            .collect();
        self.entered += segments.len();
        let charge = self.context.budget.charge(0);
        self.context
            .ledger
            .enter(segments, Some(self.entered as u64), charge);
    }

    /// How many commits of the next batch are verified, and how many are to be parked.
    async fn next(&mut self) -> (usize, usize) {
        let batch = self.filter.next().await;
        let items = batch.items.iter().filter_map(|item| match item {
            DecodedItem::Work(work) => Some(&work.effects),
            _ => None,
        });
        let commits = items.flatten().filter_map(|effect| match effect {
            Effect::Commit(commit) => commit.chain.as_ref(),
            _ => None,
        });
        let (parked, verified): (Vec<_>, Vec<_>) =
            commits.partition(|chain| chain.predecessor == Predecessor::KeyUnavailable);
        batch.lease.ack(batch.last.unwrap());
        (verified.len(), parked.len())
    }
}

async fn spawn(context: &Arc<Context>) -> ActorRef<WorkAvailable> {
    let arguments = (arguments_for(context), 0);
    let (decoder, _) = Actor::spawn(None, DecoderActor, arguments).await.unwrap();
    decoder
}

/// A context that verifies with `identities`.
fn verifying(identities: &Identities) -> Arc<Context> {
    let source = ScriptedSource::new([]);
    let mut config = config();
    config.verify = Verify::Chain;
    let options = worker::Options::from(&config);
    let unverified = context(config, source.clone(), ScriptedStore::empty());
    let processor = Processor {
        rules: worker::rules(&options, source.as_ref()).unwrap(),
        verification: Some(Arc::new(Verification::new(
            options.verify,
            identities.clone(),
        ))),
        metrics: unverified.metrics.clone(),
        clock: SourceClock::default(),
        wants_history: false,
    };
    Context::new(pipeline::Parts {
        options: options.pipeline,
        source,
        store: unverified.store.clone(),
        processor: Arc::new(processor),
        repositories: None,
        budget: unverified.budget.clone(),
        status: unverified.status.clone(),
        faults: unverified.faults.clone(),
    })
}

/// A worker that knows no account yet.
#[tokio::test(start_paused = true)]
async fn commits_wait_in_memory_for_a_directory_that_answers_soon() {
    let mut decoding = Decoding::start(SECOND, 16).await;
    let start = Instant::now();
    decoding.enter(|network| (0..4).for_each(|number| network.write(number, &[PATH], &[])));
    assert_eq!(decoding.next().await, (4, 0));
    assert_eq!(start.elapsed(), SECOND);
    // From then on their keys are known.
    decoding.enter(|network| (0..4).for_each(|number| network.write(number, &[PATH], &[])));
    assert_eq!(decoding.next().await, (4, 0));
    assert_eq!(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_known_after_two_seconds_is_parked_and_the_others_of_its_batch_are_not() {
    let mut decoding = Decoding::start(3 * SECOND / 2, 2).await;
    let start = Instant::now();
    decoding.enter(|network| (0..4).for_each(|number| network.write(number, &[PATH], &[])));
    assert_eq!(decoding.next().await, (2, 2));
    assert_eq!(start.elapsed(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_does_not_keep_up_does_not_slow_the_stream_down() {
    let mut decoding = Decoding::start(60 * SECOND, 16).await;
    let start = Instant::now();
    for number in 0..4 {
        decoding.enter(|network| network.write(number, &[PATH], &[]));
        assert_eq!(decoding.next().await, (0, 1));
    }
    assert_eq!(start.elapsed(), 2 * SECOND);
}

/// Its successor gets the batch, and the look-up has gone on meanwhile.
#[tokio::test(start_paused = true)]
async fn a_batch_whose_decoder_dies_while_it_waits_is_handed_out_again() {
    let mut decoding = Decoding::start(SECOND, 16).await;
    decoding.enter(|network| network.write(0, &[PATH], &[]));
    sleep(SECOND / 2).await;
    decoding.decoder.kill();
    decoding.filter.receives_nothing().await;
    spawn(&decoding.context).await;
    assert_eq!(decoding.next().await, (1, 0));
}
