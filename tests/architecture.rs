//! The house rules that the compiler does not know: which module may use which, how long a file
//! may be, where unsafe code and private RSA keys may not be.

#[path = "common/source.rs"]
mod source;

use std::collections::BTreeMap;
use std::path::Path;

use source::{code, sources};

/// The floors of `ARCHITECTURE.md`, lowest first. A module uses lower floors freely.
const FLOORS: [&[&str]; 6] = [
    &[
        "spiffe_id",
        "selector",
        "entry",
        "issuer",
        "clock",
        "durable",
        "duration",
        "limits",
        "priority",
        "quiet",
        "sys",
        "terminal",
    ],
    &["jose", "svid", "bundle"],
    &["key", "metrics"],
    &[
        "proc",
        "peer",
        "conn",
        "attest",
        "authority",
        "publish",
        "rotator",
        "issue",
        "mirror",
        "registry",
        "audit",
        "explain",
        "socket",
        "steps",
    ],
    &["pb", "proto_json", "grpc", "workload_api", "admin"],
    &[
        "config",
        "telemetry",
        "shutdown",
        "systemd",
        "privilege",
        "reload",
        "agent",
        "cli",
        "fuzz",
    ],
];

/// What may be used on the same floor: the user, then the used.
const SAME_FLOOR: &[(&str, &str)] = &[
    ("entry", "selector"),
    ("entry", "spiffe_id"),
    ("svid", "bundle"),
    ("svid", "jose"),
    ("bundle", "jose"),
    ("peer", "proc"),
    ("conn", "peer"),
    ("attest", "peer"),
    ("attest", "proc"),
    ("publish", "attest"),
    ("rotator", "attest"),
    ("rotator", "authority"),
    ("rotator", "publish"),
    ("issue", "authority"),
    ("mirror", "attest"),
    ("mirror", "audit"),
    ("mirror", "authority"),
    ("mirror", "issue"),
    ("mirror", "proc"),
    ("registry", "attest"),
    ("audit", "peer"),
    ("explain", "attest"),
    ("explain", "peer"),
    ("explain", "registry"),
    ("workload_api", "grpc"),
    ("workload_api", "pb"),
    ("workload_api", "proto_json"),
    ("admin", "grpc"),
    ("admin", "pb"),
    ("admin", "proto_json"),
    ("admin", "workload_api"),
    ("config", "telemetry"),
    ("mirror", "registry"),
    ("reload", "config"),
    ("reload", "systemd"),
    ("reload", "telemetry"),
    ("agent", "config"),
    ("agent", "reload"),
    ("agent", "systemd"),
    ("agent", "shutdown"),
    ("cli", "agent"),
    ("cli", "config"),
    ("cli", "privilege"),
    ("cli", "shutdown"),
    ("cli", "systemd"),
    ("cli", "telemetry"),
];

const MAX_LINES: usize = 400;

fn module(path: &Path) -> String {
    let first = path.iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The modules of the crate that a text names.
fn used(text: &str) -> Vec<String> {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let paths = lines.flat_map(|line| line.split("crate::").skip(1).map(str::to_owned));
    paths
        .map(|rest| {
            rest.chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        })
        .filter(|name: &String| !name.is_empty())
        .collect()
}

#[test]
fn modules_use_only_what_lies_below_them() {
    let floor_of: BTreeMap<&str, usize> = FLOORS
        .iter()
        .enumerate()
        .flat_map(|(floor, modules)| modules.iter().map(move |module| (*module, floor)))
        .collect();
    let mut used_pairs = Vec::new();
    for (path, text) in sources() {
        let user = module(&path);
        if matches!(user.as_str(), "lib" | "main") {
            continue;
        }
        let Some(floor) = floor_of.get(user.as_str()) else {
            panic!("{} stands on no floor", path.display());
        };
        let grouped = text.contains("crate::{");
        assert!(
            !grouped,
            "{}: one use for each module, so that this test sees it",
            path.display()
        );
        for name in used(code(&path, &text)) {
            if name == user {
                continue;
            }
            let Some(below) = floor_of.get(name.as_str()) else {
                panic!("{}: crate::{name} stands on no floor", path.display());
            };
            let pair = (user.as_str(), name.as_str());
            let allowed = SAME_FLOOR.iter().find(|allowed| **allowed == pair);
            assert!(
                below < floor || (below == floor && allowed.is_some()),
                "{} uses crate::{name}, which does not lie below it",
                path.display()
            );
            used_pairs.extend(allowed);
        }
    }
    for allowed in SAME_FLOOR {
        assert!(
            used_pairs.contains(&allowed),
            "{allowed:?} is allowed and not used"
        );
    }
}

#[test]
fn what_belongs_to_one_floor_stays_there() {
    for (path, text) in sources() {
        let code = code(&path, &text);
        let user = module(&path);
        let floor = FLOORS
            .iter()
            .position(|modules| modules.contains(&user.as_str()));
        let never = |what: &str, why: &str| {
            assert!(!code.contains(what), "{}: {what}: {why}", path.display());
        };
        if !matches!(user.as_str(), "agent" | "cli" | "config" | "reload") {
            never("crate::config", "workers get a spec of their own");
        }
        if !matches!(floor, Some(4..)) && user != "lib" {
            never("tonic::", "gRPC is a matter of the surfaces");
        }
        if floor == Some(0) && user != "clock" {
            never("tokio::", "words do not wait");
        }
        if user != "cli" {
            never("anyhow::", "callers want to tell errors apart");
        }
        if user != "durable" {
            never("O_CREAT | OFlag::O_EXCL", "durable is the only writer");
        }
    }
}

#[test]
fn files_are_short_enough_to_be_read() {
    for (path, text) in sources() {
        let lines = code(&path, &text).lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines", path.display());
        assert!(
            text.lines().count() <= 600,
            "{}: move the tests out",
            path.display()
        );
    }
    let main = sources()
        .into_iter()
        .find(|(path, _)| path == Path::new("main.rs"))
        .unwrap()
        .1;
    assert!(main.lines().count() < 60);
}

#[test]
fn unsafe_code_is_in_one_small_module() {
    let mut expectations = 0;
    for (path, text) in sources() {
        let code = code(&path, &text);
        expectations += code.matches("expect(unsafe_code").count();
        if path == Path::new("sys.rs") {
            assert!(code.lines().count() <= 200);
            let blocks = code.matches("unsafe {").count();
            assert_eq!(code.matches("// SAFETY:").count(), blocks);
        } else {
            assert!(!code.contains("unsafe {"), "{}", path.display());
        }
    }
    assert_eq!(expectations, 1, "lib.rs alone makes the one exception");
}

#[test]
fn private_rsa_keys_are_never_in_the_hands_of_the_rsa_crate() {
    for (path, text) in sources() {
        // Its private-key operations take a time that depends on the key (RUSTSEC-2023-0071).
        assert!(!text.contains("RsaPrivateKey"), "{}", path.display());
    }
}
