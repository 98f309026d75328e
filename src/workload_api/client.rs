//! The one client of the Workload API, for the commands.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use super::SECURITY_HEADER;
use crate::duration::show_duration;
use crate::pb::explain::v1::explain_client::ExplainClient;
use crate::pb::explain::v1::{ExplainCallerRequest, Explanation};
use crate::pb::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use crate::pb::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, ValidateJwtsvidRequest,
};
use crate::proto_json::to_json;
use crate::socket::MAX_SOCKET_PATH;

/// How long to wait before trying again, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What to tell whoever cannot reach a socket.
#[derive(Debug)]
pub struct Advice {
    /// What names another socket.
    pub named_by: &'static str,
    /// Where to look if the kernel does not let him.
    pub denied: &'static str,
}

const ADVICE: Advice = Advice {
    named_by: "--socket or SPIFFE_ENDPOINT_SOCKET",
    denied: "see the permissions of its directory, and socket_mode in the configuration",
};

/// Why a call did not succeed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody serves the socket.
    #[error("no agent listens on {}: {source}", path.display())]
    NobodyListens {
        /// The socket.
        path: PathBuf,
        /// How to go on.
        advice: &'static Advice,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody may listen, and we may not or cannot connect.
    #[error("cannot connect to {}: {source}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// How to go on.
        advice: &'static Advice,
        /// What the kernel said.
        source: io::Error,
    },
    /// The agent could not answer, or not in time.
    #[error("the agent did not answer: {0}")]
    Unavailable(String),
    /// The caller has no identity that fits.
    #[error("{0}")]
    NoIdentity(String),
    /// The agent refused.
    #[error("the agent refused: {0}")]
    Refused(String),
    /// The answer makes no sense.
    #[error("the answer of the agent is not understood: {0}")]
    Answer(String),
}

impl ClientError {
    /// What to do about it, as far as that is no part of the reason.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NobodyListens { advice, .. } => Some(format!(
                "start one with agent run or agent dev, or name its socket with {}",
                advice.named_by
            )),
            Self::Connect { advice, source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => Some(advice.denied.to_owned()),
                io::ErrorKind::InvalidInput => Some(format!(
                    "choose a shorter path: that of a socket has {MAX_SOCKET_PATH} bytes at most"
                )),
                _ => None,
            },
            Self::NoIdentity(_) => Some("agent explain tells what it lacks".to_owned()),
            Self::Unavailable(_) | Self::Refused(_) | Self::Answer(_) => None,
        }
    }

    /// Whether another try may succeed; with `wait` also where nobody listens yet.
    pub fn is_passing(&self, wait: bool) -> bool {
        match self {
            Self::NobodyListens { .. } => wait,
            Self::Unavailable(_) => true,
            _ => false,
        }
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::PermissionDenied => Self::NoIdentity(message),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                Self::Unavailable(message)
            }
            code => Self::Refused(if message.is_empty() {
                code.to_string()
            } else {
                message
            }),
        }
    }
}

/// Where the agent is and how patient the caller is.
#[derive(Debug, Clone)]
pub struct WorkloadClient {
    /// Path of the socket.
    pub socket: PathBuf,
    /// How long all tries may take together.
    pub timeout: Duration,
    /// Whether to wait for an agent that does not listen yet.
    pub wait: bool,
}

type Stub = SpiffeWorkloadApiClient<Channel>;

