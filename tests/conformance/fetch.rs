//! 7.3: FetchJWTSVID.

use tonic::Code;

use crate::common::{Sandbox, entry, issuer, text};
use crate::house::{House, URL, also, opened, refused};

/// C22: an empty audience list is refused with InvalidArgument.
#[tokio::test(flavor = "multi_thread")]
async fn c22_an_empty_audience_list_is_refused() {
    let house = House::usual().await;
    let missing = (
        Code::InvalidArgument,
        "audience must be specified".to_owned(),
    );
    assert_eq!(refused(house.fetch(&[], "").await), missing);
}

/// C23: empty audiences are dropped; if none is left, InvalidArgument.
#[tokio::test(flavor = "multi_thread")]
async fn c23_empty_audiences_are_dropped() {
    let house = House::usual().await;
    assert_eq!(
        refused(house.fetch(&["", ""], "").await).0,
        Code::InvalidArgument
    );
    let svids = house.fetch(&["", "a"], "").await.unwrap();
    assert_eq!(opened(&svids[0].svid).1["aud"], serde_json::json!(["a"]));
}

/// C24: a caller without an entry gets PermissionDenied `no identity issued`.
#[tokio::test(flavor = "multi_thread")]
async fn c24_nobody_without_an_entry_gets_a_token() {
    let house = House::stranger().await;
    let nothing = (Code::PermissionDenied, "no identity issued".to_owned());
    assert_eq!(refused(house.fetch(&["a"], "").await), nothing);
}

/// C25: a requested SPIFFE ID that is none is refused before the caller is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn c25_a_malformed_id_is_refused_even_for_a_stranger() {
    for house in [House::usual().await, House::stranger().await] {
        let (code, why) = refused(house.fetch(&["a"], "notaspiffeid").await);
        assert_eq!(code, Code::InvalidArgument);
        assert!(why.starts_with("invalid requested SPIFFE ID: "), "{why}");
    }
}

/// C26: an ID that is not granted gets the same PermissionDenied, whether it exists or not.
#[tokio::test(flavor = "multi_thread")]
async fn c26_foreign_and_unknown_ids_are_not_told_apart() {
    let other = nix::unistd::geteuid().as_raw() + 1;
    let house = House::with(&(crate::common::own_entry() + &entry("other", other))).await;
    let nothing = (Code::PermissionDenied, "no identity issued".to_owned());
    for id in [
        "spiffe://example.org/other",
        "spiffe://example.org/none",
        "spiffe://elsewhere.org/me",
    ] {
        assert_eq!(refused(house.fetch(&["a"], id).await), nothing, "{id}");
    }
}

/// C27: an ID that is granted gives exactly the tokens of that ID.
#[tokio::test(flavor = "multi_thread")]
async fn c27_a_granted_id_gives_its_tokens_alone() {
    let house = House::with(&(also("one", "") + &also("two", ""))).await;
    let svids = house
        .fetch(&["a"], "spiffe://example.org/two")
        .await
        .unwrap();
    assert_eq!(svids.len(), 1);
    assert_eq!(svids[0].spiffe_id, "spiffe://example.org/two");
}

/// C28: without an ID all identities come, in the order of the configuration, every time.
#[tokio::test(flavor = "multi_thread")]
async fn c28_all_identities_come_in_the_order_of_the_configuration() {
    let house = House::with(
        &["zebra", "apple", "mouse"]
            .map(|name| also(name, ""))
            .concat(),
    )
    .await;
    for _ in 0..100 {
        let svids = house.fetch(&["a"], "").await.unwrap();
        let names: Vec<_> = svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
        let all = ["zebra", "apple", "mouse"].map(|name| format!("spiffe://example.org/{name}"));
        assert_eq!(names, all);
    }
}

/// C29: no reply has an empty list, ID or token.
#[tokio::test(flavor = "multi_thread")]
async fn c29_nothing_in_a_reply_is_empty() {
    let house = House::usual().await;
    let svids = house.fetch(&["a"], "").await.unwrap();
    assert!(!svids.is_empty());
    assert!(
        svids
            .iter()
            .all(|svid| !svid.spiffe_id.is_empty() && !svid.svid.is_empty())
    );
}

