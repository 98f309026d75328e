//! `docs/conformance.md`, made from the tests.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// Rows that are shown elsewhere, or cannot be yet.
const ELSEWHERE: &[(u32, &str)] = &[
    (14, "TCP is not offered"),
    (
        15,
        "`tests/clients.rs`: the Rust, Python and Node clients, unmodified",
    ),
    (49, "`tests/clients.rs`"),
    (56, "with federation"),
    (64, "with federation"),
    (
        78,
        "`src/svid/tests.rs`, against bundles in the process: an agent has one trust domain",
    ),
    (
        88,
        "`src/jose/jwk.rs`: keys come from the agent alone, and none without an algorithm is read",
    ),
    (90, "with federation"),
];

/// The statements of the tests by row: what stands behind `/// C22: ` and the name of the test.
fn rows() -> BTreeMap<u32, (String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let mut rows = BTreeMap::new();
    for file in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let mut statement = String::new();
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("/// ") {
                if !statement.is_empty() {
                    statement.push(' ');
                }
                statement.push_str(comment);
            } else if let Some(name) = line.trim_start_matches("async ").strip_prefix("fn c") {
                let name = format!("c{}", name.split('(').next().unwrap());
                if let Some((number, said)) =
                    statement.strip_prefix('C').and_then(|s| s.split_once(": "))
                {
                    let own = name[1..].split('_').next().unwrap();
                    assert_eq!(own, number, "{name} stands under C{number}");
                    rows.insert(number.parse().unwrap(), (said.to_owned(), name));
                }
                statement.clear();
            } else if !line.starts_with("#[") {
                statement.clear();
            }
        }
    }
    rows
}

#[test]
fn the_page_lists_every_row_with_its_test() {
    let rows = rows();
    let listed = (1..=95).chain(103..=113);
    let mut page = String::from(
        "# Conformance\n\n\
         The rows of the conformance list for the JWT profile of the SPIFFE Workload API, and the tests that show \
         them on the real binary\n(`cargo test --test conformance`). The X.509 and WIT profiles are not served; their \
         calls answer Unimplemented. This page is made\nfrom the tests: `SVID_AGENT_WRITE_DOCS=1 cargo test --test conformance`.\n\n\
         | row | statement | shown by |\n|---|---|---|\n",
    );
    for number in listed {
        let elsewhere = ELSEWHERE.iter().find(|(row, _)| *row == number);
        match (rows.get(&number), elsewhere) {
            (Some((said, name)), _) => {
                writeln!(page, "| C{number} | {said} | `{name}` |").unwrap();
            }
            (None, Some((_, place))) => writeln!(page, "| C{number} | | {place} |").unwrap(),
            (None, None) => panic!("nothing shows C{number}"),
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md");
    if std::env::var_os("SVID_AGENT_WRITE_DOCS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    assert_eq!(
        fs::read_to_string(&path).unwrap_or_default(),
        page,
        "write it anew"
    );
}
