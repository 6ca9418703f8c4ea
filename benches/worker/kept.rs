//! Checks after a round that the worker did the work that was to be measured, and no other.

use std::path::Path;

use crate::{database, runtime};

/// Checks that `verified` commits were proven at level `chain` when they arrived: none waited for a
/// key, and none was read twice.
pub(crate) fn assert_metrics(metrics: &str, verified: usize) {
    for (name, count) in [
        ("huddle_verified_total{level=\"chain\"}", verified),
        ("huddle_key_unavailable_total", 0),
        ("huddle_redelivered_total", 0),
    ] {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        let found = line.map_or("0", str::trim);
        assert_eq!(found, count.to_string(), "{name}");
    }
}

/// Checks that each of these conditions holds for so many rows of the database at `path`.
pub(crate) fn assert_rows(path: &Path, rows: &[(&str, usize)]) {
    runtime().block_on(async {
        for &(rows, count) in rows {
            assert_eq!(database::count(path, rows).await, count, "{rows}");
        }
    });
}

/// Checks that no commit was parked or refused, and none caused a fetch.
pub(crate) fn assert_no_doubts(path: &Path) {
    assert_rows(
        path,
        &[
            ("repos WHERE has_parked", 0),
            ("repos WHERE recheck_cause IS NOT NULL", 0),
            ("dead_letters", 0),
            ("gaps", 0),
            ("resyncs", 0),
            ("parked_commits", 0),
        ],
    );
}
