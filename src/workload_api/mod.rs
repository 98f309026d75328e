//! The SPIFFE Workload API on its Unix socket.

pub mod client;
mod explain;
mod refuse;
mod service;
mod streams;

use std::time::Duration;

use http::HeaderMap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

pub use self::explain::{patience, show as show_explanation};
pub use self::service::{Parts, Policy, WorkloadApi};
pub use self::streams::OpenStreams;
use crate::conn::accept::Incoming;
use crate::grpc::Server;
use crate::issue::IssueError;
use crate::limits::Limits;
use crate::metrics::Rpc;
use crate::pb::explain::v1::explain_server::ExplainServer;
use crate::pb::spiffe_workload_api_server::SpiffeWorkloadApiServer;

/// The metadata key that every request carries (SPIFFE Workload Endpoint, section 3), so that a
/// confused HTTP client is not taken for a workload.
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// Streams that a client has reset and that are not yet cleared away.
const MAX_RESET_STREAMS: usize = 20;
/// Streams that we had to reset.
const MAX_ERROR_STREAMS: usize = 64;

/// What a client may send on one stream before it is read, and on all of them together, in bytes.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// What reflection shows.
const SHOWN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/workload.fds"));

/// Serves until `stop`, then lets calls finish for as long as `grace`. Of `limits` only those take
/// effect here that cannot change while the agent runs.
///
/// # Errors
///
/// What reflection shows cannot be read.
pub async fn serve(
    incoming: Incoming,
    api: WorkloadApi,
    limits: Limits,
    ready: watch::Receiver<bool>,
    stop: CancellationToken,
    grace: Duration,
) -> Result<(), tonic_reflection::server::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let explain = ExplainServer::new(api.clone()).max_decoding_message_size(limits.request_bytes);
    let service = SpiffeWorkloadApiServer::new(api).max_decoding_message_size(limits.request_bytes);
    let most = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
    // Streams go on for as long as they like, once they have begun.
    let mut server = Server::new(limits.request_timeout);
    server
        .http()
        .max_header_list_size(most(limits.header_list_bytes))
        .max_concurrent_streams(most(limits.streams_per_connection))
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        .max_local_error_reset_streams(MAX_ERROR_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    let server = server
        .with_checked(service, check_header)
        .with_checked(explain, check_header)
        // Health and reflection are open to all, as in SPIRE: they name no identity.
        .with(health_service)
        .with(reflection().build_v1()?)
        .with(reflection().build_v1alpha()?);
    tokio::select! {
        () = server.serve(incoming, stop, grace) => Ok(()),
        () = report_health(health, ready) => Ok(()),
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(SHOWN)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
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

/// Lets requests pass that have the header exactly once, and exactly `true`.
fn check_header(headers: &HeaderMap) -> Result<(), Status> {
    let mut values = headers.get_all(SECURITY_HEADER).iter();
    let first = values.next().map(|value| value.as_bytes() == b"true");
    if first == Some(true) && values.next().is_none() {
        Ok(())
    } else {
        Err(Status::invalid_argument(
            "security header missing from request",
        ))
    }
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
    /// The caller asks for more than he may.
    TooMany(Rpc),
    /// The agent has a fault.
    Internal,
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
            Refusal::TooMany(rpc) => {
                Self::unavailable(format!("rate limit exceeded for {}", rpc.name()))
            }
            Refusal::Internal => Self::internal("internal fault"),
            Refusal::Issue(error) => {
                Self::unavailable(format!("could not fetch JWT-SVID: {error}"))
            }
            Refusal::Starting => Self::unavailable("the signing keys are not ready"),
            Refusal::Stopping => Self::unavailable("shutting down"),
        }
    }
}

/// For `crate::fuzz`.
#[cfg(any(test, fuzzing))]
pub mod fuzz {
    pub use super::service::fuzz_request as request;
}
