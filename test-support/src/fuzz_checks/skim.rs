//! A skim alone: its offsets are correct, and a frame has only one end.

use huddle_firehose::atproto::skim::{Skim, seq_of, skim, splice_seq};

pub fn check(frame: &[u8]) {
    let Ok(skimmed) = skim(frame) else {
        assert_eq!(seq_of(frame), None);
        return;
    };
    let seq = match &skimmed {
        Skim::Error { .. } => None,
        Skim::Message(envelope) => envelope.seq,
        Skim::Unknown(unknown) => unknown.seq,
    };
    assert!(seq_of(frame).is_none_or(|place| Some(place) == seq));
    check_end(frame);
    if let Some(seq) = seq {
        check_splice(frame, seq, &skimmed);
    } else {
        assert!(splice_seq(frame, 1).is_err());
    }
}

/// No frame is the prefix of another.
fn check_end(frame: &[u8]) {
    for end in [frame.len() / 2, frame.len() - 1] {
        assert!(skim(&frame[..end]).is_err(), "cut at {end}");
    }
    assert!(skim(&[frame, &[0]].concat()).is_err());
}

fn check_splice(frame: &[u8], seq: u64, skimmed: &Skim<'_>) {
    let splice = |frame: &[u8], seq| splice_seq(frame, seq).expect("a frame that has a seq");
    assert_eq!(
        splice(frame, seq),
        frame,
        "the seq it has is written as it was"
    );

    let spliced = splice(frame, seq ^ 0x1_0000_0001);
    assert_eq!(splice(&spliced, seq), frame);
    let respliced = skim(&spliced).expect("a spliced frame is a frame");
    assert_eq!(paths(&respliced), paths(skimmed));
}

fn paths<'a>(skimmed: &Skim<'a>) -> Vec<&'a str> {
    match skimmed {
        Skim::Message(envelope) => envelope.paths().collect(),
        Skim::Error { .. } | Skim::Unknown(_) => Vec::new(),
    }
}
