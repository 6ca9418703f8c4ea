//! How a backfill finds accounts.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::atproto::syntax::{Did, Nsid};
use crate::store::repo_store::Search;

/// How a backfill finds accounts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Discovering {
    /// The relay index says which accounts hold a collection
    #[default]
    Collections,
    /// All accounts that the relay index lists
    Repos,
    /// The accounts that dids_allow names
    Dids,
}

/// The configuration of the backfill.
#[derive(Clone, Debug)]
pub struct Backfill {
    /// Whether the configuration asks for a backfill.
    pub is_wanted: bool,
    pub discovery: Discovering,
    /// The server that is asked which repositories there are.
    pub relay_index: Url,
    /// The collections that can be searched for.
    pub collections: Vec<Nsid>,
    /// Wanted collections that cannot be searched for: patterns.
    pub unsearchable: Vec<String>,
    pub dids: Vec<Did>,
}

/// What a backfill does, for people.
#[derive(Debug, PartialEq, Eq)]
pub struct Summary {
    pub does: String,
    /// What it cannot do, and what to set.
    pub cannot: Option<String>,
}

impl Backfill {
    /// The searches that find the accounts.
    pub fn searches(&self) -> Vec<Search> {
        match self.discovery {
            Discovering::Collections => {
                let collections = self.collections.iter().cloned();
                collections.map(Search::Collection).collect()
            }
            Discovering::Repos => vec![Search::AllRepos],
            Discovering::Dids => vec![Search::AllowedDids],
        }
    }

    pub fn summary(&self) -> Summary {
        let relay_index = &self.relay_index;
        let does = match self.discovery {
            Discovering::Collections if self.collections.is_empty() => {
                "the backfill searches for nothing".to_owned()
            }
            Discovering::Collections => {
                let collections: Vec<&str> = self.collections.iter().map(Nsid::as_str).collect();
                format!(
                    "the backfill fetches the repositories that hold {}, as {relay_index} tells",
                    collections.join(", ")
                )
            }
            Discovering::Repos => {
                format!("the backfill fetches all repositories that {relay_index} lists")
            }
            Discovering::Dids => format!(
                "the backfill fetches the repositories of the {} accounts of dids_allow",
                self.dids.len()
            ),
        };
        let is_by_collection = self.discovery == Discovering::Collections;
        let is_incomplete = is_by_collection && !self.unsearchable.is_empty();
        let cannot = is_incomplete.then(|| {
            format!(
                "it cannot search for a pattern ({}): name the collections in full, or set \
                 backfill_discovery to repos (all repositories of directory_url are fetched) or to \
                 dids (those of dids_allow)",
                self.unsearchable.join(", ")
            )
        });
        Summary { does, cannot }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backfill(discovery: Discovering) -> Backfill {
        Backfill {
            is_wanted: true,
            discovery,
            relay_index: Url::parse("https://relay.example/").unwrap(),
            collections: Vec::new(),
            unsearchable: vec!["app.bsky.*".to_owned()],
            dids: vec![Did::parse("did:web:ann.example").unwrap()],
        }
    }

    #[test]
    fn what_a_search_by_collection_cannot_find_is_said_with_what_to_set() {
        let summary = backfill(Discovering::Collections).summary();
        assert_eq!(summary.does, "the backfill searches for nothing");
        let cannot = summary.cannot.unwrap();
        for word in ["app.bsky.*", "backfill_discovery", "repos", "dids"] {
            assert!(cannot.contains(word), "{cannot}");
        }
        assert!(backfill(Discovering::Collections).searches().is_empty());
    }

    #[test]
    fn patterns_are_found_among_all_repositories_and_among_named_accounts() {
        for (discovery, search) in [
            (Discovering::Repos, Search::AllRepos),
            (Discovering::Dids, Search::AllowedDids),
        ] {
            let backfill = backfill(discovery);
            assert_eq!(backfill.searches(), [search]);
            assert_eq!(backfill.summary().cannot, None);
        }
    }
}
