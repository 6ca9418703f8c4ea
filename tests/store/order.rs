//! Effects are idempotent and monotone: any order, repetition and division into batches gives the
//! same tables. Holds invariant 2.2.

use huddle_firehose::store::plan::effect::Effect;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::fixture::*;

/// A history of a small network. `n` is the number of an event, so no two events share a rev.
fn history() -> impl Strategy<Value = Vec<Effect>> {
    let did = || prop::sample::select(vec![ALICE, BOB]);
    let rkey = || prop::sample::select(vec!["a", "b"]);
    let status = || prop::sample::select(vec![None, Some("deleted"), Some("takendown")]);
    let event = prop_oneof![
        4 => (did(), rkey()).prop_map(|(did, rkey)| Event::Offer(did, rkey)),
        3 => (did(), rkey()).prop_map(|(did, rkey)| Event::Booking(did, rkey)),
        3 => (did(), rkey()).prop_map(|(did, rkey)| Event::DeleteOffer(did, rkey)),
        2 => (did(), status()).prop_map(|(did, status)| Event::Account(did, status)),
        1 => did().prop_map(Event::Identity),
        1 => Just(Event::DeadLetter),
    ];
    vec(event, 1..16).prop_map(|events| {
        let number = |(n, event): (usize, Event)| event.into_effect(n as u64 + 1);
        events.into_iter().enumerate().map(number).collect()
    })
}

#[derive(Clone, Debug)]
enum Event {
    Account(&'static str, Option<&'static str>),
    Booking(&'static str, &'static str),
    DeadLetter,
    DeleteOffer(&'static str, &'static str),
    Identity(&'static str),
    Offer(&'static str, &'static str),
}

impl Event {
    fn into_effect(self, n: u64) -> Effect {
        match self {
            Self::Account(did, status) => account(did, status, n),
            Self::Booking(did, rkey) => booking(did, rkey, n, "at://did:plc:bob/x/y", "confirmed"),
            Self::DeadLetter => dead_letter(n),
            Self::DeleteOffer(did, rkey) => delete(did, "com.huddle.slotOffer", rkey, n),
            Self::Identity(did) => identity(did, Some(&format!("n{n}.example")), n),
            Self::Offer(did, rkey) => offer(did, rkey, n, slot_offer()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_order_repetition_and_division_into_batches_ends_in_the_same_tables(
        (history, shuffled) in history().prop_flat_map(|history| {
            let shuffled = Just(history.clone()).prop_shuffle();
            (Just(history), shuffled)
        }),
        repeated in vec(any::<Index>(), 0..8),
        lengths in vec(1_usize..6, 1..8),
    ) {
        let mut disordered = shuffled;
        for index in repeated {
            disordered.insert(index.index(disordered.len() + 1), history[index.index(history.len())].clone());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (expected, found) = runtime.block_on(async {
            let in_order = Database::new().await;
            for effect in &history {
                in_order.apply(std::slice::from_ref(effect)).await;
            }
            let database = Database::new().await;
            let mut rest = disordered.as_slice();
            for length in lengths.iter().cycle() {
                let (batch, after) = rest.split_at((*length).min(rest.len()));
                database.apply(batch).await;
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            (in_order.contents().await, database.contents().await)
        });
        prop_assert_eq!(found, expected);
    }
}
