//! Answers that wait for changes. While there are none, something is sent now and then, so that each side
//! notices when the other has gone.

use std::convert::Infallible;

use axum::body::Body;
use futures_util::stream::unfold;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, sleep_until};

use super::page::Reader;

/// One page, as soon as it has an item or the time is over.
pub(super) fn poll(reader: Reader, slot: OwnedSemaphorePermit) -> Body {
    let deadline = Instant::now() + reader.query.timeout;
    let chunks = unfold(Some((reader, slot)), move |waiting| async move {
        let (mut reader, slot) = waiting?;
        let page = match reader.next_page().await {
            Ok(page) => page,
            Err(error) => {
                let text = serde_json::json!({ "error": error.to_string() });
                return Some((Ok::<_, Infallible>(format!("{text}\n")), None));
            }
        };
        if !page.items.is_empty() || Instant::now() >= deadline {
            return Some((Ok(page.to_json()), None));
        }
        let heartbeat = reader.query.heartbeat;
        tokio::select! {
            _ = reader.commits.changed() => {}
            () = sleep(heartbeat) => {}
            () = sleep_until(deadline) => {}
        }
        // Space before JSON has no meaning.
        Some((Ok("\n".to_owned()), Some((reader, slot))))
    });
    Body::from_stream(chunks)
}

/// Server-sent events, one for each change.
pub(super) fn events(reader: Reader, slot: OwnedSemaphorePermit) -> Body {
    let chunks = unfold(Some((reader, slot)), |following| async move {
        let (mut reader, slot) = following?;
        // After an error the client connects again, with the last event that it got.
        let page = reader.next_page().await.ok()?;
        let mut text = String::new();
        for (position, item) in &page.items {
            text += &format!("id: {position}\ndata: {item}\n\n");
        }
        if page.items.is_empty() {
            let heartbeat = reader.query.heartbeat;
            tokio::select! {
                _ = reader.commits.changed() => {}
                () = sleep(heartbeat) => {}
            }
            // A comment.
            text = ":\n\n".to_owned();
        }
        Some((Ok::<_, Infallible>(text), Some((reader, slot))))
    });
    Body::from_stream(chunks)
}
