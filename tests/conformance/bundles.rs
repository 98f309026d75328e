//! 7.5: FetchJWTBundles.

use std::process::Command;
use std::time::Duration;

use tonic::Code;

use crate::common::{Need, have, issuer, own_entry};
use crate::house::{House, URL, also, document, refused};

/// C51: the first message comes with the call.
#[tokio::test(flavor = "multi_thread")]
async fn c51_the_first_message_comes_at_once() {
    let house = House::usual().await;
    let mut stream = house.bundles().await.unwrap();
    assert!(stream.message().await.unwrap().is_some());
}

/// C52: the own trust domain is in each message, by its SPIFFE ID.
#[tokio::test(flavor = "multi_thread")]
async fn c52_the_own_trust_domain_is_there() {
    let house = House::usual().await;
    let message = house
        .bundles()
        .await
        .unwrap()
        .message()
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        message.bundles.keys().collect::<Vec<_>>(),
        ["spiffe://example.org"]
    );
}

/// C53: the value is a JWK Set of public keys with `kty` and `kid`.
#[tokio::test(flavor = "multi_thread")]
async fn c53_the_value_is_a_jwk_set_of_public_keys() {
    let keys = House::usual().await.keys().await;
    for key in keys["keys"].as_array().unwrap() {
        let key = key.as_object().unwrap();
        let full = |name: &str| key[name].as_str().is_some_and(|text| !text.is_empty());
        assert!(full("kty") && full("kid"));
        let private = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
        assert!(private.iter().all(|name| !key.contains_key(*name)));
    }
}

/// C54: no `use`, no members of SPIFFE bundles.
#[tokio::test(flavor = "multi_thread")]
async fn c54_the_jwk_set_is_a_plain_one() {
    let keys = House::usual().await.keys().await;
    assert_eq!(
        keys.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["keys"]
    );
    assert!(keys["keys"][0].get("use").is_none());
}

/// C57: as long as nothing changes nothing is sent, not even when entries change.
#[tokio::test(flavor = "multi_thread")]
async fn c57_nothing_is_sent_without_a_change() {
    let house = House::usual().await;
    let mut stream = house.bundles().await.unwrap();
    stream.message().await.unwrap();
    house
        .sandbox
        .configure(&(issuer("main", URL, "ES256") + &own_entry() + &also("more", "")));
    assert!(house.sandbox.run(&["reload"]).status.success());
    // What would be sent for the first change is here before what is sent for the second.
    let second = issuer("second", "https://two.example.org", "ES256");
    let first = issuer("main", URL, "ES256");
    let chosen = own_entry().replace("selectors", "issuer = \"main\"\n  selectors");
    house.sandbox.configure(&(first + &second + &chosen));
    let output = house.sandbox.run(&["reload"]);
    assert!(
        output.status.success(),
        "{}",
        crate::common::text(&output.stderr)
    );
    let next = document(&stream.message().await.unwrap().unwrap());
    assert_eq!(
        next["keys"].as_array().unwrap().len(),
        3,
        "with the key of the second"
    );
}

/// C58: a caller without an entry gets PermissionDenied, or the own bundle where that is allowed.
#[tokio::test(flavor = "multi_thread")]
async fn c58_a_stranger_gets_no_bundle_unless_allowed() {
    let house = House::stranger().await;
    assert_eq!(refused(house.bundles().await).0, Code::PermissionDenied);
    let config = std::fs::read_to_string(house.sandbox.config()).unwrap();
    let open = config.replacen(
        "agent {",
        "agent {\n  allow_unauthenticated_verifiers = true",
        1,
    );
    std::fs::write(house.sandbox.config(), open).unwrap();
    assert!(house.sandbox.run(&["reload"]).status.success());
    assert_eq!(house.keys().await["keys"].as_array().unwrap().len(), 2);
}

/// C59: when the entry goes, the stream ends with PermissionDenied.
#[tokio::test(flavor = "multi_thread")]
async fn c59_a_stream_ends_with_the_entry() {
    let house = House::usual().await;
    let mut stream = house.bundles().await.unwrap();
    stream.message().await.unwrap();
    house.sandbox.configure(&issuer("main", URL, "ES256"));
    assert!(house.sandbox.run(&["reload"]).status.success());
    assert_eq!(refused(stream.message().await).0, Code::PermissionDenied);
}

/// C60: when the agent stops, streams end with Unavailable.
#[tokio::test(flavor = "multi_thread")]
async fn c60_streams_end_with_unavailable_when_the_agent_stops() {
    let house = House::usual().await;
    let mut stream = house.bundles().await.unwrap();
    stream.message().await.unwrap();
    let stopping = tokio::task::spawn_blocking(move || house.agent.stop());
    assert_eq!(refused(stream.message().await).0, Code::Unavailable);
    assert!(stopping.await.unwrap().success());
}

/// C62: idle streams outlive every timeout of the agent, here of a second, three times over.
#[tokio::test(flavor = "multi_thread")]
async fn c62_idle_streams_are_not_dropped() {
    let short = "limits {\n  preface_timeout = \"1s\"\n  request_timeout = \"1s\"\n  bundle_streams_per_pid = 500\n  streams_per_connection = 500\n}\n";
    let house = House::with(&(own_entry() + short)).await;
    let mut streams = Vec::new();
    for _ in 0..500 {
        let mut stream = house.bundles().await.unwrap();
        stream.message().await.unwrap();
        streams.push(stream);
    }
    // It is time itself that is tested here.
    tokio::time::sleep(Duration::from_secs(3)).await;
    house
        .sandbox
        .configure(&(short.to_owned() + &issuer("main", URL, "ES256")));
    assert!(house.sandbox.run(&["reload"]).status.success());
    for mut stream in streams {
        assert_eq!(refused(stream.message().await).0, Code::PermissionDenied);
    }
}

/// C63: a reader that does not read holds up nobody.
#[tokio::test(flavor = "multi_thread")]
async fn c63_a_slow_reader_holds_up_nobody() {
    if !have(&[Need::Python]) {
        return;
    }
    let house = House::usual().await;
    let hex = crate::wire::hex("/SpiffeWorkloadAPI/FetchJWTBundles");
    let script = "import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(bytes.fromhex(sys.argv[2])); print('sent', flush=True); time.sleep(600)";
    let mut slow = Command::new(crate::common::python().unwrap())
        .args(["-c", script])
        .arg(house.sandbox.socket())
        .arg(hex)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 5];
    std::io::Read::read_exact(slow.stdout.as_mut().unwrap(), &mut said).unwrap();
    let mut stream = house.bundles().await.unwrap();
    assert!(stream.message().await.unwrap().is_some());
    assert!(house.fetch(&["a"], "").await.is_ok());
    slow.kill().unwrap();
    slow.wait().unwrap();
}
