//! Creates the tables of a D1 sink, and brings them up to date, as wrangler would: the names of the files
//! that were run are in its table `d1_migrations`.

use super::client::{Database, Rows};
use super::statement::Statement;
use crate::sink::SinkError;

/// In their order, by the names of their files. A migration that was released stays as it is.
const MIGRATIONS: [(&str, &str); 1] = [(
    "0001_huddle_firehose.sql",
    include_str!("../../../migrations/d1/0001_huddle_firehose.sql"),
)];
/// What the names of these files have in them, and those of others have not.
const OURS: &str = "_huddle_firehose";

/// wrangler's own.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS d1_migrations ( \
     id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, \
     applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL)";
const NOTE: &str = "INSERT INTO d1_migrations (name) VALUES (?1) ON CONFLICT (name) DO NOTHING";

const HAS_TABLES: &str = "SELECT name FROM sqlite_master \
     WHERE type = 'table' AND name IN ('d1_migrations', 'sink_positions') ORDER BY name";
const APPLIED: &str = "SELECT name FROM d1_migrations ORDER BY name";

/// Applies the migrations that are missing, each in a transaction. Returns whether there were any.
pub(super) async fn migrate(database: &mut Database) -> Result<bool, SinkError> {
    let tables = column(&database.run(&[plain(HAS_TABLES)]).await?);
    let applied = match tables.iter().any(|name| name == "d1_migrations") {
        true => column(&database.run(&[plain(APPLIED)]).await?),
        false => Vec::new(),
    };
    let newest = MIGRATIONS.last().map_or("", |(name, _)| *name);
    let unknown = applied
        .iter()
        .find(|name| name.contains(OURS) && name.as_str() > newest);
    if let Some(unknown) = unknown {
        return Err(SinkError::unavailable(format_args!(
            "its tables are those of a newer version ({unknown}; this version knows {newest})"
        )));
    }
    // Of a database that was emptied by hand the notes may be left.
    let has_tables = tables.iter().any(|name| name == "sink_positions");
    let mut has_applied = false;
    for (name, text) in MIGRATIONS {
        let is_applied = applied.iter().any(|applied| applied == name);
        if is_applied && has_tables {
            continue;
        }
        let mut batch = vec![plain(TABLE)];
        batch.extend(statements(text).map(plain));
        batch.push(Statement::new(NOTE, [name.to_owned()]));
        database.run(&batch).await?;
        has_applied = true;
    }
    Ok(has_applied)
}

fn plain(sql: &'static str) -> Statement {
    Statement::new(sql, [])
}

fn column(rows: &[Rows]) -> Vec<String> {
    let names = rows.iter().flat_map(|rows| rows.column("name"));
    names.map(str::to_owned).collect()
}

/// The statements of a file. In these files a semicolon ends a line only where it ends a statement.
fn statements(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split(";\n")
        .map(str::trim)
        .filter(|sql| !sql.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_are_taken_apart_into_whole_statements() {
        for (name, text) in MIGRATIONS {
            assert!(name.contains(OURS), "{name}");
            assert!(!text.contains('\r'), "{name}: wrangler takes no CR");
            for sql in statements(text) {
                let code = sql.lines().filter(|line| !line.starts_with("--"));
                let code = code.collect::<Vec<_>>().join("\n");
                assert!(code.trim().starts_with("CREATE "), "{name}: {code}");
                // Not in a comment either: wrangler's service takes files apart as well.
                assert!(!sql.contains(';'), "{name}: {sql}");
            }
        }
        let names = MIGRATIONS.map(|(name, _)| name);
        assert!(names.is_sorted());
    }
}
