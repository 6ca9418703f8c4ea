//! The queries of the documentation use indexes. Holds invariant 8.12.

use crate::fixture::*;

/// Each query of the documentation, by a part of its text, with what it reads as a whole: it asks for
/// all rows of that, or for the newest by their id.
const DOCUMENTED: [(&str, &[&str]); 15] = [
    (
        "FROM open_offers AS o LEFT JOIN visible_accounts",
        &["offers_index"],
    ),
    ("FROM open_offers", &[]),
    ("WHERE starts_at >=", &[]),
    ("FROM offers_index WHERE did =", &[]),
    (
        "FROM active_booking_requests AS r LEFT JOIN",
        &["booking_requests"],
    ),
    ("FROM active_booking_requests WHERE offer_uri =", &[]),
    (
        "FROM booking_statistics",
        &["bookings", "booking_statistics"],
    ),
    ("FROM visible_records WHERE collection =", &[]),
    ("FROM visible_records WHERE did =", &[]),
    ("FROM records WHERE change >", &[]),
    ("FROM accounts WHERE active = 0", &["accounts"]),
    ("FROM repos WHERE urgency IS NOT NULL", &[]),
    ("FROM dead_letters", &["dead_letters"]),
    ("FROM gaps", &["gaps"]),
    ("FROM resyncs ORDER BY id DESC", &["resyncs"]),
];

/// The queries in the blocks of SQL of a document, without comments.
fn queries_of(document: &str) -> Vec<String> {
    let blocks = document.split("```sql\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap_or_default());
    let lines = blocks
        .flat_map(str::lines)
        .filter(|line| !line.starts_with("--"));
    let text = lines.collect::<Vec<_>>().join(" ");
    let queries = text.split(';').map(str::trim);
    queries
        .filter(|query| !query.is_empty())
        .map(str::to_owned)
        .collect()
}

/// What a plan reads from its beginning to its end.
fn scans(plan: &str) -> Vec<&str> {
    let scans = plan.lines().filter_map(|step| step.strip_prefix("SCAN "));
    scans.filter_map(|step| step.split(' ').next()).collect()
}

#[tokio::test]
async fn no_query_of_the_documentation_reads_more_than_it_asks_for() {
    let database = Database::new().await;
    let queries = queries_of(include_str!("../../docs/tables.md"));
    assert!(queries.len() >= DOCUMENTED.len());
    for query in &queries {
        let expected = DOCUMENTED.iter().find(|(part, _)| query.contains(part));
        let (_, expected) = expected.unwrap_or_else(|| panic!("nothing is said of {query}"));
        let plan = database.plan(query).await;
        assert_eq!(scans(&plan), *expected, "{query}\n{plan}");
    }
    for (part, _) in DOCUMENTED {
        assert!(queries.iter().any(|query| query.contains(part)), "{part}");
    }
}

/// Each row of a view asks whether its record is being removed.
#[tokio::test]
async fn whether_a_record_is_being_removed_is_asked_by_its_key() {
    let database = Database::new().await;
    let question = "SELECT 1 FROM removed_records WHERE did = 'x' AND uri = 'y'";
    let plan = database.plan(question).await;
    for step in [
        "account_removals_by_did (did=?)",
        "sqlite_autoindex_records_1 (uri=?)",
    ] {
        assert!(plan.contains(step), "{plan}");
    }
    // All of an account are a range of the same index.
    let plan = database
        .plan("SELECT uri FROM removed_records WHERE did = 'x'")
        .await;
    assert!(
        plan.contains("sqlite_autoindex_records_1 (uri>? AND uri<?)"),
        "{plan}"
    );
}

#[tokio::test]
async fn the_change_feed_is_read_in_its_order_without_sorting() {
    let database = Database::new().await;
    for table in ["records", "accounts"] {
        let query = format!("SELECT * FROM {table} WHERE change > 5 ORDER BY change LIMIT 10");
        let plan = database.plan(&query).await;
        assert!(
            plan.contains(&format!("{table}_by_change (change>?)")),
            "{plan}"
        );
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
    }
}
