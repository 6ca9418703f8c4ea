//! `lexicon`, and the setting `lexicons`: collections that the program does not know.

use serde_json::{Value, json};

use super::{Folder, assert_success, huddle, stderr, stdout};

const FOLLOW: &str = "app.bsky.graph.follow";

/// The examples of the repository, which the README uses.
fn examples() -> String {
    format!("{}/examples/lexicons", env!("CARGO_MANIFEST_DIR"))
}

fn record(id: &str, properties: &Value) -> String {
    let object = json!({"type": "object", "properties": properties});
    let main = json!({"type": "record", "key": "any", "record": object});
    json!({"lexicon": 1, "id": id, "defs": {"main": main}}).to_string()
}

fn rows(database: &str, query: &'static str) -> Vec<String> {
    let url = format!("sqlite://{database}");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let store = huddle_firehose::store::sqlite::SqliteStore::open(&url)
            .await
            .unwrap();
        let rows = sqlx::query_scalar(query).fetch_all(store.reader()).await;
        rows.unwrap()
    })
}

#[test]
fn the_demo_makes_a_view_of_a_collection_that_is_not_ours() {
    let (folder, examples) = (Folder::new(), examples());
    let file = folder.path("posts.db");
    let arguments = ["demo", "--rate", "5000", "--database", &file];
    let kept = [
        "--lexicons",
        &examples,
        "--collections",
        "app.bsky.feed.*,app.bsky.graph.follow",
    ];
    let output = huddle(&[&arguments[..], &kept].concat(), &[]);
    assert_success(&output);
    let shown = stdout(&output);
    for line in [
        "app_bsky_feed_post",
        "app_bsky_feed_like",
        "app_bsky_graph_follow",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    let posts = rows(
        &file,
        "SELECT min(created_at) || ' ' || (count(text) = count(*)) FROM app_bsky_feed_post",
    );
    assert!(
        posts[0].starts_with("2026-") && posts[0].ends_with("Z 1"),
        "{posts:?}"
    );
    let likes = rows(
        &file,
        "SELECT DISTINCT substr(subject_uri, 1, 5) FROM app_bsky_feed_like",
    );
    assert_eq!(likes, ["at://"]);
    // The same as records, except those that are invalid.
    let difference = rows(
        &file,
        "SELECT collection || ' ' || validity FROM visible_records AS records WHERE NOT EXISTS \
         (SELECT 1 FROM app_bsky_feed_post AS p WHERE p.uri = records.uri) AND NOT EXISTS \
         (SELECT 1 FROM app_bsky_feed_like AS l WHERE l.uri = records.uri) AND NOT EXISTS \
         (SELECT 1 FROM app_bsky_graph_follow AS f WHERE f.uri = records.uri) LIMIT 9",
    );
    assert!(difference.is_empty(), "{difference:?}");
}

#[test]
fn every_problem_of_a_folder_is_told_at_the_start_and_the_exit_code_is_two() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("lexicons")).unwrap();
    let reference = json!({"a": {"type": "ref", "ref": "com.example.gone"}});
    for (file, text) in [
        ("lexicons/a.json", record("com.example.a", &reference)),
        ("lexicons/b.json", record("com.huddle.booking", &json!({}))),
        (
            "lexicons/c.json",
            record("com.example.c", &json!({"a": {"type": "txt"}})),
        ),
    ] {
        std::fs::write(folder.path(file), text).unwrap();
    }
    let lexicons = folder.path("lexicons");
    let database = folder.path("huddle.db");
    for command in [
        &["config", "check"][..],
        &["run"],
        &["migrate"],
        &["lexicon", "check"],
    ] {
        let flags = ["--lexicons", &lexicons, "--database", &database];
        let output = huddle(&[command, &flags].concat(), &[]);
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        let errors = stderr(&output);
        for part in [
            "lexicons (flag --lexicons): ",
            "/a.json: lexicon com.example.a, defs.main.record.properties.a: refers to \
             com.example.gone, which no document defines; `huddle-firehose lexicon fetch \
             com.example.gone`",
            "/b.json: com.huddle.booking is part of the program",
            "/c.json: lexicon com.example.c, defs.main.record.properties.a: unknown variant `txt`",
        ] {
            assert!(errors.contains(part), "{command:?}: {errors}");
        }
    }
    assert!(!std::path::Path::new(&database).exists());
}

