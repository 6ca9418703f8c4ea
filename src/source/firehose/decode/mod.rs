//! Decodes raw frames to events. Commits without a wanted record are decoded only as far as their
//! envelope.

mod account;
mod commit;
mod error;
#[cfg(test)]
mod key_order;
#[cfg(test)]
mod properties;
#[cfg(test)]
pub(crate) mod sample;

pub use error::{CommitFault, DecodeError, Fault};

use crate::atproto::event::{Event, Info};
use crate::atproto::payload::InfoPayload;
use crate::atproto::signed_commit::SignedCommit;
use crate::atproto::skim::{Envelope, Kind, SEQS, Skim, SkimFault, skim, unchecked_did};
use crate::atproto::verify::{CommitEvidence, SyncEvidence};
use crate::delivery::segment::RawPosition;
use crate::source::interest::Interest;

/// The longest frame that is decoded, in bytes. The reference relay has the same limit.
pub const MAX_FRAME: usize = 5_000_000;

/// The content of a frame, and its position in the stream.
#[derive(Debug)]
pub struct Decoded<'a> {
    pub content: Content<'a>,
    /// The evidence of a commit, or of a `#sync` of a tracked repository, if `interest` asks for
    /// evidence.
    pub evidence: Option<Evidence>,
    /// `None` for an error frame and for an unknown frame.
    pub kind: Option<Kind>,
    /// Present in every message but `#info`, and always in the valid range.
    pub seq: Option<u64>,
    time: Option<&'a str>,
}

impl<'a> Decoded<'a> {
    /// The position of the frame in its source, if it has one.
    pub fn raw_position(&self) -> Option<RawPosition<'a>> {
        Some(RawPosition {
            seq: self.seq?,
            time: self.time,
        })
    }
}

/// The evidence for what an event says about its repository. The signature is not checked yet.
#[derive(Debug)]
pub enum Evidence {
    Commit(Box<CommitEvidence>),
    Sync(Box<SyncEvidence>),
}

impl Evidence {
    /// The commit that the repository is said to be at.
    pub fn commit(&self) -> &SignedCommit {
        match self {
            Self::Commit(evidence) => &evidence.commit,
            Self::Sync(evidence) => &evidence.commit,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Content<'a> {
    /// An error frame: the server is about to end this stream and close the connection.
    Error {
        name: &'a str,
        message: Option<&'a str>,
    },
    Event(Event),
    /// An `op` or a type (`t`) that this worker does not know.
    Unknown {
        op: i64,
        t: Option<&'a str>,
    },
    /// A commit without a wanted record, of a repository that is not tracked. Only its envelope was
    /// read.
    Unwanted,
}

/// Decodes one frame, as far as `interest` requires. Deterministic: the same bytes and the same
/// interest give the same result.
///
/// # Errors
/// If the frame as a whole cannot be read or is not valid. A single invalid operation becomes
/// [`Change::Broken`](crate::atproto::event::Change::Broken) instead, and does not affect the other
/// operations of the commit.
pub fn decode<'a>(frame: &'a [u8], interest: &Interest) -> Result<Decoded<'a>, DecodeError> {
    if let Err(fault) = at_most("frame", frame.len(), MAX_FRAME, "bytes") {
        return Err(DecodeError {
            kind: None,
            seq: None,
            did: None,
            fault,
        });
    }
    let decoded = match skim(frame) {
        Err(error) => {
            return Err(DecodeError {
                kind: error.kind,
                seq: error.seq,
                did: error.did,
                fault: error.fault.into(),
            });
        }
        Ok(Skim::Error { name, message }) => Decoded {
            content: Content::Error { name, message },
            evidence: None,
            kind: None,
            seq: None,
            time: None,
        },
        Ok(Skim::Unknown(unknown)) => Decoded {
            content: Content::Unknown {
                op: unknown.op,
                t: unknown.t,
            },
            evidence: None,
            kind: None,
            seq: unknown.seq.filter(|seq| SEQS.contains(seq)),
            time: None,
        },
        Ok(Skim::Message(envelope)) => {
            let (content, evidence) =
                decode_message(frame, &envelope, interest).map_err(|fault| DecodeError {
                    kind: Some(envelope.kind),
                    seq: envelope.seq,
                    did: envelope.did.map(unchecked_did),
                    fault,
                })?;
            Decoded {
                content,
                evidence,
                kind: Some(envelope.kind),
                // An #info is about the stream; its seq, if any, is not a position in it.
                seq: envelope.seq.filter(|_| envelope.kind != Kind::Info),
                time: envelope.time,
            }
        }
    };
    Ok(decoded)
}

