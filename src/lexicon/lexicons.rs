//! The lexicon documents that are in force: those of the program, and those of an operator's folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::documents::{Document, SchemaError};
use super::folder::{is_of_code, parse, read_folder};
use super::problems::{LexiconError, LexiconErrors};
use super::schemas::{EMBEDDED, Schemas};
use super::typed_view::{TypedView, ViewError};
use crate::atproto::syntax::Nsid;

/// The documents that are in force.
#[derive(Debug)]
pub struct Lexicons {
    pub schemas: Schemas,
    /// The views of the collections whose tables are not made by code.
    pub views: Vec<TypedView>,
    /// The operator's documents, and the file of each.
    pub files: BTreeMap<Nsid, PathBuf>,
}

/// Checks a document by itself. What it refers to need not be there.
///
/// # Errors
/// If it is no valid document.
pub fn check_document(json: &str) -> Result<(), SchemaError> {
    Document::parse(json).map(|_| ())
}

impl Lexicons {
    /// The documents of the program, and those of `folder`: every `*.json` in it and in the folders
    /// below it, whatever its name. Names that begin with a dot are left out, and links to folders
    /// are not followed. A document takes the place of the program's with the same id.
    ///
    /// # Errors
    /// All problems of the documents, each with its file and the place in it.
    pub fn load(folder: Option<&Path>) -> Result<Self, LexiconErrors> {
        let mut problems = Vec::new();
        let found = match folder {
            None => BTreeMap::new(),
            Some(folder) => read_folder(folder, &mut problems),
        };
        if let Some(folder) = folder
            && found.is_empty()
            && problems.is_empty()
        {
            problems.push(LexiconError::Empty(folder.to_owned()));
        }
        Self::checked(found, problems)
    }

    /// Like [`Self::load`], as if the documents of `added` were in the files that it names for them. The
    /// folder need not be there.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(
        folder: &Path,
        added: &BTreeMap<Nsid, (PathBuf, String)>,
    ) -> Result<Self, LexiconErrors> {
        let mut problems = Vec::new();
        let mut found = match folder.exists() {
            true => read_folder(folder, &mut problems),
            false => BTreeMap::new(),
        };
        for (id, (file, text)) in added {
            match parse(file, text) {
                Ok(document) => drop(found.insert(id.clone(), (file.clone(), document))),
                Err(error) => problems.push(error),
            }
        }
        Self::checked(found, problems)
    }

    fn checked(
        found: BTreeMap<Nsid, (PathBuf, Document)>,
        mut problems: Vec<LexiconError>,
    ) -> Result<Self, LexiconErrors> {
        let lexicons = Self::of(found, &mut problems);
        match lexicons {
            Some(lexicons) if problems.is_empty() => Ok(lexicons),
            _ => Err(LexiconErrors(problems)),
        }
    }

    /// The files of the documents in `folder`, whose references are not checked. None if there is no
    /// such folder.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn files_in(folder: &Path) -> Result<BTreeMap<Nsid, PathBuf>, LexiconErrors> {
        let mut problems = Vec::new();
        let found = match folder.exists() {
            true => read_folder(folder, &mut problems),
            false => BTreeMap::new(),
        };
        match problems.is_empty() {
            true => Ok(found
                .into_iter()
                .map(|(id, (file, _))| (id, file))
                .collect()),
            false => Err(LexiconErrors(problems)),
        }
    }

    fn of(
        found: BTreeMap<Nsid, (PathBuf, Document)>,
        problems: &mut Vec<LexiconError>,
    ) -> Option<Self> {
        let mut documents = Vec::new();
        for json in EMBEDDED {
            match Document::parse(json) {
                Ok(own) if found.contains_key(&own.id) => {}
                Ok(own) => documents.push(own),
                Err(error) => problems.push(error.into()),
            }
        }
        let mut files = BTreeMap::new();
        for (id, (file, document)) in found {
            files.insert(id, file);
            documents.push(document);
        }
        let schemas = Schemas::of(documents)
            .map_err(|error| problems.push(error.into()))
            .ok()?;
        for error in schemas.missing_refs() {
            problems.push(with_file(error, &files));
        }
        let views = schemas.typed_views(|collection| !is_of_code(collection));
        let views = views
            .map_err(|errors| {
                let errors = errors.into_iter();
                problems.extend(errors.map(|error| with_files(error, &files)));
            })
            .ok()?;
        Some(Self {
            schemas,
            views,
            files,
        })
    }
}

