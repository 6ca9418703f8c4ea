//! The names of all metrics, each with its kind and the help text of the exposition.
//!
//! A metric that actors write has a handle in `mod.rs`, `source.rs` (one for each source) or
//! `collection.rs`. A metric that follows from the status is set in `publish.rs`. The order is that
//! of `docs/metrics.md`.

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

/// One to the most batches of `index_batch`'s default in a group.
const BATCHES: &[f64] = &[1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0];

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
        "Repositories of the backfill, by state: fetched since it began, left, and failing (those left that were tried in vain)";
    BUDGET_LIMIT_BYTES = "huddle_budget_limit_bytes", Kind::Gauge,
        "The byte budget: what may be in flight at once";
    BUDGET_WAIT_SECONDS = "huddle_budget_wait_seconds", Kind::Histogram(SECONDS),
        "How long the socket waited for the byte budget";
    CONNECTED = "huddle_connected", Kind::Gauge,
        "1 while the source is connected, otherwise 0";
    CONSUMED_TOTAL = "huddle_consumed_total", Kind::Counter,
        "Index tasks that `consume` applied";
    CONSUMER_DEAD_LETTERS_TOTAL = "huddle_consumer_dead_letters_total", Kind::Counter,
        "Index tasks of `consume` that became dead letters";
    CONSUMER_ERRORS_TOTAL = "huddle_consumer_errors_total", Kind::Counter,
        "Attempts of `consume` that failed: the queue or the target gave no answer, or the target refused a task";
    CONSUMER_FAILING_PARTITIONS = "huddle_consumer_failing_partitions", Kind::Gauge,
        "Partitions that `consume` cannot read or apply at present";
    CONSUMER_MEMBERS = "huddle_consumer_members", Kind::Gauge,
        "Processes that share the partitions of the queue";
    CONSUMER_PARTITIONS = "huddle_consumer_partitions", Kind::Gauge,
        "Partitions that this process has";
    CURSOR_SEQ = "huddle_cursor_seq", Kind::Gauge,
        "The durable cursor: everything up to this seq has been applied";
    CURSOR_TIMESTAMP_SECONDS = "huddle_cursor_timestamp_seconds", Kind::Gauge,
        "Time of the event at the durable cursor, by the source's clock, as a Unix time. Formerly huddle_cursor_time_seconds";
    DATABASE_BLOCKED = "huddle_database_blocked", Kind::Gauge,
        "1 while database writes fail, otherwise 0";
    DEAD_LETTERS_BYTES = "huddle_dead_letters_bytes", Kind::Gauge,
        "Bytes that the dead letters in the database hold";
    DEAD_LETTERS_KEPT = "huddle_dead_letters_kept", Kind::Gauge,
        "Dead letters in the database, wherever they come from";
    DEAD_LETTERS_TOTAL = "huddle_dead_letters_total", Kind::Counter,
        "Dead letters, by stage";
    DIRECTORY_FAILING = "huddle_directory_failing", Kind::Gauge,
        "1 while the PLC directory gives no usable answers, otherwise 0";
    EVENTS_TOTAL = "huddle_events_total", Kind::Counter,
        "Events read from the source, by kind";
    FILTER_HIT_RATIO = "huddle_filter_hit_ratio", Kind::Gauge,
        "Share of events since the start that the filter kept";
    GAPS_TOTAL = "huddle_gaps_total", Kind::Counter,
        "Gaps (ranges of events that may have been missed), by cause";
    IN_FLIGHT_BYTES = "huddle_in_flight_bytes", Kind::Gauge,
        "Bytes charged to the byte budget";
    INDEX_BATCH_SIZE = "huddle_index_batch_size", Kind::Histogram(TASKS),
        "Index tasks of one batch, or its chain updates if there are more of these; a transaction may hold several batches";
    INDEX_COMMIT_SECONDS = "huddle_index_commit_seconds", Kind::Histogram(SECONDS),
        "Duration of transactions, from begin to commit";
    INDEX_GROUP_BATCHES = "huddle_index_group_batches", Kind::Histogram(BATCHES),
        "Batches in one transaction: more than one while there is a backlog";
    INDEX_RETRIES_TOTAL = "huddle_index_retries_total", Kind::Counter,
        "Times that the database refused an effect; each is followed by another attempt or, beyond index_retries, by a dead letter. A database that takes nothing at all is huddle_database_blocked";
    KEY_UNAVAILABLE_TOTAL = "huddle_key_unavailable_total", Kind::Counter,
        "Commits parked because their account's signing key was not known or may have changed. Formerly huddle_unproven_total";
    LOG_LINES_DROPPED_TOTAL = "huddle_log_lines_dropped_total", Kind::Counter,
        "Log lines of the process that are missing in its log, by reason: queue_full (standard error takes nothing), write_failed (it refused them), suppressed (one call site wrote too many)";
    MATCHED_TOTAL = "huddle_matched_total", Kind::Counter,
        "Events that the filter kept";
    OLDEST_PARKED_SECONDS = "huddle_oldest_parked_seconds", Kind::Gauge,
        "How long the oldest parked commit has waited, by what it waits for; 0 if there is none";
    PARKED_COMMITS = "huddle_parked_commits", Kind::Gauge,
        "Parked commits, by what they wait for: key (of their account, from the PLC directory), repository (to be fetched), account (its own host, or something else of its own), inactive (their account to be active again). Formerly huddle_waiting_commits";
    PENDING_REMOVALS = "huddle_pending_removals", Kind::Gauge,
        "Removed accounts whose rows are still being deleted, in pieces; no reader sees these rows";
    PROCESSING_LAG_SECONDS = "huddle_processing_lag_seconds", Kind::Gauge,
        "How far the tables are behind the newest event received, including parked commits that wait for a key or a repository; NaN if unknown";
    QUEUE_DEPTH = "huddle_queue_depth", Kind::Gauge,
        "Effects waiting for a transaction";
    RECEIVED_BYTES_TOTAL = "huddle_received_bytes_total", Kind::Counter,
        "Bytes of the frames read from the source. Formerly huddle_frames_bytes_total";
    RECONNECTS_TOTAL = "huddle_reconnects_total", Kind::Counter,
        "Connections made after the first one";
    RECORD_OPERATIONS_TOTAL = "huddle_record_operations_total", Kind::Counter,
        "Record operations that the filter kept, by collection and operation. Formerly huddle_records_total";
    RECORDS_VALIDATED_TOTAL = "huddle_records_validated_total", Kind::Counter,
        "Created and updated records, by collection and validity";
    REDELIVERED_TOTAL = "huddle_redelivered_total", Kind::Counter,
        "Batches handed out again because their handler failed";
    REJECTED_CONNECTIONS_TOTAL = "huddle_rejected_connections_total", Kind::Counter,
        "Connection attempts that the source answered with an HTTP status instead of a stream, by status";
    REPOS = "huddle_repos", Kind::Gauge,
        "Tracked repositories that have work due, by state; huddle_tracked_repos counts all of them";
    RESTARTS_TOTAL = "huddle_restarts_total", Kind::Counter,
        "Restarts of an actor by its supervisor";
    RESYNCED_RECORDS_TOTAL = "huddle_resynced_records_total", Kind::Counter,
        "Records corrected by repository fetches, by operation";
    RESYNCS_TOTAL = "huddle_resyncs_total", Kind::Counter,
        "Attempts to fetch a whole repository, by outcome";
    SEQ_ANOMALIES_TOTAL = "huddle_seq_anomalies_total", Kind::Counter,
        "Events whose seq was not the expected one, by kind";
    SINK_BEHIND = "huddle_sink_behind", Kind::Gauge,
        "Rows that the sink does not have, counted up to a million";
    SINK_DELIVERED_TOTAL = "huddle_sink_delivered_total", Kind::Counter,
        "Rows that the sink took";
    SINK_ERRORS_TOTAL = "huddle_sink_errors_total", Kind::Counter,
        "Attempts to deliver to the sink that failed";
    SINK_FAILING = "huddle_sink_failing", Kind::Gauge,
        "1 while the sink takes nothing, otherwise 0";
    SINK_LAG_SECONDS = "huddle_sink_lag_seconds", Kind::Gauge,
        "How far the sink is behind the tables: the age of the oldest row that it does not have; NaN if unknown";
    SINK_LAST_SUCCESS_TIMESTAMP_SECONDS = "huddle_sink_last_success_timestamp_seconds", Kind::Gauge,
        "When the sink last took something or had everything, as a Unix time";
    SINK_POSITION = "huddle_sink_position", Kind::Gauge,
        "The number of the change feed up to which the sink has everything";
    SOCKET_TO_COMMIT_SECONDS = "huddle_socket_to_commit_seconds", Kind::Histogram(SECONDS),
        "From the arrival of a batch's first frame to the commit of its effects";
    SOURCE_LAG_SECONDS = "huddle_source_lag_seconds", Kind::Gauge,
        "How far the tables are behind the source, including events not yet received, and parked commits that wait for a key or a repository; NaN if unknown, 0 if the source is quiet";
    TRACKED_REPOS = "huddle_tracked_repos", Kind::Gauge,
        "Tracked repositories. Formerly huddle_repos{state=\"tracked\"}";
    TRANSACTIONS_TOTAL = "huddle_transactions_total", Kind::Counter,
        "Transactions that were begun in the database";
    TRANSACTION_TRIPS_TOTAL = "huddle_transaction_trips_total", Kind::Counter,
        "How often a transaction sent something to the database's thread and waited for the answer";
    VERIFIED_TOTAL = "huddle_verified_total", Kind::Counter,
        "Verified commits, by level";
    VERIFY_ERRORS_TOTAL = "huddle_verify_errors_total", Kind::Counter,
        "Errors in the proofs of commits, refused or tolerated, by error";
    WAL_BYTES = "huddle_wal_bytes", Kind::Gauge,
        "Size of the database's write-ahead log";
}
