//! Applies the rules to an event: which records are kept, and their effects on the tables.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cid::Cid;

use crate::huddle::{self, Projection};
use crate::lexicon::{Policies, Policy, Schemas, Validation};
use crate::source::interest::Interest;
use crate::telemetry::excerpt::{LOGGED, excerpt};

use crate::atproto::cbor_value::CborValue;
use crate::atproto::event::{Account, Change, Commit, Event, Identity, MisnamedOp, RecordOp};
use crate::atproto::json::json_length;
use crate::atproto::syntax::{Handle, StatusWord};
use crate::atproto::verify::Level;
use crate::model::{DeadLetter, Judgement, SourceId, Stage, Validity};
use crate::store::plan::effect::{
    AccountChange, Effect, IdentityChange, RecordChange, RecordDelete, RecordRefusal, RecordUpsert,
    RecordVersion,
};
use crate::store::plan::index_task::IndexTask;

/// The longest JSON of a record, in bytes. No record that a commit may hold becomes so long: an empty
/// byte string, the shortest value, takes fourteen times its byte.
pub const MAX_JSON: usize = 16 << 20;

/// Which records are kept, and how they are validated.
#[derive(Debug)]
pub struct Rules {
    pub source: SourceId,
    pub interest: Arc<Interest>,
    pub schemas: Schemas,
    pub policies: Policies,
}

impl Rules {
    /// Appends the effects of `event`; `verified` is its level of verification.
    pub fn effects_of(&self, event: Event, verified: Option<Level>, effects: &mut Vec<Effect>) {
        match event {
            Event::Commit(commit) => {
                let records = self.records_of(&commit, verified);
                if !records.is_empty() {
                    effects.push(Effect::records(records));
                }
            }
            Event::Identity(identity) if identity.handle.is_some() => {
                effects.extend(self.identity_change(identity));
            }
            Event::Account(account) if self.interest.wants_did(account.did.as_str()) => {
                effects.push(status_change(account));
            }
            // A #sync says that a repository changed, but not what it contains.
            Event::Account(_) | Event::Identity(_) | Event::Info(_) | Event::Sync(_) => {}
        }
    }

    /// The effect of an identity event; none if its account is not wanted. An event that names no
    /// handle, or none that is valid, says that the known one may no longer be right.
    pub fn identity_change(&self, identity: Identity) -> Option<Effect> {
        let is_wanted = self.interest.wants_did(identity.did.as_str());
        let handle = identity.handle.as_deref();
        let handle = handle.and_then(|handle| Handle::parse_any_case(handle).ok());
        is_wanted.then(|| {
            Effect::Identity(IdentityChange {
                did: identity.did,
                handle: handle.map(String::from),
                seq: identity.seq,
                time: identity.time,
            })
        })
    }

    /// What becomes of each operation of `commit`; `verified` is how much of it was. A record that
    /// several operations name is judged once.
    pub fn records_of(&self, commit: &Commit, verified: Option<Level>) -> Vec<RecordChange> {
        let mut records = Vec::new();
        let mut known = HashMap::new();
        for op in &commit.ops {
            self.add_op(commit, verified, op, &mut known, &mut records);
        }
        records.extend(commit.misnamed.iter().map(|op| misnamed(commit, op)));
        records
    }

    fn add_op<'c>(
        &self,
        commit: &Commit,
        verified: Option<Level>,
        op: &'c RecordOp,
        known: &mut HashMap<(Cid, &'c str), Result<Judged, Refusal>>,
        records: &mut Vec<RecordChange>,
    ) {
        let version = RecordVersion {
            did: commit.did.clone(),
            collection: op.collection.clone(),
            rkey: op.rkey.clone(),
            rev: commit.rev.clone(),
            seq: commit.seq,
            time: commit.time,
            data: commit.data,
            verified,
        };
        match &op.change {
            Change::Delete => records.push(RecordChange::Delete(RecordDelete { version })),
            // The repository of a verified commit is fetched.
            Change::Missing { .. } if verified.is_some() => {}
            // The new value of the record is unknown, so the old row stays.
            Change::Broken { reason, record } | Change::Missing { reason, record } => {
                records.push(RecordChange::DeadLetter(Box::new(DeadLetter {
                    raw: record.clone(),
                    ..dead_letter(&version, Stage::Decode, reason.clone())
                })));
            }
            Change::Put { cid, record, .. } => {
                let collection = op.collection.as_str();
                let judged = known
                    .entry((*cid, collection))
                    .or_insert_with(|| self.judge(collection, record));
                let judged = judged.clone();
                let (change, letter) = self.change_of(version, *cid, record, judged, &self.source);
                records.extend(letter.map(|letter| RecordChange::DeadLetter(Box::new(letter))));
                records.push(change);
            }
        }
    }

