//! What a look at something has found.

use std::fmt::Display;

use huddle_firehose::telemetry::excerpt::shown_lines;

/// What was found of each subject, in the order in which it was looked at.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<(&'static str, Finding)>);

/// What was found.
#[derive(Debug)]
pub(super) struct Finding {
    kind: Kind,
    text: String,
    /// What to do about it.
    advice: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fault,
    Good,
    Warning,
}

impl Finding {
    pub(super) fn good(text: impl Display) -> Self {
        Self::of(Kind::Good, text, "")
    }

    /// The worker runs all the same.
    pub(super) fn warning(text: impl Display, advice: &'static str) -> Self {
        Self::of(Kind::Warning, text, advice)
    }

    pub(super) fn fault(text: impl Display, advice: &'static str) -> Self {
        Self::of(Kind::Fault, text, advice)
    }

    fn of(kind: Kind, text: impl Display, advice: &'static str) -> Self {
        Self {
            kind,
            text: shown_lines(&text.to_string()),
            advice,
        }
    }
}

impl Findings {
    pub(super) fn add(&mut self, subject: &'static str, finding: Finding) {
        self.0.push((subject, finding));
    }

    pub(super) fn faults(&self) -> usize {
        let kinds = self.0.iter().map(|(_, finding)| finding.kind);
        kinds.filter(|kind| *kind == Kind::Fault).count()
    }

    /// A line for each, and one for what to do.
    pub(super) fn told(&self) -> String {
        let mut told = String::new();
        for (subject, Finding { kind, text, advice }) in &self.0 {
            let kind = match kind {
                Kind::Fault => "FAULT",
                Kind::Good => "ok",
                Kind::Warning => "warning",
            };
            told += &format!("{kind:<8}{subject}: {text}\n");
            if !advice.is_empty() {
                told += &format!("        to do: {advice}\n");
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_and_warning_says_what_to_do() {
        let mut findings = Findings::default();
        findings.add("clock", Finding::good("it is right"));
        findings.add("disk", Finding::warning("little is left", "make room"));
        findings.add("source", Finding::fault("no answer", "start it"));
        assert_eq!(findings.faults(), 1);
        assert_eq!(
            findings.told(),
            "ok      clock: it is right\nwarning disk: little is left\n        to do: make room\n\
             FAULT   source: no answer\n        to do: start it\n"
        );
    }
}
