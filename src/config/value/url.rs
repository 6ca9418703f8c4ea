//! The URLs of the source, the PLC directory, the relay index and the database.

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use url::Url;

/// The path of a source URL that has none.
const SUBSCRIBE_REPOS: &str = "/xrpc/com.atproto.sync.subscribeRepos";

pub(in crate::config) fn source_url<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Url, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_source_url(&text).map_err(D::Error::custom)
}

fn parse_source_url(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| format!("{text:?} is not a URL: {error}"))?;
    let scheme = match url.scheme() {
        "http" | "ws" => "ws",
        "https" | "wss" => "wss",
        other => {
            return Err(format!(
                "the scheme {other:?} is not ws, wss, http or https"
            ));
        }
    };
    if url.set_scheme(scheme).is_err() {
        return Err(format!("{text:?} cannot be used with {scheme}"));
    }
    refuse_credentials(&url)?;
    if url.query_pairs().any(|(name, _)| name == "cursor") {
        return Err(
            "the query has a cursor; the cursor is kept in the database (see `cursor set`)".into(),
        );
    }
    if url.path() == "/" {
        url.set_path(SUBSCRIBE_REPOS);
    }
    url.set_fragment(None);
    Ok(url)
}

pub(in crate::config) fn plc_url<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Url, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_plc_url(&text).map_err(D::Error::custom)
}

pub(in crate::config) fn directory_url<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Url>, D::Error> {
    plc_url(deserializer).map(Some)
}

fn parse_plc_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{text:?} is not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!(
            "the scheme {:?} is not https or http",
            url.scheme()
        ));
    }
    refuse_credentials(&url)?;
    Ok(url)
}

/// URLs are logged, and the source URL is stored with its cursor.
fn refuse_credentials(url: &Url) -> Result<(), String> {
    if url.username().is_empty() && url.password().is_none() {
        Ok(())
    } else {
        Err("a user name or password in the URL would appear in the log".into())
    }
}

pub(in crate::config) fn database_url<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_database_url(&text).map_err(D::Error::custom)
}

/// The URL of the database that `text` names: a path, or a URL that begins with `sqlite:`.
fn parse_database_url(text: &str) -> Result<String, String> {
    if text.starts_with("sqlite:") {
        check_database_url(text)?;
        return Ok(text.to_owned());
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(format!(
            "{scheme}: is not a database of this program; name a path, or sqlite://PATH"
        ));
    }
    // In a URL, these two would end the path or begin an escape.
    let path = text.replace('%', "%25").replace('?', "%3f");
    let url = format!("sqlite://{path}");
    check_database_url(&url)?;
    Ok(url)
}

fn check_database_url(url: &str) -> Result<(), String> {
    let rest = url.strip_prefix("sqlite:").unwrap_or(url);
    let path = rest.strip_prefix("//").unwrap_or(rest);
    let path = path.split('?').next().unwrap_or_default();
    if path.is_empty() {
        return Err("names no file; an example is sqlite://huddle.db".into());
    }
    if path == ":memory:" || rest.contains("mode=memory") {
        return Err("a database in memory would lose the cursor; name a file".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{parse_database_url, parse_plc_url, parse_source_url};

    fn source(text: &str) -> String {
        parse_source_url(text).map_or_else(|error| error, |url| url.to_string())
    }

    #[test]
    fn a_source_url_without_a_path_gets_that_of_subscribe_repos() {
        let whole = "wss://pds.example/xrpc/com.atproto.sync.subscribeRepos";
        assert_eq!(source("wss://pds.example"), whole);
        assert_eq!(source("https://pds.example/"), whole);
        assert_eq!(
            source("http://127.0.0.1:2583"),
            "ws://127.0.0.1:2583/xrpc/com.atproto.sync.subscribeRepos"
        );
    }

    #[test]
    fn a_source_url_with_a_path_stays_unchanged() {
        let jetstream = "wss://jetstream.example/subscribe?compress=true";
        assert_eq!(source(jetstream), jetstream);
    }

    #[test]
    fn an_unusable_source_url_is_refused() {
        assert!(source("bsky.network").contains("is not a URL"));
        assert!(source("ftp://bsky.network").contains("\"ftp\""));
        assert!(source("wss://a:b@bsky.network").contains("password"));
        assert!(source("wss://bsky.network/?cursor=5").contains("cursor"));
    }

    #[test]
    fn the_plc_directory_speaks_http() {
        assert!(parse_plc_url("https://plc.directory").is_ok());
        assert!(parse_plc_url("wss://plc.directory").is_err());
    }

    #[test]
    fn the_database_must_be_a_sqlite_file() {
        for right in [
            "sqlite://huddle.db",
            "sqlite:a.db?mode=rwc",
            "sqlite:///var/lib/h.db",
        ] {
            assert_eq!(parse_database_url(right), Ok(right.to_owned()));
        }
        for (path, url) in [
            ("huddle.db", "sqlite://huddle.db"),
            ("/var/lib/h 1.db", "sqlite:///var/lib/h 1.db"),
            ("100%?.db", "sqlite://100%25%3f.db"),
        ] {
            assert_eq!(parse_database_url(path), Ok(url.to_owned()));
        }
        for wrong in [
            "postgres://localhost/huddle",
            "sqlite://",
            "sqlite::memory:",
            "sqlite://a?mode=memory",
            ":memory:",
            "",
        ] {
            assert!(parse_database_url(wrong).is_err(), "{wrong}");
        }
    }
}
