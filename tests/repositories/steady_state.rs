//! If nothing is missing, nothing is fetched. Without this test, a mistake in the chain rules would
//! be repaired by fetches and stay unnoticed.

use simulated_network::mishap::Endpoint;
use simulated_network::shape::Shape;
use test_support::simulation::verified::Verified;

#[tokio::test(flavor = "multi_thread")]
async fn in_a_steady_state_nothing_is_fetched() {
    for seed in 60..63 {
        let shape = Shape {
            key_rotations: 0,
            migrations: 0,
            // The protocol forbids it, so such a commit is refused.
            repeats_paths: false,
            statuses: 0,
            ..Shape::default()
        };
        let verified = Verified::start_with(seed, shape, |_| {}).await;
        for round in 0..5 {
            verified.grow(60);
            if round % 2 == 1 {
                verified.relay.drop_connections();
            }
            verified.until_settled().await;
        }

        for (query, expected) in [
            ("SELECT count(*) FROM records WHERE verified <> 'chain'", 0),
            ("SELECT count(*) FROM records WHERE seq = 0", 0),
            (
                "SELECT count(*) FROM repos WHERE state <> 'synchronized'",
                0,
            ),
            ("SELECT count(*) FROM resyncs", 0),
            ("SELECT count(*) FROM parked_commits", 0),
            ("SELECT count(*) FROM dead_letters", 0),
            ("SELECT count(*) FROM gaps", 0),
        ] {
            assert_eq!(
                verified.count(query).await,
                expected,
                "seed {seed}: {query}"
            );
        }
        assert_eq!(verified.verify_errors(), [""; 0], "seed {seed}");
        for server in [&verified.http, &verified.mirror] {
            assert_eq!(server.requests(Endpoint::GetRepo), 0, "seed {seed}");
        }
        let records = "SELECT count(*) FROM records WHERE deleted = 0";
        assert!(verified.count(records).await > 50, "seed {seed}");
        verified.compare().await;
    }
}
