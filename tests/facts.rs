//! What machines are told: every metric and audit field is documented, and none that is not there.

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use common::{Sandbox, documented, entry, eventually, issuer, own_entry, text};

fn get(socket: &Path, path: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let status = reply.split(' ').nth(1).unwrap().parse().unwrap();
    (status, reply.split_once("\r\n\r\n").unwrap().1.to_owned())
}

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new("");
    let metrics = format!(
        "metrics {{\n  socket_path = \"{}\"\n}}\n",
        sandbox.path("run/metrics/m.sock").display()
    );
    let file = format!(
        "token_file \"{}\" {{\n  entry = \"me\"\n  audience = \"a\"\n}}\n",
        sandbox.path("run/tokens/t").display()
    );
    let own = own_entry().replace("  selectors", "  jti = true\n  selectors");
    let rest = [
        metrics,
        issuer("main", "https://id.example.org", "ES256"),
        own,
        entry("other", 4_000_000),
        file,
    ];
    sandbox.configure(&rest.concat());
    sandbox
}

/// Asks for an identity that is somebody else's.
fn be_refused(sandbox: &Sandbox) {
    let other = "spiffe://example.org/other";
    let output = sandbox.run(&["fetch-jwt", "--audience", "a", "--spiffe-id", other]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
}

#[test]
fn every_metric_is_documented_and_every_documented_one_is_there() {
    let sandbox = sandbox();
    let _agent = sandbox.start();
    let socket = sandbox.path("run/metrics/m.sock");
    eventually("the token file is there", || {
        sandbox.path("run/tokens/t").exists().then_some(())
    });
    sandbox.token("a");
    be_refused(&sandbox);
    sandbox.run(&["fetch-bundle"]);
    sandbox.run(&["explain"]);
    sandbox.run(&["reload"]);
    let file = sandbox.path("run/tokens/t");
    sandbox.run(&[
        "validate-jwt",
        "--audience",
        "a",
        "--file",
        file.to_str().unwrap(),
    ]);

    let (status, scrape) = get(&socket, "/metrics");
    assert_eq!(status, 200);
    assert!(scrape.ends_with("# EOF\n"));
    let declared = scrape
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let there: BTreeSet<_> = declared.map(str::to_owned).collect();
    assert_eq!(
        there,
        documented(include_str!("../docs/metrics.md"), "Metrics")
    );
    for name in &there {
        let samples = |line: &&str| line.starts_with(name.as_str());
        let silent = name.ends_with("_attestation_failures");
        assert!(
            silent || scrape.lines().filter(samples).count() > 0,
            "{name} has no sample\n{scrape}"
        );
    }
    for line in [
        "svid_agent_jwt_svid_issued_total{entry=\"me\"} 1",
        "svid_agent_refused_total{reason=\"no matching entry has this identity and allows these audiences\"} 1",
        "svid_agent_rpc_workload_api_fetch_jwtsvid_total{status=\"PermissionDenied\"} 1",
        "svid_agent_entries{source=\"configuration\"} 2.0",
        "svid_agent_reloads_total{outcome=\"done\"} 1",
        "svid_agent_ready{} 1.0",
    ] {
        assert!(scrape.contains(line), "{scrape}\nlacks {line}");
    }
    assert_eq!(get(&socket, "/live"), (200, "live\n".to_owned()));
    assert_eq!(get(&socket, "/ready"), (200, "ready\n".to_owned()));
    assert_eq!(get(&socket, "/other").0, 404);
}

#[test]
fn every_audit_field_is_documented_and_every_documented_one_is_there() {
    let sandbox = sandbox();
    let config = std::fs::read_to_string(sandbox.config()).unwrap();
    std::fs::write(
        sandbox.config(),
        config.replacen("agent {\n", "agent {\n  log_format = \"json\"\n", 1),
    )
    .unwrap();
    let agent = sandbox.start();
    eventually("the token file is there", || {
        agent.log().contains("token written").then_some(())
    });
    let token = sandbox.token("a\u{202e}b");
    be_refused(&sandbox);
    let log = agent.log();
    let events: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let page = include_str!("../docs/metrics.md");
    for (event, heading) in [
        ("written", "Audit: written"),
        ("issued", "Audit: issued"),
        ("refused", "Audit: refused"),
    ] {
        let found = events
            .iter()
            .find(|e| e["target"] == "audit" && e["event"] == event)
            .expect(event);
        let there: BTreeSet<_> = found.as_object().unwrap().keys().cloned().collect();
        assert_eq!(there, documented(page, heading));
    }
    assert!(
        !log.contains(&token) && !log.contains("eyJ"),
        "the log holds a token"
    );
    assert!(
        !log.contains('\u{202e}'),
        "the log holds a control character of a caller"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_health_says_serving_without_the_security_header() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;

    let sandbox = sandbox();
    let _agent = sandbox.start();
    let address = format!("unix://{}", sandbox.socket().display());
    let channel = tonic::transport::Endpoint::from_shared(address)
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = HealthClient::new(channel);
    for service in ["", "SpiffeWorkloadAPI"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let reply = client.check(request).await.unwrap().into_inner();
        assert_eq!(reply.status, i32::from(ServingStatus::Serving));
    }
}

#[test]
fn a_thousand_refusals_are_a_few_lines_of_log_with_their_count() {
    let sandbox = Sandbox::new(&(issuer("main", "https://id.example.org", "ES256")));
    let agent = sandbox.start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let address = format!("unix://{}", sandbox.socket().display());
        let client = spiffe::WorkloadApiClient::connect_to(&address)
            .await
            .unwrap();
        for _ in 0..1000 {
            assert!(client.fetch_jwt_token(["a"], None).await.is_err());
        }
    });
    let refusals = agent.log().matches("caller refused").count();
    assert!((1..=30).contains(&refusals), "{refusals}");
    let shown = text(&sandbox.run(&["status"]).stdout);
    assert!(
        shown.contains("refused: no entry matches the caller"),
        "{shown}"
    );
}
