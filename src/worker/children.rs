//! The children of a worker's tree, and how each is spawned.

use std::fmt;
use std::sync::Arc;

use ractor::Message;

use super::assembly::Assembly;
use super::housekeeping::HousekeepingActor;
use crate::actor::Arguments;
use crate::actor::address::Address;
use crate::actor::progress::Progress;
use crate::admin::api_actor::ApiActor;
use crate::admin::http_actor::HttpActor;
use crate::command::CommandActor;
use crate::pipeline;
use crate::pipeline::connection::ConnectionActor;
use crate::pipeline::cursor::CursorActor;
use crate::pipeline::decoder::DecoderActor;
use crate::pipeline::filter::FilterActor;
use crate::pipeline::indexer::IndexerActor;
use crate::repo::backfill::BackfillActor;
use crate::repo::handles::HandlesActor;
use crate::repo::{Repositories, RepositoriesActor};
use crate::sink::actor::{SinkActor, SinkContext};
use crate::supervisor::ChildSpec;
use crate::testing::fault::Faults;

/// Names a child of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Cursor,
    Indexer,
    Filter,
    Decoder(usize),
    Connection,
    Repositories,
    Backfill,
    Handles,
    Housekeeping,
    Commands,
    Http,
    Control,
    Admin,
    /// By its place among the sinks.
    Sink(usize),
}

/// All children, downstream first, so that each finds the actors to which it sends.
pub(super) fn children(assembly: &Assembly) -> Vec<ChildSpec> {
    let context = &assembly.context;
    let mut children = pipeline_tail(context);
    if let Some(repositories) = &context.repositories {
        children.extend(repository_children(repositories, &context.faults));
        if let Some(verifier) = repositories.handles() {
            children.push(ChildSpec::new(
                Role::Handles.to_string(),
                || HandlesActor,
                arguments_with(verifier, context.faults.clone()),
                |_| {},
            ));
        }
    }
    let household = assembly.household.clone();
    let housekeeping = ChildSpec::new(
        Role::Housekeeping.to_string(),
        || HousekeepingActor,
        move |_| household.clone(),
        |_| {},
    );
    children.push(housekeeping);
    let sinks = assembly.sinks.iter().enumerate();
    children.extend(sinks.map(|(index, sink)| sink_child(index, sink, &context.faults)));
    children.push(connection(context));
    if let Some(endpoints) = assembly.endpoints.clone() {
        let http = ChildSpec::new(
            Role::Http.to_string(),
            || HttpActor,
            move |_| endpoints.clone(),
            |_| {},
        );
        children.push(http);
    }
    children.extend(command_children(assembly));
    children
}

/// The actor that carries out commands, and the one that takes them.
fn command_children(assembly: &Assembly) -> Vec<ChildSpec> {
    let Some(commands) = &assembly.commands else {
        return Vec::new();
    };
    let faults = &assembly.context.faults;
    let carries_out = ChildSpec::new(
        Role::Commands.to_string(),
        || CommandActor,
        arguments_with(commands.clone(), faults.clone()),
        publish(&commands.address),
    );
    let mut children = vec![addressed(carries_out, &commands.address)];
    children.extend(assembly.doors.iter().map(|(role, door)| {
        let door = door.clone();
        ChildSpec::new(role.to_string(), || ApiActor, move |_| door.clone(), |_| {})
    }));
    children
}