    /// Judges a record again that is stored as this version, of an event of `source`. Returns what
    /// becomes of it, and the dead letter if it is refused.
    pub fn judge_again(
        &self,
        version: RecordVersion,
        cid: Cid,
        record: &Bytes,
        source: &SourceId,
    ) -> (RecordChange, Option<DeadLetter>) {
        let judged = self.judge(version.collection.as_str(), record);
        self.change_of(version, cid, record, judged, source)
    }

    fn change_of(
        &self,
        version: RecordVersion,
        cid: Cid,
        record: &Bytes,
        judged: Result<Judged, Refusal>,
        source: &SourceId,
    ) -> (RecordChange, Option<DeadLetter>) {
        let judgement = self.judgement_of(version.collection.as_str());
        let (judged, refusal) = match judged {
            Ok(judged) => (judged, None),
            Err(refusal) => (Judged::default(), Some(refusal)),
        };
        let upsert = RecordUpsert {
            version,
            cid,
            cbor: record.clone(),
            json_bytes: judged.json_bytes,
            validity: judged.validity,
            judgement,
            projection: judged.projection,
        };
        match refusal {
            None => (RecordChange::Upsert(Box::new(upsert)), None),
            Some(refusal) => refuse(upsert, refusal, source),
        }
    }

    /// Identifies the rules by which records of `collection` are judged.
    pub fn judgement_of(&self, collection: &str) -> Judgement {
        let policy = self.policies.for_collection(collection);
        let schema = match policy {
            Policy::Off => "",
            Policy::Flag | Policy::Reject => self.schemas.fingerprint(collection),
        };
        Judgement::of([policy.as_str(), schema, huddle::PROJECTION_VERSION])
    }

    /// Identifies all rules by which records are judged.
    pub fn digest(&self) -> Judgement {
        let policies = self.policies.rules();
        let collections = self.schemas.collections();
        let schemas = collections.iter().flat_map(|collection| {
            [
                collection.as_str(),
                self.schemas.fingerprint(collection.as_str()),
            ]
        });
        let policies = policies.iter().map(String::as_str);
        Judgement::of(
            [huddle::PROJECTION_VERSION]
                .into_iter()
                .chain(policies)
                .chain(schemas),
        )
    }

    /// Judges a record of `collection`.
    fn judge(&self, collection: &str, record: &[u8]) -> Result<Judged, Refusal> {
        let undecodable = |reason| Refusal {
            stage: Stage::Decode,
            reason,
        };
        let json_bytes = json_length(record).map_err(|error| undecodable(error.to_string()))?;
        if json_bytes > MAX_JSON {
            let reason =
                format!("the record has {json_bytes} bytes as JSON, {MAX_JSON} are allowed");
            return Err(undecodable(reason));
        }
        let value = CborValue::of(record);
        let (validity, projection) = match self.policies.for_collection(collection) {
            // Validation is off, so a record that cannot become a row is no error.
            Policy::Off => {
                let projection = huddle::project(collection, value).ok().flatten();
                (Validity::Unvalidated, projection)
            }
            policy => match self.validate(collection, value) {
                Ok(valid) => valid,
                Err(reason) if policy == Policy::Flag => (Validity::Invalid { reason }, None),
                Err(reason) => {
                    return Err(Refusal {
                        stage: Stage::Validate,
                        reason,
                    });
                }
            },
        };
        Ok(Judged {
            json_bytes,
            validity,
            projection: projection.map(Arc::new),
        })
    }

    fn validate(
        &self,
        collection: &str,
        record: CborValue<'_>,
    ) -> Result<(Validity, Option<Projection>), String> {
        match record.get("$type").and_then(CborValue::as_str) {
            Some(named) if named == collection => {}
            Some(named) => {
                let named = excerpt(named, LOGGED);
                return Err(format!("$type: is {named:?}, in collection {collection}"));
            }
            None => return Err("$type: is missing".to_owned()),
        }
        match self.schemas.validate(collection, record) {
            Validation::Invalid(error) => Err(error.to_string()),
            Validation::NoSchema => Ok((Validity::Unvalidated, None)),
            Validation::Valid => huddle::project(collection, record)
                .map(|projection| (Validity::Valid, projection))
                .map_err(|error| error.to_string()),
        }
    }
}

/// Refuses a record. The old row is not valid any more, so a tombstone replaces it. The record is kept
/// as a dead letter.
fn refuse(
    upsert: RecordUpsert,
    refusal: Refusal,
    source: &SourceId,
) -> (RecordChange, Option<DeadLetter>) {
    let task = IndexTask::upsert(&upsert, source, 1);
    let letter = DeadLetter {
        task: serde_json::to_string(&task).ok(),
        raw: upsert.cbor.clone(),
        ..dead_letter(&upsert.version, refusal.stage, refusal.reason.clone())
    };
    let refusal = RecordRefusal {
        version: upsert.version,
        cid: upsert.cid,
        judgement: upsert.judgement,
        reason: refusal.reason,
    };
    (RecordChange::Refuse(Box::new(refusal)), Some(letter))
}

