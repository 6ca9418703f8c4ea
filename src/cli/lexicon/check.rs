//! `lexicon check`: lists the documents, all of which are valid.

use std::path::Path;

use anyhow::bail;

use huddle_firehose::atproto::syntax::Nsid;
use huddle_firehose::lexicon::Lexicons;

/// One line for each document of the operator, or for `only`.
pub(super) fn list(lexicons: &Lexicons, only: Option<&Nsid>) -> anyhow::Result<String> {
    if let Some(only) = only {
        return match lexicons.files.get(only) {
            Some(file) => Ok(line(lexicons, only, file)),
            None => bail!("no document of the folder has the id {only}"),
        };
    }
    let mut text = String::new();
    for (id, file) in &lexicons.files {
        text += &line(lexicons, id, file);
    }
    text += &format!(
        "{} documents are valid, besides those of the program; {} views\n",
        lexicons.files.len(),
        lexicons.views.len()
    );
    Ok(text)
}

fn line(lexicons: &Lexicons, id: &Nsid, file: &Path) -> String {
    let view = lexicons.views.iter().find(|view| view.collection == *id);
    let holds = view.map_or_else(
        || "definitions".to_owned(),
        |view| format!("view {}, {} columns", view.name, view.columns.len()),
    );
    format!("{id}\t{}\t{holds}\n", file.display())
}