/// The children of a pipeline except the connection. Filter and indexer keep batches in order. So
/// when one of them has ended, the ledger hands out everything again from the first unacked batch.
fn pipeline_tail(context: &Arc<pipeline::Context>) -> Vec<ChildSpec> {
    let arguments =
        |context: &Arc<pipeline::Context>| arguments_with(context.clone(), context.faults.clone());
    let cursor = addressed(
        ChildSpec::new(
            Role::Cursor.to_string(),
            || CursorActor,
            arguments(context),
            publish(&context.cursor),
        ),
        &context.cursor,
    );
    let indexer = addressed(
        ChildSpec::new(
            Role::Indexer.to_string(),
            || IndexerActor,
            arguments(context),
            publish(&context.indexer),
        ),
        &context.indexer,
    );
    let filter = addressed(
        ChildSpec::new(
            Role::Filter.to_string(),
            || FilterActor,
            arguments(context),
            publish(&context.filter),
        ),
        &context.filter,
    );
    let mut children = vec![
        cursor,
        in_order(indexer, context),
        in_order(filter, context),
    ];
    children.extend((0..context.decoders.len()).map(|index| {
        let arguments = arguments(context);
        ChildSpec::new(
            Role::Decoder(index).to_string(),
            || DecoderActor,
            move |progress| (arguments(progress), index),
            |_| {},
        )
    }));
    children
}

fn connection(context: &Arc<pipeline::Context>) -> ChildSpec {
    ChildSpec::new(
        Role::Connection.to_string(),
        || ConnectionActor,
        arguments_with(context.clone(), context.faults.clone()),
        |_| {},
    )
}

fn repository_children(repositories: &Arc<Repositories>, faults: &Faults) -> [ChildSpec; 2] {
    let address = &repositories.address;
    let jobs = ChildSpec::new(
        Role::Repositories.to_string(),
        || RepositoriesActor,
        arguments_with(repositories.clone(), faults.clone()),
        publish(address),
    );
    let backfill = ChildSpec::new(
        Role::Backfill.to_string(),
        || BackfillActor,
        arguments_with(repositories.clone(), faults.clone()),
        |_| {},
    );
    [addressed(jobs, address), backfill]
}

fn sink_child(index: usize, sink: &Arc<SinkContext>, faults: &Faults) -> ChildSpec {
    let child = ChildSpec::new(
        Role::Sink(index).to_string(),
        || SinkActor,
        arguments_with(sink.clone(), faults.clone()),
        publish(&sink.address),
    );
    addressed(child, &sink.address)
}

fn arguments_with<C: Send + Sync + 'static>(
    shared: Arc<C>,
    faults: Faults,
) -> impl Fn(Progress) -> Arguments<C> + Send + Sync + 'static {
    move |progress| Arguments {
        shared: shared.clone(),
        progress,
        faults: faults.clone(),
    }
}

/// Puts each new actor at `address`.
fn publish<M: Message>(
    address: &Address<M>,
) -> impl Fn(ractor::ActorRef<M>) + Clone + Send + Sync + 'static {
    let address = address.clone();
    move |actor| address.set(actor)
}

/// Clears `address` when the child has ended.
fn addressed<M: Message>(child: ChildSpec, address: &Address<M>) -> ChildSpec {
    let address = address.clone();
    child.on_ended(move || address.clear())
}

/// Marks `child` as a stage, which keeps batches in order: its end pauses the ledger, its start
/// begins an epoch.
fn in_order(child: ChildSpec, context: &Arc<pipeline::Context>) -> ChildSpec {
    let (paused, begun) = (context.ledger.clone(), context.ledger.clone());
    child
        .on_ended(move || paused.pause(paused.epoch().epoch))
        .on_started(move || begun.begin_epoch())
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cursor => f.write_str("cursor"),
            Self::Indexer => f.write_str("indexer"),
            Self::Filter => f.write_str("filter"),
            Self::Decoder(index) => write!(f, "decoder-{index}"),
            Self::Connection => f.write_str("connection"),
            Self::Repositories => f.write_str("repositories"),
            Self::Backfill => f.write_str("backfill"),
            Self::Handles => f.write_str("handles"),
            Self::Housekeeping => f.write_str("housekeeping"),
            Self::Commands => f.write_str("commands"),
            Self::Http => f.write_str("http"),
            Self::Control => f.write_str("control"),
            Self::Admin => f.write_str("admin"),
            Self::Sink(index) => write!(f, "sink-{index}"),
        }
    }
}
