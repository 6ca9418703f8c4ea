//! Answers that wait for changes. While there are none, something is sent now and then, so that each side
//! notices when the other has gone.

use std::convert::Infallible;

use axum::body::Body;
use futures_util::stream::unfold;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, sleep_until};

use super::page::Reader;
use crate::store::StoreError;

/// One page, as soon as it has an item or the time is over.
pub(super) fn poll(reader: Reader, slot: OwnedSemaphorePermit) -> Body {
    let deadline = Instant::now() + reader.query.timeout;
    let chunks = unfold(Some((reader, slot)), move |waiting| async move {
        let (mut reader, slot) = waiting?;
        let (text, next) = match try_poll(&mut reader, deadline).await {
            // Space before JSON has no meaning.
            Ok(None) => ("\n".to_owned(), Some((reader, slot))),
            Ok(Some(answer)) => (answer, None),
            Err(error) => (format!("{}\n", json!({ "error": error.to_string() })), None),
        };
        Some((Ok::<_, Infallible>(text), next))
    });
    Body::from_stream(chunks)
}

/// The answer; `None` if there is nothing to tell yet.
async fn try_poll(reader: &mut Reader, deadline: Instant) -> Result<Option<String>, StoreError> {
    let page = reader.next_page().await?;
    if !page.items.is_empty() || Instant::now() >= deadline {
        return reader.answer(&page).await.map(Some);
    }
    if page.is_end {
        tokio::select! {
            () = changed(reader) => {}
            () = sleep_until(deadline) => {}
        }
    }
    Ok(None)
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
            if page.is_end {
                changed(&mut reader).await;
            }
            // A comment, with the position up to which there was nothing.
            text = format!("id: {}\n:\n\n", page.last);
        }
        Some((Ok::<_, Infallible>(text), Some((reader, slot))))
    });
    Body::from_stream(chunks)
}

/// Waits for the next transaction, at most for the time of a heartbeat.
async fn changed(reader: &mut Reader) {
    let heartbeat = reader.query.heartbeat;
    tokio::select! {
        _ = reader.commits.changed() => {}
        () = sleep(heartbeat) => {}
    }
}
