//! HTTP requests to hosts that strangers name: where they may lead, and how much may come back.

use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
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
use crate::net::redirect::RedirectError;
use crate::net::redirect::Route;
use crate::net::{retry_after, tls};

const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// Addresses that do not answer have to leave time for the others.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The operator's hosts are asked again and again; there are too many others to stay in touch with.
const IDLE_TO_OPERATORS: usize = 4;
const IDLE_TO_STRANGERS: usize = 0;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Who named a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NamedBy {
    /// It leads wherever the operator likes. Where redirects lead from there, the server says.
    Operator,
    /// It leads to public addresses, unless others are allowed.
    Outsider,
}

/// Asks HTTP servers.
#[derive(Clone, Debug)]
pub struct Fetcher {
    operators: Connections,
    strangers: Connections,
}

/// There was no answer, or not the one that was hoped for.
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

    #[error("the answer has more than {limit} bytes")]
    TooLarge { limit: usize },

    /// The text names all causes.
    #[error("no HTTP answer: {0}")]
    Transport(String),
}

/// A client, and what its names may resolve to.
#[derive(Clone, Debug)]
struct Connections {
    client: Client<HttpsConnector<HttpConnector<Names>>, Empty<Bytes>>,
    reach: Reach,
}

/// Resolves names, and keeps the addresses that may be dialled: what was checked is what is dialled.
#[derive(Clone, Debug)]
struct Names {
    reach: Reach,
}

/// A name that is not dialled.
#[derive(Debug, thiserror::Error)]
enum NameError {
    #[error("cannot resolve it: {0}")]
    Lookup(#[from] io::Error),

    #[error("every address is private")]
    OnlyPrivate,
}

// === impl Fetcher ===

impl Fetcher {
    /// # Errors
    /// Where the crypto provider supports no TLS version that rustls does.
    pub fn new(allow_private_addresses: bool) -> Result<Self, rustls::Error> {
        let tls = tls::client_config()?;
        Ok(Self::trusting(tls, allow_private_addresses))
    }

    pub(crate) fn trusting(tls: ClientConfig, allow_private_addresses: bool) -> Self {
        let reach = if allow_private_addresses {
            Reach::Anywhere
        } else {
            Reach::PublicOnly
        };
        Self {
            operators: Connections::new(Reach::Anywhere, tls.clone(), IDLE_TO_OPERATORS),
            strangers: Connections::new(reach, tls, IDLE_TO_STRANGERS),
        }
    }

    /// The body of what is at `url`: all of it within `deadline`, and at most so many bytes.
    ///
    /// # Errors
    /// Any status but 200 is one.
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

    /// What is at `url`, or where it redirects to, with its body still to be read. It takes as long
    /// as the servers like.
    ///
    /// # Errors
    /// Any status but 200 is one.
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

    /// The same with any status, whose body may say more.
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
            NamedBy::Outsider => &self.strangers,
        };
        let mut route = Route::from(url);
        let mut at = url.clone();
        loop {
            let response = connections.ask(&at).await?;
            match text(&response, header::LOCATION) {
                Some(location) if is_redirect(response.status()) => {
                    at = route.follow(&at, location)?;
                    connections = &self.strangers;
                }
                _ => return Ok(response),
            }
        }
    }
}

/// All of a body, which may have so many bytes.
pub(crate) async fn read_whole(body: Incoming, limit: usize) -> Result<Bytes, FetchError> {
    // Lengths that servers announce are not to be trusted, so it is counted.
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge { limit }),
        Err(error) => Err(FetchError::Transport(causes(error.as_ref()))),
    }
}

/// The server's `Retry-After`, capped.
pub(crate) fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    retry_after::parse(text(response, header::RETRY_AFTER)?, Timestamp::now())
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
        // An address in the URL is dialled without resolving anything.
        let address = match url.host() {
            Some(Host::Ipv4(ip)) => Some(ip.into()),
            Some(Host::Ipv6(ip)) => Some(ip.into()),
            _ => None,
        };
        let private = || FetchError::PrivateAddress(url.host_str().unwrap_or_default().to_owned());
        if address.is_some_and(|ip| !self.reach.admits(ip)) {
            return Err(private());
        }
        let request = Request::get(url.as_str())
            .header(header::USER_AGENT, USER_AGENT)
            .body(Empty::new())
            .map_err(|error| FetchError::Transport(causes(&error)))?;
        self.client.request(request).await.map_err(|error| {
            let name_error = chain(&error).find_map(|cause| cause.downcast_ref());
            match name_error {
                Some(NameError::OnlyPrivate) => private(),
                _ => FetchError::Transport(causes(&error)),
            }
        })
    }
}

/// An error and what caused it.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn causes(error: &(dyn Error + 'static)) -> String {
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
            // The client puts the port in.
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
