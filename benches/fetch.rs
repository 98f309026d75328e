//! How long a FetchJWTSVID takes, connection open, one call after the other: the shipped binary as
//! a process of its own, for each algorithm. Run with `taskset -c 0 cargo bench`, which pins both
//! ends: unpinned figures mostly tell where the scheduler put them.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::Sandbox;
use spiffe::WorkloadApiClient;

const WARM_UP: usize = 200;
const CALLS: usize = 3000;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    for algorithm in ["ES256", "RS256"] {
        let sandbox = Sandbox::with_entry(algorithm);
        let _agent = sandbox.start();
        let mut times = runtime.block_on(measure(&sandbox));
        times.sort_unstable();
        let at = |share: usize| {
            times
                .get(times.len() * share / 100)
                .copied()
                .unwrap_or_default()
        };
        let (half, most) = (at(50), at(99));
        println!(
            "{algorithm}: p50 {} us, p99 {} us, {CALLS} calls",
            half.as_micros(),
            most.as_micros()
        );
    }
}

async fn measure(sandbox: &Sandbox) -> Vec<Duration> {
    let address = format!("unix://{}", sandbox.socket().display());
    let client = WorkloadApiClient::connect_to(&address)
        .await
        .expect("a connection");
    let mut times = Vec::with_capacity(CALLS);
    for call in 0..WARM_UP + CALLS {
        let start = Instant::now();
        client
            .fetch_jwt_token(["bench"], None)
            .await
            .expect("a token");
        if call >= WARM_UP {
            times.push(start.elapsed());
        }
    }
    times
}
