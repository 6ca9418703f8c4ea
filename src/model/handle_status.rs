//! Whether a handle is its account's.

/// Whether a handle is its account's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HandleStatus {
    /// The account declares none, or its handle leads to no account or to another one.
    Invalid,
    /// It was not checked yet, or could not be.
    #[default]
    Unknown,
    /// The account declares it, and it leads to the account.
    Verified,
}

impl HandleStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Unknown => "unknown",
            Self::Verified => "verified",
        }
    }

    /// What is no status of this version counts as unknown.
    pub fn parse(text: &str) -> Self {
        match text {
            "invalid" => Self::Invalid,
            "verified" => Self::Verified,
            _ => Self::Unknown,
        }
    }
}
