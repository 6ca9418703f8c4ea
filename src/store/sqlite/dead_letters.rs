//! What could not be applied.

use sha2::{Digest, Sha256};
use sqlx::sqlite::SqliteConnection;

use super::integer;
use crate::model::SourceId;
use crate::store::plan::effect::DeadLetter;

/// Keeps `letter`; returns 1 where it was new, and 0 where a replay has brought it again.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    source: &SourceId,
    letter: &DeadLetter,
    now: &str,
) -> Result<u64, sqlx::Error> {
    let written = sqlx::query(
        "INSERT INTO dead_letters (fingerprint, source, seq, did, uri, stage, error, task, raw, \
         attempts, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT (fingerprint) DO NOTHING",
    )
    .bind(fingerprint(source, letter))
    .bind(source.as_str())
    .bind(letter.seq.map(integer))
    .bind(letter.did.as_deref())
    .bind(letter.uri.as_deref())
    .bind(letter.stage.as_str())
    .bind(letter.error.as_str())
    .bind(letter.task.as_deref())
    .bind(letter.raw.as_ref())
    .bind(letter.attempts)
    .bind(now)
    .execute(&mut *connection)
    .await?;
    Ok(written.rows_affected())
}

/// The same for the same bytes of the same event, however often they come and fail. The error's
/// words and the attempts are not part of it.
fn fingerprint(source: &SourceId, letter: &DeadLetter) -> Vec<u8> {
    let seq = letter.seq.map(u64::to_be_bytes);
    let parts = [
        Some(source.as_str().as_bytes()),
        seq.as_ref().map(<[u8; 8]>::as_slice),
        letter.uri.as_deref().map(str::as_bytes),
        Some(letter.stage.as_str().as_bytes()),
        Some(letter.raw.as_ref()),
    ];
    let mut hash = Sha256::new();
    for part in parts {
        // Its length goes before each part, so that no two lists of parts run into one text.
        hash.update(
            part.map_or(u64::MAX, |part| part.len() as u64)
                .to_be_bytes(),
        );
        hash.update(part.unwrap_or_default());
    }
    hash.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::store::plan::effect::Stage;

    fn letter(uri: Option<&str>, raw: &'static str) -> DeadLetter {
        DeadLetter {
            stage: Stage::Decode,
            error: "no CAR".to_owned(),
            seq: Some(7),
            did: None,
            uri: uri.map(str::to_owned),
            task: None,
            raw: Bytes::from_static(raw.as_bytes()),
            attempts: 1,
        }
    }

    fn print(letter: &DeadLetter) -> Vec<u8> {
        fingerprint(&SourceId::new("wss://relay.example"), letter)
    }

    #[test]
    fn a_second_failure_of_the_same_bytes_has_the_same_fingerprint() {
        let first = letter(None, "raw");
        let second = DeadLetter {
            error: "still no CAR".to_owned(),
            attempts: 4,
            ..first.clone()
        };
        assert_eq!(print(&first), print(&second));
    }

    #[test]
    fn other_parts_have_another_fingerprint() {
        let base = print(&letter(None, "raw"));
        assert_ne!(base, print(&letter(Some(""), "raw")));
        assert_ne!(base, print(&letter(None, "war")));
        assert_ne!(
            base,
            print(&DeadLetter {
                seq: None,
                ..letter(None, "raw")
            })
        );
        assert_ne!(
            print(&letter(Some("ab"), "c")),
            print(&letter(Some("a"), "bc"))
        );
    }
}
