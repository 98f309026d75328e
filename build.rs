//! Compiles `proto/` with a compiler written in Rust, so that no `protoc` is needed, and
//! records the commit for `agent --version`.

use std::error::Error;
use std::path::Path;
use std::process::Command;

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let explain = "agent/explain/v1/explain.proto";
    let all = ["workload.proto", "agent/v1/admin.proto", explain];
    let descriptors = protox::compile(all, ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .compile_fds(descriptors)?;
    // What reflection shows on the workload socket: what is served there and nothing else.
    let shown = protox::compile(["workload.proto", explain], ["proto"])?.encode_to_vec();
    let out = std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?;
    std::fs::write(Path::new(&out).join("workload.fds"), shown)?;
    println!("cargo:rustc-env=SVID_AGENT_COMMIT={}", commit());
    Ok(())
}

/// The commit that is built, shortened; `unknown` outside a git checkout. A source package can
/// set `SVID_AGENT_COMMIT` itself.
fn commit() -> String {
    println!("cargo:rerun-if-env-changed=SVID_AGENT_COMMIT");
    println!("cargo:rerun-if-changed=.git/HEAD");
    println!("cargo:rerun-if-changed=.git/logs/HEAD");
    if let Ok(given) = std::env::var("SVID_AGENT_COMMIT") {
        return given;
    }
    Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
}