/// The error with the file of its document.
fn with_file(error: SchemaError, files: &BTreeMap<Nsid, PathBuf>) -> LexiconError {
    let SchemaError::MissingRef { document, name, .. } = &error else {
        return error.into();
    };
    let file = Nsid::parse(document).ok().and_then(|id| files.get(&id));
    let missing = name.split('#').next().unwrap_or(name).to_owned();
    match file {
        None => error.into(),
        Some(file) if missing == *document => LexiconError::NoDefinition {
            file: file.clone(),
            error: Box::new(error),
        },
        Some(file) => LexiconError::MissingRef {
            file: file.clone(),
            missing,
            error: Box::new(error),
        },
    }
}

/// The error with the files of its documents.
fn with_files(error: ViewError, files: &BTreeMap<Nsid, PathBuf>) -> LexiconError {
    let collections = error.collections().into_iter();
    LexiconError::View {
        files: collections
            .filter_map(|id| files.get(id))
            .cloned()
            .collect(),
        error,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};
    use tempfile::TempDir;

    use super::*;
    use crate::lexicon::Validation;

    /// A folder with these files.
    fn folder(files: &[(&str, &str)]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    /// A record whose one field is `field`.
    fn record(id: &str, field: &Value) -> String {
        let object = json!({"type": "object", "properties": {"field": field}});
        let main = json!({"type": "record", "key": "any", "record": object});
        json!({"lexicon": 1, "id": id, "defs": {"main": main}}).to_string()
    }

    fn text() -> Value {
        json!({"type": "string"})
    }

    fn problems(files: &[(&str, &str)]) -> Vec<String> {
        let folder = folder(files);
        let LexiconErrors(problems) = Lexicons::load(Some(folder.path())).unwrap_err();
        let prefix = format!("{}/", folder.path().display());
        let problems = problems.iter().map(ToString::to_string);
        problems.map(|text| text.replace(&prefix, "")).collect()
    }

    #[test]
    fn the_id_of_a_document_counts_and_not_the_name_of_its_file() {
        let (note, part) = (
            record(
                "com.example.note",
                &json!({"type": "ref", "ref": "com.example.defs#part"}),
            ),
            json!({"lexicon": 1, "id": "com.example.defs", "defs": {"part": text()}}).to_string(),
        );
        let files = [
            ("any/name.json", note.as_str()),
            ("defs.json", &part),
            ("README.md", "not a document"),
            (".git/config.json", "not a document"),
        ];
        let folder = folder(&files);
        let lexicons = Lexicons::load(Some(folder.path())).unwrap();
        let ids: Vec<_> = lexicons.files.keys().map(Nsid::as_str).collect();
        assert_eq!(ids, ["com.example.defs", "com.example.note"]);
        for (field, is_valid) in [(json!("text"), true), (json!(1), false)] {
            let record = json!({"$type": "com.example.note", "field": field});
            let validation = lexicons.schemas.validate("com.example.note", &record);
            assert_eq!(validation == Validation::Valid, is_valid);
        }
        let known = lexicons.schemas.collections();
        assert!(
            known
                .iter()
                .any(|known| known.as_str() == "com.huddle.booking")
        );
    }

    #[test]
    fn every_problem_is_told_with_its_file_and_the_place_in_it() {
        let not_read = record(
            "com.example.a",
            &json!({"type": "array", "items": {"type": "text"}}),
        );
        let wrong = record(
            "com.example.b",
            &json!({"type": "ref", "ref": "com.example.gone#x"}),
        );
        let version = json!({"lexicon": 2, "id": "com.example.c", "defs": {}}).to_string();
        let found = problems(&[
            ("a.json", &not_read),
            ("b/b.json", &wrong),
            ("c.json", &version),
            ("d.json", "{"),
        ]);
        let expected = [
            "a.json: lexicon com.example.a, defs.main.record.properties.field.items: \
             unknown variant `text`",
            "c.json: lexicon com.example.c is written in version 2 of the language, not 1",
            "d.json: not a lexicon document: EOF while parsing an object at line 1 column 1",
            "b/b.json: lexicon com.example.b, defs.main.record.properties.field: refers to \
             com.example.gone#x, which no document defines; `huddle-firehose lexicon fetch \
             com.example.gone` gets it from the network",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}");
        }
    }

    #[test]
    fn a_view_that_cannot_be_made_is_told_with_the_files_of_its_documents() {
        let columns = json!({"lexicon": 1, "id": "ex.foo.prop", "defs": {"main": {"type": "record",
            "key": "any", "record": {"type": "object", "properties": {"startsAt": text(),
            "starts_at": text()}}}}});
        let found = problems(&[
            ("a/prop.json", &columns.to_string()),
            ("b.json", &record("ex.foo-bar.baz", &text())),
            ("c.json", &record("ex.foo.bar.baz", &text())),
            ("d.json", &record("dead.letter.totals", &text())),
            ("e.json", &record("sqlite.foo.bar", &text())),
        ]);
        let expected = [
            "d.json: the collection dead.letter.totals would have the view dead_letter_totals, a name",
            "b.json and c.json: the collections ex.foo-bar.baz and ex.foo.bar.baz would both have",
            "a/prop.json: lexicon ex.foo.prop, defs.main.record.properties: startsAt and starts_at",
            "e.json: the collection sqlite.foo.bar would have the view sqlite_foo_bar, a name",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}");
        }
    }

    #[test]
    fn a_reference_to_a_definition_that_the_document_itself_lacks_is_not_to_be_fetched() {
        let found = problems(&[(
            "a.json",
            &record("com.example.a", &json!({"type": "ref", "ref": "#nodef"})),
        )]);
        assert_eq!(
            found,
            [
                "a.json: lexicon com.example.a, defs.main.record.properties.field: refers to \
              com.example.a#nodef, which no document defines; this document has no such definition"
            ]
        );
    }

    #[test]
    fn an_array_is_no_document_and_no_part_of_one() {
        let text = json!(["string"]);
        let record = record("com.example.b", &text);
        let body = json!({"lexicon": 1, "id": "com.example.c", "defs": {"main": {"type": "record",
            "key": "any", "record": ["object", {}]}}});
        let found = problems(&[
            ("a.json", r#" [1, "com.example.a", {}]"#),
            ("b.json", &record),
            ("c.json", &body.to_string()),
        ]);
        assert_eq!(
            found,
            [
                "a.json: not a lexicon document: it is no JSON object",
                "b.json: lexicon com.example.b, defs.main.record.properties.field: it is no JSON object",
                "c.json: lexicon com.example.c, defs.main.record: it is no JSON object",
            ]
        );
    }

    #[test]
    fn two_files_with_one_id_are_refused() {
        let (one, other) = (
            record("com.example.a", &text()),
            record("com.example.a", &json!({"type": "boolean"})),
        );
        let found = problems(&[("a.json", &one), ("b.json", &other)]);
        assert_eq!(found, ["b.json: defines com.example.a, and so does a.json"]);
    }

    #[test]
    fn a_document_takes_the_place_of_the_programs_unless_a_table_relies_on_it() {
        let strong_ref = json!({"lexicon": 1, "id": "com.atproto.repo.strongRef",
            "defs": {"main": {"type": "object", "properties": {}}}});
        let folder = folder(&[("ref.json", &strong_ref.to_string())]);
        let lexicons = Lexicons::load(Some(folder.path())).unwrap();
        let record = json!({"$type": "com.huddle.bookingRequest", "subject": {}, "status": "new",
            "createdAt": "2026-01-01T00:00:00Z"});
        let validation = lexicons
            .schemas
            .validate("com.huddle.bookingRequest", &record);
        assert_eq!(validation, Validation::Valid);

        let booking = record_of("com.huddle.booking");
        let found = problems(&[("booking.json", &booking)]);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("booking.json: com.huddle.booking is part of the program"));
        // The program has no document of this one.
        let profile = record_of("com.huddle.profile");
        let folder = self::folder(&[("profile.json", &profile)]);
        assert!(Lexicons::load(Some(folder.path())).is_ok());
    }

    fn record_of(id: &str) -> String {
        record(id, &text())
    }

    #[test]
    fn a_folder_that_is_missing_or_empty_and_a_file_that_is_too_long_are_problems() {
        let missing = Lexicons::load(Some(Path::new("no/such/folder"))).unwrap_err();
        assert!(
            missing
                .to_string()
                .contains("no/such/folder: cannot be read")
        );
        assert!(problems(&[])[0].ends_with("has no *.json in it, nor in a folder below it"));
        let long = format!(
            "{}{}",
            record("com.example.a", &text()),
            " ".repeat(1 << 20)
        );
        assert_eq!(
            problems(&[("a.json", &long)]),
            ["a.json: has more than 1048576 bytes"]
        );
    }

    #[cfg(unix)]
    #[test]
    fn links_to_files_are_followed_and_links_to_folders_are_not() {
        let folder = folder(&[("..data/a.json", &record("com.example.a", &text()))]);
        std::os::unix::fs::symlink("..data/a.json", folder.path().join("a.json")).unwrap();
        std::os::unix::fs::symlink(".", folder.path().join("circle")).unwrap();
        let lexicons = Lexicons::load(Some(folder.path())).unwrap();
        assert_eq!(lexicons.files.len(), 1);
    }

    #[test]
    fn without_a_folder_there_are_the_documents_of_the_program() {
        let lexicons = Lexicons::load(None).unwrap();
        assert!(lexicons.files.is_empty());
        assert_eq!(lexicons.schemas.collections().len(), 3);
    }
}