/// What the envelope of a frame says about whether the frame is wanted.
#[derive(Clone, Copy, Debug)]
pub enum Peek<'a> {
    /// [`decode`] would return [`Content::Unwanted`].
    Unwanted(RawPosition<'a>),
    /// Any other frame with a place in the stream, or a frame about the connection (`#info`, an
    /// error).
    Kept {
        seq: Option<u64>,
        about: About<'a>,
        /// The most effects that it may have.
        effects: usize,
    },
    /// A frame without a place in the stream: it cannot be read, or has no valid seq.
    Unplaced,
}

/// What a kept frame is about, as far as it matters for the following frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About<'a> {
    /// A commit of this repository that names a wanted record.
    Commit(&'a str),
    /// A commit or a `#sync` of this repository that names no wanted record.
    Repository(&'a str),
    /// The status of this account.
    Status(&'a str),
    Other,
}

/// Reads as little of a frame as is necessary to decide whether it is wanted.
pub fn peek<'a>(frame: &'a [u8], interest: &Interest) -> Peek<'a> {
    const ABOUT_THE_CONNECTION: Peek<'_> = Peek::Kept {
        seq: None,
        about: About::Other,
        effects: 1,
    };
    let kept_with = |seq: Option<u64>, about, effects| match seq {
        Some(seq) if SEQS.contains(&seq) => Peek::Kept {
            seq: Some(seq),
            about,
            effects,
        },
        _ => Peek::Unplaced,
    };
    let kept = |seq, about| kept_with(seq, about, 1);
    // A dead letter and a tombstone for each record that is refused, and the chain.
    let most_effects = |envelope: &Envelope<'_>| 2 * envelope.paths().len() + 1;
    let envelope = match skim(frame) {
        Ok(Skim::Message(envelope)) => envelope,
        Ok(Skim::Unknown(unknown)) => return kept(unknown.seq, About::Other),
        Ok(Skim::Error { .. }) => return ABOUT_THE_CONNECTION,
        Err(_) => return Peek::Unplaced,
    };
    match (envelope.kind, envelope.seq, envelope.did) {
        (Kind::Info, ..) => ABOUT_THE_CONNECTION,
        (Kind::Commit, Some(seq), Some(repo))
            if frame.len() <= MAX_FRAME
                && SEQS.contains(&seq)
                && !wants(interest, &envelope, repo) =>
        {
            Peek::Unwanted(RawPosition {
                seq,
                time: envelope.time,
            })
        }
        // A tracked or announced repository stays as it is.
        (Kind::Commit, seq, Some(repo)) if names_wanted(interest, &envelope) => {
            kept_with(seq, About::Commit(repo), most_effects(&envelope))
        }
        (Kind::Commit, seq, repo) => {
            let about = repo.map_or(About::Other, About::Repository);
            kept_with(seq, about, most_effects(&envelope))
        }
        (Kind::Sync, seq, Some(repo)) => kept(seq, About::Repository(repo)),
        (Kind::Account, seq, Some(did)) => kept(seq, About::Status(did)),
        (_, seq, _) => kept(seq, About::Other),
    }
}

