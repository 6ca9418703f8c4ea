//! Valid and invalid records of several collections.

use fastrand::Rng;
use ipld_core::ipld::Ipld;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

pub const SLOT_OFFER: &str = "com.huddle.slotOffer";
pub const BOOKING_REQUEST: &str = "com.huddle.bookingRequest";
pub const BOOKING: &str = "com.huddle.booking";
/// The collections that an indexer of appointments wants.
pub const WANTED: [&str; 3] = [SLOT_OFFER, BOOKING_REQUEST, BOOKING];

/// The prefix of all collections that such an indexer reads.
const LOOKED_AT: &str = "com.huddle.";

/// The prefix of the rkeys of records that do not match their schema.
pub const MALFORMED: &str = "bad-";

/// Collections to choose from, with the wanted ones more often. The others have similar names or
/// are unrelated.
const COLLECTIONS: [&str; 16] = [
    SLOT_OFFER,
    SLOT_OFFER,
    SLOT_OFFER,
    BOOKING_REQUEST,
    BOOKING_REQUEST,
    BOOKING,
    BOOKING,
    "com.huddle.profile",
    "com.huddlefake.slotOffer",
    "app.bsky.feed.like",
    "app.bsky.feed.like",
    "app.bsky.feed.like",
    "app.bsky.feed.post",
    "app.bsky.feed.post",
    "app.bsky.feed.post",
    "app.bsky.feed.post",
];
/// Few, so that paths are often updated, deleted and created again.
const KEYS_A_COLLECTION: u32 = 12;
const MALFORMED_PERCENT: u32 = 12;
/// Longer than a usual text column.
const LONG_TEXT: usize = 20_000;

/// A reference to another record.
#[derive(Clone, Debug)]
pub struct StrongRef {
    pub uri: String,
    pub cid: String,
}

/// A random path, which may exist already.
pub fn path(random: &mut Rng) -> String {
    let collection = COLLECTIONS[random.usize(..COLLECTIONS.len())];
    let number = random.u32(..KEYS_A_COLLECTION);
    let is_malformed = WANTED.contains(&collection) && random.u32(..100) < MALFORMED_PERCENT;
    let prefix = if is_malformed { MALFORMED } else { "key-" };
    match collection {
        "com.huddle.profile" => format!("{collection}/self"),
        _ => format!("{collection}/{prefix}{number}"),
    }
}

/// Whether an indexer of appointments reads `path`.
pub fn is_looked_at(path: &str) -> bool {
    path.starts_with(LOOKED_AT)
}

/// Whether the record at `path` does not match its schema.
pub fn is_malformed(path: &str) -> bool {
    let rkey = path.split_once('/').map(|(_, rkey)| rkey);
    rkey.is_some_and(|rkey| rkey.starts_with(MALFORMED))
}

/// A record for `path`, as JSON. It may refer to the records in `refs`.
pub fn record(path: &str, now: Timestamp, refs: &[StrongRef], random: &mut Rng) -> Value {
    let collection = path
        .split_once('/')
        .map_or(path, |(collection, _)| collection);
    let mut record = match collection {
        SLOT_OFFER => slot_offer(now, random),
        BOOKING_REQUEST => json!({
            "subject": strong_ref(refs, random),
            "note": text(random),
            "status": one_of(&["pending", "accepted", "declined", "cancelled"], random),
        }),
        BOOKING => {
            let (starts_at, ends_at) = window(now, random);
            json!({
                "offer": strong_ref(refs, random),
                "startsAt": starts_at,
                "endsAt": ends_at,
                "status": one_of(&["confirmed", "cancelled", "completed"], random),
            })
        }
        "app.bsky.feed.like" => json!({ "subject": strong_ref(refs, random) }),
        "com.huddle.profile" => json!({
            "displayName": text(random),
            "avatar": {
                "$type": "blob",
                "ref": { "$link": "bafkreibabalobzn6cd366ukcsjycp4yymjymgfxcv6xczmlgpemzkz3cfa" },
                "mimeType": "image/png",
                "size": 760_898,
            },
        }),
        _ => json!({ "text": text(random) }),
    };
    record["$type"] = collection.into();
    record["createdAt"] = now.to_string().into();
    if is_malformed(path) {
        spoil(&mut record, random);
    }
    record
}

fn slot_offer(now: Timestamp, random: &mut Rng) -> Value {
    let (starts_at, ends_at) = window(now, random);
    let mut offer = json!({
        "title": text(random),
        "startsAt": starts_at,
        "endsAt": ends_at,
        "capacity": random.u32(..5),
        "tags": ["simulated", text(random)],
        "status": one_of(&["open", "closed", "cancelled"], random),
    });
    match random.u32(..20) {
        0 => offer["description"] = "long ".repeat(LONG_TEXT / 5).into(),
        1 => offer["description"] = "a NUL \u{0} and a turn \u{202e} of the text".into(),
        _ => {}
    }
    offer
}

/// Makes a record violate its schema in one of several ways. All results are valid data of the
/// protocol.
fn spoil(record: &mut Value, random: &mut Rng) {
    match random.u32(..7) {
        0 => record["createdAt"] = Value::Null,
        1 => record["createdAt"] = "yesterday".into(),
        2 => record["createdAt"] = "2026-02-30T00:00:00Z".into(),
        3 => record["createdAt"] = json!({ "seconds": 12 }),
        4 => record["status"] = 7.into(),
        5 => record["$type"] = "com.huddlefake.slotOffer".into(),
        _ => *record = json!({}),
    }
}

fn window(now: Timestamp, random: &mut Rng) -> (String, String) {
    let starts_at = now + SignedDuration::from_mins(random.i64(0..100_000));
    let ends_at = starts_at + SignedDuration::from_mins(random.i64(1..600));
    (starts_at.to_string(), ends_at.to_string())
}

fn strong_ref(refs: &[StrongRef], random: &mut Rng) -> Value {
    match random.choice(refs) {
        Some(target) => json!({ "uri": target.uri, "cid": target.cid }),
        None => json!({
            "uri": "at://did:plc:aaaaaaaaaaaaaaaaaaaaaaaa/com.huddle.slotOffer/never",
            "cid": "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a",
        }),
    }
}

fn text(random: &mut Rng) -> String {
    const WORDS: [&str; 6] = ["piano", "chess", "Zoë", "日本語", "e\u{301}lan", "🎹"];
    format!("{} {}", one_of(&WORDS, random), random.u32(..))
}

fn one_of<'a>(choices: &[&'a str], random: &mut Rng) -> &'a str {
    choices[random.usize(..choices.len())]
}

/// Converts `json` to a value of the data model.
pub fn to_ipld(json: &Value) -> Ipld {
    match json {
        Value::Null => Ipld::Null,
        Value::Bool(bool) => Ipld::Bool(*bool),
        Value::Number(number) => {
            Ipld::Integer(number.as_i64().expect("records hold no fractions").into())
        }
        Value::String(text) => Ipld::String(text.clone()),
        Value::Array(items) => Ipld::List(items.iter().map(to_ipld).collect()),
        Value::Object(fields) => {
            if let Some(Value::String(cid)) = fields.get("$link") {
                return Ipld::Link(cid.parse().expect("a link is a CID"));
            }
            let fields = fields.iter();
            Ipld::Map(
                fields
                    .map(|(name, value)| (name.clone(), to_ipld(value)))
                    .collect(),
            )
        }
    }
}
