//! A DNS server that answers with texts of a test.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// The length of a header.
const HEADER: usize = 12;
/// The length of the record that says how long an answer may be, at the end of each question.
const LENGTH_RECORD: usize = 11;

type Texts = Arc<Mutex<HashMap<String, Vec<String>>>>;

/// Answers questions for texts over UDP. A name without texts does not exist.
#[derive(Debug)]
pub struct DnsServer {
    pub address: SocketAddr,
    texts: Texts,
    serving: JoinHandle<()>,
}

impl DnsServer {
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let texts = Texts::default();
        Self {
            address: socket.local_addr().unwrap(),
            serving: tokio::spawn(serve(socket, texts.clone())),
            texts,
        }
    }

    /// Has `name` these texts from now on. An empty list is a failure of the server.
    pub fn set(&self, name: &str, texts: &[&str]) {
        let texts = texts.iter().map(ToString::to_string).collect();
        self.texts.lock().unwrap().insert(name.to_owned(), texts);
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(socket: UdpSocket, texts: Texts) {
    let mut question = [0; 512];
    while let Ok((length, asker)) = socket.recv_from(&mut question).await {
        let question = &question[..length - LENGTH_RECORD];
        let found = texts.lock().unwrap().get(&name(question)).cloned();
        let answer = answer(question, found.as_deref());
        socket.send_to(&answer, asker).await.unwrap();
    }
}

/// The name that a question asks for.
fn name(question: &[u8]) -> String {
    let mut labels = Vec::new();
    let mut rest = &question[HEADER..];
    while let Some((length, behind)) = rest.split_first().filter(|(length, _)| **length > 0) {
        let (label, behind) = behind.split_at(usize::from(*length));
        labels.push(String::from_utf8_lossy(label).into_owned());
        rest = behind;
    }
    labels.join(".")
}

fn answer(question: &[u8], texts: Option<&[String]>) -> Vec<u8> {
    const NO_SUCH_NAME: u8 = 3;
    const FAILURE: u8 = 2;
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    answer[3] = match texts {
        None => NO_SUCH_NAME,
        Some([]) => FAILURE,
        Some(_) => 0,
    };
    let texts = texts.unwrap_or_default();
    answer[7] = texts.len() as u8;
    answer[11] = 0;
    for text in texts {
        // The name of the question; TXT, IN, a time to live, the length.
        answer.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60, 0, text.len() as u8 + 1]);
        answer.push(text.len() as u8);
        answer.extend(text.as_bytes());
    }
    answer
}
