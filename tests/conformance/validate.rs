//! 7.6: ValidateJWTSVID. What is refused is refused with InvalidArgument.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tonic::Code;

use crate::common::{Need, Sandbox, have, issuer, own_entry};
use crate::house::{House, URL, also, claims, encode, now, opened, part, refused};

const NINE: [&str; 9] = [
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
];

/// Refuses each of these changes of a good token's claims.
async fn refuses_claims(changes: impl IntoIterator<Item = Value>) {
    let house = House::usual().await;
    let good = house.forge(&house.header(), &claims(json!({})));
    assert!(house.validate("a", &good).await.is_ok());
    for change in changes {
        let token = house.forge(&house.header(), &claims(change.clone()));
        house.refuses(&change.to_string(), &token).await;
    }
}

/// C65: an empty audience or token is refused.
#[tokio::test(flavor = "multi_thread")]
async fn c65_empty_fields_are_refused() {
    let house = House::usual().await;
    let (code, why) = refused(house.validate("", "x").await);
    assert_eq!(
        (code, why.as_str()),
        (Code::InvalidArgument, "audience must be specified")
    );
    let (code, why) = refused(house.validate("a", "").await);
    assert_eq!(
        (code, why.as_str()),
        (Code::InvalidArgument, "svid must be specified")
    );
}

/// C66: a good token gives its ID and claims, `exp` as a number and `aud` as a list.
#[tokio::test(flavor = "multi_thread")]
async fn c66_a_good_token_gives_its_claims() {
    use prost_types::value::Kind;

    let house = House::usual().await;
    for aud in [json!("a"), json!(["a"])] {
        let token = house.forge(&house.header(), &claims(json!({"aud": aud})));
        let reply = house.validate("a", &token).await.unwrap();
        assert_eq!(reply.spiffe_id, "spiffe://example.org/me");
        let fields = reply.claims.unwrap().fields;
        let kind = |name: &str| fields[name].kind.clone().unwrap();
        assert!(matches!(kind("sub"), Kind::StringValue(sub) if sub == reply.spiffe_id));
        assert!(matches!(kind("exp"), Kind::NumberValue(_)));
        assert!(matches!(kind("aud"), Kind::ListValue(list) if list.values.len() == 1));
    }
}

/// C67: each of the nine algorithms is signed with and accepted.
#[tokio::test(flavor = "multi_thread")]
async fn c67_all_nine_algorithms_are_accepted() {
    let sandbox = Sandbox::new("");
    let keys: String = NINE
        .map(|name| format!("  key \"{name}\" {{\n    algorithm = \"{name}\"\n  }}\n"))
        .concat();
    let entries: String = NINE
        .map(|name| also(name, &format!("key = \"{name}\"")))
        .concat();
    sandbox.configure(&format!(
        "issuer \"main\" {{\n  url = \"{URL}\"\n{keys}}}\n{entries}"
    ));
    let house = House::of(sandbox).await;
    let svids = house.fetch(&["a"], "").await.unwrap();
    for (svid, name) in svids.iter().zip(NINE) {
        assert_eq!(opened(&svid.svid).0["alg"], name);
        let reply = house.validate("a", &svid.svid).await.expect(name);
        assert_eq!(reply.spiffe_id, format!("spiffe://example.org/{name}"));
    }
    assert_eq!(svids.len(), 9);
}

/// C68: no `none`, in whatever letters.
#[tokio::test(flavor = "multi_thread")]
async fn c68_no_algorithm_is_no_algorithm() {
    let house = House::usual().await;
    for name in ["none", "None", "nOnE", "NONE"] {
        let unsigned = format!(
            "{}.{}",
            part(&json!({"alg": name})),
            part(&claims(json!({})))
        );
        house.refuses(name, &format!("{unsigned}.")).await;
        house.refuses(name, &format!("{unsigned}.AA")).await;
    }
}

/// C69: no HMAC, with a random secret or with the public key as one.
#[tokio::test(flavor = "multi_thread")]
async fn c69_no_hmac_is_accepted() {
    let house = House::usual().await;
    let public = house.keys().await["keys"][0].to_string();
    for (name, algorithm) in [
        ("HS256", hmac::HMAC_SHA256),
        ("HS384", hmac::HMAC_SHA384),
        ("HS512", hmac::HMAC_SHA512),
    ] {
        for secret in [b"random".as_slice(), public.as_bytes()] {
            let header = json!({"alg": name, "kid": house.kid(), "typ": "JWT"});
            let input = format!("{}.{}", part(&header), part(&claims(json!({}))));
            let tag = hmac::sign(&hmac::Key::new(algorithm, secret), input.as_bytes());
            house
                .refuses(name, &format!("{input}.{}", encode(tag.as_ref())))
                .await;
        }
    }
}

