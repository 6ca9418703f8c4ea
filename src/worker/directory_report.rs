//! Says in the log when the PLC directory stops to give usable answers, and when it gives some again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::telemetry::status::DirectoryFailure;

/// What the log was told of the directory. It outlives the actor that writes the lines, so what an
/// actor did not come to say, its successor says.
#[derive(Debug, Default)]
pub struct DirectoryReport(Mutex<Option<Incident>>);

/// A failure of the directory whose end was not told.
#[derive(Debug)]
struct Incident {
    failure: DirectoryFailure,
    is_told: bool,
}

/// What the log has to tell of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    Failing(DirectoryFailure),
    /// It works again after this failure.
    Working(DirectoryFailure),
}

impl DirectoryReport {
    /// What the log lacks, if the directory has this failure now. It stays news until
    /// [`Self::tell`], also when the failure ends before.
    pub(super) fn news(&self, now: Option<DirectoryFailure>) -> Option<News> {
        let mut incident = self.incident();
        let known = incident.as_ref();
        let known = known.map(|incident| (incident.failure.clone(), incident.is_told));
        match (known, now) {
            (Some((failure, false)), _) => Some(News::Failing(failure)),
            (Some((failure, true)), Some(now)) if failure.at == now.at => None,
            (Some((failure, true)), None) => Some(News::Working(failure)),
            (_, Some(now)) => {
                *incident = Some(Incident {
                    failure: now.clone(),
                    is_told: false,
                });
                Some(News::Failing(now))
            }
            (None, None) => None,
        }
    }

    /// Writes `news` to the log. `parked_commits` wait for a key.
    pub(super) fn tell(&self, news: News, parked_commits: u64) {
        match &news {
            News::Failing(failure) => tracing::error!(
                directory = failure.directory,
                since = %failure.at,
                reason = failure.reason,
                parked_commits,
                "the PLC directory gives no usable answer for any DID; commits whose keys are not \
                 known stay parked, the worker is not ready, and the directory is asked now and then \
                 until it answers"
            ),
            News::Working(failure) => tracing::info!(
                directory = failure.directory,
                failed_since = %failure.at,
                "the PLC directory gives usable answers again; parked commits are verified next"
            ),
        }
        *self.incident() = match news {
            News::Failing(failure) => Some(Incident {
                failure,
                is_told: true,
            }),
            News::Working(_) => None,
        };
    }

    fn incident(&self) -> MutexGuard<'_, Option<Incident>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn failure(at: i64) -> DirectoryFailure {
        DirectoryFailure {
            directory: "https://plc.example/".to_owned(),
            at: Timestamp::from_second(at).unwrap(),
            reason: "HTTP 503".to_owned(),
        }
    }

    /// Holds invariant 12.9.
    #[test]
    fn a_failure_of_the_directory_is_news_until_it_was_told_and_then_no_more() {
        let report = DirectoryReport::default();
        assert_eq!(report.news(None), None);
        // The actor died before it wrote the line. The failure may be over when its successor looks.
        for now in [Some(failure(1)), Some(failure(1)), None, Some(failure(2))] {
            assert_eq!(report.news(now), Some(News::Failing(failure(1))));
        }
        report.tell(News::Failing(failure(1)), 0);
        let reason = "HTTP 500".to_owned();
        let later = DirectoryFailure {
            reason,
            ..failure(1)
        };
        assert_eq!(report.news(Some(later)), None);

        assert_eq!(report.news(None), Some(News::Working(failure(1))));
        // It has worked for a moment, and no look came in between.
        let news = report.news(Some(failure(2)));
        assert_eq!(news, Some(News::Failing(failure(2))));
        report.tell(News::Failing(failure(2)), 0);
        let news = report.news(None);
        assert_eq!(news, Some(News::Working(failure(2))));
        report.tell(News::Working(failure(2)), 0);
        assert_eq!(report.news(None), None);
    }
}