fn decode_message(
    frame: &[u8],
    envelope: &Envelope<'_>,
    interest: &Interest,
) -> Result<(Content<'static>, Option<Evidence>), Fault> {
    let payload = envelope.payload(frame);
    if envelope.kind != Kind::Info {
        check_seq(envelope)?;
    }
    let mut evidence = None;
    let event = match envelope.kind {
        Kind::Commit => {
            let repo = envelope.did.ok_or(SkimFault::Missing("repo"))?;
            if !wants(interest, envelope, repo) {
                return Ok((Content::Unwanted, None));
            }
            let commit = if interest.wants_evidence() {
                let (commit, of_commit) = commit::decode_with_evidence(payload, interest)?;
                evidence = Some(Evidence::Commit(Box::new(of_commit)));
                commit
            } else {
                commit::decode(payload, interest)?
            };
            Event::Commit(Box::new(commit))
        }
        Kind::Account => Event::Account(account::decode_account(payload)?),
        Kind::Handle | Kind::Identity => Event::Identity(account::decode_identity(payload)?),
        Kind::Info => Event::Info(decode_info(payload)?),
        Kind::Sync => {
            let sync = commit::decode_sync(payload)?;
            if interest.tracks(sync.did.as_str()) && interest.wants_did(sync.did.as_str()) {
                evidence = Some(Evidence::Sync(Box::new(SyncEvidence::of(&sync)?)));
            }
            Event::Sync(sync)
        }
        Kind::Tombstone => Event::Account(account::decode_tombstone(payload)?),
    };
    Ok((Content::Event(event), evidence))
}

/// Everything of a tracked repository is wanted, because its chain includes every commit.
fn wants(interest: &Interest, envelope: &Envelope<'_>, repo: &str) -> bool {
    (names_wanted(interest, envelope) || interest.tracks(repo)) && interest.wants_did(repo)
}

fn names_wanted(interest: &Interest, envelope: &Envelope<'_>) -> bool {
    envelope.paths().any(|path| interest.wants_path(path))
}

fn check_seq(envelope: &Envelope<'_>) -> Result<(), Fault> {
    let seq = envelope.seq.ok_or(SkimFault::Missing("seq"))?;
    if SEQS.contains(&seq) {
        Ok(())
    } else {
        Err(Fault::Seq(seq))
    }
}

fn decode_info(payload: &[u8]) -> Result<Info, Fault> {
    let payload = InfoPayload::read(payload)?;
    Ok(Info {
        name: payload.name.to_owned(),
        message: payload.message.map(str::to_owned),
    })
}

fn at_most(
    name: &'static str,
    found: usize,
    limit: usize,
    unit: &'static str,
) -> Result<(), Fault> {
    if found <= limit {
        return Ok(());
    }
    Err(Fault::Limit {
        name,
        found,
        limit,
        unit,
    })
}

#[cfg(test)]
mod tests {
    use ipld_core::ipld;

    use super::sample::{CommitFrame, DID, TIME, frame};
    use super::*;
    use crate::atproto::event::{Account, Identity};
    use crate::atproto::syntax::Did;

    fn interest(pattern: &str) -> Interest {
        Interest::new([pattern.parse().unwrap()])
    }

    fn event(frame: &[u8]) -> Event {
        match decode(frame, &Interest::default()).unwrap().content {
            Content::Event(event) => event,
            other => panic!("not an event: {other:?}"),
        }
    }

    fn did() -> Did {
        Did::parse(DID).unwrap()
    }

    fn time() -> jiff::Timestamp {
        TIME.parse().unwrap()
    }

    #[test]
    fn an_unwanted_commit_is_not_looked_into() {
        let frame = CommitFrame {
            blocks: Some(b"no CAR at all".to_vec()),
            ..CommitFrame::default()
        }
        .create("app.bsky.feed.like/3jzfcijpj2z2a", &ipld!({}))
        .bytes();
        let decoded = decode(&frame, &interest("com.huddle.*")).unwrap();
        assert_eq!(decoded.content, Content::Unwanted);
        assert_eq!(decoded.kind, Some(Kind::Commit));
        assert_eq!(decoded.seq, Some(7));
        assert_eq!(
            decoded.raw_position().and_then(|raw| raw.position().time),
            Some(time())
        );
        assert!(decode(&frame, &interest("app.bsky.*")).is_err());
    }

    #[test]
    fn a_denied_repository_is_unwanted() {
        let frame = CommitFrame::default()
            .create("com.huddle.booking/a", &ipld!({}))
            .bytes();
        let denied = interest("com.huddle.*").denying([did()]);
        assert_eq!(decode(&frame, &denied).unwrap().content, Content::Unwanted);
    }

