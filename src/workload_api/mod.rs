//! The SPIFFE Workload API on its Unix socket.

pub mod client;
mod service;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::Connected;
use tonic::{Request, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

pub use self::service::{Parts, Policy, WorkloadApi};
use crate::conn::Conn;
use crate::conn::accept::Incoming;
use crate::issue::IssueError;
use crate::pb::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use crate::peer::Peer;

/// The metadata key that every request carries (SPIFFE Workload Endpoint, section 3), so that a
/// confused HTTP client is not taken for a workload.
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// The largest request, in bytes.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// The largest list of headers, in bytes.
const MAX_HEADER_BYTES: u32 = 8 * 1024;
/// Calls and streams at a time on one connection.
const MAX_STREAMS: u32 = 64;
/// Streams that a client has reset and that are not yet cleared away.
const MAX_RESET_STREAMS: usize = 20;
/// Streams that we had to reset.
const MAX_ERROR_STREAMS: usize = 64;

impl Connected for Conn {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer()
    }
}

/// Serves until `stop`, then lets calls finish for as long as `grace`.
///
/// # Errors
///
/// The listener broke.
pub async fn serve(
    incoming: Incoming,
    api: WorkloadApi,
    ready: watch::Receiver<bool>,
    stop: CancellationToken,
    grace: Duration,
) -> Result<(), tonic::transport::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let service = SpiffeWorkloadApiServer::new(api).max_decoding_message_size(MAX_REQUEST_BYTES);
    let server = tonic::transport::Server::builder()
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_pending_accept_reset_streams(Some(MAX_RESET_STREAMS))
        .http2_max_local_error_reset_streams(Some(MAX_ERROR_STREAMS))
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(InterceptedService::new(service, check_header))
        // Health is open to all, as in SPIRE: it names no identity.
        .add_service(health_service)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    tokio::select! {
        result = server => result,
        () = report_health(health, ready) => Ok(()),
        () = async { stop.cancelled().await; tokio::time::sleep(grace).await } => Ok(()),
    }
}

/// Tells health checkers whether tokens can be minted.
async fn report_health(health: HealthReporter, mut ready: watch::Receiver<bool>) {
    loop {
        let status = if *ready.borrow_and_update() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in ["", "SpiffeWorkloadAPI"] {
            health.set_service_status(service, status).await;
        }
        if ready.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

fn check_header(request: Request<()>) -> Result<Request<()>, Status> {
    if has_security_header(request.metadata()) {
        Ok(request)
    } else {
        Err(Status::invalid_argument(
            "security header missing from request",
        ))
    }
}

/// Whether the header is there exactly once and exactly `true`.
fn has_security_header(metadata: &MetadataMap) -> bool {
    let mut values = metadata.get_all(SECURITY_HEADER).iter();
    let first = values.next().map(|value| value.as_bytes() == b"true");
    first == Some(true) && values.next().is_none()
}

/// Why a call is refused. The messages hold no selector, no path and no other identity.
#[derive(Debug)]
enum Refusal {
    /// A field of the request is missing or wrong.
    Request(String),
    /// The caller could not be told.
    Attestation,
    /// The caller is known and has no identity that fits.
    NoIdentity,
    /// Nothing can be signed or published at the moment.
    Issue(IssueError),
    /// No keys are published yet.
    Starting,
    /// The agent stops.
    Stopping,
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Request(reason) => Self::invalid_argument(reason),
            Refusal::Attestation => Self::unavailable("workload attestation failed"),
            Refusal::NoIdentity => Self::permission_denied("no identity issued"),
            Refusal::Issue(error) => {
                Self::unavailable(format!("could not fetch JWT-SVID: {error}"))
            }
            Refusal::Starting => Self::unavailable("the signing keys are not ready"),
            Refusal::Stopping => Self::unavailable("shutting down"),
        }
    }
}
