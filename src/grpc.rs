//! gRPC services on the connections of [`crate::conn`]: each call is led to the service that its path
//! names, with the process that made the connection beside it, and has its time.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming as Body;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body as GrpcBody;
use tonic::server::NamedService;
use tower::{Service, ServiceExt};

use crate::conn::Conn;
use crate::conn::accept::Incoming;

/// The header that says how long the client waits.
const TIMEOUT: &str = "grpc-timeout";

type Answer = Pin<Box<dyn Future<Output = Response<GrpcBody>> + Send>>;
type Handler = Box<dyn Fn(Request<GrpcBody>) -> Answer + Send + Sync>;

/// A look at the headers of a request before anybody else sees it.
type Check = fn(&HeaderMap) -> Result<(), Status>;

/// What generated code makes of a service.
pub trait GrpcService:
    Service<Request<GrpcBody>, Response = Response<GrpcBody>, Error = Infallible>
    + NamedService
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> GrpcService for S where
    S: Service<Request<GrpcBody>, Response = Response<GrpcBody>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Services, and how they are served.
pub struct Server {
    http: Builder<TokioExecutor>,
    request_timeout: Option<Duration>,
    services: Services,
}

/// Services by name.
#[derive(Default)]
struct Services(Vec<(&'static str, Handler)>);

impl Server {
    /// One without services. Until the first word of its answer, a call has `request_timeout` or
    /// what its client gives it, whichever is less.
    pub fn new(request_timeout: Option<Duration>) -> Self {
        let mut http = Builder::new(TokioExecutor::new());
        // Nothing of gRPC goes by the date.
        http.timer(TokioTimer::new()).auto_date_header(false);
        Self {
            http,
            request_timeout,
            services: Services::default(),
        }
    }

    /// The settings of HTTP/2.
    pub fn http(&mut self) -> &mut Builder<TokioExecutor> {
        &mut self.http
    }

    /// With one more service; name those first that are called the most.
    pub fn with<S>(self, service: S) -> Self
    where
        S: GrpcService,
        S::Future: Send,
    {
        self.with_checked(service, |_| Ok(()))
    }

    /// As [`Server::with`], for requests whose headers pass this check.
    pub fn with_checked<S>(mut self, service: S, check: Check) -> Self
    where
        S: GrpcService,
        S::Future: Send,
    {
        let handler = move |request: Request<GrpcBody>| -> Answer {
            if let Err(refusal) = check(request.headers()) {
                return Box::pin(std::future::ready(refusal.into_http()));
            }
            let answer = service.clone().oneshot(request);
            Box::pin(async {
                let Ok(answer) = answer.await;
                answer
            })
        };
        self.services.0.push((S::NAME, Box::new(handler)));
        self
    }

    /// Serves until `stop`, then lets calls finish for as long as `grace`. Returns early where the
    /// listener broke.
    pub async fn serve(self, mut incoming: Incoming, stop: CancellationToken, grace: Duration) {
        let connections = TaskTracker::new();
        let server = Arc::new(self);
        while let Some(accepted) = stop.run_until_cancelled(incoming.next()).await.flatten() {
            if let Ok(conn) = accepted {
                connections.spawn(Arc::clone(&server).attend(conn, stop.clone()));
            }
        }
        drop(incoming);
        connections.close();
        if stop.is_cancelled() {
            // Those that take longer end with the agent.
            let _ = tokio::time::timeout(grace, connections.wait()).await;
        }
    }

    /// Serves one connection to its end; from `stop` on, it takes no more calls.
    async fn attend(self: Arc<Self>, conn: Conn, stop: CancellationToken) {
        let peer = conn.peer();
        let service = service_fn(|mut request: Request<Body>| {
            request.extensions_mut().insert(Arc::clone(&peer));
            self.call(request.map(GrpcBody::new))
        });
        let served = self.http.serve_connection(TokioIo::new(conn), service);
        let mut served = pin!(served);
        let done = tokio::select! {
            done = &mut served => done,
            () = stop.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = done {
            tracing::debug!(%error, "a connection ended");
        }
    }

    fn call(
        &self,
        request: Request<GrpcBody>,
    ) -> impl Future<Output = Result<Response<GrpcBody>, Infallible>> + Send + use<> {
        let given = time_given(request.headers());
        let time = given.into_iter().chain(self.request_timeout).min();
        let answer = self.services.answer(request);
        async move {
            let Some(time) = time else {
                return Ok(answer.await);
            };
            let answered = tokio::time::timeout(time, answer).await;
            let late = |_| Status::deadline_exceeded("the time is up").into_http();
            Ok(answered.unwrap_or_else(late))
        }
    }
}

impl Services {
    fn answer(&self, request: Request<GrpcBody>) -> Answer {
        let mut segments = request.uri().path().split('/').skip(1);
        let name = segments.next().unwrap_or_default();
        let found = self.0.iter().find(|(known, _)| *known == name);
        match found {
            Some((_, handler)) => handler(request),
            None => Box::pin(async { Status::unimplemented("").into_http() }),
        }
    }
}

/// The time that a client gives a call: at most eight digits and a unit, as gRPC writes it. What is
/// written otherwise gives none.
pub fn time_given(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let nanoseconds: u64 = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        "n" => 1,
        _ => return None,
    };
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number)?;
    Some(Duration::from_nanos(number.saturating_mul(nanoseconds)))
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll};

    use tokio::time::Instant;
    use tonic::Code;

    use super::*;

    /// Answers no call.
    #[derive(Clone)]
    struct Silent;

    impl NamedService for Silent {
        const NAME: &'static str = "test.Silent";
    }

    impl Service<Request<GrpcBody>> for Silent {
        type Response = Response<GrpcBody>;
        type Error = Infallible;
        type Future = std::future::Pending<Result<Response<GrpcBody>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<GrpcBody>) -> Self::Future {
            std::future::pending()
        }
    }

    async fn outcome(server: &Server, path: &str, given: Option<&str>) -> (Code, Duration) {
        let mut request = Request::new(GrpcBody::empty());
        *request.uri_mut() = path.parse().unwrap();
        if let Some(given) = given {
            request
                .headers_mut()
                .insert(TIMEOUT, given.parse().unwrap());
        }
        let start = Instant::now();
        let Ok(answer) = server.call(request).await;
        let status = Status::from_header_map(answer.headers()).unwrap();
        (status.code(), start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_has_the_time_that_agent_and_client_give_it_whichever_is_less() {
        let late = |seconds| (Code::DeadlineExceeded, Duration::from_secs(seconds));
        let patient = Server::new(Some(Duration::from_secs(30))).with(Silent);
        assert_eq!(outcome(&patient, "/test.Silent/Wait", None).await, late(30));
        for (given, seconds) in [("5S", 5), ("1M", 30), ("5s", 30)] {
            let ended = outcome(&patient, "/test.Silent/Wait", Some(given)).await;
            assert_eq!(ended, late(seconds), "{given}");
        }
        let endless = Server::new(None).with(Silent);
        let ended = outcome(&endless, "/test.Silent/Wait", Some("5S")).await;
        assert_eq!(ended, late(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_there_is_not_is_unimplemented_and_a_refused_header_the_end() {
        let refuse = |_: &HeaderMap| Err(Status::invalid_argument("no"));
        let server = Server::new(None).with_checked(Silent, refuse);
        for path in ["/", "/test/Wait", "/test.Silen/Wait", "//test.Silent/Wait"] {
            let ended = outcome(&server, path, None).await;
            assert_eq!(ended, (Code::Unimplemented, Duration::ZERO), "{path}");
        }
        let ended = outcome(&server, "/test.Silent/Wait", None).await;
        assert_eq!(ended.0, Code::InvalidArgument);
    }
}