    #[test]
    fn accounts_and_identities_are_events_for_every_did() {
        let account = frame(
            "#account",
            &ipld!({ "seq": 9, "did": DID, "time": TIME, "active": false, "status": "takendown" }),
        );
        assert_eq!(
            event(&account),
            Event::Account(Account {
                seq: 9,
                did: did(),
                time: time(),
                active: false,
                status: Some("takendown".to_owned()),
            })
        );
        let identity = frame("#identity", &ipld!({ "seq": 9, "did": DID, "time": TIME }));
        assert_eq!(
            event(&identity),
            Event::Identity(Identity {
                seq: 9,
                did: did(),
                time: time(),
                handle: None,
            })
        );
    }

    #[test]
    fn a_handle_reads_as_an_identity_and_a_tombstone_as_a_deleted_account() {
        let handle = frame(
            "#handle",
            &ipld!({ "seq": 9, "did": DID, "time": TIME, "handle": "ann.example" }),
        );
        assert_eq!(
            event(&handle),
            Event::Identity(Identity {
                seq: 9,
                did: did(),
                time: time(),
                handle: Some("ann.example".to_owned()),
            })
        );
        let tombstone = frame("#tombstone", &ipld!({ "seq": 9, "did": DID, "time": TIME }));
        assert_eq!(
            event(&tombstone),
            Event::Account(Account {
                seq: 9,
                did: did(),
                time: time(),
                active: false,
                status: Some("deleted".to_owned()),
            })
        );
    }

    /// A message of one kind may have a field that another kind gives a type.
    #[test]
    fn a_field_counts_only_in_the_kind_that_has_it() {
        let identity = frame(
            "#identity",
            &ipld!({ "seq": 9, "did": DID, "time": TIME, "active": 1, "status": [] }),
        );
        assert!(matches!(event(&identity), Event::Identity(_)));
        let tombstone = frame(
            "#tombstone",
            &ipld!({ "seq": 9, "did": DID, "time": TIME, "handle": 7, "active": "no" }),
        );
        assert!(matches!(event(&tombstone), Event::Account(_)));
    }

    #[test]
    fn info_has_no_seq() {
        let frame = frame("#info", &ipld!({ "name": "OutdatedCursor" }));
        let decoded = decode(&frame, &Interest::default()).unwrap();
        assert_eq!(decoded.seq, None);
        assert_eq!(
            decoded.content,
            Content::Event(Event::Info(Info {
                name: "OutdatedCursor".to_owned(),
                message: None,
            }))
        );
    }

    #[test]
    fn a_seq_is_positive_and_below_two_to_the_53() {
        for seq in [0, SEQS.end, u64::MAX] {
            let frame = frame(
                "#identity",
                &ipld!({ "seq": seq, "did": DID, "time": TIME }),
            );
            let error = decode(&frame, &Interest::default()).unwrap_err();
            assert!(matches!(error.fault, Fault::Seq(found) if found == seq));
        }
    }

    #[test]
    fn unknown_and_info_frames_cannot_move_the_cursor_out_of_range() {
        let unknown = |seq| frame("#weather", &ipld!({ "seq": seq }));
        let info = frame("#info", &ipld!({ "name": "x", "seq": 9 }));
        for (frame, position) in [
            (unknown(9), Some(9)),
            (unknown(0), None),
            (unknown(SEQS.end), None),
            (info, None),
        ] {
            let decoded = decode(&frame, &Interest::default()).unwrap();
            assert_eq!(decoded.raw_position().map(|raw| raw.seq), position);
        }
    }

    #[test]
    fn an_error_names_the_frame_as_far_as_it_is_known() {
        let frame = frame(
            "#identity",
            &ipld!({ "seq": 9, "did": "did:nobody", "time": TIME }),
        );
        let error = decode(&frame, &Interest::default()).unwrap_err();
        assert_eq!(error.seq, Some(9));
        assert_eq!(error.did.as_deref(), Some("did:nobody"));
        assert_eq!(error.to_string(), "not a valid DID: \"did:nobody\"");
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_unread() {
        let error = decode(&vec![0; MAX_FRAME + 1], &Interest::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "frame has 5000001 bytes, 5000000 are allowed"
        );
    }
}
