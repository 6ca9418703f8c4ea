//! A source that sends as fast as the socket accepts. The bytes are prepared; only the seqs are
//! written into them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{self, WebSocket};

use crate::frames::{FIRST_SEQ, Loop, load, save};

pub(crate) const COMMAND: &str = "replay";

type Socket = WebSocket<TcpStream>;

/// A replay in its own process. It serves one client after the other.
pub(crate) struct Replay {
    process: Child,
    input: ChildStdin,
    pub(crate) url: String,
    pub(crate) count: u64,
    pub(crate) last_seq: u64,
    _folder: TempDir,
}

impl Replay {
    /// Sends `frames` to each client, repeatedly until at least `count` were sent; `rate` of them a
    /// second, if it is not zero.
    pub(crate) fn start(frames: &[Vec<u8>], count: u64, rate: u64) -> Self {
        Self::start_as(frames, count, rate, false)
    }

    /// Sends as fast as the client reads, to each client after [`Self::release`].
    pub(crate) fn start_held(frames: &[Vec<u8>], count: u64) -> Self {
        Self::start_as(frames, count, 0, true)
    }

    fn start_as(frames: &[Vec<u8>], count: u64, rate: u64, is_held: bool) -> Self {
        let count = count.next_multiple_of(frames.len() as u64);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("frames.bin");
        save(frames, &path);
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg(COMMAND)
            .arg(path)
            .arg(count.to_string())
            .arg(rate.to_string())
            .arg(is_held.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut address)
            .unwrap();
        Self {
            input: process.stdin.take().unwrap(),
            process,
            url: format!("ws://{}/", address.trim()),
            count,
            last_seq: FIRST_SEQ + count - 1,
            _folder: folder,
        }
    }

    /// Lets the frames go to one client, which may connect later.
    pub(crate) fn release(&self) {
        (&self.input).write_all(b"\n").unwrap();
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// The code of the replay process.
pub(crate) fn serve(arguments: &[String]) {
    let [path, count, rate, is_held] = arguments else {
        panic!("replay FILE COUNT RATE IS_HELD");
    };
    let mut frames = Loop::of(&load(Path::new(path)));
    let count = count.parse().unwrap();
    let rate = rate.parse().unwrap();
    let is_held: bool = is_held.parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    for stream in listener.incoming() {
        let Ok(socket) = tungstenite::accept(stream.unwrap()) else {
            continue;
        };
        if is_held && io::stdin().read_exact(&mut [0]).is_err() {
            // The benchmark has ended.
            return;
        }
        // A client that has received enough disconnects.
        let _gone = match rate {
            0 => send(socket, &mut frames, count),
            rate => send_slowly(socket, &mut frames, count, rate),
        };
    }
}

/// Sends as fast as the client reads.
fn send(mut socket: Socket, frames: &mut Loop, count: u64) -> io::Result<()> {
    let mut sent = 0;
    while sent < count {
        frames.number_from(FIRST_SEQ + sent);
        socket.get_mut().write_all(&frames.bytes)?;
        sent += frames.len() as u64;
    }
    until_closed(socket)
}

/// Sends `rate` frames a second, each at its time.
fn send_slowly(mut socket: Socket, frames: &mut Loop, count: u64, rate: u64) -> io::Result<()> {
    socket.get_ref().set_nodelay(true)?;
    let started = Instant::now();
    let mut sent = 0;
    while sent < count {
        frames.number_from(FIRST_SEQ + sent);
        for frame in frames.each() {
            let due = started + Duration::from_micros(sent * 1_000_000 / rate);
            wait_until(due);
            socket.get_mut().write_all(frame)?;
            sent += 1;
        }
    }
    until_closed(socket)
}

#[expect(
    clippy::disallowed_methods,
    reason = "there is no runtime in this process"
)]
fn wait_until(due: Instant) {
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
}

/// Waits until the client disconnects. Until then its pings are answered.
fn until_closed(mut socket: Socket) -> io::Result<()> {
    while socket.read().is_ok() {}
    Ok(())
}
