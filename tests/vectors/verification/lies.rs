//! Makes one thing false in a valid commit, and checks the error. Holds invariant 9.4.

use std::collections::BTreeMap;

use cid::Cid;
use fastrand::Rng;
use huddle_firehose::atproto::mst::empty_root;
use huddle_firehose::atproto::verify::Level;
use ipld_core::{ipld, ipld::Ipld};
use simulated_network::car::{address_of, encode};
use simulated_network::key::SigningKey;

use super::support::{Message, commits, fields, link};

/// How often each lie is tested, at most.
const TIMES: usize = 20;

/// Makes one thing false. `None` if the commit has no such thing.
type Lie = fn(&mut Message) -> Option<()>;

fn nothing() -> Ipld {
    Ipld::Link(address_of(b"nothing"))
}

/// The lies, each with the name of its error.
const LIES: [(&str, Lie); 46] = [
    // The message
    ("payload", |commit| {
        commit.payload.remove("blocks").map(drop)
    }),
    ("blocks_size", |commit| {
        commit.set("blocks", vec![0; (2 << 20) + 1]);
        Some(())
    }),
    ("car_truncated", |commit| {
        let Some(Ipld::Bytes(car)) = commit.payload.get_mut("blocks") else {
            return None;
        };
        car.pop().map(drop)
    }),
    ("car", |commit| {
        commit.set("blocks", b"\x05hello".to_vec());
        Some(())
    }),
    // The commit block
    ("car_root", |commit| {
        commit.set("commit", nothing());
        Some(())
    }),
    ("car_root", |commit| {
        let data = commit.data();
        commit.change_car(|root, _| *root = data);
        Some(())
    }),
    ("commit_missing", |commit| {
        commit.change_car(|root, blocks| drop(blocks.remove(root)));
        Some(())
    }),
    ("commit_address", |commit| {
        let block = encode(&Ipld::Map(commit.commit_block()));
        commit.change_car(|root, blocks| drop(blocks.insert(*root, [&block[..], &[0]].concat())));
        Some(())
    }),
    ("commit_version", |commit| {
        commit.sign_with(|block| drop(block.insert("version".to_owned(), ipld!(2))));
        Some(())
    }),
    ("commit_block", |commit| {
        commit.sign_with(|block| drop(block.remove("prev")));
        Some(())
    }),
    ("did", |commit| {
        commit.set("repo", "did:plc:mallory");
        Some(())
    }),
    ("did", |commit| {
        commit.sign_with(|block| drop(block.insert("did".to_owned(), ipld!("did:plc:mallory"))));
        Some(())
    }),
    ("rev", |commit| {
        commit.set("rev", "3jzfcijpj2z2a");
        Some(())
    }),
    ("rev", |commit| {
        commit.sign_with(|block| drop(block.insert("rev".to_owned(), ipld!("3jzfcijpj2z2a"))));
        Some(())
    }),
    ("signature", |commit| {
        commit.key = SigningKey::generate(&mut Rng::with_seed(99));
        Some(())
    }),
    ("signature", |commit| {
        let mut block = commit.commit_block();
        block.insert("prev".to_owned(), nothing());
        commit.set_commit_block(&block);
        Some(())
    }),
    ("signature_high_s", |commit| {
        let mut block = commit.commit_block();
        block.remove("sig");
        let signature = commit.key.sign_high(&encode(&Ipld::Map(block.clone())));
        block.insert("sig".to_owned(), Ipld::Bytes(signature));
        commit.set_commit_block(&block);
        Some(())
    }),
    ("signature_form", |commit| {
        let mut block = commit.commit_block();
        block.insert("sig".to_owned(), Ipld::Bytes(vec![1; 72]));
        commit.set_commit_block(&block);
        Some(())
    }),
    // The operations
    ("op_count", |commit| {
        let op = commit.ops().first()?.clone();
        commit.ops().resize(201, op);
        Some(())
    }),
    ("op_action", |commit| {
        let op = fields(commit.ops().first_mut()?);
        op.insert("action".to_owned(), ipld!("rename"));
        Some(())
    }),
    ("op_duplicate_path", |commit| {
        let op = commit.op("create")?.clone();
        commit.ops().push(Ipld::Map(op));
        Some(())
    }),
    ("op_duplicate_path", |commit| {
        let op = commit.op("delete")?.clone();
        commit.ops().push(Ipld::Map(op));
        Some(())
    }),
    ("op_duplicate_path", |commit| {
        let mut op = commit.op("delete")?.clone();
        op.insert("action".to_owned(), ipld!("update"));
        op.insert("cid".to_owned(), nothing());
        commit.ops().push(Ipld::Map(op));
        Some(())
    }),
    ("op_duplicate_path", |commit| {
        // A create that replaced another record cannot have left no record.
        let op = commit.op("create")?;
        op.insert("prev".to_owned(), nothing());
        delete_again(commit)
    }),
    ("op_without_cid", |commit| {
        commit.op("create")?.insert("cid".to_owned(), Ipld::Null);
        Some(())
    }),
    ("op_without_cid", |commit| {
        commit.op("update")?.remove("cid");
        Some(())
    }),
    ("op_delete_with_cid", |commit| {
        commit.op("delete")?.insert("cid".to_owned(), nothing());
        Some(())
    }),
    // The tree
    ("node_missing", |commit| {
        commit.ops().first()?;
        let data = commit.data();
        commit.change_car(|_, blocks| drop(blocks.remove(&data)));
        Some(())
    }),
    ("node_address", |commit| {
        commit.ops().first()?;
        let data = commit.data();
        let empty = encode(&ipld!({ "l": null, "e": [] }));
        commit.change_car(|_, blocks| drop(blocks.insert(data, empty)));
        Some(())
    }),
    ("node_format", |commit| {
        commit.ops().first()?;
        replace_tree(commit, &ipld!({ "l": null, "e": [{ "k": null }] }));
        Some(())
    }),
    ("node_place", |commit| {
        commit.ops().first()?;
        let below = Ipld::Link(commit.data());
        replace_tree(commit, &ipld!({ "l": below, "e": [] }));
        Some(())
    }),
    ("op_not_in_tree", |commit| {
        commit.ops().first()?;
        replace_tree(commit, &ipld!({ "l": null, "e": [] }));
        commit.op("create")?;
        commit
            .ops()
            .retain(|op| op.get("cid").unwrap() != Some(&Ipld::Null));
        Some(())
    }),
    ("op_value", |commit| {
        let cids: Vec<Ipld> = commit.ops().iter().filter_map(cid_of).collect();
        let op = commit.op("create")?;
        let other = cids.into_iter().find(|cid| *cid != op["cid"])?;
        op.insert("cid".to_owned(), other);
        Some(())
    }),
    ("op_still_present", |commit| {
        let op = commit.op("create")?;
        op.insert("action".to_owned(), ipld!("delete"));
        let cid = op.insert("cid".to_owned(), Ipld::Null)?;
        op.insert("prev".to_owned(), cid);
        Some(())
    }),
    ("op_still_present", |commit| {
        commit.op("create")?;
        delete_again(commit)
    }),
    // The chain
    ("prev_data_missing", |commit| {
        commit.payload.remove("prevData").map(drop)
    }),
    ("prev_data_missing", |commit| {
        let prev_data = commit.payload.remove("prevData")?;
        commit.set("since", Ipld::Null);
        (link(&prev_data) != empty_root()).then_some(())
    }),
    ("prev_data_missing", |commit| {
        // Like servers that did not know the previous tree.
        commit.payload.remove("prevData")?;
        commit.set("since", Ipld::Null);
        commit.op("delete")?.remove("prev").map(drop)
    }),
    ("op_without_prev", |commit| {
        commit.op("update")?.remove("prev").map(drop)
    }),
    ("op_without_prev", |commit| {
        commit.op("delete")?.remove("prev").map(drop)
    }),
    ("op_without_prev", |commit| {
        // In a first commit there is nothing to delete.
        let is_first = !commit.payload.contains_key("prevData");
        let op = ipld!({ "action": "delete", "path": "a/1", "cid": null });
        is_first.then(|| commit.ops().push(op))
    }),
    ("op_create_with_prev", |commit| {
        commit.op("create")?.insert("prev".to_owned(), nothing());
        Some(())
    }),
    ("prev_data", |commit| {
        commit.payload.get("prevData")?;
        commit.set("prevData", nothing());
        Some(())
    }),
    ("prev_data", |commit| {
        commit.op("update")?.insert("prev".to_owned(), nothing());
        Some(())
    }),
    ("prev_data", |commit| {
        commit.op("delete")?.insert("prev".to_owned(), nothing());
        Some(())
    }),
    ("prev_data", |commit| {
        // An update that hides what it has replaced.
        let op = commit.op("update")?;
        let create = op.clone();
        op.insert("action".to_owned(), ipld!("delete"));
        op.insert("cid".to_owned(), Ipld::Null);
        op.insert("prev".to_owned(), nothing());
        commit.ops().push(Ipld::Map(create));
        let create = fields(commit.ops().last_mut()?);
        create.insert("action".to_owned(), ipld!("create"));
        Some(())
    }),
];