#[test]
fn check_lists_the_documents_and_show_the_columns_of_a_view() {
    let examples = examples();
    let with_examples = |command: &[&str]| {
        let output = huddle(&[command, &["--lexicons", &examples]].concat(), &[]);
        assert_success(&output);
        stdout(&output).to_owned()
    };
    let listed = with_examples(&["lexicon", "check"]);
    assert!(
        listed.contains("\tview app_bsky_graph_follow, "),
        "{listed}"
    );
    assert!(listed.contains("app.bsky.richtext.facet\t"), "{listed}");
    let one = with_examples(&["lexicon", "check", FOLLOW]);
    assert_eq!(one.lines().count(), 1);
    let shown = with_examples(&["lexicon", "show", FOLLOW]);
    for part in [
        "--   indexed_at\n",
        "--   created_at\tdatetime\tcreatedAt\n",
        "CREATE VIEW app_bsky_graph_follow AS",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    for (nsid, reason) in [
        ("com.huddle.booking", "has a table of its own"),
        (
            "app.bsky.richtext.facet",
            "has definitions for other documents",
        ),
        (
            "com.example.gone",
            "`huddle-firehose lexicon fetch com.example.gone`",
        ),
    ] {
        let output = huddle(&["lexicon", "show", nsid, "--lexicons", &examples], &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
    }
}

#[test]
fn an_index_on_a_property_is_made_and_dropped() {
    let (folder, examples) = (Folder::new(), examples());
    let file = folder.path("huddle.db");
    let flags = ["--lexicons", &examples, "--database", &file];
    let run = |command: &[&str]| huddle(&[command, &flags].concat(), &[]);
    assert_success(&run(&["migrate"]));
    let index = ["lexicon", "index", FOLLOW, "createdAt"];
    let made = run(&index);
    assert_success(&made);
    assert_eq!(
        stdout(&made),
        "made the index app_bsky_graph_follow__created_at\n"
    );
    assert_eq!(
        stdout(&run(&index)),
        "there is an index on created_at already\n"
    );
    let dropped = run(&["lexicon", "index", FOLLOW, "created_at", "--drop"]);
    assert_eq!(stdout(&dropped), "the index on created_at is gone\n");
    let unknown = run(&["lexicon", "index", FOLLOW, "colour"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).contains("has no column colour of a property; it has created_at, "));
}

#[test]
fn views_whose_lexicons_are_gone_are_dropped() {
    let (folder, examples) = (Folder::new(), examples());
    let file = folder.path("huddle.db");
    let count = "SELECT count(*) || '' FROM sqlite_master WHERE name = 'app_bsky_graph_follow'";
    assert_success(&huddle(
        &["migrate", "--database", &file, "--lexicons", &examples],
        &[],
    ));
    assert_eq!(rows(&file, count), ["1"]);
    assert_success(&huddle(&["migrate", "--database", &file], &[]));
    assert_eq!(rows(&file, count), ["0"]);
}

/// A folder of lexicons in which a post may have so many bytes.
fn posts_of(folder: &Folder, longest: u32) -> String {
    let lexicons = folder.path("lexicons");
    std::fs::create_dir_all(&lexicons).unwrap();
    let properties = json!({
        "text": {"type": "string", "maxLength": longest},
        "createdAt": {"type": "string", "format": "datetime"},
    });
    let file = folder.path("lexicons/post.json");
    std::fs::write(file, record("app.bsky.feed.post", &properties)).unwrap();
    lexicons
}

#[test]
fn records_are_judged_again_when_their_lexicon_has_changed() {
    let folder = Folder::new();
    let file = folder.path("posts.db");
    let lexicons = posts_of(&folder, 60);
    let demo = ["demo", "--rate", "5000", "--database", &file];
    let kept = [
        "--lexicons",
        &lexicons,
        "--collections",
        "app.bsky.feed.post",
    ];
    assert_success(&huddle(&[&demo[..], &kept].concat(), &[]));
    let count = "SELECT (SELECT count(*) FROM records WHERE deleted = 0) || ' ' || \
                 (SELECT count(*) FROM dead_letters WHERE stage = 'validate')";
    let counts = || -> [u64; 2] {
        let text = rows(&file, count).remove(0);
        let numbers: Vec<u64> = text
            .split(' ')
            .map(|number| number.parse().unwrap())
            .collect();
        [numbers[0], numbers[1]]
    };
    let [few, refused] = counts();
    assert!(few > 0 && refused > 0, "{few} {refused}");
    posts_of(&folder, 3000);
    let flags = ["--lexicons", &lexicons, "--database", &file];
    let run = |arguments: &[&str]| {
        let output = huddle(&[&["reprocess"], arguments, &flags].concat(), &[]);
        assert_success(&output);
        stdout(&output).to_owned()
    };
    let told = run(&["--invalid", "--dry-run"]);
    assert!(
        told.contains("nothing was written; it would be: "),
        "{told}"
    );
    assert!(told.contains(" restored from dead letters"), "{told}");
    assert_eq!(counts(), [few, refused]);
    run(&["--invalid"]);
    let [all, still] = counts();
    assert_eq!(all, few + refused - still);
    assert!(still < refused);
    let again = run(&["--collection", "app.bsky.*"]);
    assert!(again.contains(" as before"), "{again}");
    assert!(run(&["--collection", "app.bsky.*"]).contains("judged by these rules already"));

    let nothing = huddle(&[&["reprocess"][..], &flags].concat(), &[]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(stderr(&nothing).contains("name what to judge again"));
}
