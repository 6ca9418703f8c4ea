//! The effect of an `#identity` event and of a bad signature on the cache. Time is paused.

use std::time::Duration;

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::identity::resolve::ResolveError;
use huddle_firehose::identity::{Identities, Limits};
use tokio::time::advance;

use super::plc;
use super::scripted::{Failure, Scripted, unavailable};

const MINUTE: Duration = Duration::from_secs(60);

async fn key(identities: &Identities, did: &Did) -> String {
    identities.get(did).await.unwrap().signing_key.clone()
}

/// The new key. `None` if the refresh was too soon.
async fn refreshed(identities: &Identities, did: &Did) -> Option<String> {
    let identity = identities.refresh(did).await.unwrap();
    identity.map(|identity| identity.signing_key.clone())
}

#[tokio::test(start_paused = true)]
async fn an_identity_event_causes_a_new_request() {
    let resolver = Scripted::default();
    let identities = resolver.cache(Limits::default());
    assert_eq!(key(&identities, &plc(1)).await, "key 1");
    identities.forget(&plc(1));
    assert_eq!(key(&identities, &plc(1)).await, "key 2");
    assert_eq!(key(&identities, &plc(1)).await, "key 2");
}

#[tokio::test(start_paused = true)]
async fn an_identity_event_also_clears_a_failure() {
    let resolver = Scripted::default();
    resolver.fail(&plc(1), Failure::Error(unavailable(None)));
    let identities = resolver.cache(Limits::default());
    assert_eq!(identities.get(&plc(1)).await, Err(unavailable(None)));
    resolver.recover(&plc(1));
    identities.forget(&plc(1));
    assert!(identities.get(&plc(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_answer_from_before_the_event_is_not_kept() {
    let resolver = Scripted::with_delay(Duration::from_secs(1));
    let identities = resolver.cache(Limits::default());
    let ask = || {
        let identities = identities.clone();
        tokio::spawn(async move { key(&identities, &plc(1)).await })
    };
    let before = ask();
    resolver.reached(1).await;
    advance(Duration::from_millis(500)).await;
    identities.forget(&plc(1));
    let after = ask();
    resolver.reached(2).await;
    assert_eq!(before.await.unwrap(), "key 1");
    // The first request is complete, the second is not.
    assert_eq!(key(&identities, &plc(1)).await, "key 2");
    assert_eq!(after.await.unwrap(), "key 2");
    assert_eq!(resolver.requests(), 2);
}

/// For example before an account counts as deleted.
#[tokio::test(start_paused = true)]
async fn a_lookup_of_the_newest_identity_is_never_too_soon() {
    let resolver = Scripted::default();
    let identities = resolver.cache(Limits::default());
    assert_eq!(key(&identities, &plc(1)).await, "key 1");
    assert!(refreshed(&identities, &plc(1)).await.is_some());
    assert_eq!(refreshed(&identities, &plc(1)).await, None);
    let now = identities.look_up(&plc(1)).await.unwrap();
    assert_eq!(now.signing_key, "key 3");
    assert_eq!(key(&identities, &plc(1)).await, "key 3");
}

#[tokio::test(start_paused = true)]
async fn a_bad_signature_refreshes_once_in_five_minutes() {
    let resolver = Scripted::default();
    let identities = resolver.cache(Limits::default());
    assert_eq!(key(&identities, &plc(1)).await, "key 1");
    let refreshed = async || refreshed(&identities, &plc(1)).await;
    assert_eq!(refreshed().await.as_deref(), Some("key 2"));
    assert_eq!(key(&identities, &plc(1)).await, "key 2");
    advance(5 * MINUTE - Duration::from_secs(1)).await;
    assert_eq!(refreshed().await, None);
    assert_eq!(resolver.requests(), 2);
    advance(Duration::from_secs(1)).await;
    assert_eq!(refreshed().await.as_deref(), Some("key 3"));
}

#[tokio::test(start_paused = true)]
async fn bad_signatures_of_one_account_share_a_refresh() {
    let resolver = Scripted::with_delay(Duration::from_secs(1));
    let identities = resolver.cache(Limits::default());
    let did = plc(1);
    key(&identities, &did).await;
    let (one, other, meanwhile) = tokio::join!(
        refreshed(&identities, &did),
        refreshed(&identities, &did),
        key(&identities, &did),
    );
    assert_eq!((one.as_deref(), &one), (Some("key 2"), &other));
    // A caller that accepts the cached identity does not wait.
    assert_eq!(meanwhile, "key 1");
    assert_eq!(resolver.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_is_unknown_and_not_too_soon() {
    let resolver = Scripted::default();
    let identities = resolver.cache(Limits::default());
    key(&identities, &plc(1)).await;
    resolver.fail(&plc(1), Failure::Error(unavailable(None)));
    for _ in 0..3 {
        let unknown = identities.refresh(&plc(1)).await;
        assert_eq!(unknown, Err(unavailable(None)));
    }
    assert_eq!(resolver.requests(), 2);
    assert_eq!(key(&identities, &plc(1)).await, "key 1");

    resolver.recover(&plc(1));
    advance(Duration::from_secs(2)).await;
    let key = refreshed(&identities, &plc(1)).await;
    assert_eq!(key.as_deref(), Some("key 3"));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_may_find_that_the_identity_is_gone() {
    let resolver = Scripted::default();
    let identities = resolver.cache(Limits::default());
    key(&identities, &plc(1)).await;
    resolver.fail(&plc(1), Failure::Error(ResolveError::Tombstoned));
    let gone = Err(ResolveError::Tombstoned);
    assert_eq!(identities.refresh(&plc(1)).await, gone);
    assert_eq!(
        identities.get(&plc(1)).await.map(drop),
        Err(ResolveError::Tombstoned)
    );
}

/// Each event forgets the answer, but not how often the account was looked up.
#[tokio::test(start_paused = true)]
async fn an_account_with_many_identity_events_is_looked_up_ever_less_often() {
    let resolver = Scripted::default();
    let identities = resolver.cache(Limits::default());
    let mut refused = 0;
    for _ in 0..600 {
        identities.forget(&plc(1));
        if let Err(error) = identities.get(&plc(1)).await {
            assert!(error.wait().is_some(), "{error}");
            assert_eq!(identities.wait(&plc(1)), error.wait());
            refused += 1;
        }
        advance(Duration::from_millis(100)).await;
    }
    assert_eq!((resolver.requests(), refused), (14, 586));
    // Other accounts are not delayed, and after a while the account is as before.
    assert!(identities.get(&plc(2)).await.is_ok());
    advance(5 * MINUTE).await;
    assert_eq!(identities.wait(&plc(1)), None);
    assert!(identities.get(&plc(1)).await.is_ok());
}
