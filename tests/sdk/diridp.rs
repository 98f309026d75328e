//! The examples of diridp's README, as `docs/from-diridp.md` translates them: the page is what runs.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::bench::{Bench, RENEWED, Rules, appeared, grant, replaced};
use crate::common::{Need, Sandbox, have, issuer, python};

const PAGE: &str = include_str!("../../docs/from-diridp.md");
const RULES: Rules = Rules {
    issuer: "https://example.com",
    subject: "my-application",
    gcp_audiences: &["some-cloud-service.example.com"],
};

/// All blocks of the page, with directories in the sandbox.
fn examples(sandbox: &Sandbox) -> String {
    let blocks = PAGE.split("```hcl\n").skip(1);
    let blocks = blocks.map(|rest| rest.split("```").next().unwrap());
    let (data, run) = (sandbox.path("data"), sandbox.path("run"));
    let directories = format!("agent {{\n  data_dir = {data:?}\n  runtime_dir = {run:?}\n");
    let run = format!("{}/", run.display());
    let blocks = blocks.collect::<String>();
    blocks
        .replace("/run/agent/", &run)
        .replacen("agent {\n", &directories, 1)
}

#[test]
fn the_examples_of_diridp_serve_a_cloud_and_aws() {
    let Some(bench) = Bench::with(&RULES, examples) else {
        return;
    };
    let token = bench.file("my-application/token");
    let granted = grant(&json!({"sub": "my-application"}));
    let mut cloud = bench.program("gcp");
    let said = cloud.begin(&bench.google("diridp", &json!({"file": token})));
    assert_eq!(said, granted);

    let mut boto3 = bench.program("aws");
    let said = boto3.begin(&bench.file("my-application/aws_token"));
    assert_eq!(said, granted);
    boto3.refused(&token, &["audience: some-cloud-service.example.com"]);
}

/// A container as Docker starts it: its directory is made by root when the agent already runs, and
/// mounted where the program looks.
fn contained(path: &str, options: &str, subject: &'static str) {
    if !have(&[Need::Root]) {
        return;
    }
    let rules = Rules { subject, ..RULES };
    let config = |sandbox: &Sandbox| {
        let containers = sandbox.path("containers");
        fs::create_dir(&containers).unwrap();
        let block = format!(
            "token_file \"{}/{path}\" {{\n  audience = \"sts.amazonaws.com\"\n  {options}\n  {RENEWED}\n}}\n",
            containers.display()
        );
        sandbox.config_text(&(issuer("main", RULES.issuer, "RS256") + &block))
    };
    let Some(bench) = Bench::with(&rules, config) else {
        return;
    };
    let directory = bench.sandbox.path("containers/my_app");
    let inside = bench.sandbox.path("inside");
    fs::create_dir(&directory).unwrap();
    fs::create_dir(&inside).unwrap();
    let name = path.rsplit('/').next().unwrap();
    appeared(&directory.join(name));

    let mut mounted = Command::new("unshare");
    let run = "mount --bind \"$0\" \"$1\" && shift && exec \"$@\"";
    mounted.args(["--mount", "sh", "-c", run]);
    mounted.args([&directory, &inside]).arg(python().unwrap());
    let mut boto3 = bench.program_by(mounted, "aws");
    let first = boto3.begin(&inside.join(name));
    let granted = format!("granted {subject} ");
    assert!(first.starts_with(&granted), "{first}");
    replaced(&directory.join(name), &first);
    let second = boto3.again();
    assert!(second.starts_with(&granted) && second != first, "{second}");
}

#[test]
fn a_container_finds_a_token_in_the_directory_that_docker_has_made_for_it() {
    contained(
        ":name/token",
        "spiffe_id = \"spiffe://example.org/containers/:name\"\n  \
         pattern = \"^[a-z][a-z0-9_]*$\"\n  directory_owner = \"root\"\n  max_directories = 100",
        "spiffe://example.org/containers/my_app",
    );
}

#[test]
fn a_container_is_named_by_its_directory_as_with_diridp() {
    contained(":sub/aws_token", "", "my_app");
}
