//! azure-identity with `AZURE_FEDERATED_TOKEN_FILE`.

use std::fs;

use crate::bench::{AZURE_AUDIENCE, BILLING, Bench, EC, OWN, RENEWED, RSA, file, replaced};

#[test]
fn azure_identity_signs_in_with_the_file_and_the_service_takes_no_other_token() {
    let other_case = "sub = \"spiffe://example.org/Billing\"";
    let blocks = [
        file("rsa", &[AZURE_AUDIENCE], &[OWN, RSA, "jti = true"]),
        file("ec", &[AZURE_AUDIENCE], &[OWN, EC]),
        file("other", &["api://azureadtokenexchange"], &[OWN, RSA]),
        file("two", &[AZURE_AUDIENCE, "vault"], &[OWN, RSA]),
        file("case", &[AZURE_AUDIENCE], &[other_case, RSA]),
        file("short", &[AZURE_AUDIENCE], &[OWN, RSA, "ttl = \"2s\""]),
    ];
    let Some(bench) = Bench::start(&blocks.concat()) else {
        return;
    };
    let mut azure = bench.program("azure");
    azure.granted(&bench.file("rsa"));
    let token = fs::read_to_string(bench.file("rsa")).unwrap();
    for (file, why) in [
        (bench.file("ec"), "algorithm: it is ES256"),
        (bench.file("other"), "audience: api://azureadtokenexchange"),
        (bench.file("two"), "audience: ["),
        (bench.file("case"), "subject: spiffe://example.org/Billing"),
        (bench.made("newline", token + "\n"), "malformed"),
        (bench.expired("short"), "expired"),
    ] {
        azure.refused(&file, &["(invalid_client)", why]);
    }
}

#[test]
fn azure_identity_keeps_what_it_has_read_for_ten_minutes_and_then_reads_again() {
    let Some(bench) = Bench::start(&file("token", &[AZURE_AUDIENCE], &[OWN, RSA, RENEWED])) else {
        return;
    };
    let mut azure = bench.program("azure");
    let first = azure.begin(&bench.file("token"));
    assert!(first.starts_with(&format!("granted {BILLING} ")), "{first}");
    replaced(&bench.file("token"), &first);
    assert_eq!(azure.again(), first, "as the documentation says");
    azure.pass(601);
    let second = azure.again();
    assert!(second.starts_with("granted "), "{second}");
    assert_ne!(first, second);
}