/// C70: no EdDSA, though the issuer has such a key; its other keys work.
#[tokio::test(flavor = "multi_thread")]
async fn c70_no_eddsa_is_accepted_though_the_issuer_has_such_a_key() {
    let sandbox = Sandbox::new("");
    let path = sandbox.path("run/tokens/ed");
    sandbox.configure(&format!(
        "issuer \"main\" {{\n  url = \"{URL}\"\n  key \"main\" {{\n    algorithm = \"ES256\"\n  }}\n  key \"ed\" {{\n    algorithm = \"EdDSA\"\n  }}\n}}\n{}token_file \"{}\" {{\n  entry = \"me\"\n  audience = \"a\"\n  key = \"ed\"\n}}\n",
        own_entry(),
        path.display(),
    ));
    let house = House::of(sandbox).await;
    let token = crate::common::eventually("a token", || std::fs::read_to_string(&path).ok());
    assert_eq!(opened(&token).0["alg"], "EdDSA");
    house.refuses("the issuer's own EdDSA key", &token).await;
    assert!(house.validate("a", &house.token("a").await).await.is_ok());
    let bundle = house.keys().await;
    let types: Vec<_> = bundle["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| &key["kty"])
        .collect();
    assert_eq!(types, ["EC", "EC"]);
    let stranger = Ed25519KeyPair::generate().unwrap();
    let input = format!(
        "{}.{}",
        part(&json!({"alg": "EdDSA"})),
        part(&claims(json!({})))
    );
    let signature = stranger.sign(input.as_bytes());
    assert_eq!(stranger.public_key().as_ref().len(), 32);
    house
        .refuses("EdDSA", &format!("{input}.{}", encode(signature.as_ref())))
        .await;
}

/// C71: an algorithm that is not the key's is refused.
#[tokio::test(flavor = "multi_thread")]
async fn c71_the_algorithm_must_be_that_of_the_key() {
    let house = House::usual().await;
    for name in ["RS256", "PS256", "ES384", "ES512"] {
        let header = json!({"alg": name, "kid": house.kid(), "typ": "JWT"});
        house
            .refuses(name, &house.forge(&header, &claims(json!({}))))
            .await;
    }
}

/// C72: `aud` missing, empty, of the wrong type, without the audience or merely similar to it.
#[tokio::test(flavor = "multi_thread")]
async fn c72_aud_must_hold_the_audience_exactly() {
    refuses_claims([
        json!({"aud": null}),
        json!({"aud": []}),
        json!({"aud": ""}),
        json!({"aud": ["b"]}),
        json!({"aud": 1}),
        json!({"aud": {"a": 1}}),
        json!({"aud": ["a", 1]}),
        json!({"aud": "ab"}),
        json!({"aud": "A"}),
        json!({"aud": "a "}),
    ])
    .await;
}

/// C73: `aud` as a string and as a list that holds the audience.
#[tokio::test(flavor = "multi_thread")]
async fn c73_both_forms_of_aud_are_accepted() {
    let house = House::usual().await;
    for aud in [json!("a"), json!(["b", "a"])] {
        let token = house.forge(&house.header(), &claims(json!({"aud": aud})));
        assert!(house.validate("a", &token).await.is_ok(), "{aud}");
    }
}

/// C74: `exp` missing, no number, or past.
#[tokio::test(flavor = "multi_thread")]
async fn c74_exp_must_be_a_number_ahead() {
    refuses_claims([
        json!({"exp": null}),
        json!({"exp": (now() + 300).to_string()}),
        json!({"exp": now() - 300}),
        json!({"exp": -1}),
        json!({"exp": [now() + 300]}),
    ])
    .await;
}

/// C75: `nbf` five minutes ahead; so too `iat`.
#[tokio::test(flavor = "multi_thread")]
async fn c75_tokens_from_the_future_are_refused() {
    refuses_claims([json!({"nbf": now() + 300}), json!({"iat": now() + 300})]).await;
}

/// C76: a changed signature or payload.
#[tokio::test(flavor = "multi_thread")]
async fn c76_changed_tokens_are_refused() {
    let house = House::usual().await;
    let token = house.token("a").await;
    let parts: Vec<_> = token.split('.').collect();
    let flipped = if parts[2].starts_with('A') { "B" } else { "A" };
    house
        .refuses(
            "signature",
            &format!("{}.{}.{flipped}{}", parts[0], parts[1], &parts[2][1..]),
        )
        .await;
    let other = part(&claims(json!({"sub": "spiffe://example.org/other"})));
    house
        .refuses("payload", &format!("{}.{other}.{}", parts[0], parts[2]))
        .await;
}

/// C77: a `kid` that no key has, and the key of another agent.
#[tokio::test(flavor = "multi_thread")]
async fn c77_unknown_keys_are_refused() {
    let (house, other) = (House::usual().await, House::usual().await);
    let header = json!({"alg": "ES256", "kid": "unknown", "typ": "JWT"});
    house
        .refuses("kid", &house.forge(&header, &claims(json!({}))))
        .await;
    house.refuses("key", &other.token("a").await).await;
    house
        .refuses(
            "key under our kid",
            &other.forge(&house.header(), &claims(json!({}))),
        )
        .await;
}

/// C79: a `sub` of a trust domain that nothing is known about.
#[tokio::test(flavor = "multi_thread")]
async fn c79_other_trust_domains_are_refused() {
    refuses_claims([json!({"sub": "spiffe://elsewhere.org/me"})]).await;
}

/// C80: a `sub` that is missing or no SPIFFE ID.
#[tokio::test(flavor = "multi_thread")]
async fn c80_sub_must_be_a_spiffe_id() {
    let bad = [
        json!(null),
        json!(""),
        json!(1),
        json!("me"),
        json!("http://example.org/me"),
        json!("spiffe://"),
        json!("spiffe:///me"),
        json!("spiffe://example.org/"),
        json!("spiffe://example.org//me"),
        json!("spiffe://example.org/./me"),
        json!("spiffe://EXAMPLE.org/me"),
        json!("spiffe://example.org/%6d"),
        json!("spiffe://example.org/me?x"),
    ];
    refuses_claims(bad.map(|sub| json!({ "sub": sub }))).await;
}

/// C81: IDs at the edge of the grammar.
#[tokio::test(flavor = "multi_thread")]
async fn c81_edge_ids_are_accepted() {
    let house = House::usual().await;
    let long = format!("spiffe://example.org/{}", "x".repeat(2048 - 21));
    for id in [
        "spiffe://example.org/Path.With-Mixed_Case",
        "spiffe://example.org/..x/x../...",
        "spiffe://example.org",
        &long,
    ] {
        let token = house.forge(&house.header(), &claims(json!({"sub": id})));
        assert_eq!(house.validate("a", &token).await.unwrap().spiffe_id, id);
    }
}

/// C82: `typ` is JWT, JOSE or absent.
#[tokio::test(flavor = "multi_thread")]
async fn c82_typ_is_one_of_two_or_absent() {
    let house = House::usual().await;
    let with = |typ: Value| {
        let mut header = json!({"alg": "ES256", "kid": house.kid()});
        if !typ.is_null() {
            header["typ"] = typ;
        }
        house.forge(&header, &claims(json!({})))
    };
    for typ in [json!("JWT"), json!("JOSE"), json!(null)] {
        assert!(
            house.validate("a", &with(typ.clone())).await.is_ok(),
            "{typ}"
        );
    }
    for typ in ["at+jwt", "wit+jwt", "jwt", "", "JWT "] {
        house.refuses(typ, &with(json!(typ))).await;
    }
}

/// C83: without `kid`, any key of the bundle may have signed.
#[tokio::test(flavor = "multi_thread")]
async fn c83_a_token_without_kid_is_accepted() {
    let house = House::usual().await;
    let token = house.forge(&json!({"alg": "ES256", "typ": "JWT"}), &claims(json!({})));
    assert!(house.validate("a", &token).await.is_ok());
}

/// Refuses a good token whose header has one more parameter.
async fn refuses_parameters(parameters: impl IntoIterator<Item = (&'static str, Value)>) {
    let house = House::usual().await;
    for (name, value) in parameters {
        let mut header = house.header();
        header[name] = value;
        house
            .refuses(name, &house.forge(&header, &claims(json!({}))))
            .await;
    }
}

/// C84: `crit` is refused.
#[tokio::test(flavor = "multi_thread")]
async fn c84_critical_parameters_are_refused() {
    refuses_parameters([("crit", json!(["exp"])), ("crit", json!([]))]).await;
}

/// C85: so is any other parameter, embedded keys among them.
#[tokio::test(flavor = "multi_thread")]
async fn c85_other_parameters_are_refused() {
    refuses_parameters([
        ("jwk", json!({})),
        ("jku", json!("https://id.example.org/jwks.json")),
        ("x5c", json!([])),
        ("x5u", json!("https://x")),
        ("x5t", json!("x")),
        ("cty", json!("JWT")),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("anything", json!(1)),
    ])
    .await;
}

/// C86: JWS in JSON is refused.
#[tokio::test(flavor = "multi_thread")]
async fn c86_json_serialization_is_refused() {
    let house = House::usual().await;
    let token = house.token("a").await;
    let [protected, payload, signature] = token.split('.').collect::<Vec<_>>()[..] else {
        panic!()
    };
    let flat = json!({"payload": payload, "protected": protected, "signature": signature});
    let general = json!({"payload": payload, "signatures": [{"protected": protected, "signature": signature}]});
    house.refuses("flattened", &flat.to_string()).await;
    house.refuses("general", &general.to_string()).await;
}

/// C87: other numbers of parts, padding, foreign characters, bad or ambiguous JSON, and tokens of a
/// megabyte.
#[tokio::test(flavor = "multi_thread")]
async fn c87_malformed_tokens_are_refused() {
    let house = House::usual().await;
    let token = house.token("a").await;
    let parts: Vec<_> = token.split('.').collect();
    for bad in [
        parts[..2].join("."),
        format!("{token}.x"),
        format!("{token}="),
        format!("{token} "),
        token.replace('.', ".."),
        format!("{}.{}.", parts[0], parts[1]),
        house.sign(&encode("{"), &part(&claims(json!({})))),
        house.sign(&part(&house.header()), &encode("[]")),
        house.sign(
            &part(&house.header()),
            &encode(format!("{} x", claims(json!({})))),
        ),
        house.sign(
            &part(&house.header()),
            &encode(
                claims(json!({}))
                    .to_string()
                    .replacen('{', "{\"sub\":\"x\",", 1),
            ),
        ),
    ] {
        house.refuses(&bad, &bad).await;
    }
    // Beyond the largest request it does not even reach the parser.
    let big = house.validate("a", &"x".repeat(1 << 20)).await.unwrap_err();
    assert!(
        matches!(big.code(), Code::OutOfRange | Code::ResourceExhausted),
        "{big}"
    );
    house.refuses("20 kB", &"x".repeat(20_000)).await;
}

/// C89: the key is picked by `kid` among several.
#[tokio::test(flavor = "multi_thread")]
async fn c89_the_key_is_picked_among_several() {
    let two = "  key \"second\" {\n    algorithm = \"ES256\"\n  }\n";
    let sandbox = Sandbox::new("");
    let issuer = issuer("main", URL, "ES256").replacen("  key", &format!("{two}  key"), 1);
    let entries = also("one", "key = \"main\"") + &also("two", "key = \"second\"");
    sandbox.configure(&(issuer + &entries));
    let house = House::of(sandbox).await;
    let svids = house.fetch(&["a"], "").await.unwrap();
    let kids: Vec<_> = svids
        .iter()
        .map(|svid| opened(&svid.svid).0["kid"].clone())
        .collect();
    assert_ne!(kids[0], kids[1]);
    for svid in svids {
        assert!(house.validate("a", &svid.svid).await.is_ok());
    }
}

/// C91: a caller without an entry may validate.
#[tokio::test(flavor = "multi_thread")]
async fn c91_a_stranger_may_validate() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::usual().await;
    let file = house.sandbox.path("token");
    std::fs::write(&file, house.token("a").await).unwrap();
    let arguments = [
        "validate-jwt",
        "--audience",
        "a",
        "--file",
        file.to_str().unwrap(),
    ];
    assert!(house.sandbox.run_as(1001, &arguments).status.success());
}

/// C92: a WIT-SVID is no JWT-SVID.
#[tokio::test(flavor = "multi_thread")]
async fn c92_a_wit_svid_is_refused() {
    let house = House::usual().await;
    let header = json!({"alg": "ES256", "kid": house.kid(), "typ": "wit+jwt"});
    let wit = claims(json!({"aud": null, "iss": null, "cnf": {"jwk": {"kty": "OKP"}}}));
    house.refuses("wit", &house.forge(&header, &wit)).await;
    house
        .refuses("without its typ", &house.forge(&house.header(), &wit))
        .await;
}

/// C93: no refusal repeats the token. (Each refusal of these tests is looked at for it.)
#[tokio::test(flavor = "multi_thread")]
async fn c93_no_refusal_repeats_the_token() {
    let house = House::usual().await;
    let token = house.forge(&house.header(), &claims(json!({"exp": 1})));
    let (_, why) = refused(house.validate("a", &token).await);
    assert!(token.split('.').all(|part| !why.contains(part)), "{why}");
}
