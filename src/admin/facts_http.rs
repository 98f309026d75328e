//! Facts over HTTP, for machines that watch: `/metrics`, `/live`, `/ready`. On a Unix socket or a
//! loopback address, and nowhere else.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Facts;

/// How long a request may take to arrive.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at a time: scrapers are few.
const MAX_CONNECTIONS: usize = 32;
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where facts are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FactsAddress {
    /// On a Unix socket.
    Socket(PathBuf),
    /// On a loopback address.
    Loopback(SocketAddr),
}

/// What listens.
#[derive(Debug)]
pub enum FactsListener {
    /// A Unix socket.
    Unix(UnixListener),
    /// A loopback address.
    Tcp(TcpListener),
}

/// Serves until `stop`.
///
/// # Errors
///
/// The listener broke.
pub async fn serve(
    listener: FactsListener,
    facts: Arc<Facts>,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(_) = connections.join_next() => {}
            accepted = accept(&listener), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok(stream) => {
                    let facts = Arc::clone(&facts);
                    connections.spawn(answer(stream, facts));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection for metrics");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn accept(listener: &FactsListener) -> io::Result<Box<dyn Stream>> {
    Ok(match listener {
        FactsListener::Unix(listener) => Box::new(listener.accept().await?.0),
        FactsListener::Tcp(listener) => Box::new(listener.accept().await?.0),
    })
}

async fn answer(stream: Box<dyn Stream>, facts: Arc<Facts>) {
    let service = service_fn(move |request| {
        let reply = reply(&request, &facts);
        async move { Ok::<_, Infallible>(reply) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        // One answer a connection: nobody keeps a place that others need.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(2 * PATIENCE, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection for metrics ended early"),
        Err(_) => tracing::debug!("a connection for metrics took too long"),
    }
}

fn reply(request: &Request<Incoming>, facts: &Facts) -> Response<Full<Bytes>> {
    let plain = "text/plain; charset=utf-8";
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (StatusCode::OK, OPENMETRICS, facts.metrics_text()),
        (&Method::GET, "/live") => (StatusCode::OK, plain, "live\n".to_owned()),
        (&Method::GET, "/ready") => {
            let (ready, problems) = facts.health();
            let status = if ready {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            let word = if ready { "ready" } else { "not ready" };
            let lines = problems.iter().map(|problem| format!("{problem}\n"));
            (
                status,
                plain,
                format!("{word}\n{}", lines.collect::<String>()),
            )
        }
        (&Method::GET, _) => {
            let help = "there are /metrics, /live and /ready\n";
            (StatusCode::NOT_FOUND, plain, help.to_owned())
        }
        _ => (
            StatusCode::METHOD_NOT_ALLOWED,
            plain,
            "GET alone\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let header = hyper::header::HeaderValue::from_static(kind);
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, header);
    response
}