/// What the rules say of a record that is kept.
#[derive(Clone)]
struct Judged {
    json_bytes: usize,
    validity: Validity,
    projection: Option<Arc<Projection>>,
}

impl Default for Judged {
    fn default() -> Self {
        Self {
            json_bytes: 0,
            validity: Validity::Unvalidated,
            projection: None,
        }
    }
}

#[derive(Clone)]
struct Refusal {
    stage: Stage,
    reason: String,
}

/// An operation whose path names no record, so there is no row to change.
fn misnamed(commit: &Commit, op: &MisnamedOp) -> RecordChange {
    RecordChange::DeadLetter(Box::new(DeadLetter {
        stage: Stage::Decode,
        error: op.reason.clone(),
        seq: Some(commit.seq),
        did: Some(commit.did.to_string()),
        uri: Some(format!("at://{}/{}", commit.did, op.path)),
        task: None,
        raw: op.record.clone(),
        attempts: 1,
    }))
}

fn dead_letter(version: &RecordVersion, stage: Stage, error: String) -> DeadLetter {
    DeadLetter {
        stage,
        error,
        seq: Some(version.seq),
        did: Some(version.did.to_string()),
        uri: Some(version.uri()),
        task: None,
        raw: Bytes::new(),
        attempts: 1,
    }
}

/// The vocabulary of statuses is open, so a text of any form may come; one that is no word is left
/// out. Only an inactive account has a status: an active one may be said to be `throttled`, which
/// changes nothing here.
fn status_change(account: Account) -> Effect {
    let status = account.status.filter(|_| !account.active);
    let status = status.and_then(|status| StatusWord::parse(&status).ok());
    Effect::Account(AccountChange {
        did: account.did,
        active: account.active,
        status: status.map(String::from),
        is_unconfirmed: false,
        wants_history: false,
        seq: account.seq,
        time: account.time,
    })
}

#[cfg(test)]
mod tests {
    use ipld_core::ipld::Ipld;
    use jiff::Timestamp;
    use serde_json::Value;

    use super::*;
    use crate::atproto::event::PutAction;
    use crate::atproto::pattern::Pattern;
    use crate::atproto::syntax::{Did, Nsid, RecordKey, Tid};
    use crate::store::plan::index_task::with_record;

    const OFFER: &str = "com.huddle.slotOffer";
    const CID: &str = "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a";

    fn rules(policies: &str) -> Rules {
        let pattern = "com.huddle.*".parse::<Pattern>().unwrap();
        Rules {
            source: SourceId::new("ws://source.test/"),
            interest: Arc::new(
                Interest::new([pattern]).denying([Did::parse("did:plc:denied").unwrap()]),
            ),
            schemas: Schemas::embedded().unwrap(),
            policies: policies.parse().unwrap(),
        }
    }

    fn offer(change: impl FnOnce(&mut Value)) -> Value {
        let mut record = serde_json::json!({
            "$type": OFFER,
            "title": "piano",
            "startsAt": "2026-03-01T10:00:00+01:00",
            "endsAt": "2026-03-01T11:00:00+01:00",
            "createdAt": "2026-02-01T10:00:00Z",
        });
        change(&mut record);
        record
    }

    fn commit(collection: &str, changes: Vec<Change>) -> Event {
        let ops = changes.into_iter().map(|change| RecordOp {
            collection: Nsid::parse(collection).unwrap(),
            rkey: RecordKey::parse("one").unwrap(),
            change,
        });
        Event::Commit(Box::new(Commit {
            seq: 7,
            did: Did::parse("did:plc:host").unwrap(),
            rev: Tid::parse("3mptbypluud2a").unwrap(),
            since: None,
            time: Timestamp::UNIX_EPOCH,
            commit: CID.parse().unwrap(),
            data: CID.parse().unwrap(),
            prev_data: None,
            ops: ops.collect(),
            misnamed: Vec::new(),
        }))
    }

    fn put(record: &Value) -> Change {
        let ipld: Ipld = serde_json::from_value(record.clone()).unwrap();
        Change::Put {
            action: PutAction::Create,
            cid: CID.parse::<Cid>().unwrap(),
            record: serde_ipld_dagcbor::to_vec(&ipld).unwrap().into(),
        }
    }

    fn effects(policies: &str, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        rules(policies).effects_of(event, None, &mut effects);
        effects
    }

    fn records(effects: &[Effect]) -> &[RecordChange] {
        match effects {
            [Effect::Commit(commit)] => &commit.records,
            other => panic!("not one commit: {other:?}"),
        }
    }