/// C30: `spiffe_id` of the reply is the `sub` of the token.
#[tokio::test(flavor = "multi_thread")]
async fn c30_the_id_is_the_sub() {
    let house = House::usual().await;
    let svids = house.fetch(&["a"], "").await.unwrap();
    assert_eq!(opened(&svids[0].svid).1["sub"], svids[0].spiffe_id);
}

/// C31: `aud` is the list that was asked for, as an array even of one.
#[tokio::test(flavor = "multi_thread")]
async fn c31_aud_is_the_requested_list() {
    let house = House::usual().await;
    for audience in [vec!["a"], vec!["b", "a"], vec!["a", "b", "c"]] {
        let svids = house.fetch(&audience, "").await.unwrap();
        assert_eq!(opened(&svids[0].svid).1["aud"], serde_json::json!(audience));
    }
}

/// C32: more than 16 audiences, or one of more than 1024 bytes, are refused.
#[tokio::test(flavor = "multi_thread")]
async fn c32_too_many_or_too_long_audiences_are_refused() {
    let house = House::usual().await;
    let many = ["a"; 17];
    assert_eq!(
        refused(house.fetch(&many, "").await).0,
        Code::InvalidArgument
    );
    assert!(house.fetch(&many[..16], "").await.is_ok());
    let long = "x".repeat(1025);
    assert_eq!(
        refused(house.fetch(&[&long], "").await).0,
        Code::InvalidArgument
    );
    assert!(house.fetch(&[&long[..1024]], "").await.is_ok());
    assert_eq!(
        refused(house.fetch(&["a\nb"], "").await).0,
        Code::InvalidArgument
    );
}

/// C33: hints are unique in a reply, empty where unset, and at most 1024 bytes long.
#[tokio::test(flavor = "multi_thread")]
async fn c33_hints_are_unique_in_a_reply() {
    let same = "hint = \"h\"";
    let house = House::with(&(also("one", same) + &also("two", same) + &also("three", ""))).await;
    let svids = house.fetch(&["a"], "").await.unwrap();
    let hints: Vec<_> = svids.iter().map(|svid| svid.hint.as_str()).collect();
    assert_eq!(hints, ["h", "", ""]);
    let long = also("one", &format!("hint = \"{}\"", "x".repeat(1025)));
    house
        .sandbox
        .configure(&(issuer("main", URL, "ES256") + &long));
    let config = house.sandbox.config();
    let output = house
        .sandbox
        .run(&["validate", "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78), "{}", text(&output.stderr));
}

/// C34: an identity whose hint was taken is still there when it is asked for by its ID.
#[tokio::test(flavor = "multi_thread")]
async fn c34_a_hint_hides_no_identity() {
    let same = "hint = \"h\"";
    let house = House::with(&(also("one", same) + &also("two", same))).await;
    let svids = house
        .fetch(&["a"], "spiffe://example.org/two")
        .await
        .unwrap();
    assert_eq!((svids.len(), svids[0].hint.as_str()), (1, "h"));
}

/// C35: an ID without a path, or of another trust domain, is refused when it is configured.
#[test]
fn c35_ids_that_cannot_be_issued_are_refused_at_load() {
    for id in ["spiffe://example.org", "spiffe://elsewhere.org/me"] {
        let sandbox = Sandbox::new("");
        let entry = crate::common::own_entry().replace("spiffe://example.org/me", id);
        sandbox.configure(&(issuer("main", URL, "ES256") + &entry));
        let config = sandbox.config();
        let output = sandbox.run(&["validate", "--config", config.to_str().unwrap()]);
        assert_eq!(
            output.status.code(),
            Some(78),
            "{id}: {}",
            text(&output.stderr)
        );
    }
}

/// C37: the reply to a caller of many entries with long IDs and claims stays below 4 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn c37_a_large_reply_fits_what_clients_take() {
    let name = |number: usize| format!("{number}/{}", "x".repeat(1900));
    let entries: String = (0..500)
        .map(|number| {
            let block = also(&format!("e{number}"), "");
            block.replace(&format!("/e{number}\""), &format!("/{}\"", name(number)))
        })
        .collect();
    let house = House::with(&entries).await;
    // The client of this test has the usual limit of 4 MiB.
    assert_eq!(house.fetch(&["a"], "").await.unwrap().len(), 500);
}
