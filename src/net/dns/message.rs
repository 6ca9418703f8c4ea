//! DNS messages: a question for the TXT records of a name, and its answer.
//! <https://www.rfc-editor.org/rfc/rfc1035>, <https://www.rfc-editor.org/rfc/rfc6891>.

/// The length of a header.
const HEADER: usize = 12;
/// The longest name as it is sent, with the lengths of its labels.
const MAX_NAME: usize = 255;
const MAX_LABEL: usize = 63;
/// The most pointers that one name leads through.
const MAX_POINTERS: usize = 32;
/// The most records of an answer that are read.
const MAX_RECORDS: usize = 512;

/// What UDP carries without fragments: <https://www.dnsflagday.net/2020/>.
pub(super) const UDP_BYTES: u16 = 1232;

const CLASS_IN: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_TXT: u16 = 16;
const TYPE_OPT: u16 = 41;

const IS_RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const IS_TRUNCATED: u16 = 0x0200;
const WANTS_RECURSION: u16 = 0x0100;
const CODE: u16 = 0x000f;

const NO_ERROR: u16 = 0;
const NO_SUCH_NAME: u16 = 3;

/// A question for the TXT records of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// The labels, in lower case.
    labels: Vec<Vec<u8>>,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The server has not found out (SERVFAIL, REFUSED and others). The number is its code.
    Failed(u16),
    /// The texts of the records, each with its parts joined. Empty if there are none, or no such name.
    Texts(Vec<String>),
    /// The answer does not fit into UDP.
    Truncated,
}

/// A name that DNS cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is too long for DNS, or has an empty label")]
pub struct InvalidName(pub String);

/// Bytes that are no answer to the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("the answer is cut short, or a name in it leads nowhere")]
    Malformed,

    #[error("the message answers another question")]
    Other,
}

type Name = Vec<Vec<u8>>;

impl Question {
    /// The question for `name`, such as `_lexicon.example.com`.
    ///
    /// # Errors
    /// If DNS cannot have the name.
    pub(super) fn txt(name: &str) -> Result<Self, InvalidName> {
        let labels: Name = name
            .split('.')
            .map(|label| label.to_ascii_lowercase().into_bytes())
            .collect();
        let is_valid = labels
            .iter()
            .all(|label| (1..=MAX_LABEL).contains(&label.len()));
        // The root's empty label comes last.
        let length: usize = labels.iter().map(|label| label.len() + 1).sum::<usize>() + 1;
        match is_valid && length <= MAX_NAME {
            true => Ok(Self { labels }),
            false => Err(InvalidName(name.chars().take(MAX_NAME).collect())),
        }
    }

    /// The question as it is sent, with this number.
    pub(super) fn encode(&self, id: u16) -> Vec<u8> {
        let mut message = Vec::with_capacity(64);
        // One question, and one additional record.
        for number in [id, WANTS_RECURSION, 1, 0, 0, 1] {
            message.extend(number.to_be_bytes());
        }
        for label in &self.labels {
            message.push(label.len() as u8);
            message.extend(label);
        }
        message.push(0);
        for number in [TYPE_TXT, CLASS_IN] {
            message.extend(number.to_be_bytes());
        }
        // How much the answer may have (EDNS). The name is the root; a time to live and data of zero.
        message.push(0);
        for number in [TYPE_OPT, UDP_BYTES, 0, 0, 0] {
            message.extend(number.to_be_bytes());
        }
        message
    }

    /// Reads the answer to the question with this number.
    ///
    /// # Errors
    /// If the message does not answer it.
    pub(super) fn read(&self, id: u16, message: &[u8]) -> Result<Answer, MessageError> {
        let mut reader = Reader { message, at: 0 };
        let (found_id, flags) = (reader.number()?, reader.number()?);
        let (questions, answers) = (reader.number()?, reader.number()?);
        reader.at = HEADER;
        if found_id != id || flags & IS_RESPONSE == 0 || flags & OPCODE != 0 || questions != 1 {
            return Err(MessageError::Other);
        }
        let asked = (reader.name()?, reader.number()?, reader.number()?);
        if (&asked.0, asked.1, asked.2) != (&self.labels, TYPE_TXT, CLASS_IN) {
            return Err(MessageError::Other);
        }
        if flags & IS_TRUNCATED != 0 {
            return Ok(Answer::Truncated);
        }
        match flags & CODE {
            NO_ERROR => {}
            NO_SUCH_NAME => return Ok(Answer::Texts(Vec::new())),
            code => return Ok(Answer::Failed(code)),
        }
        let mut records = Vec::new();
        for _ in 0..usize::from(answers).min(MAX_RECORDS) {
            records.push(reader.record()?);
        }
        Ok(Answer::Texts(self.texts(&records)))
    }

