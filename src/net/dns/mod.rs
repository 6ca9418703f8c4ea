//! Asks DNS for the texts of a name, by the servers that the operator or the system names.
//!
//! The standard library resolves host names only. This is a stub resolver: it asks a recursive server
//! and believes it, as every program of the machine does. What a text leads to is verified by others.

mod message;
mod servers;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

pub use self::message::InvalidName;
use self::message::{Answer, MessageError, Question, UDP_BYTES};
pub use self::servers::DnsServer;

/// How long one server may take for one answer.
const SERVER_DEADLINE: Duration = Duration::from_secs(3);
/// How often all servers are asked: packets of UDP get lost.
const ROUNDS: usize = 2;

/// Asks the servers, one after another.
#[derive(Clone, Debug)]
pub struct Dns {
    servers: Vec<SocketAddr>,
    deadline: Duration,
}

/// Why there is no answer. It says nothing about the name.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error(transparent)]
    Name(#[from] InvalidName),

    #[error("no DNS server answers for {name}: {last} ({server})")]
    NoAnswer {
        name: String,
        server: SocketAddr,
        last: ServerError,
    },

    #[error("there is no DNS server to ask; set dns_servers, or name one in /etc/resolv.conf")]
    NoServer,
}

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("it answers with the error code {0}")]
    Code(u16),

    #[error("no answer within {0:?}")]
    Deadline(Duration),

    #[error(transparent)]
    Io(#[from] io::Error),

    #[error(transparent)]
    Message(#[from] MessageError),

    #[error("no random numbers for a question")]
    Random,
}

impl Dns {
    /// Asks `servers`, or those of the system if there are none.
    pub fn new(servers: &[DnsServer]) -> Self {
        let servers = match servers.is_empty() {
            true => servers::of_system(),
            false => servers.iter().map(|server| server.0).collect(),
        };
        Self {
            servers,
            deadline: SERVER_DEADLINE,
        }
    }

    /// The texts of `name`. Empty if it has none.
    ///
    /// # Errors
    /// If no server could find out.
    pub async fn texts(&self, name: &str) -> Result<Vec<String>, DnsError> {
        let question = Question::txt(name)?;
        let mut last = DnsError::NoServer;
        for server in self
            .servers
            .iter()
            .cycle()
            .take(ROUNDS * self.servers.len())
        {
            let asked = timeout(self.deadline, ask(*server, &question)).await;
            match asked.unwrap_or(Err(ServerError::Deadline(self.deadline))) {
                Ok(texts) => return Ok(texts),
                Err(error) => {
                    last = DnsError::NoAnswer {
                        name: name.to_owned(),
                        server: *server,
                        last: error,
                    };
                }
            }
        }
        Err(last)
    }
}

async fn ask(server: SocketAddr, question: &Question) -> Result<Vec<String>, ServerError> {
    let id = random_id()?;
    let answer = match ask_by_udp(server, question, id).await? {
        Answer::Truncated => ask_by_tcp(server, question, id).await?,
        answer => answer,
    };
    match answer {
        Answer::Texts(texts) => Ok(texts),
        Answer::Failed(code) => Err(ServerError::Code(code)),
        Answer::Truncated => Err(MessageError::Malformed.into()),
    }
}

/// Numbers that others cannot guess, so that they cannot answer in the server's place.
fn random_id() -> Result<u16, ServerError> {
    let mut bytes = [0; 2];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| ServerError::Random)?;
    Ok(u16::from_be_bytes(bytes))
}

/// What does not answer the question is passed by: it may be of another server.
async fn ask_by_udp(
    server: SocketAddr,
    question: &Question,
    id: u16,
) -> Result<Answer, ServerError> {
    let any = match server {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&question.encode(id)).await?;
    let mut message = [0; UDP_BYTES as usize];
    loop {
        let length = socket.recv(&mut message).await?;
        let answer = message.get(..length).unwrap_or(&message);
        match question.read(id, answer) {
            Err(MessageError::Other) => {}
            answer => return Ok(answer?),
        }
    }
}

async fn ask_by_tcp(
    server: SocketAddr,
    question: &Question,
    id: u16,
) -> Result<Answer, ServerError> {
    let mut stream = TcpStream::connect(server).await?;
    let message = question.encode(id);
    // A question has less than 300 bytes.
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend(message);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(question.read(id, &message)?)
}
