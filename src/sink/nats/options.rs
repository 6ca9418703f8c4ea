//! Where a JetStream is, how to connect to it, and what its streams are called.

use std::fmt;

use url::Url;

use super::tls::TlsFiles;
use crate::sink::options::{HIDDEN, redacted};
use crate::sink::secret::Secret;

const STREAM: &str = "INDEX_TASKS";
const SUBJECT: &str = "index-tasks";
const PARTITIONS: u32 = 16;
const MOST_PARTITIONS: u32 = 256;
/// 1 GiB.
const BYTES: u64 = 1 << 30;
const MOST_REPLICAS: usize = 5;
/// A server refuses longer names of streams at 256; suffixes are added to this one.
const MAX_NAME: usize = 200;

/// The options of a NATS sink, as its URL has them.
#[derive(Clone, PartialEq)]
pub struct NatsOptions {
    /// `nats://HOST:PORT` or `tls://HOST:PORT`, without credentials.
    pub(super) servers: Vec<String>,
    pub(super) login: Login,
    pub(super) tls: TlsFiles,
    pub(super) layout: Layout,
    /// What an operator is shown.
    shown: String,
}

/// How the connection is authenticated.
#[derive(Clone, PartialEq)]
pub(super) enum Login {
    None,
    Credentials(Secret),
    Token(Word),
    User { name: String, password: Word },
}

/// A secret that is in the URL, or named by it.
#[derive(Clone, PartialEq)]
pub(super) enum Word {
    Given(String),
    Named(Secret),
}

/// What the streams are called, and what they hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layout {
    pub(super) stream: String,
    pub(super) subject: String,
    pub(super) partitions: u32,
    /// What the URL asks for; a stream that exists may have any number otherwise.
    pub(super) bytes: Option<u64>,
    pub(super) replicas: Option<usize>,
}

impl NatsOptions {
    /// Reads `url`, whose scheme is `nats` or `tls`.
    ///
    /// # Errors
    /// The reason, without anything secret in it.
    pub(crate) fn parse(url: &Url) -> Result<Self, String> {
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or("the URL names no server")?;
        if !matches!(url.path(), "" | "/") {
            // It may be the end of a password, and would be shown.
            return Err("a NATS URL has no path; in a password, / is %2F".to_owned());
        }
        let port = url.port().unwrap_or(4222);
        let scheme = url.scheme();
        let mut servers = vec![format!("{scheme}://{host}:{port}")];
        let mut layout = Layout::default();
        let mut tls = TlsFiles::default();
        let (mut certificate, mut key) = (None, None);
        let (mut credentials, mut token, mut password) = (None, None, None);
        for (name, value) in url.query_pairs() {
            let value = &*value;
            match &*name {
                "stream" => layout.stream = name_of("stream", value, "-_")?,
                "subject" => layout.subject = name_of("subject", value, "-_.")?,
                "partitions" => {
                    layout.partitions = number(&name, value, 1, u64::from(MOST_PARTITIONS))?;
                }
                "bytes" => layout.bytes = Some(bytes(value)?),
                "replicas" => {
                    layout.replicas = Some(number(&name, value, 1, MOST_REPLICAS as u64)?);
                }
                "servers" => {
                    for server in value.split(',').filter(|server| !server.is_empty()) {
                        servers.push(server_of(scheme, server)?);
                    }
                }
                "ca_file" => tls.roots = Some(value.into()),
                "cert_file" => certificate = Some(value.into()),
                "key_file" => key = Some(value.into()),
                _ => {
                    if let Some(secret) = Secret::of("creds", &name, value) {
                        credentials = Some(secret);
                    } else if let Some(secret) = Secret::of("token", &name, value) {
                        token = Some(secret);
                    } else if let Some(secret) = Secret::of("password", &name, value) {
                        password = Some(secret);
                    } else {
                        return Err(format!("{name:?} is no parameter of a NATS sink"));
                    }
                }
            }
        }
        tls.certificate = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err("cert_file and key_file belong together".to_owned()),
        };
        let user = decoded(url.username())?;
        let in_url = url.password().map(decoded).transpose()?;
        let password = in_url
            .map(Word::Given)
            .or_else(|| password.map(Word::Named));
        let login = match (credentials, token, user.is_empty(), password) {
            (Some(credentials), None, true, None) => Login::Credentials(credentials),
            (None, Some(token), true, None) => Login::Token(Word::Named(token)),
            (None, None, true, None) => Login::None,
            // As NATS has it: what stands alone before the host is a token.
            (None, None, false, None) => Login::Token(Word::Given(user)),
            (None, None, false, Some(password)) => Login::User {
                name: user,
                password,
            },
            _ => return Err("one kind of login at a time: user, token or creds".to_owned()),
        };
        Ok(Self {
            shown: shown(url, &login),
            servers,
            login,
            tls,
            layout,
        })
    }

    /// The number of partitions that the URL asks for.
    pub fn partitions(&self) -> u32 {
        self.layout.partitions
    }
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            stream: STREAM.to_owned(),
            subject: SUBJECT.to_owned(),
            partitions: PARTITIONS,
            bytes: None,
            replicas: None,
        }
    }
}

