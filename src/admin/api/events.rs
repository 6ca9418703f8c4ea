//! `/events`: what happens, as server-sent events.
//!
//! Moments that are rows (of the audit, dead letters, gaps) have the highest ids so far as their id, so a
//! reader that comes back with `Last-Event-ID` misses none of them. The others are changes of the worker's
//! status, and of commands.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::problem::Problem;
use super::{ApiState, Entrance};
use crate::model::{CommandRow, CommandState};
use crate::store::StoreError;
use crate::store::sqlite::{News, Seen};
use crate::telemetry::status::{ConnectionState, Status};

/// How often is looked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often a quiet stream says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(15);

pub(super) async fn events(
    State(state): State<ApiState>,
    Extension(entrance): Extension<Entrance>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Ok(permit) = state.streams.clone().try_acquire_owned() else {
        return Err(Problem::unavailable("as many streams are open as may"));
    };
    let seen = headers.get("last-event-id");
    let seen = seen.and_then(|id| parse_id(id.to_str().ok()?));
    let seen = match seen {
        Some(seen) => seen,
        None => state.commands.scope.store.seen().await?,
    };
    entrance.place.begin_stream();
    let reader = Reader {
        known: Known::at(&state, seen).await?,
        state,
        waiting: VecDeque::new(),
        _permit: permit,
    };
    let events = stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(event), reader))
    });
    let keep_alive = KeepAlive::new().interval(HEARTBEAT).text("heartbeat");
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

/// One reader of the stream.
struct Reader {
    state: ApiState,
    known: Known,
    waiting: VecDeque<Event>,
    _permit: OwnedSemaphorePermit,
}

/// What the reader was told.
#[derive(Debug, Default)]
struct Known {
    seen: Seen,
    /// Open commands, with their state and progress.
    commands: BTreeMap<i64, (CommandState, Option<String>)>,
    connections: BTreeMap<String, ConnectionState>,
    restarts: BTreeMap<String, u64>,
}

/// Something that happened.
#[derive(Debug, PartialEq)]
struct Moment {
    kind: &'static str,
    data: serde_json::Value,
}

impl Moment {
    fn new(kind: &'static str, data: impl Serialize) -> Self {
        let data = json!(data);
        Self { kind, data }
    }
}

impl Reader {
    /// The next event; `None` when the server stops.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            tokio::select! {
                () = self.state.stop.cancelled() => return None,
                () = sleep(LOOK_INTERVAL) => {}
            }
            let before = id_of(self.known.seen);
            // What is not seen because the database fails is seen later.
            let moments = self.known.look(&self.state).await.unwrap_or_default();
            let after = id_of(self.known.seen);
            let last = moments.len().saturating_sub(1);
            // A reader that is cut off amid them gets all of them again.
            let events = moments.into_iter().enumerate();
            let events = events.map(|(index, Moment { kind, data })| {
                let id = if index == last { &after } else { &before };
                Event::default().id(id).event(kind).data(data.to_string())
            });
            self.waiting.extend(events);
        }
    }
}

impl Known {
    /// All that is so now, so that only changes are told.
    async fn at(state: &ApiState, seen: Seen) -> Result<Self, StoreError> {
        let mut known = Self {
            seen,
            ..Self::default()
        };
        known.note_commands(state.commands.scope.store.open_commands().await?);
        if let Some(status) = state.status() {
            known.note_status(&status);
        }
        Ok(known)
    }

    async fn look(&mut self, state: &ApiState) -> Result<Vec<Moment>, StoreError> {
        let store = &state.commands.scope.store;
        let news = store.news(self.seen).await?;
        let open = store.open_commands().await?;
        let mut ended = Vec::new();
        for id in self.commands.keys() {
            if open.iter().all(|row| row.id != *id) {
                ended.extend(store.command(*id).await?);
            }
        }
        // Only now: what was noted is not read again.
        let mut moments = self.note_news(news);
        moments.extend(self.note_commands(open));
        let ended = ended.into_iter();
        moments.extend(ended.map(|row| Moment::new("command", row)));
        if let Some(status) = state.status() {
            moments.extend(self.note_status(&status));
        }
        Ok(moments)
    }

    fn note_news(&mut self, news: News) -> Vec<Moment> {
        let News {
            audit,
            dead_letters,
            gaps,
        } = news;
        let newest = |ids: Vec<i64>, seen: i64| ids.into_iter().fold(seen, i64::max);
        self.seen = Seen {
            audit: newest(audit.iter().map(|row| row.id).collect(), self.seen.audit),
            dead_letters: newest(
                dead_letters.iter().map(|row| row.id).collect(),
                self.seen.dead_letters,
            ),
            gaps: newest(gaps.iter().map(|row| row.id).collect(), self.seen.gaps),
        };
        let audit = audit.iter().map(|row| Moment::new("audit", row));
        let letters = dead_letters
            .iter()
            .map(|row| Moment::new("dead_letter", row));
        let gaps = gaps.iter().map(|row| Moment::new("gap", row));
        audit.chain(letters).chain(gaps).collect()
    }

    /// Returns the commands that are new or have changed.
    fn note_commands(&mut self, open: Vec<CommandRow>) -> Vec<Moment> {
        let before = std::mem::take(&mut self.commands);
        let mut moments = Vec::new();
        for row in open {
            let now = (row.state, row.progress.as_ref().map(ToString::to_string));
            let is_new = before.get(&row.id) != Some(&now);
            self.commands.insert(row.id, now);
            if is_new {
                moments.push(Moment::new("command", row));
            }
        }
        moments
    }

    /// Returns the connections that have changed, and the actors that were restarted.
    fn note_status(&mut self, status: &Status) -> Vec<Moment> {
        let mut moments = Vec::new();
        for (source, now) in &status.sources {
            let connection = &now.connection;
            if self.connections.get(source) != Some(connection) {
                let data = json!({ "source": source, "connection": connection });
                moments.push(Moment::new("connection", data));
                self.connections.insert(source.clone(), connection.clone());
            }
        }
        for (actor, now) in &status.actors {
            let restarts = self.restarts.insert(actor.clone(), now.restarts);
            if restarts.is_some_and(|before| before < now.restarts) {
                let data = json!({ "actor": actor, "last_failure": now.last_failure });
                moments.push(Moment::new("restart", data));
            }
        }
        moments
    }
}

/// The id of an event: what was seen with it.
fn id_of(seen: Seen) -> String {
    format!("{}.{}.{}", seen.audit, seen.dead_letters, seen.gaps)
}

fn parse_id(text: &str) -> Option<Seen> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    let seen = Seen {
        audit: numbers.next()??,
        dead_letters: numbers.next()??,
        gaps: numbers.next()??,
    };
    numbers.next().is_none().then_some(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let seen = Seen {
            audit: 7,
            dead_letters: 0,
            gaps: 12,
        };
        assert_eq!(parse_id(&id_of(seen)), Some(seen));
        for wrong in ["", "7", "7.0", "7.0.12.1", "a.b.c"] {
            assert_eq!(parse_id(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_changes_of_the_status_are_moments() {
        let mut known = Known::default();
        let mut status = Status::default();
        let source = crate::model::SourceId::new("wss://relay/");
        status.source_mut(&source).connection = ConnectionState::Connecting;
        assert_eq!(known.note_status(&status).len(), 1);
        assert_eq!(known.note_status(&status), []);
        status.source_mut(&source).connection = ConnectionState::Stopped;
        let moments = known.note_status(&status);
        assert_eq!(moments[0].kind, "connection");
        assert_eq!(moments[0].data["connection"]["state"], "stopped");
    }
}
