//! Opens a WebSocket to a URL: DNS, TCP, TLS, handshake and redirects, within one deadline.

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, handshake::client::Request};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};
use url::{Host, Url};

use crate::atproto::skim::MAX_FRAME_BYTES;
use crate::model::with_cursor;
use crate::net::address::{Reach, is_public};
use crate::net::redirect::{RedirectError, Route};
use crate::net::retry_after;
use crate::source::Resume;
use crate::source::error::ConnectError;

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// After this silence the kernel probes the peer, then again at the interval. The kernel ends the
/// connection after its own number of failed probes.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

const READ_BUFFER_BYTES: usize = 128 * 1024;

/// The worker only writes pings, pongs and a close. If more than this is waiting, the peer does not
/// read.
const MAX_WRITE_BUFFER_BYTES: usize = 64 * 1024;

/// Dials WebSocket servers.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) connector: Connector,
    /// For all steps together, including redirects.
    pub(crate) deadline: Duration,
    pub(crate) user_agent: HeaderValue,
}

/// The server's answer to the handshake.
enum Answer {
    Connected(Box<Socket>),
    Redirect { location: String },
}

// === impl Dialer ===

impl Dialer {
    pub(crate) async fn dial(&self, url: &Url, resume: Resume) -> Result<Socket, ConnectError> {
        timeout(self.deadline, self.follow(url, resume))
            .await
            .map_err(|_| ConnectError::Deadline(self.deadline))?
    }

    async fn follow(&self, start: &Url, resume: Resume) -> Result<Socket, ConnectError> {
        let mut route = Route::from(start);
        let mut at = start.clone();
        let mut reach = Reach::Anywhere;
        loop {
            let tcp = self.connect(&at, reach).await?;
            if tcp.peer_addr().is_ok_and(|peer| is_public(peer.ip())) {
                reach = Reach::PublicOnly;
            }
            let request = self.request(&with_cursor(&at, resume.cursor()))?;
            match self.upgrade(tcp, request, &at).await? {
                Answer::Connected(socket) => return Ok(*socket),
                Answer::Redirect { location } => at = route.follow(&at, &location)?,
            }
        }
    }

    async fn connect(&self, url: &Url, reach: Reach) -> Result<TcpStream, ConnectError> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let mut addresses = resolve(url).await.map_err(|error| ConnectError::Dns {
            host: host.clone(),
            error,
        })?;
        if reach == Reach::PublicOnly {
            // The checked addresses are dialled; the name is not resolved again.
            addresses.retain(|address| reach.admits(address.ip()));
            if addresses.is_empty() {
                return Err(RedirectError::PrivateAddress(host).into());
            }
        }
        let connected = connect_any(&addresses, self.deadline).await;
        let tcp = connected.map_err(|error| ConnectError::Tcp {
            host: host.clone(),
            error,
        })?;
        configure(&tcp).map_err(|error| ConnectError::Tcp { host, error })?;
        Ok(tcp)
    }

    fn request(&self, url: &Url) -> Result<Request, ConnectError> {
        let mut request = url
            .as_str()
            .into_client_request()
            .map_err(|error| handshake_error(error, url))?;
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, self.user_agent.clone());
        Ok(request)
    }

    async fn upgrade(
        &self,
        tcp: TcpStream,
        request: Request,
        url: &Url,
    ) -> Result<Answer, ConnectError> {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            // With a larger buffer, a ping would wait for further output.
            .write_buffer_size(0)
            .max_write_buffer_size(MAX_WRITE_BUFFER_BYTES)
            .max_message_size(Some(MAX_FRAME_BYTES))
            .max_frame_size(Some(MAX_FRAME_BYTES));
        let connector = Some(self.connector.clone());
        match client_async_tls_with_config(request, tcp, Some(config), connector).await {
            Ok((socket, _)) => Ok(Answer::Connected(Box::new(socket))),
            Err(tungstenite::Error::Http(response)) => {
                http_answer(response.status().as_u16(), response.headers())
            }
            Err(error) => Err(handshake_error(error, url)),
        }
    }
}

