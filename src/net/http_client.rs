//! An HTTP client for servers that outsiders name. It limits the addresses that a request may reach
//! and the size of answers.

use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderName};
use hyper::{Request, Response, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use jiff::Timestamp;
use rustls::ClientConfig;
use tokio::net::lookup_host;
use tokio::time::timeout;
use tower_service::Service;
use url::{Host, Url};

use crate::net::address::Reach;
use crate::net::host_clocks::{HostClocks, parse_date};
use crate::net::redirect::{RedirectError, Route};
use crate::net::{retry_after, tls};
use crate::telemetry::rate_limit::SharedRateLimit;

pub(crate) const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// Short, so that there is time to try the other addresses of a host.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections to the operator's hosts are kept for reuse. There are too many other hosts to keep
/// connections to them.
const IDLE_TO_OPERATORS: usize = 4;
const IDLE_TO_OUTSIDERS: usize = 0;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The most characters of a server's word in an error message.
const MAX_SHOWN: usize = 32;

/// The pause of a caller that found no file descriptor free.
const NO_DESCRIPTOR_PAUSE: Duration = Duration::from_secs(5);

/// The shortest interval between two log lines about file descriptors.
const DESCRIPTOR_LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The origin of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NamedBy {
    /// The operator configured it. It may lead to any address. Its redirects are treated like
    /// URLs of outsiders.
    Operator,
    /// An outsider named it. It may lead to public addresses only, unless private ones are allowed.
    Outsider,
}

/// Sends requests to HTTP servers.
#[derive(Clone, Debug)]
pub struct Fetcher {
    operators: Connections,
    outsiders: Connections,
    clocks: Arc<HostClocks>,
    /// Limits the log lines about file descriptors.
    descriptor_log: Arc<SharedRateLimit>,
}

/// No answer, or no usable answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("no answer within {0:?}")]
    Deadline(Duration),

    #[error("{0} is at a private address")]
    PrivateAddress(String),

    #[error(transparent)]
    Redirect(#[from] RedirectError),

    #[error("the server answered with HTTP status {status}")]
    Status {
        status: u16,
        /// The server's `Retry-After`, capped.
        retry_after: Option<Duration>,
    },

    #[error(
        "the answer is compressed ({0}), although it was asked for as it is (Accept-Encoding: identity)"
    )]
    Compressed(String),

    /// Our own limit. It says nothing about the server, which was not asked.
    #[error(
        "this process has no file descriptor left for a connection; raise its limit (ulimit -n, or \
         LimitNOFILE of the service)"
    )]
    NoDescriptor,

    #[error("the answer has more than {limit} bytes")]
    TooLarge { limit: usize },

    /// The text names all causes, and the server if it gave no answer at all.
    #[error("no HTTP answer: {0}")]
    Transport(String),
}

/// A client, with the addresses that its host names may resolve to.
#[derive(Clone, Debug)]
struct Connections {
    client: Client<HttpsConnector<HttpConnector<Names>>, Empty<Bytes>>,
    reach: Reach,
}

/// Resolves host names and keeps only the addresses that may be dialled. The checked addresses are
/// the dialled ones.
#[derive(Clone, Debug)]
struct Names {
    reach: Reach,
}

/// A host name that is not dialled.
#[derive(Debug, thiserror::Error)]
enum NameError {
    #[error("cannot resolve the host name: {0}")]
    Lookup(#[from] io::Error),

    #[error("every address of the host is private")]
    OnlyPrivate,
}

// === impl FetchError ===

impl FetchError {
    /// How long to wait before the next attempt, if the server was not asked at all.
    pub fn wait(&self) -> Option<Duration> {
        matches!(self, Self::NoDescriptor).then_some(NO_DESCRIPTOR_PAUSE)
    }
}

/// Whether `error` says that this process, or this machine, has no file descriptor left.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    // EMFILE and ENFILE, which the standard library does not name.
    matches!(error.raw_os_error(), Some(24 | 23))
}

