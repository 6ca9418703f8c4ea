//! `#account` and `#identity`, and the retired messages that they replace.

use serde::Deserialize;

use super::Fault;
use crate::atproto::datetime::parse_datetime;
use crate::atproto::event::{Account, Identity};
use crate::atproto::syntax::Did;

pub(super) fn decode_account(payload: &[u8]) -> Result<Account, Fault> {
    #[derive(Deserialize)]
    struct Payload<'a> {
        seq: u64,
        did: &'a str,
        time: &'a str,
        active: bool,
        status: Option<String>,
    }
    let payload: Payload<'_> = serde_ipld_dagcbor::from_slice(payload)?;
    Ok(Account {
        seq: payload.seq,
        did: Did::parse(payload.did)?,
        time: parse_datetime(payload.time)?,
        active: payload.active,
        status: payload.status,
    })
}

/// Decodes `#identity` and the retired `#handle`, which has the same fields.
pub(super) fn decode_identity(payload: &[u8]) -> Result<Identity, Fault> {
    #[derive(Deserialize)]
    struct Payload<'a> {
        seq: u64,
        did: &'a str,
        time: &'a str,
        handle: Option<String>,
    }
    let payload: Payload<'_> = serde_ipld_dagcbor::from_slice(payload)?;
    Ok(Identity {
        seq: payload.seq,
        did: Did::parse(payload.did)?,
        time: parse_datetime(payload.time)?,
        handle: payload.handle,
    })
}

/// Decodes the retired `#tombstone`: the account is deleted.
pub(super) fn decode_tombstone(payload: &[u8]) -> Result<Account, Fault> {
    #[derive(Deserialize)]
    struct Payload<'a> {
        seq: u64,
        did: &'a str,
        time: &'a str,
    }
    let payload: Payload<'_> = serde_ipld_dagcbor::from_slice(payload)?;
    Ok(Account {
        seq: payload.seq,
        did: Did::parse(payload.did)?,
        time: parse_datetime(payload.time)?,
        active: false,
        status: Some("deleted".to_owned()),
    })
}
