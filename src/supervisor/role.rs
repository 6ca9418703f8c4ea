//! The places of the tree, and who fills them.

use std::fmt;
use std::sync::Arc;

use ractor::{Actor, ActorCell, SpawnErr};

use super::progress::Progress;
use crate::admin::http_actor::HttpActor;
use crate::pipeline::Context;
use crate::pipeline::connection::ConnectionActor;
use crate::pipeline::cursor::CursorActor;
use crate::pipeline::decoder::DecoderActor;
use crate::pipeline::filter::FilterActor;
use crate::pipeline::indexer::IndexerActor;
use crate::repo::RepositoriesActor;
use crate::repo::backfill::BackfillActor;
use crate::worker::housekeeping::HousekeepingActor;

/// A place in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Cursor,
    Indexer,
    Filter,
    Decoder(usize),
    Connection,
    Repositories,
    Backfill,
    Housekeeping,
    Http,
}

impl Role {
    /// Every place of the tree, downstream first: whoever starts finds those it sends to.
    pub(super) fn all(context: &Context) -> Vec<Self> {
        let mut roles = vec![Self::Cursor, Self::Indexer, Self::Filter];
        roles.extend((0..context.decoders.len()).map(Self::Decoder));
        if context.repositories.is_some() {
            roles.extend([Self::Repositories, Self::Backfill]);
        }
        roles.extend([Self::Housekeeping, Self::Connection]);
        if context.listener.is_some() {
            roles.push(Self::Http);
        }
        roles
    }

    /// Whether it keeps batches in order, so that its end means handing them out from the first
    /// unsettled one.
    pub(super) fn is_stage(self) -> bool {
        matches!(self, Self::Filter | Self::Indexer)
    }

    pub(super) async fn spawn(
        self,
        context: &Arc<Context>,
        progress: Progress,
        supervisor: ActorCell,
    ) -> Result<ActorCell, SpawnErr> {
        let shared = context.clone();
        Ok(match self {
            Self::Cursor => {
                let (actor, _) =
                    Actor::spawn_linked(None, CursorActor, (shared, progress), supervisor).await?;
                context.cursor.set(actor.clone());
                actor.get_cell()
            }
            Self::Indexer => {
                let (actor, _) =
                    Actor::spawn_linked(None, IndexerActor, (shared, progress), supervisor).await?;
                context.indexer.set(actor.clone());
                actor.get_cell()
            }
            Self::Filter => {
                let (actor, _) =
                    Actor::spawn_linked(None, FilterActor, (shared, progress), supervisor).await?;
                context.filter.set(actor.clone());
                actor.get_cell()
            }
            Self::Decoder(index) => {
                let arguments = (shared, progress, index);
                let (actor, _) =
                    Actor::spawn_linked(None, DecoderActor, arguments, supervisor).await?;
                actor.get_cell()
            }
            Self::Connection => {
                let arguments = (shared, progress);
                let (actor, _) =
                    Actor::spawn_linked(None, ConnectionActor, arguments, supervisor).await?;
                actor.get_cell()
            }
            Self::Repositories => {
                let arguments = (shared, progress);
                let (actor, _) =
                    Actor::spawn_linked(None, RepositoriesActor, arguments, supervisor).await?;
                if let Some(repositories) = &context.repositories {
                    repositories.address.set(actor.clone());
                }
                actor.get_cell()
            }
            Self::Backfill => {
                let arguments = (shared, progress);
                let (actor, _) =
                    Actor::spawn_linked(None, BackfillActor, arguments, supervisor).await?;
                actor.get_cell()
            }
            Self::Housekeeping => {
                let (actor, _) =
                    Actor::spawn_linked(None, HousekeepingActor, shared, supervisor).await?;
                actor.get_cell()
            }
            Self::Http => {
                let (actor, _) = Actor::spawn_linked(None, HttpActor, shared, supervisor).await?;
                actor.get_cell()
            }
        })
    }

    pub(super) fn clear_address(self, context: &Context) {
        match self {
            Self::Cursor => context.cursor.clear(),
            Self::Indexer => context.indexer.clear(),
            Self::Filter => context.filter.clear(),
            Self::Repositories => {
                if let Some(repositories) = &context.repositories {
                    repositories.address.clear();
                }
            }
            Self::Decoder(_)
            | Self::Connection
            | Self::Backfill
            | Self::Housekeeping
            | Self::Http => {}
        }
    }
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
            Self::Housekeeping => f.write_str("housekeeping"),
            Self::Http => f.write_str("http"),
        }
    }
}
