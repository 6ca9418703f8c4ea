//! `doctor`: whether a worker with this configuration can do its work here, and what to do if not.

mod findings;
mod local;
mod network;

use anyhow::bail;

use huddle_firehose::config::check_lexicons;

use self::findings::{Finding, Findings};
use super::{Configuration, print, runtime};

pub(super) fn execute(configuration: &Configuration) -> anyhow::Result<()> {
    let loaded = configuration.load_without_lexicons()?;
    let mut findings = Findings::default();
    findings.add("configuration", Finding::good("it is valid"));
    for warning in &loaded.warnings {
        findings.add(
            "configuration",
            Finding::warning(warning, "if it is meant, nothing"),
        );
    }
    findings.add(
        "lexicons",
        match check_lexicons(&loaded) {
            Ok(lexicons) => Finding::good(format!(
                "{} documents besides those of the program, {} views",
                lexicons.files.len(),
                lexicons.views.len()
            )),
            Err(error) => Finding::fault(error, "correct the documents, or `lexicon fetch` them"),
        },
    );
    let config = &loaded.config;
    runtime()?.block_on(async {
        local::examine(config, &mut findings).await;
        network::examine(config, &mut findings).await;
    });
    print(&findings.told())?;
    match findings.faults() {
        0 => Ok(()),
        faults => bail!("{faults} faults; the lines that begin with FAULT say what to do"),
    }
}
