//! 7.4: the form of a token.

use serde_json::Value;

use crate::house::{House, URL, also, now, opened};

/// C38: three parts of unpadded base64url.
#[tokio::test(flavor = "multi_thread")]
async fn c38_a_token_is_a_compact_jws() {
    let token = House::usual().await.token("a").await;
    let parts: Vec<_> = token.split('.').collect();
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    assert_eq!(parts.len(), 3);
    assert!(
        parts
            .iter()
            .all(|part| !part.is_empty() && part.chars().all(allowed))
    );
}

/// C39: the header holds alg, kid and typ and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn c39_the_header_has_three_members() {
    let (header, _) = opened(&House::usual().await.token("a").await);
    let names: Vec<_> = header
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(names, ["alg", "kid", "typ"]);
}

/// C40: alg is one of the nine.
#[tokio::test(flavor = "multi_thread")]
async fn c40_alg_is_that_of_the_key() {
    let (header, _) = opened(&House::usual().await.token("a").await);
    assert_eq!(header["alg"], "ES256");
}

/// C41: typ is JWT.
#[tokio::test(flavor = "multi_thread")]
async fn c41_typ_is_jwt() {
    let (header, _) = opened(&House::usual().await.token("a").await);
    assert_eq!(header["typ"], "JWT");
}

/// C43: sub is the SPIFFE ID.
#[tokio::test(flavor = "multi_thread")]
async fn c43_sub_is_the_spiffe_id() {
    let (_, claims) = opened(&House::usual().await.token("a").await);
    assert_eq!(claims["sub"], "spiffe://example.org/me");
}

/// C44: aud is there and holds no empty string.
#[tokio::test(flavor = "multi_thread")]
async fn c44_aud_holds_what_was_asked_for() {
    let (_, claims) = opened(&House::usual().await.token("a").await);
    assert_eq!(claims["aud"], serde_json::json!(["a"]));
}

/// C45: exp is an integer ahead of now, by no more than the ttl.
#[tokio::test(flavor = "multi_thread")]
async fn c45_exp_is_an_integer_within_the_ttl() {
    let house = House::with(&also("me", "jwt_svid_ttl = \"90s\"")).await;
    let before = now();
    let (_, claims) = opened(&house.token("a").await);
    let exp = claims["exp"].as_u64().unwrap();
    assert!((before + 90..=now() + 90).contains(&exp), "{exp}");
}

/// C46: iat is an integer that is not ahead of now.
#[tokio::test(flavor = "multi_thread")]
async fn c46_iat_is_not_in_the_future() {
    let before = now();
    let (_, claims) = opened(&House::usual().await.token("a").await);
    assert!((before..=now()).contains(&claims["iat"].as_u64().unwrap()));
}

/// C47: iss is the issuer of the discovery document, byte for byte.
#[tokio::test(flavor = "multi_thread")]
async fn c47_iss_is_that_of_the_discovery_document() {
    let house = House::usual().await;
    let (_, claims) = opened(&house.token("a").await);
    let path = "data/webroot/main/.well-known/openid-configuration";
    let document = std::fs::read(house.sandbox.path(path)).unwrap();
    let document: Value = serde_json::from_slice(&document).unwrap();
    assert_eq!(claims["iss"], document["issuer"]);
    assert_eq!(claims["iss"], URL);
}

/// C48: with jti, two tokens of one second differ.
#[tokio::test(flavor = "multi_thread")]
async fn c48_tokens_with_jti_differ() {
    let house = House::with(&also("me", "jti = true")).await;
    let ids = [house.token("a").await, house.token("a").await]
        .map(|token| opened(&token).1["jti"].clone());
    assert!(ids[0].is_string() && ids[0] != ids[1], "{ids:?}");
}

/// C50: the key of a token is one of the JWT keys that the bundle holds.
#[tokio::test(flavor = "multi_thread")]
async fn c50_a_jwt_key_signs() {
    let house = House::usual().await;
    let (header, _) = opened(&house.token("a").await);
    let keys = house.keys().await;
    assert!(
        keys["keys"]
            .as_array()
            .unwrap()
            .iter()
            .any(|key| key["kid"] == header["kid"])
    );
}