// === impl Fetcher ===

impl Fetcher {
    /// # Errors
    /// If the crypto provider supports no TLS version that rustls supports.
    pub fn new(allow_private_addresses: bool) -> Result<Self, rustls::Error> {
        Self::keeping(allow_private_addresses, IDLE_TO_OPERATORS)
    }

    /// Like [`Self::new`], but keeps up to `connections` to each of the operator's hosts for reuse.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn keeping(
        allow_private_addresses: bool,
        connections: usize,
    ) -> Result<Self, rustls::Error> {
        let tls = tls::client_config()?;
        Ok(Self::with(tls, allow_private_addresses, connections))
    }

    #[cfg(test)]
    pub(crate) fn trusting(tls: ClientConfig, allow_private_addresses: bool) -> Self {
        Self::with(tls, allow_private_addresses, IDLE_TO_OPERATORS)
    }

    fn with(tls: ClientConfig, allow_private_addresses: bool, connections: usize) -> Self {
        let reach = if allow_private_addresses {
            Reach::Anywhere
        } else {
            Reach::PublicOnly
        };
        Self {
            operators: Connections::new(Reach::Anywhere, tls.clone(), connections),
            outsiders: Connections::new(reach, tls, IDLE_TO_OUTSIDERS),
            clocks: Arc::default(),
            descriptor_log: Arc::new(SharedRateLimit::new(DESCRIPTOR_LOG_INTERVAL)),
        }
    }

    /// What the servers that it has asked say about our clock.
    pub fn clocks(&self) -> Arc<HostClocks> {
        self.clocks.clone()
    }

    /// The whole body at `url`, within `deadline` and with at most `limit` bytes.
    ///
    /// # Errors
    /// Every status except 200 is an error.
    pub async fn get_whole(
        &self,
        url: &Url,
        named: NamedBy,
        limit: usize,
        deadline: Duration,
    ) -> Result<Bytes, FetchError> {
        let whole = async {
            let response = self.get(url, named).await?;
            read_whole(response.into_body(), limit).await
        };
        timeout(deadline, whole)
            .await
            .map_err(|_| FetchError::Deadline(deadline))?
    }

    /// The response of `url` or of its redirect target, with the body still to be read. It has no
    /// deadline.
    ///
    /// # Errors
    /// Every status except 200 is an error.
    pub async fn get(&self, url: &Url, named: NamedBy) -> Result<Response<Incoming>, FetchError> {
        let response = self.ask(url, named).await?;
        match response.status() {
            StatusCode::OK => Ok(response),
            status => Err(FetchError::Status {
                status: status.as_u16(),
                retry_after: retry_after(&response),
            }),
        }
    }

    /// Like [`Self::get`], but accepts every status, because the body may explain it.
    ///
    /// # Errors
    /// If there is no answer.
    pub(crate) async fn ask(
        &self,
        url: &Url,
        named: NamedBy,
    ) -> Result<Response<Incoming>, FetchError> {
        let mut connections = match named {
            NamedBy::Operator => &self.operators,
            NamedBy::Outsider => &self.outsiders,
        };
        let mut route = Route::from(url);
        let mut at = url.clone();
        loop {
            let response = connections.ask(&at).await;
            let response = response.inspect_err(|error| self.report(error))?;
            if let (Some(date), Some(server)) = (date(&response), at.host_str()) {
                self.clocks.note(server, date, Timestamp::now());
            }
            match text(&response, header::LOCATION) {
                Some(location) if is_redirect(response.status()) => {
                    at = route.follow(&at, location)?;
                    connections = &self.outsiders;
                }
                _ => {
                    refuse_compressed(&response)?;
                    return Ok(response);
                }
            }
        }
    }
}

