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
    for file in ["HEAD", "logs/HEAD"] {
        // One that is not there would have everything built anew each time.
        let path = git(&["rev-parse", "--git-path", file]);
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    std::env::var("SVID_AGENT_COMMIT")
        .ok()
        .or_else(|| git(&["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(|| "unknown".to_owned())
}

/// What git says; none where there is no git, or no checkout.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let said = output.status.success().then_some(output.stdout)?;
    Some(String::from_utf8(said).ok()?.trim().to_owned())
}
