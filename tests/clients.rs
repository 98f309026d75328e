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
    let script = r#"
import sys
from spiffe import TrustDomain, WorkloadApiClient

with WorkloadApiClient("unix://" + sys.argv[1]) as client:
    svid = client.fetch_jwt_svid(audience={"test"})
    bundles = client.fetch_jwt_bundles()
    bundle = bundles.get_bundle_for_trust_domain(TrustDomain("example.org"))
    assert len(bundle.jwt_authorities) == 1, bundle.jwt_authorities
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