/// Claims that a created record was deleted again.
fn delete_again(commit: &mut Message) -> Option<()> {
    let mut op = commit.op("create")?.clone();
    op.insert("action".to_owned(), ipld!("delete"));
    op.insert("cid".to_owned(), Ipld::Null);
    op.remove("prev");
    commit.ops().push(Ipld::Map(op));
    Some(())
}

fn cid_of(op: &Ipld) -> Option<Ipld> {
    op.get("cid")
        .unwrap()
        .filter(|cid| **cid != Ipld::Null)
        .cloned()
}

/// Signs another tree.
fn replace_tree(commit: &mut Message, root: &Ipld) {
    let block = encode(root);
    let data = address_of(&block);
    commit.change_car(|_, blocks| drop(blocks.insert(data, block)));
    commit.sign_with(|block| drop(block.insert("data".to_owned(), Ipld::Link(data))));
}

#[test]
fn each_lie_has_its_own_error() {
    let mut tested: BTreeMap<usize, usize> = BTreeMap::new();
    for seed in 0..2 {
        for commit in commits(seed, 150) {
            for (number, (name, lie)) in LIES.iter().enumerate() {
                let tested = tested.entry(number).or_default();
                let mut lying = commit.clone();
                if *tested == TIMES || lie(&mut lying).is_none() {
                    continue;
                }
                let error = lying.verify(Level::Chain).unwrap_err();
                assert_eq!(error.name(), *name, "seed {seed}: {error}");
                let is_of_chain = error.level() == Level::Chain;
                assert_eq!(lying.verify(Level::Commit).is_ok(), is_of_chain, "{name}");
                *tested += 1;
            }
        }
    }
    for (number, (name, _)) in LIES.iter().enumerate() {
        assert!(tested[&number] > 0, "{name} was never tested");
    }
}

