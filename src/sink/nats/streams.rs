//! Creates the streams and buckets that are missing, and checks those that exist. None is altered.

use std::time::Duration;

use async_nats::jetstream::context::{Context, GetStreamErrorKind};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, RetentionPolicy, StorageType, Stream,
};
use async_nats::jetstream::{kv, object_store};

use super::connection::{Connection, unavailable};
use super::options::Layout;
use crate::sink::SinkError;

/// Within which the server leaves out a message that it has already. Guards of the target do the same
/// later.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

impl Layout {
    fn tasks(&self) -> Config {
        Config {
            name: self.stream.clone(),
            description: Some("Index tasks of huddle-firehose".to_owned()),
            subjects: (0..self.partitions)
                .map(|partition| self.subject_of(partition))
                .collect(),
            retention: RetentionPolicy::WorkQueue,
            duplicate_window: DUPLICATE_WINDOW,
            ..self.common()
        }
    }

    fn dead_letters(&self) -> Config {
        Config {
            name: self.dead_letter_stream(),
            description: Some("Index tasks that a target refuses".to_owned()),
            subjects: (0..self.partitions)
                .map(|partition| self.dead_letter_subject_of(partition))
                .collect(),
            retention: RetentionPolicy::Limits,
            duplicate_window: DUPLICATE_WINDOW,
            ..self.common()
        }
    }

    /// What is full takes nothing more: what is there stays.
    fn common(&self) -> Config {
        Config {
            max_bytes: i64::try_from(self.bytes_to_create()).unwrap_or(i64::MAX),
            discard: DiscardPolicy::New,
            storage: StorageType::File,
            num_replicas: self.replicas.unwrap_or(1),
            ..Config::default()
        }
    }

    /// What the stream is otherwise than `wanted`, in words. `None` if nothing.
    fn difference(&self, wanted: &Config, found: &Config) -> Option<String> {
        let mut subjects = [wanted.subjects.clone(), found.subjects.clone()];
        subjects.iter_mut().for_each(|subjects| subjects.sort());
        let name = &wanted.name;
        if subjects[0] != subjects[1] {
            return Some(format!(
                "the stream {name} has other subjects or another number of partitions: {} of them, \
                 such as {:?}, and not {}, such as {:?}",
                found.subjects.len(),
                found.subjects.first(),
                wanted.subjects.len(),
                wanted.subjects.first(),
            ));
        }
        let of = |config: &Config| {
            (
                format!("{:?}", config.retention),
                format!("{:?}", config.discard),
                format!("{:?}", config.storage),
            )
        };
        let (asks, has) = (of(wanted), of(found));
        if asks != has {
            return Some(format!(
                "the stream {name} has (retention, discard, storage) {has:?}, and not {asks:?}"
            ));
        }
        if self.bytes.is_some() && wanted.max_bytes != found.max_bytes {
            return Some(format!(
                "the stream {name} may hold {} bytes, and the URL asks for {}",
                found.max_bytes, wanted.max_bytes
            ));
        }
        if self.replicas.is_some() && wanted.num_replicas != found.num_replicas {
            return Some(format!(
                "the stream {name} has {} replicas, and the URL asks for {}",
                found.num_replicas, wanted.num_replicas
            ));
        }
        None
    }
}

/// Who is there to create the stream of tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// It waits until the producer has created the stream.
    Consumer,
    Producer,
}

/// The stream of tasks. It and that of dead letters are created if they are missing.
///
/// # Errors
/// If the server does not answer, or a stream is otherwise than it should be.
pub(super) async fn ensure(
    connection: &Connection,
    layout: &Layout,
    side: Side,
) -> Result<Stream<Info>, SinkError> {
    let tasks = layout.tasks();
    let stream = match (find(connection, &tasks.name).await?, side) {
        (Some(stream), _) => stream,
        (None, Side::Producer) => create(connection, &tasks).await?,
        (None, Side::Consumer) => {
            return Err(SinkError::unavailable(format_args!(
                "there is no stream {}; the worker creates it when it delivers to it",
                tasks.name
            )));
        }
    };
    check(layout, &tasks, &stream)?;
    let letters = layout.dead_letters();
    let found = match find(connection, &letters.name).await? {
        Some(stream) => stream,
        None => create(connection, &letters).await?,
    };
    check(layout, &letters, &found)?;
    Ok(stream)
}

