//! The names of views and columns, which every SQL engine takes without quotation marks.

/// The longest name, in bytes. Postgres cuts longer ones by itself.
pub(super) const MAX_NAME: usize = 63;

/// The columns that every view begins with.
pub const FIXED_COLUMNS: [&str; 6] = ["uri", "did", "rkey", "cid", "rev", "indexed_at"];

/// What is put before a name that cannot be a column as it is.
const PREFIX: &str = "record_";

/// The words that SQLite or Postgres take for something else than a column, and the columns that
/// Postgres has in every table.
#[rustfmt::skip]
const RESERVED: [&str; 125] = [
    "add", "all", "alter", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric",
    "authorization", "autoincrement", "between", "binary", "both", "case", "cast", "check", "cmax",
    "cmin", "collate", "collation", "column", "commit", "concurrently", "constraint", "create",
    "cross", "ctid", "current_catalog", "current_date", "current_role", "current_schema",
    "current_time", "current_timestamp", "current_user", "default", "deferrable", "delete", "desc",
    "distinct", "do", "drop", "else", "end", "escape", "except", "exists", "false", "fetch", "for",
    "foreign", "freeze", "from", "full", "grant", "group", "having", "ilike", "in", "index",
    "indexed", "initially", "inner", "insert", "intersect", "into", "is", "isnull", "join",
    "lateral", "leading", "left", "like", "limit", "localtime", "localtimestamp", "natural", "not",
    "nothing", "notnull", "null", "offset", "on", "only", "or", "order", "outer", "overlaps",
    "placing", "primary", "raise", "references", "returning", "right", "select", "session_user",
    "set", "similar", "some", "symmetric", "system_user", "table", "tableoid", "tablesample",
    "then", "to", "trailing", "transaction", "true", "union", "unique", "update", "user", "using",
    "values", "variadic", "verbose", "when", "where", "window", "with", "xmax", "xmin",
];

/// The names of the program's own tables, views, indexes and triggers that the view of a collection could
/// have. An NSID has three parts or more.
#[rustfmt::skip]
const OF_PROGRAM: [&str; 37] = [
    "account_removals_by_did", "accounts_by_age", "accounts_by_change", "accounts_handle_due",
    "active_booking_requests", "audit_by_age", "audit_by_target", "audit_of_command",
    "booking_requests_by_did", "booking_requests_by_offer", "booking_requests_ended",
    "bookings_by_did", "bookings_by_offer", "commands_by_key", "dead_letter_gone",
    "dead_letter_kept", "dead_letter_totals", "dead_letters_by_age", "dead_letters_by_did",
    "dead_letters_by_group", "firehose_cursor_source", "gaps_by_origin", "identities_by_age",
    "jobs_in_progress", "kept_parked_commits", "offers_by_host", "offers_by_start",
    "offers_open_by_end", "parked_commits_by_did", "parked_commits_by_seq", "records_by_change",
    "records_by_collection", "records_by_did", "resyncs_by_age", "resyncs_by_did",
    "run_time_settings", "stale_records_by_did",
];

/// What the names begin with that SQLite keeps for itself.
const OF_SQLITE: &str = "sqlite_";

/// Whether the program, or its database, has this name for something else than the view of a lexicon.
pub fn is_own_name(name: &str) -> bool {
    name.starts_with(OF_SQLITE) || OF_PROGRAM.contains(&name)
}

/// The name of the view of a collection: `community.lexicon.calendar.event` is
/// `community_lexicon_calendar_event`.
pub(super) fn view_name(collection: &str) -> String {
    cut(&snake_case(collection), MAX_NAME)
}

