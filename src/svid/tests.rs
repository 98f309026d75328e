use serde_json::json;

use super::*;
use crate::key::signing::SigningKey;
use crate::key::signing::tests::key;

const NOW: u64 = 1_800_000_000;

fn bundle(keys: &[&SigningKey]) -> Bundle {
    Bundle::new(
        "example.org".parse().unwrap(),
        keys.iter().map(|key| key.jwk().clone()),
    )
}

fn sign(key: &SigningKey, signing_input: String) -> String {
    let signature = key.sign(signing_input.as_bytes()).unwrap();
    Token::assemble(signing_input, &signature)
        .reveal()
        .to_owned()
}

/// A token of `key` with the usual claims, changed by `change`.
fn token(key: &SigningKey, change: impl FnOnce(&mut Map<String, Value>)) -> String {
    let header = json!({"alg": key.jwk().algorithm().name(), "kid": key.jwk().kid(), "typ": "JWT"});
    let mut claims = json!({
        "sub": "spiffe://example.org/billing", "aud": ["vault"], "iat": NOW, "exp": NOW + 300,
    })
    .as_object()
    .unwrap()
    .clone();
    change(&mut claims);
    let part = |value: Value| encode_base64url(value.to_string());
    sign(
        key,
        format!("{}.{}", part(header), part(Value::Object(claims))),
    )
}

fn check(key: &SigningKey, token: &str) -> Result<SpiffeId, ValidationError> {
    let now = from_unix_seconds(NOW + 10);
    validate(
        token,
        &bundle(&[key]),
        "vault",
        now,
        Duration::from_secs(30),
    )
    .map(|(id, _)| id)
}

#[test]
fn what_is_minted_has_exactly_the_documented_claims_and_validates() {
    for algorithm in Algorithm::ALL.into_iter().filter(|a| a.is_for_jwt_svids()) {
        let key = key(algorithm);
        let id: SpiffeId = "spiffe://example.org/billing".parse().unwrap();
        let claims = Claims::new(json!({"team": "payments"}).as_object().unwrap().clone());
        let subject = Subject {
            issuer: "https://id.example.org",
            sub: &(&id).into(),
            audience: &AudienceClaim::List(vec!["vault".parse().unwrap()]),
            claims: &claims.unwrap(),
            jti: Some("unique"),
        };
        let now = from_unix_seconds(NOW) + Duration::from_millis(999);
        let validity = Validity::starting(now, Duration::from_secs(300), Duration::from_secs(5));
        let token = sign(&key, signing_input(key.jwk(), subject, validity).unwrap());
        let (_, claims) = validate(
            &token,
            &bundle(&[&key]),
            "vault",
            from_unix_seconds(NOW),
            Duration::ZERO,
        )
        .unwrap();
        let expected = json!({
            "iss": "https://id.example.org",
            "sub": "spiffe://example.org/billing",
            "aud": ["vault"],
            "iat": NOW, "nbf": NOW - 5, "exp": NOW + 300,
            "jti": "unique",
            "team": "payments",
        });
        assert_eq!(Value::Object(claims), expected);
    }
}

#[test]
fn a_token_of_another_key_or_domain_or_with_a_changed_byte_is_refused() {
    let ours = key(Algorithm::Es256);
    let other = key(Algorithm::Es256);
    let rsa = key(Algorithm::Rs256);
    let good = token(&ours, |_| {});
    assert!(check(&ours, &good).is_ok());
    assert_eq!(check(&other, &good), Err(ValidationError::Signature));
    assert_eq!(check(&rsa, &good), Err(ValidationError::Signature));
    let foreign = token(&ours, |c| {
        drop(c.insert("sub".into(), json!("spiffe://evil.org/x")));
    });
    assert_eq!(check(&ours, &foreign), Err(ValidationError::TrustDomain));
    let forged = token(&ours, |c| {
        drop(c.insert("sub".into(), json!("spiffe://example.org/root")));
    });
    let (header, rest) = good.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let payload = forged.split('.').nth(1).unwrap();
    let mixed = format!("{header}.{payload}.{signature}");
    assert_eq!(check(&ours, &mixed), Err(ValidationError::Signature));
}

#[test]
fn each_bad_claim_is_refused_for_its_reason() {
    use ValidationError::*;
    let key = key(Algorithm::Es256);
    for (name, value, why) in [
        ("sub", json!(null), Subject),
        ("sub", json!("billing"), Subject),
        ("sub", json!("spiffe://example.org/a/"), Subject),
        ("exp", json!(null), NoExpiry),
        ("exp", json!("1900000000"), NoExpiry),
        ("exp", json!(-1), NoExpiry),
        ("exp", json!(1e300), NoExpiry),
        ("exp", json!(NOW - 20), Expired),
        ("nbf", json!(NOW + 41), NotYet),
        ("nbf", json!("0"), Time),
        ("iat", json!(NOW + 41), NotYet),
        ("iat", json!(null), Time),
        ("aud", json!(null), NoAudience),
        ("aud", json!([]), NoAudience),
        ("aud", json!(["vault", 1]), NoAudience),
        ("aud", json!({"vault": 1}), NoAudience),
        ("aud", json!("Vault"), Audience),
        ("aud", json!("vault2"), Audience),
        ("aud", json!(["vaul"]), Audience),
    ] {
        let token = token(&key, |c| drop(c.insert(name.into(), value.clone())));
        assert_eq!(check(&key, &token), Err(why), "{name} = {value}");
    }
    for (name, why) in [("exp", NoExpiry), ("aud", NoAudience), ("sub", Subject)] {
        let token = token(&key, |c| drop(c.remove(name)));
        assert_eq!(check(&key, &token), Err(why), "without {name}");
    }
}

#[test]
fn the_edges_of_the_leeway_and_both_forms_of_aud_are_accepted() {
    let key = key(Algorithm::Es256);
    for (name, value) in [
        ("exp", json!(NOW - 19)),
        ("nbf", json!(NOW + 40)),
        ("iat", json!(NOW + 40)),
        ("aud", json!("vault")),
        ("aud", json!(["x", "vault"])),
    ] {
        let token = token(&key, |c| drop(c.insert(name.into(), value.clone())));
        assert!(check(&key, &token).is_ok(), "{name} = {value}");
    }
}

#[test]
fn a_token_without_kid_is_checked_against_every_key_of_its_algorithm() {
    let (a, b) = (key(Algorithm::Es256), key(Algorithm::Es256));
    let signed = token(&b, |_| {});
    let payload = signed.split('.').nth(1).unwrap();
    let header = encode_base64url(r#"{"alg":"ES256"}"#);
    let token = sign(&b, format!("{header}.{payload}"));
    let now = from_unix_seconds(NOW);
    assert!(validate(&token, &bundle(&[&a, &b]), "vault", now, Duration::ZERO).is_ok());
    let refused = validate(&token, &bundle(&[&a]), "vault", now, Duration::ZERO);
    assert_eq!(refused.unwrap_err(), ValidationError::Signature);
}

#[test]
fn no_error_repeats_the_token_and_a_token_never_prints_itself() {
    let token = Token::assemble("eyJhbGciOiJFUzI1NiJ9.e30".into(), b"sig");
    assert_eq!(format!("{token:?}"), "Token(..)");
}

#[test]
fn absurd_times_do_not_panic() {
    let validity = Validity::starting(
        from_unix_seconds(u64::MAX),
        Duration::from_secs(u64::MAX),
        Duration::from_secs(u64::MAX),
    );
    assert_eq!(unix_seconds(validity.expires_at), 253_402_300_799);
    assert_eq!(unix_seconds(validity.not_before), 0);
}