/// Refuses a body in another encoding than the one that was asked for. Without this, its bytes would
/// be taken for damaged JSON or CBOR.
fn refuse_compressed(response: &Response<Incoming>) -> Result<(), FetchError> {
    let Some(encoding) = response.headers().get(header::CONTENT_ENCODING) else {
        return Ok(());
    };
    let encoding = String::from_utf8_lossy(encoding.as_bytes());
    let encoding = encoding.trim();
    if response.status() != StatusCode::OK
        || encoding.is_empty()
        || encoding.eq_ignore_ascii_case("identity")
    {
        return Ok(());
    }
    let shown = encoding
        .chars()
        .take(MAX_SHOWN)
        .flat_map(char::escape_debug);
    Err(FetchError::Compressed(shown.collect()))
}

impl Fetcher {
    /// Logs that a request could not be made for a reason of our own.
    fn report(&self, error: &FetchError) {
        if error.wait().is_some()
            && let Some(suppressed) = self.descriptor_log.admit()
        {
            tracing::error!(
                %error,
                suppressed,
                "no request can be made; it counts as a failure of no server, and the jobs wait a moment"
            );
        }
    }
}

/// Reads a whole body of at most `limit` bytes.
pub(crate) async fn read_whole(body: Incoming, limit: usize) -> Result<Bytes, FetchError> {
    // A length that the server announces is not trusted, so the bytes are counted.
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge { limit }),
        Err(error) => Err(FetchError::Transport(causes(error.as_ref()))),
    }
}

/// The server's `Retry-After`, capped. If it is a date, it is one of the server's clock.
pub(crate) fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    let now = date(response).unwrap_or_else(Timestamp::now);
    retry_after::parse(text(response, header::RETRY_AFTER)?, now)
}

/// The time at which the server answered, by its own clock.
fn date(response: &Response<Incoming>) -> Option<Timestamp> {
    parse_date(text(response, header::DATE)?)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

pub(crate) fn text(response: &Response<Incoming>, name: HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}

// === impl Connections ===

impl Connections {
    fn new(reach: Reach, tls: ClientConfig, idle: usize) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(Names { reach });
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(idle)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { client, reach }
    }

    async fn ask(&self, url: &Url) -> Result<Response<Incoming>, FetchError> {
        // An IP address in the URL is dialled without the resolver, so it is checked here.
        let address = match url.host() {
            Some(Host::Ipv4(ip)) => Some(ip.into()),
            Some(Host::Ipv6(ip)) => Some(ip.into()),
            _ => None,
        };
        let private = || FetchError::PrivateAddress(url.host_str().unwrap_or_default().to_owned());
        if address.is_some_and(|ip| !self.reach.admits(ip)) {
            return Err(private());
        }
        let transport = |error: &(dyn Error + 'static)| {
            let server = url.origin().ascii_serialization();
            FetchError::Transport(format!("{server} unreachable: {}", causes(error)))
        };
        let request = Request::get(url.as_str())
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT_ENCODING, "identity")
            .body(Empty::new())
            .map_err(|error| transport(&error))?;
        self.client.request(request).await.map_err(|error| {
            let mut io_errors = chain(&error).filter_map(|cause| cause.downcast_ref());
            if io_errors.any(is_out_of_descriptors) {
                return FetchError::NoDescriptor;
            }
            let name_error = chain(&error).find_map(|cause| cause.downcast_ref());
            match name_error {
                Some(NameError::OnlyPrivate) => private(),
                _ => transport(&error),
            }
        })
    }
}

/// An error and its causes.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

pub(crate) fn causes(error: &(dyn Error + 'static)) -> String {
    let causes: Vec<_> = chain(error).map(ToString::to_string).collect();
    causes.join(": ")
}

// === impl Names ===

impl Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = NameError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NameError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NameError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let reach = self.reach;
        Box::pin(async move {
            // The port 0 is a placeholder; the client sets the port.
            let mut addresses: Vec<_> = lookup_host((name.as_str(), 0)).await?.collect();
            let is_known = !addresses.is_empty();
            addresses.retain(|address| reach.admits(address.ip()));
            if is_known && addresses.is_empty() {
                return Err(NameError::OnlyPrivate);
            }
            Ok(addresses.into_iter())
        })
    }
}