    /// The texts of the name, and of those that it is an alias of.
    fn texts(&self, records: &[Record]) -> Vec<String> {
        let mut name = &self.labels;
        // Each alias is followed once.
        for _ in 0..records.len() {
            let alias = records.iter().find_map(|record| match &record.data {
                Data::Alias(target) if record.name == *name => Some(target),
                _ => None,
            });
            match alias {
                Some(target) => name = target,
                None => break,
            }
        }
        let texts = records.iter().filter_map(|record| match &record.data {
            Data::Text(text) if record.name == *name => String::from_utf8(text.clone()).ok(),
            _ => None,
        });
        texts.collect()
    }
}

struct Record {
    name: Name,
    data: Data,
}

enum Data {
    Alias(Name),
    Other,
    Text(Vec<u8>),
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], MessageError> {
        let end = self.at.checked_add(length).ok_or(MessageError::Malformed)?;
        let bytes = self.message.get(self.at..end);
        self.at = end;
        bytes.ok_or(MessageError::Malformed)
    }

    fn byte(&mut self) -> Result<u8, MessageError> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u16, MessageError> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Reads a name, in lower case. A pointer leads back to the rest of another name.
    fn name(&mut self) -> Result<Name, MessageError> {
        let mut labels = Vec::new();
        let (mut length, mut pointers, mut end) = (0, 0, None);
        loop {
            let start = self.at;
            let head = self.byte()?;
            match head {
                0 => break,
                1..=0x3f => {
                    let label = self.take(usize::from(head))?.to_ascii_lowercase();
                    length += label.len() + 1;
                    labels.push(label);
                }
                0xc0..=0xff => {
                    let target = usize::from(head & 0x3f) << 8 | usize::from(self.byte()?);
                    end.get_or_insert(self.at);
                    pointers += 1;
                    // It must lead back, so that it comes to an end.
                    if target >= start || pointers > MAX_POINTERS {
                        return Err(MessageError::Malformed);
                    }
                    self.at = target;
                }
                _ => return Err(MessageError::Malformed),
            }
            if length >= MAX_NAME {
                return Err(MessageError::Malformed);
            }
        }
        self.at = end.unwrap_or(self.at);
        Ok(labels)
    }

    fn record(&mut self) -> Result<Record, MessageError> {
        let name = self.name()?;
        let (kind, class) = (self.number()?, self.number()?);
        let _time_to_live = self.take(4)?;
        let length = usize::from(self.number()?);
        let start = self.at;
        let data = self.take(length)?;
        let data = match (kind, class) {
            (TYPE_TXT, CLASS_IN) => Data::Text(joined(data)?),
            (TYPE_CNAME, CLASS_IN) => {
                let mut reader = Reader {
                    message: self.message,
                    at: start,
                };
                Data::Alias(reader.name()?)
            }
            _ => Data::Other,
        };
        Ok(Record { name, data })
    }
}

