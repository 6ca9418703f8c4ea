//! The set of interest in force: stored, compared with the one that a worker brings, and changed in
//! pieces, so that no piece delays other writers for long.

use sqlx::sqlite::SqliteConnection;

use super::feed::{NUMBER_HIDDEN, RESERVE};
use super::writer::Writer;
use super::{SqliteStore, cursor, integer, now};
use crate::atproto::pattern::Pattern;
use crate::atproto::syntax::Did;
use crate::model::{GapCause, Position, SourceId};
use crate::store::datetime::sortable;
use crate::store::plan::{InterestChange, InterestSet, InterestStep, unkept_since};
use crate::store::repo_store::Search;
use crate::store::{Adoption, ChangedInterest, StoreError};

/// The number of rows that one transaction reads.
const PIECE: i64 = 5000;
/// The number of earlier sets that are searched for one that covers the newest.
const HISTORY: i64 = 1000;

/// A row of `interest_sets` as it is stored.
#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    collections: String,
    dids_allow: String,
    dids_deny: String,
    source: String,
    seq: i64,
    time: Option<String>,
    step: Option<String>,
    done_through: String,
    hidden_records: i64,
    voided_repos: i64,
    gap: Option<i64>,
}

const COLUMNS: &str = "id, collections, dids_allow, dids_deny, source, seq, time, step, \
                       done_through, hidden_records, voided_repos, gap";

impl Row {
    fn set(&self) -> Result<InterestSet, StoreError> {
        let patterns: Vec<Pattern> = parse(&self.collections)?;
        let dids = |text: &str| -> Result<Vec<Did>, StoreError> {
            let dids: Vec<String> = parse(text)?;
            let dids = dids.iter().map(|did| super::due::parse_did(did));
            dids.collect()
        };
        Ok(InterestSet::new(patterns)
            .allowing(dids(&self.dids_allow)?)
            .denying(dids(&self.dids_deny)?))
    }

    /// The position at which it came into force; the beginning if that is a position of another
    /// source, or one that the source has not reached any more.
    fn position(&self, source: &SourceId, now: Position) -> Result<Position, StoreError> {
        let position = cursor::position(&self.seq.to_string(), self.time.as_deref())?;
        let is_comparable = self.source == source.as_str() && position.seq <= now.seq;
        Ok(match is_comparable {
            true => position,
            false => Position::default(),
        })
    }
}

/// `value` as JSON, for `json_each`.
fn json(value: impl serde::Serialize) -> String {
    serde_json::json!(value).to_string()
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// Does one piece of the work after which `wanted` is the set in force.
pub(super) async fn adopt(
    writer: &Writer,
    source: &SourceId,
    wanted: &InterestSet,
) -> Result<Adoption, StoreError> {
    let mut transaction = writer.begin().await?;
    let newest = newest(&mut transaction).await?;
    let adoption = match newest {
        // An earlier change is finished first, also one that another set has replaced since.
        Some(row) if row.step.is_some() => proceed(&mut transaction, &row).await?,
        Some(row) if row.set()? == *wanted => return Ok(Adoption::Unchanged),
        before => begin(&mut transaction, source, before, wanted).await?,
    };
    transaction.commit().await?;
    Ok(adoption)
}

async fn newest(connection: &mut SqliteConnection) -> Result<Option<Row>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM interest_sets ORDER BY id DESC LIMIT 1");
    let row = sqlx::query_as(sqlx::AssertSqlSafe(sql));
    Ok(row.fetch_optional(connection).await?)
}

/// The set in force; `None` if no worker has run on this database.
pub(super) async fn in_force(store: &SqliteStore) -> Result<Option<InterestSet>, StoreError> {
    let mut reader = store.reader().acquire().await?;
    let newest = newest(&mut reader).await?;
    newest.as_ref().map(Row::set).transpose()
}

