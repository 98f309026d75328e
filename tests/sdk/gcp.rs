//! google-auth with `credential_source.file` and `.executable`.

use serde_json::{Value, json};

use crate::bench::{
    BILLING, Bench, EC, OWN, PROVIDER, RENEWED, RSA, file, grant, grant_of, own_entry, replaced,
};
use crate::common::binary;

#[test]
fn google_auth_exchanges_the_token_in_the_file_and_the_service_takes_no_other() {
    let of_length = |length| format!("sub = \"{}\"", "a".repeat(length));
    let with_scheme = format!("https:{PROVIDER}");
    let blocks = [
        file("rsa", &[PROVIDER], &[OWN, RSA, "jti = true"]),
        file("scheme", &[&with_scheme], &[OWN, RSA]),
        file("ec", &[PROVIDER], &[OWN, EC]),
        file("fits", &[PROVIDER], &[&of_length(127), RSA]),
        file("long", &[PROVIDER], &[&of_length(128), RSA]),
        file("day", &[PROVIDER], &[OWN, RSA, "ttl = \"24h\""]),
        file("lasting", &[PROVIDER], &[OWN, RSA, "ttl = \"86401s\""]),
        file("other", &["vault"], &[OWN, RSA]),
        file("short", &[PROVIDER], &[OWN, RSA, "ttl = \"2s\""]),
        file("json", &[PROVIDER], &[OWN, RSA, "format = \"json\""]),
    ];
    let Some(bench) = Bench::start(&blocks.concat()) else {
        return;
    };
    let mut google = bench.program("gcp");
    for name in ["rsa", "scheme", "ec", "fits", "day"] {
        let path = bench.file(name);
        let source = json!({"file": path});
        let said = google.begin(&bench.google(name, &source));
        assert_eq!(said, grant_of(&path), "{name}");
    }
    for (name, path, why) in [
        ("long", bench.file("long"), "subject: it has 128 bytes"),
        ("lasting", bench.file("lasting"), "life: 86401 seconds"),
        ("other", bench.file("other"), "audience: vault"),
        ("expired", bench.expired("short"), "expired"),
    ] {
        let source = json!({"file": path});
        google.refused(&bench.google(name, &source), &["invalid_grant", why]);
    }

    let format = json!({"type": "json", "subject_token_field_name": "token"});
    let source = json!({"file": bench.file("json"), "format": format});
    let said = google.begin(&bench.google("json", &source));
    assert_eq!(said, grant(&json!({"sub": BILLING})));
}

#[test]
fn google_auth_exchanges_the_token_that_is_in_the_file_when_its_own_runs_out() {
    let Some(bench) = Bench::start(&file("token", &[PROVIDER], &[OWN, RSA, RENEWED])) else {
        return;
    };
    let mut google = bench.program("gcp");
    let source = json!({"file": bench.file("token")});
    let first = google.begin(&bench.google("token", &source));
    assert!(first.starts_with(&format!("granted {BILLING} ")), "{first}");
    replaced(&bench.file("token"), &first);
    let second = google.again();
    assert!(second.starts_with("granted "), "{second}");
    assert_ne!(first, second);
}

#[test]
fn google_auth_runs_the_command_and_finds_its_last_token_in_the_output_file() {
    let Some(bench) = Bench::start(&own_entry(&["key = \"rsa\"", "jti = true"])) else {
        return;
    };
    let source = |options: &str| -> Value {
        let agent = binary().display();
        let command = format!("{agent} fetch-jwt --output gcp-executable {options}");
        json!({"executable": {"command": command, "timeout_millis": 6000}})
    };
    let mut google = bench.program("gcp");
    let first = google.begin(&bench.google("command", &source("")));
    assert!(first.starts_with(&format!("granted {BILLING} ")), "{first}");
    let second = google.again();
    assert!(second.starts_with("granted "), "{second}");
    assert_ne!(first, second, "it runs each time");

    let other = source("--audience vault");
    google.refused(&bench.google("other", &other), &["audience: ['vault']"]);
    let nobody = source("--hint nobody");
    google.refused(&bench.google("nobody", &nobody), &["NO_IDENTITY"]);

    let mut kept = source("");
    kept["executable"]["output_file"] = json!(bench.sandbox.path("last.json"));
    let first = google.begin(&bench.google("kept", &kept));
    assert!(first.starts_with("granted "), "{first}");
    assert_eq!(google.again(), first, "until the token has ended");
}
