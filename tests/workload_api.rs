//! The Workload API on the wire: headers, fields, codes and messages.

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::{Need, Sandbox, documented, entry, have, issuer, own_entry};
use hyper_util::rt::TokioIo;
use pb::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use pb::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, WitBundlesRequest, WitsvidRequest,
    X509BundlesRequest, X509svidRequest,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

#[allow(
    clippy::all,
    clippy::indexing_slicing,
    missing_docs,
    reason = "generated code"
)]
mod pb {
    tonic::include_proto!("_");
}

type Client = SpiffeWorkloadApiClient<Channel>;

const HEADER: &str = "workload.spiffe.io";

async fn connect(socket: &Path) -> Client {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move {
            tokio::net::UnixStream::connect(socket)
                .await
                .map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    Client::new(endpoint.connect_with_connector(connector).await.unwrap())
}

fn with<T>(message: T, headers: &[&'static str]) -> Request<T> {
    let mut request = Request::new(message);
    for header in headers {
        request
            .metadata_mut()
            .append(HEADER, header.parse().unwrap());
    }
    request
}

fn good<T>(message: T) -> Request<T> {
    with(message, &["true"])
}

fn fetch(audience: &[&str], spiffe_id: &str) -> JwtsvidRequest {
    JwtsvidRequest {
        audience: audience.iter().map(|text| (*text).to_owned()).collect(),
        spiffe_id: spiffe_id.to_owned(),
    }
}

fn refused<T: std::fmt::Debug>(reply: Result<T, Status>) -> (Code, String) {
    let status = reply.unwrap_err();
    (status.code(), status.message().to_owned())
}

/// The claims of a token, unverified.
fn claims(token: &str) -> serde_json::Value {
    use base64::Engine;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;

    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_security_header_comes_before_everything_else_on_every_call() {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    let mut client = connect(&sandbox.socket()).await;
    let bad: [&[&str]; 6] = [
        &[],
        &["True"],
        &["1"],
        &[""],
        &["true", "true"],
        &["true", "x"],
    ];
    for headers in bad {
        let expected = (
            Code::InvalidArgument,
            "security header missing from request".to_owned(),
        );
        let validate = ValidateJwtsvidRequest::default();
        assert_eq!(
            refused(client.fetch_jwtsvid(with(fetch(&[], ""), headers)).await),
            expected
        );
        assert_eq!(
            refused(client.validate_jwtsvid(with(validate, headers)).await),
            expected
        );
        macro_rules! streams {
            ($($call:ident $message:ident),*) => {$(
                let reply = client.$call(with($message {}, headers)).await.map(drop);
                assert_eq!(refused(reply), expected);
            )*};
        }
        streams!(
            fetch_jwt_bundles JwtBundlesRequest, fetch_x509svid X509svidRequest,
            fetch_x509_bundles X509BundlesRequest, fetch_wit_bundles WitBundlesRequest
        );
        let wit = client
            .fetch_witsvid(with(WitsvidRequest::default(), headers))
            .await;
        assert_eq!(refused(wit.map(drop)), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn profiles_that_are_not_served_answer_unimplemented() {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    let mut client = connect(&sandbox.socket()).await;
    let codes = [
        refused(
            client
                .fetch_x509svid(good(X509svidRequest {}))
                .await
                .map(drop),
        )
        .0,
        refused(
            client
                .fetch_x509_bundles(good(X509BundlesRequest {}))
                .await
                .map(drop),
        )
        .0,
        refused(
            client
                .fetch_witsvid(good(WitsvidRequest::default()))
                .await
                .map(drop),
        )
        .0,
        refused(
            client
                .fetch_wit_bundles(good(WitBundlesRequest {}))
                .await
                .map(drop),
        )
        .0,
    ];
    assert_eq!(codes, [Code::Unimplemented; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_checked_before_the_caller_and_refused_with_the_usual_words() {
    let sandbox = Sandbox::new("");
    let other = nix::unistd::geteuid().as_raw() + 1;
    sandbox.configure(&(issuer("main", "https://localhost", "ES256") + &entry("other", other)));
    let _agent = sandbox.start();
    let mut client = connect(&sandbox.socket()).await;
    let long = "x".repeat(1025);
    let many: Vec<_> = (0..17).map(|i| i.to_string()).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    for (request, code, message) in [
        (
            fetch(&[], ""),
            Code::InvalidArgument,
            "audience must be specified",
        ),
        (
            fetch(&["", ""], ""),
            Code::InvalidArgument,
            "audience must be specified",
        ),
        (
            fetch(&many, ""),
            Code::InvalidArgument,
            "more than 16 audiences",
        ),
        (
            fetch(&[&long], ""),
            Code::InvalidArgument,
            "longer than 1024 bytes",
        ),
        (
            fetch(&["a\nb"], ""),
            Code::InvalidArgument,
            "control characters",
        ),
        (
            fetch(&["a"], "x"),
            Code::InvalidArgument,
            "invalid requested SPIFFE ID: ",
        ),
        (
            fetch(&["a"], ""),
            Code::PermissionDenied,
            "no identity issued",
        ),
        (
            fetch(&["a"], "spiffe://example.org/other"),
            Code::PermissionDenied,
            "no identity issued",
        ),
        (
            fetch(&["a"], "spiffe://example.org/none"),
            Code::PermissionDenied,
            "no identity issued",
        ),
    ] {
        let (got, text) = refused(client.fetch_jwtsvid(good(request.clone())).await);
        assert!(
            got == code && text.contains(message),
            "{request:?}: {got:?} {text}"
        );
    }
    let bundles = client.fetch_jwt_bundles(good(JwtBundlesRequest {})).await;
    assert_eq!(refused(bundles.map(drop)).0, Code::PermissionDenied);
    for (audience, svid, message) in [
        ("", "x", "audience must be specified"),
        ("a", "", "svid must be specified"),
        ("a", "x", "not a JWS in compact serialization"),
    ] {
        let request = ValidateJwtsvidRequest {
            audience: audience.into(),
            svid: svid.into(),
        };
        let (code, text) = refused(client.validate_jwtsvid(good(request)).await);
        assert!(
            code == Code::InvalidArgument && text.contains(message),
            "{code:?} {text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_identities_come_in_the_order_of_the_configuration_with_unique_hints() {
    let sandbox = Sandbox::new("");
    let named = |name: &str, more: &str| {
        own_entry()
            .replace("/me\"", &format!("/{name}\"\n  {more}"))
            .replace("\"me\"", &format!("\"{name}\""))
    };
    sandbox.configure(
        &[
            issuer("main", "https://id.example.org", "ES256"),
            named(
                "zebra",
                "hint = \"h\"\n  jti = true\n  jwt_svid_ttl = \"1m\"",
            ),
            named("apple", "hint = \"h\"\n  claims = { team = \"x\" }"),
            named("limited", "audiences = [\"vault\"]"),
        ]
        .concat(),
    );
    let _agent = sandbox.start();
    let mut client = connect(&sandbox.socket()).await;

    let reply = client
        .fetch_jwtsvid(good(fetch(&["", "a", "b"], "")))
        .await
        .unwrap()
        .into_inner();
    let names: Vec<_> = reply
        .svids
        .iter()
        .map(|s| (s.spiffe_id.as_str(), s.hint.as_str()))
        .collect();
    assert_eq!(
        names,
        [
            ("spiffe://example.org/zebra", "h"),
            ("spiffe://example.org/apple", "")
        ]
    );
    let [zebra, apple] = [&reply.svids[0], &reply.svids[1]].map(|svid| claims(&svid.svid));
    assert_eq!(zebra["aud"], serde_json::json!(["a", "b"]));
    assert_eq!(zebra["iss"], "https://id.example.org");
    assert_eq!(
        zebra["exp"].as_u64().unwrap() - zebra["iat"].as_u64().unwrap(),
        60
    );
    assert!(zebra["jti"].is_string() && apple.get("jti").is_none());
    assert_eq!(apple["team"], "x");

    let only = fetch(&["a"], "spiffe://example.org/apple");
    let reply = client.fetch_jwtsvid(good(only)).await.unwrap().into_inner();
    assert_eq!((reply.svids.len(), reply.svids[0].hint.as_str()), (1, "h"));
    let limited = fetch(&["vault"], "spiffe://example.org/limited");
    assert!(client.fetch_jwtsvid(good(limited)).await.is_ok());
    let limited = fetch(&["vault", "a"], "spiffe://example.org/limited");
    assert_eq!(
        refused(client.fetch_jwtsvid(good(limited)).await).0,
        Code::PermissionDenied
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_without_identity_may_validate_and_may_have_the_bundle_if_allowed() {
    if !have(&[Need::Root]) {
        return;
    }
    let sandbox = Sandbox::with_entry("ES256");
    let agent = sandbox.start();
    let token = sandbox.path("token");
    std::fs::write(&token, sandbox.token("a")).unwrap();
    let token = token.to_str().unwrap();
    let validate = ["validate-jwt", "--audience", "a", "--file", token];
    assert!(sandbox.run_as(1001, &validate).status.success());
    assert_eq!(
        sandbox.run_as(1001, &["fetch-bundle"]).status.code(),
        Some(3)
    );
    assert!(agent.stop().success());

    let config = std::fs::read_to_string(sandbox.config()).unwrap();
    let allowed = config.replacen(
        "agent {",
        "agent {\n  allow_unauthenticated_verifiers = true",
        1,
    );
    std::fs::write(sandbox.config(), allowed).unwrap();
    let _agent = sandbox.start();
    assert!(sandbox.run_as(1001, &["fetch-bundle"]).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_changed_its_user_after_it_connected_gets_nothing() {
    if !have(&[Need::Root, Need::Python]) {
        return;
    }
    let sandbox = Sandbox::with_entry("ES256");
    let config = std::fs::read_to_string(sandbox.config()).unwrap();
    let json = config.replacen("agent {", "agent {\n  log_format = \"json\"", 1);
    std::fs::write(sandbox.config(), json).unwrap();
    let agent = sandbox.start();
    let script = r#"
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
os.setresuid(1001, 1001, 1001)
s.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0,0,0,4,0,0,0,0,0]))
def literal(name, value):
    return bytes([0x40, len(name)]) + name + bytes([len(value)]) + value
block = bytes([0x83, 0x86]) + literal(b":path", b"/SpiffeWorkloadAPI/FetchJWTSVID")
block += literal(b":authority", b"localhost") + literal(b"content-type", b"application/grpc")
block += literal(b"te", b"trailers") + literal(b"workload.spiffe.io", b"true")
message = bytes([0x0a, 1]) + b"a"
message = bytes([0]) + len(message).to_bytes(4, "big") + message
def frame(kind, flags, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags, 0, 0, 0, 1]) + payload
s.sendall(frame(1, 4, block) + frame(0, 1, message))
s.settimeout(30)
got = b""
def read():
    try:
        return s.recv(65536)
    except (ConnectionResetError, BrokenPipeError):
        return b""
def has_headers():
    at = 0
    while at + 9 <= len(got):
        if got[at + 3] == 1:
            return True
        at += 9 + int.from_bytes(got[at:at + 3], "big")
    return False
while not has_headers():
    data = read()
    assert data, "the connection ended without an answer"
    got += data
# Nothing more is read from this connection.
try:
    s.sendall(frame(6, 0, bytes(8)))
except (ConnectionResetError, BrokenPipeError):
    pass
while data := read():
    got += data
sys.stdout.buffer.write(got)
"#;
    let output = std::process::Command::new(common::python().unwrap())
        .args(["-c", script])
        .arg(sandbox.socket())
        .output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", common::text(&output.stderr));
    let answer = String::from_utf8_lossy(&output.stdout);
    assert!(!answer.contains("eyJ"), "{answer:?}");
    let log = agent.log();
    let mut events = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect(line));
    let told = events.find(|e| e["event"] == "unattested").expect(&log);
    assert_eq!(
        told["reason"],
        "its user or group ids are no longer those it connected with"
    );
    let fields: BTreeSet<_> = told.as_object().unwrap().keys().cloned().collect();
    let page = include_str!("../docs/metrics.md");
    assert_eq!(fields, documented(page, "Audit: unattested"));
}
