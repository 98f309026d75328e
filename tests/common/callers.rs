//! Callers of all kinds, and what they are granted.

#![allow(dead_code, reason = "helpers, of which each test file uses some")]

use std::path::Path;
use std::process::{Command, Output};

use crate::common::{Sandbox, issuer, text};

/// The attestor of programs, with the time that a busy machine takes to read a large one.
pub const DISCOVER: &str =
    "attestor \"unix\" {\n  discover_workload_path = true\n  timeout = \"30s\"\n}\n";

/// An entry `name` for callers with these selectors.
pub fn entry(name: &str, selectors: &[&str]) -> String {
    format!(
        "entry \"{name}\" {{\n  spiffe_id = \"spiffe://example.org/{name}\"\n  selectors = {selectors:?}\n}}\n"
    )
}

/// An entry whose identity, below the trust domain, callers with these selectors complete.
pub fn template(path: &str, selectors: &[&str]) -> String {
    let name = path.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    format!(
        "entry \"of-{name}\" {{\n  spiffe_id = \"spiffe://example.org/{path}\"\n  selectors = {selectors:?}\n}}\n"
    )
}

/// A sandbox with one issuer and these blocks.
pub fn sandbox(blocks: &[String]) -> Sandbox {
    Sandbox::new(&(issuer("main", "https://localhost", "ES256") + &blocks.concat()))
}

/// The names of the entries that granted a caller something, in order.
pub fn granted(mut command: Command) -> Vec<String> {
    let output = command.output().unwrap();
    names(&output)
}

/// The names of the entries in an answer, none where the caller was refused.
pub fn names(output: &Output) -> Vec<String> {
    if output.status.code() == Some(3) {
        return Vec::new();
    }
    assert!(output.status.success(), "{}", text(&output.stderr));
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let svids = reply["svids"].as_array().unwrap().iter();
    svids
        .map(|svid| svid["spiffe_id"].as_str().unwrap())
        .map(|id| id.rsplit('/').next().unwrap().to_owned())
        .collect()
}

/// Adds a call of this program to a command that becomes it. It is patient: the first look at a large
/// program takes its time.
pub fn fetch(by: Command, program: &Path, socket: &Path) -> Command {
    fetch_within("30s", by, program, socket)
}

/// The same with this patience.
pub fn fetch_within(patience: &str, mut by: Command, program: &Path, socket: &Path) -> Command {
    by.arg(program)
        .args(["fetch-jwt", "--audience", "a", "--output", "json"])
        .args(["--timeout", patience])
        .env("SPIFFE_ENDPOINT_SOCKET", socket);
    by
}
