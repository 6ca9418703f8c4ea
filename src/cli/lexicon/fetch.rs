//! `lexicon fetch`: writes published documents, and those that they refer to, into the folder of the
//! setting `lexicons`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;

use huddle_firehose::atproto::syntax::Nsid;
use huddle_firehose::config::Config;
use huddle_firehose::lexicon::{LexiconError, LexiconErrors, Lexicons};
use huddle_firehose::repo::published_lexicon::{Authorities, PublishedLexicon};
use huddle_firehose::telemetry::excerpt::shown;
use huddle_firehose::worker;

use crate::cli::{print, runtime};

/// The most documents that one call fetches: what a document refers to is in the hands of its author.
const MAX_FETCHED: usize = 100;

const UNCHANGED: &str = "unchanged";

/// A document that was fetched, and its file.
struct Fetched {
    nsid: Nsid,
    file: PathBuf,
    published: PublishedLexicon,
}

pub(super) fn execute(config: &Config, nsids: &[Nsid], is_update: bool) -> anyhow::Result<()> {
    let Some(folder) = &config.lexicons else {
        bail!("--lexicons (the setting lexicons) names the folder that documents are written to");
    };
    let authorities = worker::authorities(&config.into())?;
    let files = Lexicons::files_in(folder)?;
    let fetched = runtime()?.block_on(fetch_all(&authorities, folder, &files, nsids))?;
    let outcomes = fetched.iter().map(|document| outcome(document, is_update));
    let outcomes: Vec<&str> = outcomes.collect::<anyhow::Result<_>>()?;
    let mut text = String::new();
    // What a document refers to was fetched behind it, and is written before it.
    for (document, outcome) in fetched.iter().zip(outcomes).rev() {
        let Fetched {
            nsid,
            file,
            published,
        } = document;
        if outcome != UNCHANGED {
            write(file, &published.json)?;
        }
        text += &format!(
            "{nsid}\t{}\t{outcome}\t{} rev {} cid {}\n",
            file.display(),
            published.did,
            published.rev,
            published.cid
        );
    }
    Ok(print(&text)?)
}

/// Fetches `nsids`, and behind them what is missing then. Nothing is written before all of it is there.
async fn fetch_all(
    authorities: &Authorities,
    folder: &Path,
    files: &BTreeMap<Nsid, PathBuf>,
    nsids: &[Nsid],
) -> anyhow::Result<Vec<Fetched>> {
    let mut fetched = Vec::new();
    let mut wanted: BTreeSet<Nsid> = nsids.iter().cloned().collect();
    while !wanted.is_empty() {
        if fetched.len() + wanted.len() > MAX_FETCHED {
            bail!("the documents refer to each other, and need more than {MAX_FETCHED} documents");
        }
        for nsid in wanted {
            let published = authorities.fetch(&nsid).await;
            let published = published.with_context(|| format!("cannot fetch {nsid}"))?;
            let file = files.get(&nsid).cloned();
            let file = file.unwrap_or_else(|| file_of(folder, &nsid));
            fetched.push(Fetched {
                nsid,
                file,
                published,
            });
        }
        wanted = missing(folder, &fetched)?;
    }
    Ok(fetched)
}

/// The documents to which those of the folder refer, with the fetched ones, and that are not there.
///
/// # Errors
/// If they have another problem, which no further document solves.
fn missing(folder: &Path, fetched: &[Fetched]) -> Result<BTreeSet<Nsid>, LexiconErrors> {
    let added = fetched.iter().map(|document| {
        let file = document.file.clone();
        (
            document.nsid.clone(),
            (file, document.published.json.clone()),
        )
    });
    let Err(LexiconErrors(problems)) = Lexicons::load_with(folder, &added.collect()) else {
        return Ok(BTreeSet::new());
    };
    let missing: Option<BTreeSet<Nsid>> = problems
        .iter()
        .map(|problem| match problem {
            LexiconError::MissingRef { missing, .. } => Nsid::parse(missing)
                .ok()
                .filter(|nsid| fetched.iter().all(|document| document.nsid != *nsid)),
            _ => None,
        })
        .collect();
    missing.ok_or(LexiconErrors(problems))
}

/// `com/example/note.json` below the folder. The segments of an NSID are letters, digits and hyphens.
fn file_of(folder: &Path, nsid: &Nsid) -> PathBuf {
    let mut file = folder.to_owned();
    file.extend(nsid.as_str().split('.'));
    file.set_extension("json");
    file
}

/// What becomes of a file when a document is written to it.
///
/// # Errors
/// If it has another document, or another version of it and no update was asked for.
fn outcome(document: &Fetched, is_update: bool) -> anyhow::Result<&'static str> {
    let Fetched {
        nsid,
        file,
        published,
    } = document;
    let Ok(known) = fs::read_to_string(file) else {
        return Ok("new");
    };
    if let Some(id) = id_of(&known).filter(|id| id != nsid.as_str()) {
        bail!(
            "{} has the document of {}; move it to another file",
            file.display(),
            shown(&id)
        );
    }
    match (is_same(&known, &published.json), is_update) {
        (true, _) => Ok(UNCHANGED),
        (false, true) => Ok("updated"),
        (false, false) => bail!(
            "{} has another version of the document; --update replaces it",
            file.display()
        ),
    }
}

fn id_of(json: &str) -> Option<String> {
    let document: Value = serde_json::from_str(json).ok()?;
    document["id"].as_str().map(str::to_owned)
}

/// Whether two texts are the same document, whatever their form.
fn is_same(one: &str, other: &str) -> bool {
    let read = |text| {
        let mut value: Option<Value> = serde_json::from_str(text).ok();
        if let Some(Value::Object(object)) = &mut value {
            object.remove("$type");
        }
        value
    };
    read(one) == read(other)
}

/// Writes a document. Another process never reads half of it, and neither does one after a power loss.
fn write(file: &Path, json: &str) -> anyhow::Result<()> {
    let draft = file.with_extension("json.new");
    let folder = file.parent().unwrap_or(Path::new("."));
    let written = fs::create_dir_all(folder)
        .and_then(|()| File::create(&draft))
        .and_then(|mut file| {
            file.write_all(json.as_bytes())
                .and_then(|()| file.sync_all())
        })
        .and_then(|()| fs::rename(&draft, file));
    written.with_context(|| format!("cannot write {}", file.display()))
}
