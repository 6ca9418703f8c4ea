//! Where tests find the data that is shared between projects and is no part of this one.

use std::path::{Path, PathBuf};

/// A file or folder of the shared data, such as `interop/lexicon`. Says so and gives `None` where
/// the data is not there; in CI (`CI=true`) it has to be.
///
/// It is looked for in `HUDDLE_TEST_DATA`, or in `../shared/data` beside the repository.
pub fn shared_data(path: &str) -> Option<PathBuf> {
    found(data_folder().join(path))
}

/// A recording of the testbed, beside the shared data: in `testbed/recordings`.
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
    eprintln!("SKIPPED: {} is missing", path.display());
    None
}
