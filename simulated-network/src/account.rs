//! An account: its identity, its hosting status, and its repository.

use fastrand::Rng;

use crate::key::SigningKey;
use crate::repo::Repository;

const DID_ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const DID_LENGTH: usize = 24;

#[derive(Clone, Debug)]
pub struct Account {
    pub did: String,
    pub handle: String,
    /// `None` means active.
    pub status: Option<Status>,
    pub repo: Repository,
    /// The URL of the server that the account has moved to; `None` if it never moved.
    pub host: Option<String>,
}

/// Why an account is not active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Deactivated,
    Deleted,
    Suspended,
    Takendown,
}

impl Account {
    pub(crate) fn generate(number: usize, random: &mut Rng) -> Self {
        let suffix: String = (0..DID_LENGTH)
            .map(|_| char::from(DID_ALPHABET[random.usize(..DID_ALPHABET.len())]))
            .collect();
        let did = format!("did:plc:{suffix}");
        let key = SigningKey::generate(random);
        Self {
            repo: Repository::new(&did, key),
            did,
            handle: format!("user{number}.test"),
            status: None,
            host: None,
        }
    }

    pub fn is_active(&self) -> bool {
        self.status.is_none()
    }
}

impl Status {
    pub const ALL: [Self; 4] = [
        Self::Deactivated,
        Self::Deleted,
        Self::Suspended,
        Self::Takendown,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deactivated => "deactivated",
            Self::Deleted => "deleted",
            Self::Suspended => "suspended",
            Self::Takendown => "takendown",
        }
    }
}
