//! Where a D1 database is, and how it is asked.

use std::fmt;

use url::Url;

use crate::sink::cloudflare::{Access, account_and_name, is_loopback};

/// The options of a D1 sink, as its URL has them.
#[derive(Clone, PartialEq)]
pub struct D1Options {
    /// Where batches are posted to.
    pub(super) endpoint: Url,
    pub(super) access: Access,
    shown: String,
}

impl D1Options {
    /// Reads `url`: `d1://ACCOUNT/DATABASE`, or `d1+https://` with the address of a gateway.
    ///
    /// # Errors
    /// The reason, without anything secret in it.
    pub(crate) fn parse(url: &Url) -> Result<Self, String> {
        let access = Access::parse(url)?;
        let endpoint = match url.as_str().strip_prefix("d1+") {
            Some(gateway) => gateway_of(gateway)?,
            None => {
                let (account, database) = account_and_name(url)?;
                let path = format!("/client/v4/accounts/{account}/d1/database/{database}/query");
                access
                    .origin
                    .join(&path)
                    .map_err(|error| error.to_string())?
            }
        };
        Ok(Self {
            endpoint,
            access,
            shown: url.to_string(),
        })
    }
}

fn gateway_of(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| error.to_string())?;
    if url.query_pairs().any(|(name, _)| name == "api") {
        return Err("api: a gateway is its own address".to_owned());
    }
    // The token would go over the network as it is.
    if url.scheme() != "https" && !is_loopback(&url) {
        return Err("d1+http is for this machine; use d1+https".to_owned());
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

/// The URL, which has nothing secret.
impl fmt::Display for D1Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for D1Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Result<String, String> {
        let options = D1Options::parse(&Url::parse(url).unwrap())?;
        Ok(options.endpoint.to_string())
    }

    #[test]
    fn the_url_names_a_database_or_a_gateway() {
        for (url, expected) in [
            (
                "d1://ab12/01-ef?token_env=T",
                "https://api.cloudflare.com/client/v4/accounts/ab12/d1/database/01-ef/query",
            ),
            (
                "d1://a/b?api=http://127.0.0.1:9",
                "http://127.0.0.1:9/client/v4/accounts/a/d1/database/b/query",
            ),
            (
                "d1+https://gate.example/one?token_env=T",
                "https://gate.example/one",
            ),
            (
                "d1+http://127.0.0.1:9?request_interval_ms=0",
                "http://127.0.0.1:9/",
            ),
        ] {
            assert_eq!(endpoint(url).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn a_token_is_not_sent_in_the_clear_over_a_network() {
        assert!(endpoint("d1+http://gate.example").is_err());
        assert!(endpoint("d1+http://10.0.0.1").is_err());
        assert!(endpoint("d1+https://gate.example?api=http://127.0.0.1").is_err());
    }
}
