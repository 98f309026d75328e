//! Published SPIFFE client libraries, unmodified, against the real socket.

mod common;

use std::process::Command;

use common::{Need, Sandbox, have, python, text};
use spiffe::WorkloadApiClient;

#[tokio::test(flavor = "multi_thread")]
async fn the_spiffe_crate_fetches_and_validates() {
    let sandbox = Sandbox::with_entry("RS256");
    let _agent = sandbox.start();
    let address = format!("unix://{}", sandbox.socket().display());
    let client = WorkloadApiClient::connect_to(&address).await.unwrap();

    let svid = client.fetch_jwt_svid(["test"], None).await.unwrap();
    assert_eq!(svid.spiffe_id().to_string(), "spiffe://example.org/me");
    let bundles = client.fetch_jwt_bundles().await.unwrap();
    let domain = spiffe::TrustDomain::new("example.org").unwrap();
    let bundle = bundles
        .get(&domain)
        .expect("the bundle of the own trust domain");
    assert!(bundle.find_jwt_authority(svid.key_id()).is_some());
    let valid = client
        .validate_jwt_token("test", svid.token())
        .await
        .unwrap();
    assert_eq!(valid.spiffe_id(), svid.spiffe_id());
    assert!(
        client
            .validate_jwt_token("other", svid.token())
            .await
            .is_err()
    );
}

#[test]
fn the_spiffe_package_of_python_fetches_and_validates() {
    if !have(&[Need::Python]) {
        return;
    }
    let sandbox = Sandbox::with_entry("RS256");
    let _agent = sandbox.start();
    sandbox.settle();
    let script = r#"
import sys
from spiffe import TrustDomain, WorkloadApiClient

with WorkloadApiClient("unix://" + sys.argv[1]) as client:
    svid = client.fetch_jwt_svid(audience={"test"})
    bundles = client.fetch_jwt_bundles()
    bundle = bundles.get_bundle_for_trust_domain(TrustDomain("example.org"))
    assert len(bundle.jwt_authorities) == 2, bundle.jwt_authorities
    valid = client.validate_jwt_svid(svid.token, "test")
    assert valid.spiffe_id == svid.spiffe_id
    print(valid.spiffe_id)
"#;
    let output = Command::new(python().unwrap())
        .args(["-c", script])
        .arg(sandbox.socket())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).trim(), "spiffe://example.org/me");
}

#[test]
fn the_grpc_package_of_node_fetches_and_validates() {
    if !have(&[Need::Node]) {
        return;
    }
    let sandbox = Sandbox::with_entry("RS256");
    let _agent = sandbox.start();
    // Messages by hand, so that nothing but the client library is needed.
    let script = r#"
const grpc = require('@grpc/grpc-js');
const field = (number, text) => {
  const bytes = Buffer.from(text);
  const length = bytes.length < 128 ? [bytes.length] : [bytes.length & 127 | 128, bytes.length >> 7];
  return Buffer.concat([Buffer.from([number << 3 | 2, ...length]), bytes]);
};
const client = new grpc.Client('unix://' + process.argv[2], grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set('workload.spiffe.io', 'true');
const same = (bytes) => bytes;
const call = (name, message) => new Promise((resolve, reject) => client.makeUnaryRequest(
  '/SpiffeWorkloadAPI/' + name, same, same, message, metadata,
  (error, reply) => error ? reject(error) : resolve(reply)));
(async () => {
  const reply = (await call('FetchJWTSVID', field(1, 'test'))).toString('latin1');
  const token = reply.match(/eyJ[\w-]+\.[\w-]+\.[\w-]+/)[0];
  const valid = await call('ValidateJWTSVID', Buffer.concat([field(1, 'test'), field(2, token)]));
  console.log(valid.toString('latin1').match(/spiffe:[\w:\/.]+me/)[0]);
  const stream = client.makeServerStreamRequest(
    '/SpiffeWorkloadAPI/FetchJWTBundles', same, same, Buffer.alloc(0), metadata);
  stream.on('error', () => {});
  stream.on('data', (message) => {
    if (!message.toString('latin1').includes('"kid"')) throw new Error('no keys');
    process.exit(0);
  });
})().catch((error) => { console.error(error); process.exit(1); });
"#;
    let file = sandbox.path("client.js");
    std::fs::write(&file, script).unwrap();
    let output = Command::new("node")
        .arg(file)
        .arg(sandbox.socket())
        .env("NODE_PATH", common::node_modules())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).trim(), "spiffe://example.org/me");
}
