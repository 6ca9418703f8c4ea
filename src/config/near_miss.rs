//! Tells a mistyped name of a setting from a name that has nothing to do with this program.

/// Names up to this length may differ in one edit, longer ones in two.
const SHORT: usize = 8;

/// The one of `known` that `name` is probably meant to be.
pub(super) fn near_miss<'a>(
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let name = name.to_ascii_lowercase();
    let distances = known.into_iter().map(|known| (edits(&name, known), known));
    let (distance, nearest) = distances.min()?;
    let most = if nearest.len() > SHORT { 2 } else { 1 };
    (distance <= most).then_some(nearest)
}

/// The number of characters that were left out, added, replaced or swapped with their neighbour.
fn edits(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    // Each row is for one more character of `one`; the column says how many of `other` it is
    // compared with.
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let replaced = last[j] + usize::from(a != b);
            let mut least = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                least = least.min(before_last[j - 1] + 1);
            }
            row.push(least);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 5] = ["listen", "start", "database_url", "batch_frames", "verify"];

    #[test]
    fn a_mistyped_name_is_a_near_miss() {
        for (name, meant) in [
            ("LISTNE", "listen"),
            ("LISTENS", "listen"),
            ("batch_frames", "batch_frames"),
            ("BATCH_FRAME", "batch_frames"),
            ("BATHC_FRAEMS", "batch_frames"),
            ("DATABSE_URL", "database_url"),
        ] {
            assert_eq!(near_miss(name, KNOWN), Some(meant), "{name}");
        }
    }

    #[test]
    fn a_variable_of_another_program_is_no_near_miss() {
        for name in [
            "PORT",
            "STATE",
            "SERVICE_HOST",
            "FIREHOSE_PORT_8080_TCP",
            "VERSION",
            "",
        ] {
            assert_eq!(near_miss(name, KNOWN), None, "{name}");
        }
    }
}
