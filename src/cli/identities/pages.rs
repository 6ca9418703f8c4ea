//! Reads an export from a directory, a page at a time. The position is the `after` of the next page: a
//! sequence number, or in directories without them the time of an operation.

use std::time::Duration;

use anyhow::{Context, anyhow};
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep, sleep_until};
use url::Url;

use huddle_firehose::config::Config;
use huddle_firehose::net::http_client::{FetchError, Fetcher, NamedBy};

use super::{Importing, parse};

/// The most lines of a page that the directory gives.
const PAGE_LINES: &str = "1000";
const MOST_PAGE_BYTES: usize = 64 << 20;
const PAGE_DEADLINE: Duration = Duration::from_secs(60);
/// Where a directory begins: before its first sequence number, and read as a time before its first
/// operation.
const BEGINNING: &str = "0";

/// Pages a second, unless the operator has set the rate of requests to the directory.
const COURTESY_PER_SECOND: u32 = 2;
const ATTEMPTS: u32 = 6;
const RETRY_MIN: Duration = Duration::from_secs(1);

/// Where an export has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Seq(u64),
    Time(Timestamp),
}

/// The URL of the export of the directory at `url`, which may be that of the export already.
pub(super) fn export_url(url: &Url) -> Url {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/').to_owned();
    match path.ends_with("/export") {
        true => url.set_path(&path),
        false => url.set_path(&format!("{path}/export")),
    }
    url
}

pub(super) async fn read(
    importing: &mut Importing,
    url: &Url,
    config: &Config,
) -> anyhow::Result<()> {
    let fetcher = Fetcher::new(config.allow_private_addresses)?;
    let per_second = config
        .plc_requests_per_second
        .unwrap_or(COURTESY_PER_SECOND);
    let interval = Duration::from_secs(1) / per_second;
    let mut after = match importing.progress.position.as_str() {
        "" => BEGINNING.to_owned(),
        position => position.to_owned(),
    };
    let mut last = None;
    loop {
        let next_page = Instant::now() + interval;
        let page_url = page_url(&export_url(url), &after);
        let page = fetch(&fetcher, &page_url).await?;
        let mark = take(importing, &page, &page_url)?;
        match next(last, mark, &after) {
            Some(next) => after = next,
            None => return importing.save(after).await,
        }
        last = mark;
        importing.save(after.clone()).await?;
        sleep_until(next_page).await;
    }
}

/// The `after` of the next page; `None` if `page` was the last. Several operations may have the same
/// time, and a directory gives those after a time. So the time of the last one is asked for again,
/// until that brings nothing new.
fn next(last: Option<Mark>, page: Option<Mark>, after: &str) -> Option<String> {
    match page? {
        Mark::Seq(seq) => {
            let next = seq.to_string();
            (next != after).then_some(next)
        }
        Mark::Time(time) if last == page => {
            let next = text(time);
            (next != after).then_some(next)
        }
        Mark::Time(time) => Some(text(time - SignedDuration::from_millis(1))),
    }
}

fn text(time: Timestamp) -> String {
    format!("{time:.3}")
}

/// Takes the lines of a page, and returns where it ends; `None` if it has no line.
fn take(importing: &mut Importing, page: &str, url: &Url) -> anyhow::Result<Option<Mark>> {
    let mut mark = None;
    for (index, text) in page.lines().enumerate() {
        if text.trim().is_empty() {
            continue;
        }
        let line = parse(text, || format!("{url}, line {}", index + 1))?;
        mark = Some(line.seq.map_or(Mark::Time(line.created_at), Mark::Seq));
        importing.take(line);
    }
    Ok(mark)
}

fn page_url(export: &Url, after: &str) -> Url {
    let mut url = export.clone();
    url.query_pairs_mut()
        .append_pair("count", PAGE_LINES)
        .append_pair("after", after);
    url
}

/// Asks for a page, a few times if it does not come.
async fn fetch(fetcher: &Fetcher, url: &Url) -> anyhow::Result<String> {
    let mut attempt = 0;
    loop {
        let page = fetcher.get_whole(url, NamedBy::Operator, MOST_PAGE_BYTES, PAGE_DEADLINE);
        let error = match page.await {
            Ok(page) => {
                let page = String::from_utf8(page.into());
                return page.with_context(|| format!("{url}: not text"));
            }
            Err(error) => error,
        };
        attempt += 1;
        if attempt == ATTEMPTS || is_final(&error) {
            return Err(anyhow!(
                "{url}: {error}; run the import again to go on from there"
            ));
        }
        let wait = (RETRY_MIN * (1 << attempt)).max(asked_for(&error));
        tracing::warn!(
            %url,
            %error,
            retry_in_s = wait.as_secs(),
            "a page of the export did not come; it is asked for again"
        );
        sleep(wait).await;
    }
}

fn asked_for(error: &FetchError) -> Duration {
    match error {
        FetchError::Status { retry_after, .. } => retry_after.unwrap_or_default(),
        _ => Duration::ZERO,
    }
}

/// Whether another attempt would bring the same.
fn is_final(error: &FetchError) -> bool {
    match error {
        FetchError::Status { status, .. } => (400..500).contains(status) && *status != 429,
        FetchError::PrivateAddress(_)
        | FetchError::Redirect(_)
        | FetchError::Compressed(_)
        | FetchError::TooLarge { .. } => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_a_directory_and_that_of_its_export_are_the_same() {
        for (url, export) in [
            ("https://plc.directory", "https://plc.directory/export"),
            ("https://plc.directory/", "https://plc.directory/export"),
            (
                "https://plc.directory/export?after=5",
                "https://plc.directory/export",
            ),
            ("http://[::1]:80/mirror/", "http://[::1]/mirror/export"),
        ] {
            assert_eq!(export_url(&url.parse().unwrap()).as_str(), export);
        }
    }

    #[test]
    fn a_page_with_sequence_numbers_is_followed_by_those_after_them() {
        assert_eq!(next(None, Some(Mark::Seq(7)), "0").as_deref(), Some("7"));
        assert_eq!(next(Some(Mark::Seq(7)), None, "7"), None);
        // A directory that gives the same page for ever.
        assert_eq!(next(Some(Mark::Seq(7)), Some(Mark::Seq(7)), "7"), None);
    }

    #[test]
    fn operations_of_one_time_are_asked_for_again_until_there_is_no_other() {
        let time = |text: &str| Some(Mark::Time(text.parse().unwrap()));
        let first = time("2026-01-01T00:00:00.005Z");
        let again = "2026-01-01T00:00:00.004Z";
        assert_eq!(next(None, first, "0").as_deref(), Some(again));
        let exactly = "2026-01-01T00:00:00.005Z";
        assert_eq!(next(first, first, again).as_deref(), Some(exactly));
        assert_eq!(next(first, None, exactly), None);
        assert_eq!(next(first, first, exactly), None);
        let second = time("2026-01-01T00:00:01Z");
        let before = "2026-01-01T00:00:00.999Z";
        assert_eq!(next(first, second, exactly).as_deref(), Some(before));
    }
}
