//! A source that sends as fast as the socket takes: the bytes are ready, only the seqs are written
//! into them.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokio_tungstenite::tungstenite;

use crate::frames::{FIRST_SEQ, Loop, load};

pub(crate) const COMMAND: &str = "replay";

/// A replay in a process of its own. It serves one client after the other.
pub(crate) struct Replay {
    process: Child,
    pub(crate) url: String,
    pub(crate) last_seq: u64,
}

impl Replay {
    /// Sends `count` frames to each client, those of the recording at `path` over and over.
    pub(crate) fn start(path: &Path, count: u64) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg(COMMAND)
            .arg(path)
            .arg(count.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut address)
            .unwrap();
        Self {
            process,
            url: format!("ws://{}/", address.trim()),
            last_seq: FIRST_SEQ + count - 1,
        }
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// The process itself.
pub(crate) fn serve(arguments: &[String]) {
    let [path, count] = arguments else {
        panic!("replay FILE COUNT");
    };
    let mut frames = Loop::of(&load(Path::new(path)));
    let count = count.parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    for stream in listener.incoming() {
        // A client that has seen enough goes away.
        let _gone = send(stream.unwrap(), &mut frames, count);
    }
}

fn send(stream: TcpStream, frames: &mut Loop, count: u64) -> std::io::Result<()> {
    let mut socket = tungstenite::accept(stream).map_err(std::io::Error::other)?;
    let stream = socket.get_mut();
    let mut sent = 0;
    while sent < count {
        frames.number_from(FIRST_SEQ + sent);
        stream.write_all(&frames.bytes)?;
        sent += frames.len() as u64;
    }
    // Until the client has had enough.
    let _closed = socket.read();
    Ok(())
}
