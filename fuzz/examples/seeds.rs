//! Writes the initial corpus to `fuzz/corpus`: frames of the recording and of a simulated network,
//! parts of these frames, and a few handwritten texts.
//!
//!     cargo run --manifest-path fuzz/Cargo.toml --example seeds

use std::fs;
use std::path::Path;

use ipld_core::ipld::Ipld;
use serde_ipld_dagcbor::de::from_reader_once;
use simulated_network::car::read_car;
use simulated_network::frame::error;
use simulated_network::network::Network;
use simulated_network::shape::Shape;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Enough for every kind of frame.
const STEPS: usize = 150;

const CURSORS: [&str; 8] = [
    "306\n2026-07-04T14:38:07.877Z",
    "18446744073709551615\n",
    "a=1&cursor=5&cursor=x%20y",
    "wss://relay.example/xrpc/com.atproto.sync.subscribeRepos?cursor=7&b=c#d\n306",
    "ws://[::1]:2583/?a\n0",
    "120\n2026-11-23T08:00:00Z",
    "Mon, 23 Nov 2026 08:01:30 GMT\n2026-11-23T08:00:00Z",
    "-1\nnoon",
];

const CONFIGURATIONS: [&str; 5] = [
    "stop_after_idle = 5\nmemory_budget = 12345678\nvalidation = ['*=flag']\n\
     dids_deny = ['did:plc:abc']\nsource_url = 'https://pds.example'\n",
    "validation = { 'com.huddle.*' = 'flag', 'com.huddle.booking' = 'off' }\nlisten = '0.0.0.0:80'\n",
    "HUDDLE_COLLECTIONS=com.huddle.*, app.bsky.feed.*\nHUDDLE_BATCH_BYTES=1MiB\nHUDDLE_START=live\n\
     HUDDLE_DATABASE_URL=sqlite:///var/lib/h.db?mode=rwc\n",
    "--dids-allow=did:plc:ann,did:web:bob.example\n--log-format=json\n--plc-url\nhttp://[::1]:2582\n",
    "batch_frames = 'many'\nlisten = 'here'\nmemory_budget = -1\nHUDDLE_INDEX_BATCH=1001\n\
     HUDDLE_BATCH_FRAME=1\n",
];

/// A document that uses every feature of the language.
const DOCUMENT: &str = r##"{
  "lexicon": 1, "id": "com.example.a",
  "defs": {
    "main": { "type": "record", "key": "any", "record": { "type": "object",
      "required": ["a"], "nullable": ["d"],
      "properties": {
        "a": { "type": "string", "maxLength": 100, "minLength": 1, "maxGraphemes": 9, "enum": ["x"] },
        "b": { "type": "integer", "minimum": 1, "maximum": 9, "enum": [7], "const": 7 },
        "c": { "type": "boolean", "const": true }, "d": { "type": "unknown" },
        "e": { "type": "string", "format": "datetime" }, "f": { "type": "cid-link" },
        "g": { "type": "bytes", "maxLength": 9 },
        "k": { "type": "blob", "accept": ["image/*"], "maxSize": 100 },
        "l": { "type": "array", "items": { "type": "ref", "ref": "#a" }, "maxLength": 3 },
        "m": { "type": "union", "refs": ["#a", "#t"], "closed": true }
    } } },
    "a": { "type": "object", "properties": {
      "a": { "type": "union", "refs": ["com.example.a#a"] },
      "b": { "type": "array", "items": { "type": "unknown" } } } },
    "t": { "type": "token" }
  } }"##;

/// The damage, the key to look up, and the keys of the tree.
const TREES: [&str; 3] = [
    "\0\0\ncom.huddle.booking/3\ncom.huddle.booking/1\ncom.huddle.booking/3\ncom.huddle.slotOffer/3",
    "\u{1}7\nB1/986427\nA0/374913\nB1/986427\nC0/451630\nE0/670489\nF1/085263\nG0/765327",
    "\n\n",
];

fn main() -> std::io::Result<()> {
    for frame in frames()? {
        write("frame", &frame)?;
        write("skim", &frame)?;
        if let Some(car) = car_of(&frame) {
            write("car", &car)?;
            for block in read_car(&car)
                .into_iter()
                .flat_map(|(_, blocks)| blocks.into_values())
            {
                write_block(&block)?;
            }
        }
    }
    write("lexicon_document", DOCUMENT.as_bytes())?;
    for name in [
        "atproto/repo/strongRef",
        "huddle/booking",
        "huddle/bookingRequest",
        "huddle/slotOffer",
    ] {
        let document = fs::read(format!("{ROOT}/lexicons/com/{name}.json"))?;
        write("lexicon_document", &document)?;
    }
    write(
        "configuration",
        &fs::read(format!("{ROOT}/src/config/default.toml"))?,
    )?;
    for (target, texts) in [
        ("configuration", &CONFIGURATIONS[..]),
        ("cursor", &CURSORS),
        ("mst_node", &TREES),
    ] {
        for text in texts {
            write(target, text.as_bytes())?;
        }
    }
    write("mst_node", &dishonest_tree())
}

/// The recording's frames (`[u32 big-endian length][frame]`), those of a network, and an error
/// frame.
fn frames() -> std::io::Result<Vec<Vec<u8>>> {
    let recording = fs::read(format!("{ROOT}/recordings/testbed.bin"))?;
    let mut rest = recording.as_slice();
    let mut frames = vec![error("ConsumerTooSlow").to_vec()];
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (frame, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
        frames.push(frame.to_vec());
        rest = behind;
    }
    let mut network = Network::new(1, Shape::default());
    network.steps(STEPS);
    frames.extend(network.log().iter().map(|entry| entry.frame.to_vec()));
    Ok(frames)
}

fn car_of(mut frame: &[u8]) -> Option<Vec<u8>> {
    let _header: Ipld = from_reader_once(&mut frame).ok()?;
    match from_reader_once::<Ipld, _>(&mut frame).ok()?.take("blocks") {
        Ok(Some(Ipld::Bytes(car))) => Some(car),
        _ => None,
    }
}

/// Writes a record or a node of a tree; for a record also the operation that creates it.
fn write_block(block: &[u8]) -> std::io::Result<()> {
    let Ok(Ipld::Map(fields)) = serde_ipld_dagcbor::from_slice(block) else {
        return write("record", block);
    };
    if fields.contains_key("e") {
        return write("mst_node", block);
    }
    write("record", block)?;
    let collection = match fields.get("$type") {
        Some(Ipld::String(name)) if name == "com.huddle.booking" => 0,
        Some(Ipld::String(name)) if name == "com.huddle.bookingRequest" => 1,
        _ => 2,
    };
    let [high, low] = u16::try_from(block.len()).unwrap_or(0).to_be_bytes();
    let create = [&[0, collection, 1, high, low, b'a'], block].concat();
    let delete = [&[2, 0, 1, 0, 0, b'b'], create.as_slice()].concat();
    write("commit", &delete)
}

/// A node of layer 1 (`blue`) between two of layer 0, in the input format of the target.
fn dishonest_tree() -> Vec<u8> {
    let leaf = |key: &str| [&[1, 255, 255, key.len() as u8], key.as_bytes()].concat();
    let root = [&[1, 0, 1, 4], b"blue".as_slice()].concat();
    [leaf("a/4"), leaf("c/1"), root].concat()
}

fn write(target: &str, input: &[u8]) -> std::io::Result<()> {
    let folder = Path::new(ROOT).join("fuzz/corpus").join(target);
    fs::create_dir_all(&folder)?;
    let name = simulated_network::car::address_of(input);
    fs::write(folder.join(name.to_string()), input)
}
