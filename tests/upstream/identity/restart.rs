//! What of the cache survives a restart, and how an identity that is no longer valid is refreshed. Time
//! is paused. Holds invariants 4.7 and 9.14.

use std::time::Duration;

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::identity::resolve::ResolveError;
use huddle_firehose::identity::{Identities, Identity, IdentityChange, Limits, StoredIdentity};
use jiff::{SignedDuration, Timestamp};
use tokio::task::yield_now;
use tokio::time::advance;

use super::plc;
use super::scripted::{Failure, Scripted, unavailable};

const HOUR: Duration = Duration::from_secs(3600);

/// An identity that was looked up so long ago.
fn stored(did: &Did, age: SignedDuration) -> StoredIdentity {
    StoredIdentity {
        identity: Identity::new(did.clone(), "stored key".to_owned()),
        looked_up_at: Timestamp::now() - age,
    }
}

fn hours(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(hours)
}

/// The key that verification uses now, without waiting.
fn key(identities: &Identities, did: &Did) -> Option<String> {
    let identity = identities.known(did)?.answer.unwrap();
    Some(identity.signing_key.clone())
}

/// Lets the tasks of look-ups go on, without advancing the time.
async fn settle() {
    for _ in 0..100 {
        yield_now().await;
    }
}

/// The DIDs of the changes that are not saved.
fn unsaved(identities: &Identities) -> Vec<(Did, Option<String>)> {
    let changes = identities.take_unsaved(1000).into_iter();
    changes
        .map(|change| match change {
            IdentityChange::Delete(did) => (did, None),
            IdentityChange::Store(stored) => {
                let Identity {
                    did, signing_key, ..
                } = stored.identity;
                (did, Some(signing_key))
            }
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_stored_identity_is_used_and_not_looked_up_as_long_as_it_is_valid() {
    let resolver = Scripted::default();
    let identities = resolver.cache(Limits::default());
    assert_eq!(identities.restore(vec![stored(&plc(1), hours(23))]), 1);
    assert_eq!(key(&identities, &plc(1)).as_deref(), Some("stored key"));
    settle().await;
    assert_eq!(resolver.requests(), 0);
    // Its age goes on counting.
    advance(2 * HOUR).await;
    assert_eq!(key(&identities, &plc(1)).as_deref(), Some("stored key"));
    resolver.reached(1).await;
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_is_no_longer_valid_is_used_and_refreshed_once_behind() {
    let resolver = Scripted::default();
    let identities = resolver.cache(Limits::default());
    // One of them is from a clock that was ahead, so its age is not known.
    for (did, age) in [(plc(1), hours(48)), (plc(2), hours(-48))] {
        identities.restore(vec![stored(&did, age)]);
        for _ in 0..10 {
            assert_eq!(key(&identities, &did).as_deref(), Some("stored key"));
        }
        settle().await;
        assert_eq!(resolver.times(&did).len(), 1);
        let new = key(&identities, &did).unwrap();
        assert!(new.starts_with("key "), "{new}");
    }
}

/// A directory that does not answer costs nothing but the refresh.
#[tokio::test(start_paused = true)]
async fn an_identity_that_cannot_be_refreshed_stays_in_use_and_is_asked_for_ever_less_often() {
    let resolver = Scripted::default();
    resolver.fail(&plc(1), Failure::Error(unavailable(None)));
    let identities = resolver.cache(Limits::default());
    identities.restore(vec![stored(&plc(1), hours(48))]);
    for _ in 0..3600 {
        assert_eq!(key(&identities, &plc(1)).as_deref(), Some("stored key"));
        settle().await;
        advance(Duration::from_secs(1)).await;
    }
    let requests = resolver.times(&plc(1)).len();
    assert!((2..30).contains(&requests), "{requests}");
}

/// Many identities are no longer valid after a long downtime.
#[tokio::test(start_paused = true)]
async fn refreshes_behind_keep_to_the_limits_and_leave_room_for_what_commits_wait_for() {
    let resolver = Scripted::with_delay(Duration::from_secs(1));
    let limits = Limits {
        plc_in_flight: 4,
        plc_per_second: Some(1000),
        ..Limits::default()
    };
    let identities = resolver.cache(limits);
    let old: Vec<Did> = (1..200).map(plc).collect();
    identities.restore(old.iter().map(|did| stored(did, hours(48))).collect());
    for did in &old {
        assert!(key(&identities, did).is_some());
    }
    resolver.reached(4).await;
    assert_eq!(resolver.most_under_way(), 4);
    let began = tokio::time::Instant::now();
    identities.get(&plc(500)).await.unwrap();
    assert!(began.elapsed() <= Duration::from_secs(3));
    advance(HOUR).await;
    settle().await;
    assert_eq!(resolver.most_under_way(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_signature_that_does_not_fit_a_stored_key_always_leads_to_a_look_up() {
    let resolver = Scripted::default();
    let identities = resolver.cache(Limits::default());
    identities.restore(vec![stored(&plc(1), SignedDuration::ZERO)]);
    assert!(!identities.known(&plc(1)).unwrap().was_refreshed);
    let refreshed = identities.refresh(&plc(1)).await.unwrap().unwrap();
    assert_eq!(refreshed.signing_key, "key 1");
    // And what it has brought is saved.
    assert_eq!(unsaved(&identities), [(plc(1), Some("key 1".to_owned()))]);
}

#[tokio::test(start_paused = true)]
async fn what_an_event_has_voided_is_neither_used_nor_saved() {
    let resolver = Scripted::default();
    let identities = resolver.cache(Limits::default());
    identities.get(&plc(1)).await.unwrap();
    identities.restore(vec![stored(&plc(2), SignedDuration::ZERO)]);
    for number in [1, 2] {
        identities.forget(&plc(number));
        assert_eq!(key(&identities, &plc(number)), None);
    }
    assert_eq!(unsaved(&identities), []);
    identities.get(&plc(1)).await.unwrap();
    assert_eq!(unsaved(&identities), [(plc(1), Some("key 2".to_owned()))]);
}

#[tokio::test(start_paused = true)]
async fn changes_are_taken_until_they_are_saved() {
    let resolver = Scripted::default();
    let identities = resolver.cache(Limits::default());
    for number in 1..=3 {
        identities.get(&plc(number)).await.unwrap();
    }
    let taken = |most| identities.take_unsaved(most).len();
    assert_eq!(taken(2), 2);
    // The database did not take them.
    assert_eq!(taken(2), 2);
    identities.note_saved();
    assert_eq!(taken(2), 1);
    assert!(identities.has_unsaved());
    identities.note_saved();
    assert!(!identities.has_unsaved());
}

#[tokio::test(start_paused = true)]
async fn an_account_that_has_no_identity_any_more_loses_its_row() {
    let resolver = Scripted::default();
    let identities = resolver.cache(Limits::default());
    identities.restore(vec![stored(&plc(1), hours(48))]);
    // The directory works.
    identities.get(&plc(2)).await.unwrap();
    resolver.fail(&plc(1), Failure::Error(ResolveError::Tombstoned));
    assert!(key(&identities, &plc(1)).is_some());
    settle().await;
    assert_eq!(
        unsaved(&identities),
        [(plc(2), Some("key 1".to_owned())), (plc(1), None)]
    );
}

#[tokio::test(start_paused = true)]
async fn while_the_database_takes_nothing_what_waits_is_bounded_by_the_cache() {
    let resolver = Scripted::default();
    let limits = Limits {
        capacity: 10,
        plc_per_second: Some(1_000_000),
        ..Limits::default()
    };
    let identities = resolver.cache(limits);
    for number in 1..=100 {
        identities.get(&plc(number)).await.unwrap();
    }
    let expected: Vec<Did> = (91..=100).map(plc).collect();
    let waiting: Vec<Did> = unsaved(&identities)
        .into_iter()
        .map(|(did, _)| did)
        .collect();
    assert_eq!(waiting, expected);
}