impl WorkloadClient {
    /// Fetches a token for each identity of this process, or for `spiffe_id` alone.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub async fn fetch_jwt(
        &self,
        audience: &[String],
        spiffe_id: Option<&str>,
    ) -> Result<Vec<Jwtsvid>, ClientError> {
        let request = JwtsvidRequest {
            audience: audience.to_vec(),
            spiffe_id: spiffe_id.unwrap_or_default().to_owned(),
        };
        let reply = self
            .call(async |channel: Channel| {
                Stub::new(channel)
                    .fetch_jwtsvid(with_header(request.clone()))
                    .await
            })
            .await?;
        let svids = reply.into_inner().svids;
        if svids.is_empty() {
            return Err(ClientError::Answer("it holds no token".to_owned()));
        }
        Ok(svids)
    }

    /// Has a token validated; gives its SPIFFE ID and claims.
    ///
    /// # Errors
    ///
    /// Why it is not believed.
    pub async fn validate_jwt(
        &self,
        audience: &str,
        token: &str,
    ) -> Result<(String, Map<String, Value>), ClientError> {
        let request = ValidateJwtsvidRequest {
            audience: audience.to_owned(),
            svid: token.to_owned(),
        };
        let reply = self
            .call(async |channel: Channel| {
                Stub::new(channel)
                    .validate_jwtsvid(with_header(request.clone()))
                    .await
            })
            .await?
            .into_inner();
        let claims = reply.claims.map(to_json).unwrap_or_default();
        Ok((reply.spiffe_id, claims))
    }

    /// Asks for the bundles that this process may have.
    ///
    /// # Errors
    ///
    /// Why there are none.
    pub async fn bundles(&self) -> Result<Bundles, ClientError> {
        let reply = self
            .call(async |channel: Channel| {
                Stub::new(channel)
                    .fetch_jwt_bundles(with_header(JwtBundlesRequest {}))
                    .await
            })
            .await?;
        Ok(Bundles(reply.into_inner()))
    }

    /// What this process is told of itself.
    ///
    /// # Errors
    ///
    /// Why it is told nothing.
    pub async fn explain(&self, request: ExplainCallerRequest) -> Result<Explanation, ClientError> {
        let reply = self
            .call(async |channel: Channel| {
                let mut stub = ExplainClient::new(channel);
                let mut request = with_header(request.clone());
                request.set_timeout(self.timeout);
                stub.explain_caller(request).await
            })
            .await?;
        Ok(reply.into_inner())
    }

    /// What an error status means. One that our own side made, of broken frames or a lost connection,
    /// is no word of the agent.
    fn judge(&self, status: Status) -> ClientError {
        if std::error::Error::source(&status).is_none() {
            return status.into();
        }
        lost(&self.socket)
    }

    fn late(&self) -> ClientError {
        let socket = self.socket.display();
        let patience = show_duration(self.timeout);
        ClientError::Unavailable(format!(
            "nothing came from {socket} within {patience}: the first look at a large program takes \
             longer on a busy machine (--timeout), or what listens there is no agent"
        ))
    }

    /// Connects and calls, again and again while that may help and there is time.
    async fn call<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut pause = FIRST_PAUSE;
        let mut last: Option<ClientError> = None;
        loop {
            let attempt = async {
                let reply = call(channel(&self.socket, &ADVICE).await?).await;
                reply.map_err(|status| self.judge(status))
            };
            let result = timeout_at(deadline, attempt)
                .await
                .unwrap_or_else(|_| Err(last.take().unwrap_or_else(|| self.late())));
            let passing = result
                .as_ref()
                .is_err_and(|error: &ClientError| error.is_passing(self.wait));
            let left = deadline.saturating_duration_since(Instant::now());
            if !passing || left.is_zero() {
                return result;
            }
            last = result.err();
            // The last try is made when the time is up, not before.
            sleep(pause.min(left)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// The bundles of this process, whenever they change.
#[derive(Debug)]
pub struct Bundles(Streaming<JwtBundlesResponse>);

impl Bundles {
    /// All of them, by trust domain ID: at once the first time, then after each change.
    ///
    /// # Errors
    ///
    /// Why no more will come.
    pub async fn next(&mut self) -> Result<Vec<(String, Value)>, ClientError> {
        let message = self.0.message().await?;
        let ended = || ClientError::Unavailable("the stream has ended".to_owned());
        let mut bundles = Vec::new();
        for (domain, document) in message.ok_or_else(ended)?.bundles {
            let document = serde_json::from_slice(&document)
                .map_err(|error| ClientError::Answer(error.to_string()))?;
            bundles.push((domain, document));
        }
        bundles.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(bundles)
    }
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::from_static("true");
    request.metadata_mut().insert(SECURITY_HEADER, value);
    request
}

fn lost(socket: &Path) -> ClientError {
    let socket = socket.display();
    ClientError::Unavailable(format!(
        "nothing sensible came from {socket}; is it an agent that listens there?"
    ))
}

/// A connection to whoever listens at a path; `advice` is for the caller who finds nobody.
///
/// # Errors
///
/// Why there is none.
pub async fn channel(path: &Path, advice: &'static Advice) -> Result<Channel, ClientError> {
    let stream = UnixStream::connect(path).await;
    let mut stream = Some(stream.map_err(|source| {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NobodyListens {
                    path,
                    advice,
                    source,
                }
            }
            _ => ClientError::Connect {
                path,
                advice,
                source,
            },
        }
    })?);
    // The endpoint wants an address; the connection is made already.
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            let stream = stream.take().map(TokioIo::new);
            std::future::ready(stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)))
        }))
        .await;
    channel.map_err(|_| lost(path))
}
