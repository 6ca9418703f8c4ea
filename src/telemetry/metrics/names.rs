//! The names of all metrics, each with its kind and the help text of the exposition.

/// One family of the exposition.
#[derive(Debug)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Counter,
    Gauge,
    /// With the upper bounds of its buckets.
    Histogram(&'static [f64]),
}

/// 100 µs to 30 s: a commit to an idle disk, and one that waited for its retries.
const SECONDS: &[f64] = &[
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];

/// One to `index_batch`'s limit.
const TASKS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 75.0, 100.0, 200.0, 500.0, 1000.0,
];

macro_rules! families {
    ($($constant:ident = $name:literal, $kind:expr, $help:literal;)*) => {
        $(pub(super) const $constant: &str = $name;)*

        /// Every family, by name.
        pub const FAMILIES: &[Family] = &[
            $(Family { name: $name, kind: $kind, help: $help },)*
        ];
    };
}

families! {
    BACKFILL_REPOS = "huddle_backfill_repos", Kind::Gauge,
        "Repositories of the backfill: fetched since it began, left, and those of the latter that were tried in vain";
    BUDGET_LIMIT_BYTES = "huddle_budget_limit_bytes", Kind::Gauge,
        "The byte budget: what may be in flight at once";
    BUDGET_WAIT_SECONDS = "huddle_budget_wait_seconds", Kind::Histogram(SECONDS),
        "Waits of the socket for the byte budget";
    CONNECTED = "huddle_connected", Kind::Gauge,
        "1 while the source is connected, otherwise 0";
    CURSOR_SEQ = "huddle_cursor_seq", Kind::Gauge,
        "The durable cursor: everything up to this seq has been applied";
    CURSOR_TIME_SECONDS = "huddle_cursor_time_seconds", Kind::Gauge,
        "The time of the event at the durable cursor, by the source's clock, as a Unix time";
    DATABASE_BLOCKED = "huddle_database_blocked", Kind::Gauge,
        "1 while the database takes nothing, otherwise 0";
    DEAD_LETTERS_TOTAL = "huddle_dead_letters_total", Kind::Counter,
        "Dead letters, by the stage that gave up";
    EVENTS_TOTAL = "huddle_events_total", Kind::Counter,
        "Events read from the source, by kind";
    FILTER_HIT_RATIO = "huddle_filter_hit_ratio", Kind::Gauge,
        "The share of events since the start that the filter kept";
    FRAMES_BYTES_TOTAL = "huddle_frames_bytes_total", Kind::Counter,
        "Bytes of the frames read from the source";
    GAPS_TOTAL = "huddle_gaps_total", Kind::Counter,
        "Stretches of events that may have been missed, by cause";
    IN_FLIGHT_BYTES = "huddle_in_flight_bytes", Kind::Gauge,
        "Bytes charged to the byte budget";
    INDEX_BATCH_SIZE = "huddle_index_batch_size", Kind::Histogram(TASKS),
        "Index tasks in one transaction; the steps of their repositories do not add to it";
    INDEX_COMMIT_SECONDS = "huddle_index_commit_seconds", Kind::Histogram(SECONDS),
        "Transactions, from their begin to their commit";
    INDEX_RETRIES_TOTAL = "huddle_index_retries_total", Kind::Counter,
        "Transactions tried again";
    MATCHED_TOTAL = "huddle_matched_total", Kind::Counter,
        "Events that the filter kept";
    PROCESSING_LAG_SECONDS = "huddle_processing_lag_seconds", Kind::Gauge,
        "How far the tables are behind the newest event received, by the source's clock";
    QUEUE_DEPTH = "huddle_queue_depth", Kind::Gauge,
        "Effects that wait for a transaction";
    RECONNECTS_TOTAL = "huddle_reconnects_total", Kind::Counter,
        "Connections made after the first one";
    RECORDS_TOTAL = "huddle_records_total", Kind::Counter,
        "Operations on records that the filter kept, by collection";
    RECORDS_VALIDATED_TOTAL = "huddle_records_validated_total", Kind::Counter,
        "Created and updated records by what the lexicon said of them";
    REDELIVERED_TOTAL = "huddle_redelivered_total", Kind::Counter,
        "Batches handed out again because whoever held them failed";
    REJECTED_CONNECTIONS_TOTAL = "huddle_rejected_connections_total", Kind::Counter,
        "Dials that the source answered with an HTTP status instead of a stream";
    REPOS = "huddle_repos", Kind::Gauge,
        "Tracked repositories, all of them and those that somebody has to see to, by why";
    RESTARTS_TOTAL = "huddle_restarts_total", Kind::Counter,
        "Restarts of an actor by its supervisor";
    RESYNCED_RECORDS_TOTAL = "huddle_resynced_records_total", Kind::Counter,
        "Records in which the tables were another way than a repository that was fetched, by what was done";
    RESYNCS_TOTAL = "huddle_resyncs_total", Kind::Counter,
        "Attempts to fetch a repository as a whole, by what came of them";
    SEQ_ANOMALIES_TOTAL = "huddle_seq_anomalies_total", Kind::Counter,
        "Seqs that were not what they should be, by kind";
    SOCKET_TO_COMMIT_SECONDS = "huddle_socket_to_commit_seconds", Kind::Histogram(SECONDS),
        "From the arrival of a batch's first frame to the commit of its effects";
    SOURCE_LAG_SECONDS = "huddle_source_lag_seconds", Kind::Gauge,
        "How far the tables are behind the source, events that it holds back for us included";
    UNPROVEN_TOTAL = "huddle_unproven_total", Kind::Counter,
        "Commits that wait because their account's key is not known, or may have changed";
    VERIFIED_TOTAL = "huddle_verified_total", Kind::Counter,
        "Commits that were verified, by how much";
    VERIFY_ERRORS_TOTAL = "huddle_verify_errors_total", Kind::Counter,
        "What was wrong with the proofs of commits, whether they were refused for it or not";
    WAITING_COMMITS = "huddle_waiting_commits", Kind::Gauge,
        "Commits that wait for a key, or for their repository to be fetched";
}