async fn begin(
    connection: &mut SqliteConnection,
    source: &SourceId,
    before: Option<Row>,
    wanted: &InterestSet,
) -> Result<Adoption, StoreError> {
    let position = position_of(connection, source).await?;
    let before_set = before.as_ref().map(Row::set).transpose()?;
    let is_first = before_set.is_none();
    let change = InterestChange::new(before_set, wanted.clone());
    let unkept_since = match change.is_widened() {
        true => Some(gap_start(connection, source, wanted, position).await?),
        false => None,
    };
    let gap = match unkept_since {
        Some(from) => Some(open_gap(connection, source, from).await?),
        None => None,
    };
    sqlx::query(
        "INSERT INTO interest_sets (collections, dids_allow, dids_deny, source, seq, time, since, \
         is_widened, step, gap) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(json(wanted.collections()))
    .bind(json(wanted.allowed()))
    .bind(json(wanted.denied()))
    .bind(source.as_str())
    .bind(integer(position.seq))
    .bind(position.time.map(|time| time.to_string()))
    .bind(now())
    .bind(change.is_widened())
    .bind(change.first_step().map(InterestStep::as_str))
    .bind(gap)
    .execute(&mut *connection)
    .await?;
    restart_discoveries(connection, &change).await?;
    Ok(Adoption::Began(ChangedInterest {
        is_first,
        is_narrowed: change.is_narrowed(),
        unkept_since,
    }))
}

async fn position_of(
    connection: &mut SqliteConnection,
    source: &SourceId,
) -> Result<Position, StoreError> {
    let row: Option<(String, Option<String>)> =
        sqlx::query_as("SELECT cursor, event_time FROM firehose_cursor WHERE source = ?")
            .bind(source.as_str())
            .fetch_optional(connection)
            .await?;
    match row {
        Some((seq, time)) => cursor::position(&seq, time.as_deref()),
        None => Ok(Position::default()),
    }
}

async fn gap_start(
    connection: &mut SqliteConnection,
    source: &SourceId,
    wanted: &InterestSet,
    now: Position,
) -> Result<Position, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM interest_sets ORDER BY id DESC LIMIT ?");
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(HISTORY)
        .fetch_all(connection)
        .await?;
    let earlier = rows
        .iter()
        .map(|row| Ok((row.set()?, row.position(source, now)?)));
    let earlier: Vec<(InterestSet, Position)> = earlier.collect::<Result<_, StoreError>>()?;
    let earlier = earlier.iter().map(|(set, position)| (set, *position));
    Ok(unkept_since(wanted, earlier))
}

/// Opens the gap of a wider set. It gets its end once its repositories are marked, so it is not
/// closed before.
async fn open_gap(
    connection: &mut SqliteConnection,
    source: &SourceId,
    from: Position,
) -> Result<i64, StoreError> {
    let opened = sqlx::query(
        "INSERT INTO gaps (source, cause, from_seq, from_time, opened_at) VALUES (?, ?, ?, ?, ?)",
    )
    .bind(source.as_str())
    .bind(GapCause::InterestWidened.as_str())
    .bind(integer(from.seq))
    .bind(from.time.map(sortable))
    .bind(now())
    .execute(connection)
    .await?;
    Ok(opened.last_insert_rowid())
}

/// Forgets the discoveries of collections that are no longer wanted. Under a wider set all others
/// begin anew, since the repositories of accounts that were not wanted are unknown.
async fn restart_discoveries(
    connection: &mut SqliteConnection,
    change: &InterestChange,
) -> Result<(), StoreError> {
    let collections: Vec<String> = sqlx::query_scalar("SELECT collection FROM discoveries")
        .fetch_all(&mut *connection)
        .await?;
    // A search that looks for no collection goes on.
    let unwanted = collections.iter().filter(|search| {
        let search = Search::parse(search);
        matches!(search, Some(Search::Collection(nsid)) if !change.wants_collection(nsid.as_str()))
    });
    sqlx::query("DELETE FROM discoveries WHERE collection IN (SELECT value FROM json_each(?))")
        .bind(json(unwanted.collect::<Vec<_>>()))
        .execute(&mut *connection)
        .await?;
    if change.is_widened() {
        sqlx::query(
            "UPDATE discoveries SET pass = pass + 1, has_next_pass = 0, cursor = NULL, repos = 0, \
             attempts = 0, error = NULL, \
             started_at = ?, ended_at = NULL",
        )
        .bind(now())
        .execute(connection)
        .await?;
    }
    Ok(())
}

