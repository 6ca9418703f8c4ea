//! How a search finds repositories.

use crate::atproto::syntax::Nsid;

/// A search for repositories. The column `discoveries.collection` holds it as text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Search {
    /// All repositories that the relay index lists.
    AllRepos,
    /// The accounts that the setting `dids_allow` names.
    AllowedDids,
    /// The repositories that hold this collection.
    Collection(Nsid),
}

impl Search {
    pub fn as_str(&self) -> &str {
        match self {
            Self::AllRepos => "listRepos",
            Self::AllowedDids => "dids_allow",
            Self::Collection(nsid) => nsid.as_str(),
        }
    }

    /// The search that `text` is; `None` for the text of another version.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "listRepos" => Some(Self::AllRepos),
            "dids_allow" => Some(Self::AllowedDids),
            nsid => Nsid::parse(nsid).ok().map(Self::Collection),
        }
    }

    /// Whether both searches find accounts in the same way.
    pub fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_read_as_it_was_written() {
        let offers = Nsid::parse("com.huddle.slotOffer").unwrap();
        for search in [
            Search::AllRepos,
            Search::AllowedDids,
            Search::Collection(offers),
        ] {
            assert_eq!(Search::parse(search.as_str()), Some(search));
        }
        assert_eq!(Search::parse("another"), None);
    }
}