impl Layout {
    /// What a stream may hold that is created.
    pub(super) fn bytes_to_create(&self) -> u64 {
        self.bytes.unwrap_or(BYTES)
    }

    pub(super) fn dead_letter_stream(&self) -> String {
        format!("{}_DLQ", self.stream)
    }

    /// The bucket for bodies that are too large for a message.
    pub(super) fn bodies(&self) -> String {
        format!("{}_BODIES", self.stream)
    }

    /// The bucket that says what each feed's epochs are.
    pub(super) fn feeds(&self) -> String {
        format!("{}_FEEDS", self.stream)
    }

    /// The bucket that says which consumer has which partition.
    pub(super) fn leases(&self) -> String {
        format!("{}_LEASES", self.stream)
    }

    /// The bucket of the consumers that are there.
    pub(super) fn members(&self) -> String {
        format!("{}_MEMBERS", self.stream)
    }

    pub(super) fn subject_of(&self, partition: u32) -> String {
        format!("{}.{partition}", self.subject)
    }

    pub(super) fn dead_letter_subject_of(&self, partition: u32) -> String {
        format!("{}-dlq.{partition}", self.subject)
    }
}

/// A server of the parameter `servers`. The login of the URL holds for all of them. The text is not in the
/// error, since it may have a password in it.
fn server_of(scheme: &str, server: &str) -> Result<String, String> {
    let text = format!("{scheme}://{server}");
    let is_plain = !server.contains(['@', '/', '?', '#', '\\']);
    match is_plain && Url::parse(&text).is_ok_and(|url| url.host().is_some()) {
        true => Ok(text),
        false => Err(
            "servers has HOST:PORT with commas between them; user, password and path are those of the URL"
                .to_owned(),
        ),
    }
}

/// A user name alone is a token.
fn shown(url: &Url, login: &Login) -> String {
    let mut url = url.clone();
    if matches!(login, Login::Token(Word::Given(_))) {
        // It fails only for URLs that cannot have one.
        let _set = url.set_username(HIDDEN);
    }
    redacted(&url, |_| false)
}

/// The text before the host, as it was before it was escaped.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let escaped = (first == b'%').then(|| behind.get(..2)).flatten();
        match escaped.and_then(|digits| data_encoding::HEXLOWER_PERMISSIVE.decode(digits).ok()) {
            Some(byte) => {
                bytes.extend(byte);
                rest = &behind[2..];
            }
            None => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| "the user or password is not UTF-8".to_owned())
}

fn name_of(parameter: &str, text: &str, others: &str) -> Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
    let has_empty_token = text.split('.').any(str::is_empty);
    if text.len() > MAX_NAME || has_empty_token || !text.chars().all(is_allowed) {
        return Err(format!(
            "{parameter}: {text:?} is not a name of letters, digits and {others}, at most \
             {MAX_NAME} of them"
        ));
    }
    Ok(text.to_owned())
}

