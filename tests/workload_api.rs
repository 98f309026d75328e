//! What the Workload API does with callers that are not what they were; the conformance list has
//! the rest.

mod common;

use std::collections::BTreeSet;

use common::{Need, Sandbox, documented, have};

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_changed_its_user_after_it_connected_gets_nothing() {
    if !have(&[Need::Root, Need::Python]) {
        return;
    }
    let sandbox = Sandbox::with_entry("ES256");
    let config = std::fs::read_to_string(sandbox.config()).unwrap();
    let json = config.replacen(
        "agent {",
        "agent {\n  log_format = \"json\"\n  peer_check = \"connection\"",
        1,
    );
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
