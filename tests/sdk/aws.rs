//! boto3 with `AWS_WEB_IDENTITY_TOKEN_FILE`.

use std::fs;

use crate::bench::{BILLING, Bench, EC, OWN, RENEWED, RSA, file, replaced};
use crate::common::issuer;
use crate::web::tampered;

const AUDIENCE: &str = "sts.amazonaws.com";

#[test]
fn boto3_takes_on_a_role_with_the_file_and_the_service_takes_no_other_token() {
    let of_length = |length| format!("sub = \"{}\"", "a".repeat(length));
    let foreign = "issuer = \"foreign\"\n  key = \"main\"";
    let azp = "claims = { azp = \"billing\" }";
    let blocks = [
        issuer("foreign", "https://foreign.example.org", "RS256"),
        file("rsa", &[AUDIENCE], &[OWN, RSA, "jti = true"]),
        file("ec", &[AUDIENCE], &[OWN, EC]),
        file("azp", &[AUDIENCE], &[OWN, RSA, azp]),
        file("other", &["vault"], &[OWN, RSA]),
        file("two", &[AUDIENCE, "vault"], &[OWN, RSA]),
        file("brief", &[AUDIENCE], &[&of_length(5), RSA]),
        file("long", &[AUDIENCE], &[&of_length(256), RSA]),
        file("fits", &[AUDIENCE], &[&of_length(255), RSA]),
        file("foreign", &[AUDIENCE], &[OWN, foreign]),
        file("short", &[AUDIENCE], &[OWN, RSA, "ttl = \"2s\""]),
    ];
    let Some(bench) = Bench::start(&blocks.concat()) else {
        return;
    };
    let mut boto3 = bench.program("aws");
    for name in ["rsa", "ec"] {
        boto3.granted(&bench.file(name));
    }

    let token = fs::read_to_string(bench.file("rsa")).unwrap();
    let tampered = bench.made("tampered", tampered(&token));
    let newline = bench.made("newline", token + "\n");
    let invalid = "(InvalidIdentityToken)";
    for (file, code, why) in [
        (bench.file("other"), invalid, "audience: vault"),
        (bench.file("two"), invalid, "audience: ["),
        (bench.file("azp"), invalid, "audience: billing"),
        (bench.file("brief"), invalid, "subject: it has 5 bytes"),
        (bench.file("long"), invalid, "subject: it has 256 bytes"),
        (bench.file("fits"), "(AccessDenied)", "role"),
        (bench.file("foreign"), invalid, "issuer: no such provider"),
        (tampered, invalid, "signature"),
        (newline, invalid, "malformed"),
        (bench.expired("short"), "(ExpiredTokenException)", "expired"),
    ] {
        boto3.refused(&file, &[code, why]);
    }
}

#[test]
fn boto3_shows_the_token_that_is_in_the_file_when_a_role_runs_out() {
    let Some(bench) = Bench::start(&file("token", &[AUDIENCE], &[OWN, RSA, RENEWED])) else {
        return;
    };
    let mut boto3 = bench.program("aws");
    let first = boto3.begin(&bench.file("token"));
    assert!(first.starts_with(&format!("granted {BILLING} ")), "{first}");
    replaced(&bench.file("token"), &first);
    let second = boto3.again();
    assert!(second.starts_with("granted "), "{second}");
    assert_ne!(first, second);
}