fn check(layout: &Layout, wanted: &Config, stream: &Stream<Info>) -> Result<(), SinkError> {
    match layout.difference(wanted, &stream.cached_info().config) {
        None => Ok(()),
        Some(difference) => Err(SinkError::unavailable(format_args!(
            "{difference}; change the URL, or delete the stream to have it created anew"
        ))),
    }
}

async fn find(connection: &Connection, name: &str) -> Result<Option<Stream<Info>>, SinkError> {
    let finding = async {
        match connection.context.get_stream(name).await {
            Ok(stream) => Ok(Some(stream)),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(error) if error.code() == 404 => Ok(None),
                _ => Err(unavailable("cannot find the stream", error)),
            },
        }
    };
    connection.run(finding).await
}

async fn create(connection: &Connection, config: &Config) -> Result<Stream<Info>, SinkError> {
    let creating = async {
        let created = connection.context.create_stream(config.clone()).await;
        created.map_err(|error| unavailable("cannot create the stream", error))
    };
    let stream = connection.run(creating).await?;
    tracing::info!(
        stream = config.name,
        max_bytes = config.max_bytes,
        replicas = config.num_replicas,
        "created a stream"
    );
    Ok(stream)
}

/// A bucket of keys, which is created if it is missing. `lifetime` is that of each value.
pub(super) async fn bucket(
    context: &Context,
    layout: &Layout,
    name: String,
    lifetime: Option<Duration>,
) -> Result<kv::Store, SinkError> {
    if let Ok(store) = context.get_key_value(&name).await {
        return Ok(store);
    }
    // As the library creates one. It asks for the account's limits before, in a form that servers before
    // 2.10 do not have.
    let lifetime = lifetime.unwrap_or_default();
    let window = match lifetime.is_zero() {
        true => DUPLICATE_WINDOW,
        false => lifetime.min(DUPLICATE_WINDOW),
    };
    let config = Config {
        name: format!("KV_{name}"),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        max_age: lifetime,
        duplicate_window: window,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        max_bytes: -1,
        ..layout.common()
    };
    let created = context.create_stream(config).await;
    created.map_err(|error| unavailable("cannot create a bucket", error))?;
    let found = context.get_key_value(&name).await;
    found.map_err(|error| unavailable("cannot find a bucket", error))
}

/// The bucket for large bodies, which is created if it is missing.
pub(super) async fn bodies(
    context: &Context,
    layout: &Layout,
) -> Result<object_store::ObjectStore, SinkError> {
    if let Ok(store) = context.get_object_store(layout.bodies()).await {
        return Ok(store);
    }
    let config = object_store::Config {
        bucket: layout.bodies(),
        description: Some("Bodies of index tasks that are too large for a message".to_owned()),
        max_bytes: i64::try_from(layout.bytes_to_create()).unwrap_or(i64::MAX),
        num_replicas: layout.replicas.unwrap_or(1),
        ..object_store::Config::default()
    };
    let created = context.create_object_store(config).await;
    created.map_err(|error| unavailable("cannot create the bucket for bodies", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(layout: &Layout, change: impl FnOnce(&mut Config)) -> Option<String> {
        let mut found = layout.tasks();
        change(&mut found);
        layout.difference(&layout.tasks(), &found)
    }

    #[test]
    fn a_stream_that_is_otherwise_is_told_in_words() {
        let mut layout = Layout::default();
        assert_eq!(difference(&layout, |_| ()), None);
        assert_eq!(difference(&layout, |found| found.subjects.reverse()), None);
        let fewer = difference(&layout, |found| found.subjects.truncate(3)).unwrap();
        assert!(fewer.contains("3 of them"), "{fewer}");
        let limits = difference(&layout, |found| found.retention = RetentionPolicy::Limits);
        assert!(limits.unwrap().contains("WorkQueue"));
        let old = difference(&layout, |found| found.discard = DiscardPolicy::Old);
        assert!(old.is_some());
        // What the URL does not ask for is the operator's.
        assert_eq!(difference(&layout, |found| found.max_bytes = 5), None);
        layout.bytes = Some(1 << 20);
        let bytes = difference(&layout, |found| found.max_bytes = 5).unwrap();
        assert!(bytes.contains("5 bytes"), "{bytes}");
    }
}