/// Does the next piece of the change to `row`.
async fn proceed(connection: &mut SqliteConnection, row: &Row) -> Result<Adoption, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM interest_sets WHERE id < ? ORDER BY id DESC LIMIT 1");
    let before: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(row.id)
        .fetch_optional(&mut *connection)
        .await?;
    let before = before.as_ref().map(Row::set).transpose()?;
    let change = InterestChange::new(before, row.set()?);
    let step = row.step.as_deref().unwrap_or_default();
    let step = InterestStep::parse(step).ok_or_else(|| {
        StoreError::Corrupt(format!("a change of the set of interest is at {step:?}"))
    })?;
    let keys: Vec<String> = sqlx::query_scalar(match step {
        InterestStep::Hide => "SELECT uri FROM records WHERE uri > ? ORDER BY uri LIMIT ?",
        InterestStep::WantAgain => {
            "SELECT uri FROM stale_records WHERE uri > ? ORDER BY uri LIMIT ?"
        }
        InterestStep::Void => "SELECT did FROM repos WHERE did > ? ORDER BY did LIMIT ?",
    })
    .bind(&row.done_through)
    .bind(PIECE)
    .fetch_all(&mut *connection)
    .await?;
    let concerned: Vec<&String> = keys
        .iter()
        .filter(|key| match step {
            InterestStep::Hide => !change.wants_uri(key),
            InterestStep::WantAgain => change.wants_uri(key),
            InterestStep::Void => change.voids(key),
        })
        .collect();
    let count = integer(concerned.len() as u64);
    let (mut hidden, mut voided) = (row.hidden_records, row.voided_repos);
    match step {
        InterestStep::Hide => hidden += count,
        InterestStep::WantAgain => {}
        InterestStep::Void => voided += count,
    }
    if !concerned.is_empty() {
        write_piece(connection, step, &json(concerned)).await?;
    }
    let is_last = integer(keys.len() as u64) < PIECE;
    let next = match is_last {
        true => change.step_after(step),
        false => Some(step),
    };
    let done_through = match (is_last, keys.last()) {
        (false, Some(last)) => last.as_str(),
        _ => "",
    };
    sqlx::query(
        "UPDATE interest_sets SET step = ?, done_through = ?, hidden_records = ?, \
         voided_repos = ? WHERE id = ?",
    )
    .bind(next.map(InterestStep::as_str))
    .bind(done_through)
    .bind(hidden)
    .bind(voided)
    .bind(row.id)
    .execute(&mut *connection)
    .await?;
    if next.is_some() {
        return Ok(Adoption::Continues);
    }
    if let Some(gap) = row.gap {
        end_gap(connection, gap, row, voided).await?;
    }
    Ok(Adoption::Finished {
        hidden_records: hidden.unsigned_abs(),
        voided_repos: voided.unsigned_abs(),
    })
}

async fn write_piece(
    connection: &mut SqliteConnection,
    step: InterestStep,
    keys: &str,
) -> Result<(), sqlx::Error> {
    let statements: &[&'static str] = match step {
        InterestStep::Hide => &[
            NUMBER_HIDDEN,
            RESERVE,
            "INSERT INTO stale_records (uri, did) SELECT uri, did FROM records \
             WHERE uri IN (SELECT value FROM json_each(?)) \
             ON CONFLICT (uri) DO UPDATE SET is_wanted = 0",
        ],
        InterestStep::WantAgain => &["UPDATE stale_records SET is_wanted = 1 \
             WHERE uri IN (SELECT value FROM json_each(?))"],
        InterestStep::Void => &[
            "UPDATE repos SET state = 'desynchronized', cause = 'interest', is_whole = 0, \
             recheck_cause = NULL, retry_at = NULL, attempts = 0 \
             WHERE did IN (SELECT value FROM json_each(?))",
            // No event was read of the accounts that were not wanted.
            "UPDATE accounts SET is_unconfirmed = 1, retry_at = NULL, attempts = 0 \
             WHERE active = 0 AND did IN (SELECT value FROM json_each(?))",
        ],
    };
    for statement in statements {
        sqlx::query(*statement)
            .bind(keys)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Gives the gap its end, the cursor. Its repositories are marked, so it can be closed once they
/// are fetched.
async fn end_gap(
    connection: &mut SqliteConnection,
    gap: i64,
    row: &Row,
    repos: i64,
) -> Result<(), StoreError> {
    let position = cursor::position(&row.seq.to_string(), row.time.as_deref())?;
    sqlx::query(
        "UPDATE gaps SET to_seq = ?, to_time = ?, recheck_started_at = ?, recheck_repos = ? \
         WHERE id = ?",
    )
    .bind(integer(position.seq))
    .bind(position.time.map(sortable))
    .bind(now())
    .bind(repos)
    .bind(gap)
    .execute(connection)
    .await?;
    Ok(())
}