#[test]
fn an_omitted_operation_is_noticed() {
    let mut missed = 0;
    for seed in 0..3 {
        for commit in commits(seed, 80) {
            for index in 0..commit.clone().ops().len() {
                let mut lying = commit.clone();
                lying.ops().remove(index);
                assert!(lying.verify(Level::Commit).is_ok());
                let error = lying.verify(Level::Chain).unwrap_err();
                let names = ["prev_data", "prev_data_missing", "inversion_node_missing"];
                assert!(names.contains(&error.name()), "seed {seed}: {error}");
                missed += 1;
            }
        }
    }
    assert!(missed > 300, "only {missed}");
}

#[test]
fn an_operation_of_another_path_is_noticed() {
    for seed in 0..4 {
        for commit in commits(seed, 100) {
            for index in 0..commit.clone().ops().len() {
                let mut lying = commit.clone();
                let op = fields(&mut lying.ops()[index]);
                let is_delete = op["cid"] == Ipld::Null;
                let Ipld::String(path) = op["path"].clone() else {
                    panic!("a path is text");
                };
                op.insert("path".to_owned(), ipld!(format!("{path}~")));
                let error = lying.verify(Level::Chain).unwrap_err();
                // The path may lead through nodes that the commit does not need to include.
                let names = match is_delete {
                    true => ["prev_data", "inversion_node_missing", "node_missing"],
                    false => ["op_not_in_tree", "op_value", "node_missing"],
                };
                assert!(names.contains(&error.name()), "seed {seed}: {error}");
            }
        }
    }
}

#[test]
fn a_missing_node_is_noticed_if_it_is_needed() {
    let mut missed: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..4 {
        for commit in commits(seed, 100) {
            let (root, blocks) = commit.car();
            let records: Vec<Cid> = {
                let mut commit = commit.clone();
                commit
                    .ops()
                    .iter()
                    .filter_map(cid_of)
                    .map(|cid| link(&cid))
                    .collect()
            };
            let nodes = blocks
                .keys()
                .filter(|cid| **cid != root && !records.contains(cid));
            for node in nodes {
                let mut lying = commit.clone();
                lying.change_car(|_, blocks| drop(blocks.remove(node)));
                match lying.verify(Level::Chain) {
                    Ok(evidence) => assert_eq!(evidence.cid, root),
                    Err(error) => {
                        assert!(error.to_string().contains(&node.to_string()), "{error}");
                        *missed.entry(error.name()).or_default() += 1;
                    }
                }
            }
        }
    }
    let names: Vec<&str> = missed.keys().copied().collect();
    assert_eq!(
        names,
        ["inversion_node_missing", "node_missing"],
        "{missed:?}"
    );
}

#[test]
fn a_changed_neighbour_is_noticed_if_it_is_needed() {
    let mut noticed = 0;
    for seed in 0..4 {
        for commit in commits(seed, 100) {
            let (_, blocks) = commit.car();
            for cid in blocks.keys() {
                let mut lying = commit.clone();
                lying.change_car(|_, blocks| {
                    blocks.entry(*cid).and_modify(|block| block.push(0));
                });
                if let Err(error) = lying.verify(Level::Chain) {
                    noticed += usize::from(error.name() == "inversion_node");
                }
            }
        }
    }
    assert!(noticed > 10, "only {noticed}");
}
