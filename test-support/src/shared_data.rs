//! Finds the test data that several projects share. It is not part of this repository.

use std::path::{Path, PathBuf};

use crate::skipped::skip;

/// The path of a file or folder of the shared data, such as `interop/lexicon`. If the data is
/// missing, prints that and returns `None`; in CI (`CI=true`) it panics.
///
/// The data is in the folder `HUDDLE_TEST_DATA`, or in `../shared/data` beside the repository.
pub fn shared_data(path: &str) -> Option<PathBuf> {
    found(data_folder().join(path))
}

/// The path of a recording of the testbed: in `testbed/recordings`, beside the shared data.
pub fn shared_recording(name: &str) -> Option<PathBuf> {
    found(data_folder().join("../testbed/recordings").join(name))
}

fn data_folder() -> PathBuf {
    std::env::var_os("HUDDLE_TEST_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        PathBuf::from,
    )
}

fn found(path: PathBuf) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!is_ci, "{} is missing", path.display());
    skip(&format!("{} is missing", path.display()));
    None
}
