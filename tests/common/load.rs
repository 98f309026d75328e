//! Callers of the Workload API as processes of their own, for the bench and the long tests: a
//! program that holds this calls itself again under another user.

#![allow(dead_code, reason = "helpers, of which each program uses some")]

use std::path::Path;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use pb::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use pb::{JwtBundlesRequest, JwtsvidRequest};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

#[allow(
    clippy::all,
    clippy::indexing_slicing,
    missing_docs,
    reason = "generated code"
)]
pub mod pb {
    tonic::include_proto!("_");
}

pub type Client = SpiffeWorkloadApiClient<Channel>;

/// Connects as every client does, without retries.
pub async fn connect(socket: &Path) -> Result<Client, tonic::transport::Error> {
    channel(socket).await.map(Client::new)
}

/// A connection for any service.
pub async fn channel(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(socket).await;
            stream.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connector).await
}

/// A request with the security header.
pub fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let header = "true".parse().expect("ASCII");
    request.metadata_mut().insert("workload.spiffe.io", header);
    request
}

/// A token for one audience.
pub async fn fetch(client: &mut Client, audience: &str) -> Result<String, Status> {
    let message = JwtsvidRequest {
        audience: vec![audience.to_owned()],
        spiffe_id: String::new(),
    };
    let reply = client.fetch_jwtsvid(request(message)).await?.into_inner();
    Ok(reply.svids.into_iter().next().expect("a token").svid)
}

/// How calls went: microseconds, and calls in a second.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    pub p50: f64,
    pub p99: f64,
    pub rate: f64,
}

impl Figures {
    fn of(mut times: Vec<Duration>, took: Duration) -> Self {
        times.sort_unstable();
        let at = |share: usize| {
            let time = times.get((times.len() * share / 100).min(times.len() - 1));
            time.map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        let rate = times.len() as f64 / took.as_secs_f64();
        Self {
            p50: at(50),
            p99: at(99),
            rate,
        }
    }

    /// What [`call`] printed.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split_whitespace().map(str::parse);
        Some(Self {
            p50: numbers.next()?.ok()?,
            p99: numbers.next()?.ok()?,
            rate: numbers.next()?.ok()?,
        })
    }
}

/// Does what the arguments say (socket, kind, how many) and prints the figures.
pub fn call(arguments: &[&str]) {
    let [socket, kind, count] = arguments else {
        panic!("a socket, a kind of load and a number");
    };
    let (socket, count) = (Path::new(socket), count.parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let figures = match *kind {
            "sequential" => sequential(socket, count).await,
            "connecting" => connecting(socket, count).await,
            "in-flight" => in_flight(socket, count, 20_000).await,
            "flood" => flood(socket, count).await,
            "idle" => idle(socket, count).await,
            other => panic!("no load is called {other}"),
        };
        println!("{} {} {}", figures.p50, figures.p99, figures.rate);
    });
}

/// So many calls, each after the answer to the one before.
pub async fn sequential(socket: &Path, count: usize) -> Figures {
    let mut client = connect(socket).await.expect("a connection");
    for _ in 0..200 {
        fetch(&mut client, "vault").await.expect("a token");
    }
    let mut times = Vec::with_capacity(count);
    let start = Instant::now();
    for _ in 0..count {
        let start = Instant::now();
        fetch(&mut client, "vault").await.expect("a token");
        times.push(start.elapsed());
    }
    Figures::of(times, start.elapsed())
}

async fn connecting(socket: &Path, count: usize) -> Figures {
    let mut times = Vec::with_capacity(count);
    let start = Instant::now();
    for _ in 0..count {
        let start = Instant::now();
        let mut client = connect(socket).await.expect("a connection");
        fetch(&mut client, "vault").await.expect("a token");
        times.push(start.elapsed());
    }
    Figures::of(times, start.elapsed())
}

/// So many calls at a time on one connection, so many in all.
async fn in_flight(socket: &Path, at_a_time: usize, count: usize) -> Figures {
    let client = connect(socket).await.expect("a connection");
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..at_a_time {
        let mut client = client.clone();
        tasks.spawn(async move {
            let mut times = Vec::with_capacity(count / at_a_time);
            for _ in 0..count / at_a_time {
                let start = Instant::now();
                fetch(&mut client, "vault").await.expect("a token");
                times.push(start.elapsed());
            }
            times
        });
    }
    let times = tasks.join_all().await.concat();
    Figures::of(times, start.elapsed())
}

/// So many calls at a time without end, whatever the answer.
async fn flood(socket: &Path, at_a_time: usize) -> Figures {
    let client = connect(socket).await.expect("a connection");
    let mut tasks = JoinSet::new();
    for _ in 0..at_a_time {
        let mut client = client.clone();
        tasks.spawn(async move {
            loop {
                let _ = fetch(&mut client, "vault").await;
            }
        });
    }
    tasks.join_next().await;
    unreachable!("a flood has no end")
}

/// So many connections with an open stream each, until the end of the process.
async fn idle(socket: &Path, count: usize) -> Figures {
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut client = connect(socket).await.expect("a connection");
        let stream = client
            .fetch_jwt_bundles(request(JwtBundlesRequest {}))
            .await;
        let mut stream = stream.expect("a stream").into_inner();
        stream.message().await.expect("a message");
        open.push((client, stream));
    }
    println!("open");
    std::future::pending().await
}
