//! A server that follows a script, on a real loopback socket.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use huddle_firehose::atproto::skim::seq_of;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// Runs a script for each connection until it is dropped.
pub struct Server {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    _connections: JoinSet<()>,
}

/// A request whose head was read, and which has no answer yet.
pub struct Request {
    /// The number of requests before it.
    pub number: usize,
    head: String,
    stream: TcpStream,
}

impl Server {
    pub async fn start<F, S>(script: S) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
        S: Fn(Request) -> F + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut scripts = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let Some(head) = read_head(&mut stream).await else {
                    continue;
                };
                let number = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(head.clone());
                    seen.len() - 1
                };
                scripts.spawn(script(Request {
                    number,
                    head,
                    stream,
                }));
            }
        });
        Self {
            address,
            heads,
            _connections: task,
        }
    }

    /// Answers every request with `answer`, a whole HTTP response.
    pub async fn answering(answer: &str) -> Self {
        let answer = answer.to_owned();
        Self::start(move |request| request.answer(answer.clone())).await
    }

    pub fn url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.address)
    }

    pub fn http_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns the first line of each request so far.
    pub fn request_lines(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        let first_line = |head: &String| head.lines().next().unwrap_or_default().to_owned();
        heads.iter().map(first_line).collect()
    }

    /// Returns the `cursor` parameter of each request so far.
    pub fn cursors(&self) -> Vec<Option<u64>> {
        let lines = self.request_lines();
        lines.iter().map(|line| cursor_of(line)).collect()
    }

    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

impl Request {
    /// Its `cursor` parameter.
    pub fn cursor(&self) -> Option<u64> {
        cursor_of(self.head.lines().next()?)
    }

    /// The path of the request, with its query.
    pub fn path(&self) -> &str {
        let line = self.head.lines().next().unwrap_or_default();
        line.split(' ').nth(1).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }

    pub async fn answer(mut self, answer: String) {
        self.stream.write_all(answer.as_bytes()).await.unwrap();
        // The client closes when it has read the answer.
        let _ = self.stream.read(&mut [0; 64]).await;
    }

    /// Leaves the stream to the script, without an answer.
    pub fn unanswered(self) -> TcpStream {
        self.stream
    }

    /// Never answers.
    pub async fn ignore(mut self) {
        while self.stream.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {}
    }

    /// Completes the handshake, and leaves the bytes to the script.
    pub async fn upgrade_raw(self) -> TcpStream {
        self.upgrade_saying("").await
    }

    /// The same, with more header lines in the answer.
    pub async fn upgrade_saying(mut self, headers: &str) -> TcpStream {
        let key = header(&self.head, "sec-websocket-key").unwrap();
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n{headers}\r\n",
            derive_accept_key(key.as_bytes())
        );
        self.stream.write_all(answer.as_bytes()).await.unwrap();
        self.stream
    }

    pub async fn upgrade(self) -> WebSocketStream<TcpStream> {
        let stream = self.upgrade_raw().await;
        WebSocketStream::from_raw_socket(stream, Role::Server, None).await
    }

    /// Sends at most `count` frames after the cursor, and leaves the rest to the script.
    pub async fn serve_some(
        self,
        frames: &[Bytes],
        most: usize,
    ) -> Option<WebSocketStream<TcpStream>> {
        let wanted = behind(frames, self.cursor());
        let mut socket = self.upgrade().await;
        for frame in wanted.iter().take(most) {
            socket.feed(Message::Binary(frame.clone())).await.ok()?;
        }
        socket.flush().await.ok()?;
        Some(socket)
    }

    /// Serves like a correct relay, until the client disconnects.
    pub async fn serve(self, frames: &[Bytes]) {
        if let Some(mut socket) = self.serve_some(frames, frames.len()).await {
            while let Some(Ok(_)) = socket.next().await {}
        }
    }
}

/// A whole HTTP answer.
pub fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}connection: close\r\n\r\n{body}"
    )
}

/// The frames after a cursor.
pub fn behind(frames: &[Bytes], cursor: Option<u64>) -> &[Bytes] {
    let is_known = |frame: &Bytes| seq_of(frame).is_some_and(|seq| Some(seq) <= cursor);
    let known = frames.iter().rposition(is_known);
    &frames[known.map_or(0, |last| last + 1)..]
}

fn cursor_of(request_line: &str) -> Option<u64> {
    let (_, cursor) = request_line.split_once("cursor=")?;
    let digits = cursor.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// The value of a header in a request's head.
pub fn header(head: &str, name: &str) -> Option<String> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found
            .eq_ignore_ascii_case(name)
            .then(|| value.trim().to_owned())
    })
}

/// Reads the head of a request. `None` if the client sent something else or disconnected.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}