/// The name of a property's column, with `suffix`. It begins with `record_` where the property has
/// the name of a fixed column or a reserved word.
pub(super) fn column_name(property: &str, suffix: &str) -> String {
    let name = snake_case(property);
    let whole = format!("{name}{suffix}");
    let is_taken = FIXED_COLUMNS.contains(&&*whole) || RESERVED.contains(&&*whole);
    let begins_wrong = whole.starts_with(|c: char| c.is_ascii_digit());
    let prefix = if is_taken || begins_wrong || name.is_empty() {
        PREFIX
    } else {
        ""
    };
    let name = cut(&format!("{prefix}{name}"), MAX_NAME - suffix.len());
    format!("{name}{suffix}")
}

/// `text` with words separated by underscores, in lower case. What is neither a letter nor a digit of
/// ASCII becomes an underscore.
fn snake_case(text: &str) -> String {
    let mut name = String::with_capacity(text.len() + 8);
    let mut characters = text.chars().peekable();
    let mut before = '.';
    while let Some(character) = characters.next() {
        if character.is_ascii_uppercase() {
            let ends_word = before.is_ascii_lowercase() || before.is_ascii_digit();
            let begins_word = characters.peek().is_some_and(char::is_ascii_lowercase);
            if ends_word || (before.is_ascii_uppercase() && begins_word) {
                name.push('_');
            }
        }
        name.push(match character.is_ascii_alphanumeric() {
            true => character.to_ascii_lowercase(),
            false => '_',
        });
        before = character;
    }
    name
}

/// The first `most` bytes of a name, which is ASCII.
fn cut(name: &str, most: usize) -> String {
    name.get(..most).unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_in_snake_case_with_hyphens_as_underscores() {
        for (collection, name) in [
            (
                "community.lexicon.calendar.event",
                "community_lexicon_calendar_event",
            ),
            ("com.example.bookingRequest", "com_example_booking_request"),
            ("com.my-site.note", "com_my_site_note"),
            ("com.example.HTTPServer2Go", "com_example_http_server2_go"),
        ] {
            assert_eq!(view_name(collection), name);
        }
        for (property, name) in [
            ("startsAt", "starts_at"),
            ("avatarURL", "avatar_url"),
            ("some-thing", "some_thing"),
            ("größe", "gr__e"),
            ("sha256", "sha256"),
        ] {
            assert_eq!(column_name(property, ""), name);
        }
    }

    #[test]
    fn a_property_that_collides_begins_with_record() {
        for (property, name) in [
            ("uri", "record_uri"),
            ("indexedAt", "record_indexed_at"),
            ("order", "record_order"),
            ("end", "record_end"),
            ("currentDate", "record_current_date"),
            ("3d", "record_3d"),
            ("", "record_"),
        ] {
            assert_eq!(column_name(property, ""), name);
        }
        assert_eq!(column_name("uri", "_cid"), "uri_cid");
        assert_eq!(column_name("order", "_uri"), "order_uri");
    }

    #[test]
    fn a_long_name_is_cut_and_keeps_its_suffix() {
        let long = "a".repeat(80);
        assert_eq!(view_name(&format!("com.example.{long}")).len(), MAX_NAME);
        let name = column_name(&long, "_uri");
        assert_eq!(name.len(), MAX_NAME);
        assert!(name.ends_with("a_uri"));
    }

    #[test]
    fn reserved_words_are_sorted_and_distinct() {
        assert!(RESERVED.is_sorted());
        let distinct: BTreeSet<_> = RESERVED.iter().collect();
        assert_eq!(distinct.len(), RESERVED.len());
    }

    proptest! {
        #[test]
        fn any_property_has_a_name_that_needs_no_quotation_marks(
            property in "\\PC{0,80}", suffix in prop::sample::select(vec!["", "_uri", "_cid"]),
        ) {
            let name = column_name(&property, suffix);
            prop_assert!((1..=MAX_NAME).contains(&name.len()));
            prop_assert!(!name.starts_with(|c: char| c.is_ascii_digit()));
            prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            prop_assert!(!RESERVED.contains(&&*name) && !FIXED_COLUMNS.contains(&&*name));
        }
    }
}
