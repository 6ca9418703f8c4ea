//! Where a queue is, and where its dead letters go.

use std::fmt;

use url::Url;

use crate::sink::cloudflare::{Access, account_and_name, is_id};

/// The parameter that names the queue for dead letters.
const LETTERS: &str = "dead_letter_queue";

/// Where a queue is.
#[derive(Clone, PartialEq)]
pub struct QueueOptions {
    /// Where batches are posted to.
    pub(super) push: Url,
    pub(super) pull: Url,
    /// Where acks and retries are posted to.
    pub(super) settle: Url,
    /// Where the dead letters of `consume` are posted to.
    pub(super) letters: Option<Url>,
    pub(super) access: Access,
    /// The account and the queue: another queue has nothing of what this one got.
    pub(super) target: String,
    shown: String,
}

impl QueueOptions {
    /// Reads `url`: `cfqueue://ACCOUNT/QUEUE`.
    ///
    /// # Errors
    /// The reason, without anything secret in it.
    pub(crate) fn parse(url: &Url) -> Result<Self, String> {
        let (of_api, letters) = without_letters(url);
        let access = Access::parse(&of_api)?;
        let (account, queue) = account_and_name(url)?;
        let of = |queue: &str, what: &str| {
            let path = format!("/client/v4/accounts/{account}/queues/{queue}/messages{what}");
            let joined = access.origin.join(&path);
            joined.map_err(|error| error.to_string())
        };
        let letters = match letters {
            None => None,
            Some(letters) if letters == queue || !is_id(&letters) => {
                return Err(format!("{LETTERS} is the id of another queue"));
            }
            Some(letters) => Some(of(&letters, "")?),
        };
        Ok(Self {
            push: of(queue, "/batch")?,
            pull: of(queue, "/pull")?,
            settle: of(queue, "/ack")?,
            letters,
            target: format!("{account}/{queue}"),
            access,
            shown: url.to_string(),
        })
    }
}

/// The URL without that parameter, and what the parameter names.
fn without_letters(url: &Url) -> (Url, Option<String>) {
    let mut rest = url.clone();
    let mut letters = None;
    rest.query_pairs_mut().clear();
    for (name, value) in url.query_pairs() {
        match name == LETTERS {
            true => letters = Some(value.into_owned()),
            false => _ = rest.query_pairs_mut().append_pair(&name, &value),
        }
    }
    (rest, letters)
}

/// The URL, which has nothing secret.
impl fmt::Display for QueueOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for QueueOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_names_an_account_and_a_queue() {
        let parse = |url: &str| QueueOptions::parse(&Url::parse(url).unwrap());
        let options = parse("cfqueue://ab12/01ef?token_env=T").unwrap();
        assert_eq!(
            options.push.as_str(),
            "https://api.cloudflare.com/client/v4/accounts/ab12/queues/01ef/messages/batch"
        );
        assert_eq!(options.target, "ab12/01ef");
        assert_eq!(options.letters, None);
        let options = parse("cfqueue://ab12/01ef?dead_letter_queue=02&token_env=T").unwrap();
        assert_eq!(
            options.letters.unwrap().path(),
            "/client/v4/accounts/ab12/queues/02/messages"
        );
        for wrong in ["01ef", "0/2", ""] {
            assert!(parse(&format!("cfqueue://ab12/01ef?dead_letter_queue={wrong}")).is_err());
        }
        assert!(parse("cfqueue://ab12").is_err());
        assert!(parse("cfqueue://ab12/01ef?api=https://example.com").is_err());
    }
}
