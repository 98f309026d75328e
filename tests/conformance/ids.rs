//! 7.8: SPIFFE IDs, as a request and as the configuration bring them.

use tonic::Code;

use crate::common::{Sandbox, issuer, own_entry, text};
use crate::house::{House, URL, refused};

const INVALID: [&str; 27] = [
    "spiffe:/td/a",
    "http://td/a",
    "spiffe:///a",
    "spiffe://td:8080/a",
    "spiffe://td:/a",
    "spiffe://u@td/a",
    "spiffe://t$d/a",
    "spiffe://t%64/a",
    "spiffe://[::1]/a",
    "spiffe://TD/a",
    "SPIFFE://td/a",
    "spiffe://td/",
    "spiffe://td/a/",
    "spiffe://td//a",
    "spiffe://td/a//b",
    "spiffe://td/./a",
    "spiffe://td/a/..",
    "spiffe://td/%41",
    "spiffe://td/a!b",
    "spiffe://td/a b",
    "spiffe://td/a:b",
    "spiffe://td/a~b",
    "spiffe://td/ä",
    "spiffe://td/a?x=1",
    "spiffe://td/a#f",
    "spiffe://td/a?",
    "spiffe://td/a#",
];

/// C103: no invalid ID passes.
#[tokio::test(flavor = "multi_thread")]
async fn c103_invalid_ids_are_refused() {
    let house = House::usual().await;
    for id in INVALID {
        assert_eq!(
            refused(house.fetch(&["a"], id).await).0,
            Code::InvalidArgument,
            "{id}"
        );
    }
}

/// C104: every valid one does, up to 2048 bytes and a trust domain of 255.
#[tokio::test(flavor = "multi_thread")]
async fn c104_valid_ids_pass() {
    let house = House::usual().await;
    let long = format!("spiffe://td/{}", "x".repeat(2048 - 12));
    let domain = format!("spiffe://{}/x", "d".repeat(255));
    for id in [
        "spiffe://td",
        "spiffe://td_1.example-2.org/x",
        "spiffe://192.168.1.1/x",
        "spiffe://td/Path.With-Mixed_Case",
        "spiffe://td/..x/x../...",
        &long,
        &domain,
    ] {
        assert_eq!(
            refused(house.fetch(&["a"], id).await).0,
            Code::PermissionDenied,
            "{id}"
        );
    }
    for id in [
        format!("{long}x"),
        format!("spiffe://{}/x", "d".repeat(256)),
    ] {
        assert_eq!(
            refused(house.fetch(&["a"], &id).await).0,
            Code::InvalidArgument,
            "{id}"
        );
    }
}

/// C105: nothing beyond 2048 bytes can be configured.
#[test]
fn c105_no_longer_id_can_be_issued() {
    let sandbox = Sandbox::new("");
    for (length, code) in [(2048, 0), (2049, 78)] {
        let id = format!("spiffe://example.org/{}", "x".repeat(length - 21));
        let entry = own_entry().replace("spiffe://example.org/me", &id);
        sandbox.configure(&(issuer("main", URL, "ES256") + &entry));
        let output = sandbox.run(&["validate", "--config", sandbox.config().to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    }
}

/// C106: an ID comes out as it was written.
#[tokio::test(flavor = "multi_thread")]
async fn c106_ids_are_not_normalised() {
    let id = "spiffe://example.org/A/..b/C_d-e";
    let house = House::with(&own_entry().replace("spiffe://example.org/me", id)).await;
    assert_eq!(house.fetch(&["a"], id).await.unwrap()[0].spiffe_id, id);
}