fn number<N: TryFrom<u64>>(name: &str, text: &str, least: u64, most: u64) -> Result<N, String> {
    let parsed = text.parse().ok().filter(|n| (least..=most).contains(n));
    let number = parsed.and_then(|n| N::try_from(n).ok());
    number.ok_or_else(|| format!("{name}: {text:?} is not a number from {least} to {most}"))
}

/// `1073741824`, `1GiB`, `512MiB` or `64KiB`.
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = [("KiB", 10), ("MiB", 20), ("GiB", 30)]
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))
        .unwrap_or((text, 0));
    let number = digits.parse::<u64>().ok();
    let bytes = number.and_then(|number| number.checked_mul(1 << shift));
    bytes
        .filter(|bytes| *bytes > 0 && i64::try_from(*bytes).is_ok())
        .ok_or_else(|| format!("bytes: {text:?} is not a size, such as 1GiB"))
}

impl fmt::Display for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<NatsOptions, String> {
        NatsOptions::parse(&Url::parse(url).unwrap())
    }

    #[test]
    fn the_url_says_what_the_streams_are() {
        let options = parse(
            "nats://a.example?stream=TASKS&subject=t.x&partitions=4&bytes=64KiB&replicas=3&servers=b:1",
        );
        let options = options.unwrap();
        assert_eq!(
            options.servers,
            ["nats://a.example:4222", "nats://b:1"].map(str::to_owned)
        );
        assert_eq!(options.layout.bytes_to_create(), 65536);
        assert_eq!(options.layout.subject_of(3), "t.x.3");
        assert_eq!(options.layout.dead_letter_subject_of(3), "t.x-dlq.3");
        assert_eq!(options.layout.dead_letter_stream(), "TASKS_DLQ");
        let default = parse("tls://a.example").unwrap().layout;
        assert_eq!(default, Layout::default());
        assert_eq!(default.bytes_to_create(), 1_073_741_824);
    }

    /// Holds invariant 12.10.
    #[test]
    fn no_text_of_it_has_a_secret_in_it() {
        for url in [
            "nats://secret@a.example",
            "nats://ann:secret@a.example",
            "nats://ann:%73ecret@a.example?stream=A",
        ] {
            let options = parse(url).unwrap();
            for text in [options.to_string(), format!("{options:?}")] {
                assert!(text.contains("***"), "{text}");
                assert!(!text.contains("ecret"), "{text}");
            }
        }
        for servers in [
            "ann:secret@b:1",
            "b:1,ann:secret@c:1",
            "ann:secret%40b:1",
            "secret@b",
            "b/secret",
            "nats://ann:secret@b:1",
            "b?secret",
            "b%23secret",
            "b:secret",
        ] {
            let error = parse(&format!("nats://a.example?servers={servers}")).unwrap_err();
            assert!(error.contains("HOST:PORT"), "{servers}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let unknown = parse("nats://a.example?passwd=secret").unwrap_err();
        assert!(!unknown.contains("secret"), "{unknown}");
    }

    #[test]
    fn a_login_is_of_one_kind() {
        let password = parse("nats://a%40b:p%2F@h").unwrap().login;
        let expected = Login::User {
            name: "a@b".to_owned(),
            password: Word::Given("p/".to_owned()),
        };
        assert!(password == expected);
        let token = parse("nats://h?token_env=T").unwrap().login;
        assert!(token == Login::Token(Word::Named(Secret::Variable("T".to_owned()))));
        let credentials = parse("nats://h?creds_file=/c").unwrap().login;
        assert!(credentials == Login::Credentials(Secret::File("/c".into())));
        for wrong in [
            "nats://h?token_env=T&creds_file=/c",
            "nats://ann:x@h?creds_file=/c",
            "nats://h?cert_file=/c",
            "nats://h?stream=a.b",
            "nats://h?subject=a..b",
            "nats://h?subject=a.*",
            "nats://h?partitions=0",
            "nats://h?partitions=257",
            "nats://h?bytes=-1",
            "nats://h?replicas=6",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