/// The parts of a text, each behind its length.
fn joined(mut data: &[u8]) -> Result<Vec<u8>, MessageError> {
    let mut text = Vec::with_capacity(data.len());
    while let Some((length, rest)) = data.split_first() {
        let split = rest.split_at_checked(usize::from(*length));
        let (part, rest) = split.ok_or(MessageError::Malformed)?;
        text.extend(part);
        data = rest;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: &str = "_lexicon.example.com";

    fn question() -> Question {
        Question::txt(NAME).unwrap()
    }

    /// The answer to [`question`], with these records: owner, type, data. An owner of two bytes is a
    /// pointer.
    fn answer(flags: u16, records: &[(&[u8], u16, &[u8])]) -> Vec<u8> {
        let mut message = question().encode(7);
        // Without the record about the length.
        message.truncate(message.len() - 11);
        message[2..4].copy_from_slice(&(IS_RESPONSE | flags).to_be_bytes());
        message[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
        message[10..12].copy_from_slice(&[0, 0]);
        for (owner, kind, data) in records {
            message.extend(*owner);
            message.extend(kind.to_be_bytes());
            message.extend([0, 1, 0, 0, 0, 60]);
            message.extend((data.len() as u16).to_be_bytes());
            message.extend(*data);
        }
        message
    }

    /// A pointer to the name of the question.
    const ASKED: &[u8] = &[0xc0, 12];

    fn texts(texts: &[&str]) -> Result<Answer, MessageError> {
        Ok(Answer::Texts(
            texts.iter().map(|text| (*text).to_owned()).collect(),
        ))
    }

    #[test]
    fn a_question_has_one_name_and_the_length_that_the_answer_may_have() {
        let encoded = question().encode(0x1234);
        let expected =
            b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x08_lexicon\x07example\x03com\0\0\x10\0\x01\
                         \0\0\x29\x04\xd0\0\0\0\0\0\0";
        assert_eq!(encoded, expected);
    }

    #[test]
    fn the_parts_of_a_text_are_joined_and_other_records_passed_by() {
        let message = answer(
            0,
            &[
                (ASKED, TYPE_TXT, b"\x04did=\x0bdid:plc:ann"),
                (ASKED, 1, b"\x7f\0\0\x01"),
                (ASKED, TYPE_TXT, b"\x01x"),
                (b"\x05other\0", TYPE_TXT, b"\x01y"),
            ],
        );
        assert_eq!(
            question().read(7, &message),
            texts(&["did=did:plc:ann", "x"])
        );
    }

    #[test]
    fn an_alias_is_followed() {
        let message = answer(
            0,
            &[
                (b"\x03two\0", TYPE_TXT, b"\x03yes"),
                (b"\x03one\0", TYPE_CNAME, b"\x03TWO\0"),
                (ASKED, TYPE_CNAME, b"\x03one\0"),
                (ASKED, TYPE_TXT, b"\x02no"),
            ],
        );
        assert_eq!(question().read(7, &message), texts(&["yes"]));
        let circle = answer(0, &[(ASKED, TYPE_CNAME, ASKED)]);
        assert_eq!(question().read(7, &circle), texts(&[]));
    }

    #[test]
    fn a_name_that_does_not_exist_has_no_texts_and_a_failure_is_no_answer() {
        assert_eq!(question().read(7, &answer(3, &[])), texts(&[]));
        assert_eq!(question().read(7, &answer(0, &[])), texts(&[]));
        assert_eq!(question().read(7, &answer(2, &[])), Ok(Answer::Failed(2)));
        let truncated = question().read(7, &answer(IS_TRUNCATED, &[]));
        assert_eq!(truncated, Ok(Answer::Truncated));
    }

    #[test]
    fn an_answer_to_another_question_is_refused() {
        let message = answer(0, &[(ASKED, TYPE_TXT, b"\x01x")]);
        assert_eq!(question().read(8, &message), Err(MessageError::Other));
        let other = Question::txt("_lexicon.example.org").unwrap();
        assert_eq!(other.read(7, &message), Err(MessageError::Other));
        let upper = Question::txt("_LEXICON.Example.com").unwrap();
        assert_eq!(upper.read(7, &message), texts(&["x"]));
        let asked = question().encode(7);
        assert_eq!(question().read(7, &asked), Err(MessageError::Other));
    }

    #[test]
    fn a_pointer_that_does_not_lead_back_is_refused() {
        let end = answer(0, &[]).len() as u8;
        for owner in [[0xc0, end], [0xc0, end + 2], [0xff, 0xff]] {
            let message = answer(0, &[(&owner, TYPE_TXT, b"\x01x")]);
            assert_eq!(question().read(7, &message), Err(MessageError::Malformed));
        }
    }

    #[test]
    fn a_name_that_dns_cannot_have_is_refused() {
        for name in ["", "a..b", &"a".repeat(64), &["abcdefgh"; 29].join(".")] {
            assert!(Question::txt(name).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut message = answer(0, &[]);
            message[7] = 9;
            message.extend(&bytes);
            let _ = question().read(7, &message);
            let _ = question().read(7, &bytes);
        }

        #[test]
        fn a_message_that_is_cut_short_is_refused(end in 0_usize..200) {
            let message = answer(0, &[(ASKED, TYPE_TXT, b"\x0bdid:plc:ann"), (ASKED, TYPE_CNAME, b"\x01a\0")]);
            if let Some(cut) = message.get(..end.min(message.len() - 1)) {
                prop_assert!(question().read(7, cut).is_err());
            }
        }
    }
}