/// The meaning of an answer other than "switching protocols". Its body is ignored: it may be a load
/// balancer's HTML page.
fn http_answer(status: u16, headers: &HeaderMap) -> Result<Answer, ConnectError> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok();
    if let (301 | 302 | 303 | 307 | 308, Some(location)) = (status, text(header::LOCATION)) {
        let location = location.to_owned();
        return Ok(Answer::Redirect { location });
    }
    let retry_after =
        text(header::RETRY_AFTER).and_then(|value| retry_after::parse(value, Timestamp::now()));
    Err(ConnectError::Http {
        status,
        retry_after,
    })
}

fn handshake_error(error: tungstenite::Error, url: &Url) -> ConnectError {
    match error {
        tungstenite::Error::Io(error) if speaks_no_tls(&error) => {
            let host = url.host_str().unwrap_or_default();
            let port = url.port_or_known_default().unwrap_or_default();
            let hint = format!("{host}:{port} does not speak TLS; did you mean ws://?");
            ConnectError::Tls(std::io::Error::other(hint))
        }
        tungstenite::Error::Io(error) if is_tls(&error) => ConnectError::Tls(error),
        tungstenite::Error::Tls(error) => ConnectError::Tls(std::io::Error::other(error)),
        error => ConnectError::Handshake(Box::new(error)),
    }
}

/// rustls reports its errors inside I/O errors.
fn is_tls(error: &std::io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>())
}

/// Whether the server's first bytes were no TLS record, as those of a plain HTTP server.
fn speaks_no_tls(error: &std::io::Error) -> bool {
    let error = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(
        error,
        Some(rustls::Error::InvalidMessage(
            rustls::InvalidMessage::InvalidContentType
        ))
    )
}

async fn resolve(url: &Url) -> std::io::Result<Vec<SocketAddr>> {
    let default_port = if url.scheme() == "wss" { 443 } else { 80 };
    let port = url.port().unwrap_or(default_port);
    match url.host() {
        Some(Host::Domain(name)) => Ok(lookup_host((name, port)).await?.collect()),
        Some(Host::Ipv4(ip)) => Ok(vec![(ip, port).into()]),
        Some(Host::Ipv6(ip)) => Ok(vec![(ip, port).into()]),
        None => Ok(Vec::new()),
    }
}

/// Connects to the first of `addresses` that answers. Each address gets a share of the time, so
/// that an unreachable one does not use all of it.
async fn connect_any(addresses: &[SocketAddr], time: Duration) -> std::io::Result<TcpStream> {
    let shares = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut failure = std::io::Error::new(std::io::ErrorKind::NotFound, "no address");
    for address in addresses {
        match timeout(time / shares, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => failure = error,
            Err(_) => failure = std::io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failure)
}

fn configure(tcp: &TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(tcp).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tls;

    fn dialer() -> Dialer {
        Dialer {
            connector: tls::connector().unwrap(),
            deadline: Duration::from_secs(5),
            user_agent: HeaderValue::from_static("test"),
        }
    }

    #[tokio::test]
    async fn a_public_server_cannot_send_us_to_a_private_address() {
        for url in ["ws://127.0.0.1:9/", "ws://[::1]:9/", "ws://localhost:9/"] {
            let url = Url::parse(url).unwrap();
            let refused = dialer().connect(&url, Reach::PublicOnly).await;
            assert!(matches!(
                refused,
                Err(ConnectError::Redirect(RedirectError::PrivateAddress(_)))
            ));
        }
    }

    #[test]
    fn a_redirect_status_without_a_location_is_a_refusal() {
        let refused = http_answer(302, &HeaderMap::new());
        assert!(matches!(
            refused,
            Err(ConnectError::Http { status: 302, .. })
        ));
    }

    #[test]
    fn a_plain_server_at_a_wss_url_gives_a_hint() {
        let url = Url::parse("wss://relay.example:3583/path").unwrap();
        let no_tls = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let error = tungstenite::Error::Io(std::io::Error::other(no_tls));
        assert_eq!(
            handshake_error(error, &url).to_string(),
            "TLS failed: relay.example:3583 does not speak TLS; did you mean ws://?"
        );
    }

    #[test]
    fn the_requested_delay_is_read_from_the_answer() {
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static("7"))]);
        let retry_after = match http_answer(429, &headers) {
            Err(ConnectError::Http { retry_after, .. }) => retry_after,
            _ => None,
        };
        assert_eq!(retry_after, Some(Duration::from_secs(7)));
    }
}
