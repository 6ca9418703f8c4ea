//! ParkedCommit for what must come soon, without a fixed sleep.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// Long enough for any machine; no test waits for it unless it fails.
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

/// What `future` comes to; it must come soon.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SLOT_TIMEOUT, future).await.unwrap()
}
