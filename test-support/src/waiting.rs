//! Waits for something that must happen soon, without a fixed sleep.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// The deadline of a wait: long enough for any machine. A test that passes does not wait for it.
pub const SLOT_TIMEOUT: Duration = Duration::from_secs(30);
pub const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SLOT_TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "never came to pass: {what}");
        sleep(POLL_INTERVAL).await;
    }
}

/// Waits for the output of `future`, which must come soon.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SLOT_TIMEOUT, future).await.unwrap()
}
