//! `#account` and `#identity`, and the retired messages that they replace.

use super::Fault;
use crate::atproto::datetime::parse_datetime;
use crate::atproto::event::{Account, Identity};
use crate::atproto::payload::{About, AccountPayload, IdentityPayload};
use crate::atproto::syntax::Did;

pub(super) fn decode_account(payload: &[u8]) -> Result<Account, Fault> {
    let AccountPayload {
        about,
        active,
        status,
    } = AccountPayload::read(payload)?;
    Ok(Account {
        seq: about.seq,
        did: Did::parse(about.did)?,
        time: parse_datetime(about.time)?,
        active,
        status: status.map(str::to_owned),
    })
}

/// Decodes `#identity` and the retired `#handle`, which has the same fields.
pub(super) fn decode_identity(payload: &[u8]) -> Result<Identity, Fault> {
    let IdentityPayload { about, handle } = IdentityPayload::read(payload)?;
    Ok(Identity {
        seq: about.seq,
        did: Did::parse(about.did)?,
        time: parse_datetime(about.time)?,
        handle: handle.map(str::to_owned),
    })
}

/// Decodes the retired `#tombstone`: the account is deleted.
pub(super) fn decode_tombstone(payload: &[u8]) -> Result<Account, Fault> {
    let about = About::read(payload)?;
    Ok(Account {
        seq: about.seq,
        did: Did::parse(about.did)?,
        time: parse_datetime(about.time)?,
        active: false,
        status: Some("deleted".to_owned()),
    })
}
