//! Decides whether a redirect is followed. Pure, without I/O.

use url::Url;

use crate::model::with_cursor;

/// The most redirects of one request.
const MAX_REDIRECTS: usize = 5;

/// A redirect that is not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    #[error("redirected from TLS to plain text, to {0}")]
    Downgrade(String),

    #[error("redirected to {0:?}, which is not a usable URL")]
    InvalidLocation(String),

    #[error("redirected in a loop, again to {0}")]
    Loop(String),

    #[error("redirected from a public address to a private one, {0}")]
    PrivateAddress(String),

    #[error("redirected more than {0} times")]
    TooMany(usize),
}

/// The URLs that one dial or request has visited, the latest last.
#[derive(Debug)]
pub(crate) struct Route {
    visited: Vec<Url>,
}

impl Route {
    pub(crate) fn from(start: &Url) -> Self {
        Self {
            visited: vec![without_cursor(start)],
        }
    }

    /// Returns the target of a redirect with `location`, received from `current`; `location` may be
    /// relative. The target of a WebSocket URL is made a WebSocket URL. A cursor in the URL is
    /// dropped, because each dial adds its own.
    ///
    /// # Errors
    /// If the target is not a URL of a server, if it leads from TLS to plain text, if it was
    /// visited before, or if there were too many redirects.
    pub(crate) fn follow(&mut self, current: &Url, location: &str) -> Result<Url, RedirectError> {
        let next = resolve(current, location)
            .ok_or_else(|| RedirectError::InvalidLocation(location.chars().take(256).collect()))?;
        if is_encrypted(current) && !is_encrypted(&next) {
            return Err(RedirectError::Downgrade(next.into()));
        }
        if self.visited.contains(&next) {
            return Err(RedirectError::Loop(next.into()));
        }
        if self.visited.len() > MAX_REDIRECTS {
            return Err(RedirectError::TooMany(MAX_REDIRECTS));
        }
        self.visited.push(next.clone());
        Ok(next)
    }
}

fn resolve(current: &Url, location: &str) -> Option<Url> {
    let mut next = current.join(location).ok()?;
    let (plain, encrypted) = if is_websocket(current) {
        ("ws", "wss")
    } else {
        ("http", "https")
    };
    let scheme = match next.scheme() {
        "http" | "ws" => plain,
        "https" | "wss" => encrypted,
        _ => return None,
    };
    next.set_scheme(scheme).ok()?;
    next.set_fragment(None);
    next.has_host().then(|| without_cursor(&next))
}

fn is_websocket(url: &Url) -> bool {
    matches!(url.scheme(), "ws" | "wss")
}

fn is_encrypted(url: &Url) -> bool {
    matches!(url.scheme(), "https" | "wss")
}

/// Removes the cursor of a WebSocket URL. In other URLs, `cursor` may have another meaning.
fn without_cursor(url: &Url) -> Url {
    if is_websocket(url) {
        with_cursor(url, None)
    } else {
        url.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(start: &str, location: &str) -> Result<String, RedirectError> {
        let start = Url::parse(start).unwrap();
        Route::from(&start)
            .follow(&start, location)
            .map(String::from)
    }

    #[test]
    fn http_schemes_become_websocket_schemes() {
        let start = "ws://a.example/s";
        assert_eq!(
            follow(start, "http://b.example/s").unwrap(),
            "ws://b.example/s"
        );
        assert_eq!(
            follow(start, "https://b.example/s").unwrap(),
            "wss://b.example/s"
        );
    }

    #[test]
    fn a_request_stays_a_request_and_keeps_its_query() {
        let start = "https://a.example/s?cursor=1";
        assert_eq!(
            follow(start, "https://b.example/s?cursor=1").unwrap(),
            "https://b.example/s?cursor=1"
        );
        let refused = follow(start, "http://b.example/s");
        assert!(matches!(refused, Err(RedirectError::Downgrade(_))));
        let looped = follow(start, "?cursor=1#again");
        assert!(matches!(looped, Err(RedirectError::Loop(_))));
    }

    #[test]
    fn a_relative_location_stays_on_the_host() {
        assert_eq!(
            follow("wss://a.example/s", "/t?x=1#f").unwrap(),
            "wss://a.example/t?x=1"
        );
    }

    #[test]
    fn a_redirect_from_tls_to_plain_text_is_refused() {
        let refused = follow("wss://a.example/s", "http://a.example/s");
        assert!(matches!(refused, Err(RedirectError::Downgrade(_))));
    }

    #[test]
    fn other_schemes_are_refused() {
        for location in ["ftp://a.example/", "file:///etc/passwd", "data:,x"] {
            let refused = follow("ws://a.example/s", location);
            assert!(
                matches!(refused, Err(RedirectError::InvalidLocation(_))),
                "{location}"
            );
        }
    }

    #[test]
    fn a_loop_is_noticed() {
        let start = Url::parse("ws://a.example/s").unwrap();
        let mut route = Route::from(&start);
        let next = route.follow(&start, "/t").unwrap();
        assert!(matches!(
            route.follow(&next, "/s"),
            Err(RedirectError::Loop(_))
        ));
    }

    #[test]
    fn a_loop_that_echoes_the_cursor_is_noticed() {
        let start = Url::parse("ws://a.example/s?cursor=1").unwrap();
        let looped = Route::from(&start).follow(&start, "/s?cursor=7");
        assert!(matches!(looped, Err(RedirectError::Loop(_))));
    }

    #[test]
    fn a_route_ends_after_five_redirects() {
        let mut at = Url::parse("ws://a.example/0").unwrap();
        let mut route = Route::from(&at);
        for hop in 1..=5 {
            at = route.follow(&at, &format!("/{hop}")).unwrap();
        }
        assert_eq!(route.follow(&at, "/6"), Err(RedirectError::TooMany(5)));
    }
}