    fn upsert(effects: &[Effect]) -> &RecordUpsert {
        match records(effects) {
            [RecordChange::Upsert(upsert)] => upsert,
            other => panic!("not one upsert: {other:?}"),
        }
    }

    #[test]
    fn a_valid_record_is_kept_with_its_row() {
        let effects = effects("reject", commit(OFFER, vec![put(&offer(|_| {}))]));
        let upsert = upsert(&effects);
        assert_eq!(upsert.validity, Validity::Valid);
        let Some(Projection::SlotOffer(row)) = upsert.projection.as_deref() else {
            panic!("no row: {:?}", upsert.projection);
        };
        assert_eq!(row.starts_at, "2026-03-01T09:00:00.000Z");
    }

    #[test]
    fn a_rejected_record_is_a_dead_letter_and_removes_its_old_row() {
        let bad = offer(|record| record["title"] = 42.into());
        let effects = effects("reject", commit(OFFER, vec![put(&bad)]));
        let [
            RecordChange::DeadLetter(letter),
            RecordChange::Refuse(refusal),
        ] = records(&effects)
        else {
            panic!("{effects:?}");
        };
        assert_eq!(letter.stage, Stage::Validate);
        assert!(letter.error.contains("title"), "{}", letter.error);
        assert!(!letter.raw.is_empty());
        let task = with_record(letter.task.as_deref().unwrap(), &letter.raw);
        let task: IndexTask = serde_json::from_str(&task).unwrap();
        assert_eq!(task.uri, "at://did:plc:host/com.huddle.slotOffer/one");
        assert!(task.record.unwrap().get().contains("42"));
        // What was refused, and by which rules, so that other rules may accept it.
        assert_eq!(refusal.cid.to_string(), CID);
        assert_eq!(refusal.reason, letter.error);
        assert_eq!(refusal.judgement, rules("reject").judgement_of(OFFER));
    }

    #[test]
    fn a_judgement_differs_by_policy_and_schema_and_by_no_more() {
        let of = |policies: &str, collection: &str| rules(policies).judgement_of(collection);
        assert_eq!(of("reject", OFFER), of("reject", OFFER));
        assert_ne!(of("reject", OFFER), of("flag", OFFER));
        assert_ne!(of("flag", OFFER), of("off", OFFER));
        assert_ne!(of("flag", OFFER), of("flag", "com.huddle.booking"));
        assert_eq!(of("flag,com.huddle.booking=off", OFFER), of("flag", OFFER));
    }

    #[test]
    fn a_flagged_record_is_kept_without_a_row() {
        let bad = offer(|record| record["endsAt"] = "2026-03-01T08:00:00Z".into());
        let effects = effects("flag", commit(OFFER, vec![put(&bad)]));
        let upsert = upsert(&effects);
        assert!(matches!(upsert.validity, Validity::Invalid { .. }));
        assert_eq!(upsert.projection, None);
    }

    #[test]
    fn a_record_is_not_validated_where_the_policy_is_off() {
        let bad = offer(|record| record["title"] = 42.into());
        let effects = effects("off", commit(OFFER, vec![put(&bad)]));
        assert_eq!(upsert(&effects).validity, Validity::Unvalidated);
    }

    #[test]
    fn a_collection_without_a_schema_is_kept_unvalidated() {
        let record = serde_json::json!({"$type": "com.huddle.profile", "anything": 1});
        let effects = effects("reject", commit("com.huddle.profile", vec![put(&record)]));
        assert_eq!(upsert(&effects).validity, Validity::Unvalidated);
    }

    #[test]
    fn a_record_of_another_type_than_its_collection_is_refused_even_without_a_schema() {
        let record = serde_json::json!({"$type": "com.huddle.other"});
        let effects = effects("reject", commit("com.huddle.profile", vec![put(&record)]));
        assert!(
            matches!(records(&effects)[0], RecordChange::DeadLetter(_)),
            "{effects:?}"
        );
    }

    #[test]
    fn a_broken_operation_changes_neither_the_old_row_nor_other_operations() {
        let broken = Change::Broken {
            reason: "its block is missing".to_owned(),
            record: Bytes::new(),
        };
        let effects = effects("reject", commit(OFFER, vec![broken, put(&offer(|_| {}))]));
        assert!(
            matches!(
                records(&effects),
                [RecordChange::DeadLetter(_), RecordChange::Upsert(_)]
            ),
            "{effects:?}"
        );
    }

    #[test]
    fn accounts_on_the_deny_list_leave_no_trace() {
        let account = |did: &str| {
            Event::Account(Account {
                seq: 1,
                did: Did::parse(did).unwrap(),
                time: Timestamp::UNIX_EPOCH,
                active: false,
                status: None,
            })
        };
        assert!(effects("reject", account("did:plc:denied")).is_empty());
        assert_eq!(effects("reject", account("did:plc:host")).len(), 1);
    }
}
