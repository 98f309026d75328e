//! What `agent integrate` prints, as it is: the workload's side runs with the SDKs, and the other side
//! says what the services here are told.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::bench::{
    AZURE_AUDIENCE, BILLING, Bench, CLIENT, ISSUER, OWN, PROVIDER, ROLE, RSA, Rules, TENANT, file,
    grant, grant_of, own_entry,
};
use crate::common::{python, text};

/// Prints one part, which raises no concern.
fn printed(bench: &Bench, arguments: &[&str]) -> String {
    let config = bench.sandbox.config();
    let mut command = bench.sandbox.command(&["integrate"]);
    command.args(arguments).arg("--config").arg(config);
    let output = command.output().unwrap();
    assert_eq!(text(&output.stderr), "", "{arguments:?}");
    assert!(output.status.success(), "{arguments:?}");
    text(&output.stdout)
}

/// The variables of an environment file.
fn variables(file: &str) -> Vec<(&str, &str)> {
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_once('=').unwrap()).collect()
}

/// The command in such a file with which the program is to be started.
fn starter(file: &str) -> Command {
    let (_, line) = file.split_once("\n#   ").unwrap();
    let (command, _) = line.split_once(" --\n").unwrap();
    let mut shell = Command::new("sh");
    let run = format!("exec {command} -- \"$@\"");
    shell.args(["-c", &run, "sh"]).arg(python().unwrap());
    shell
}

const AWS: [&str; 6] = [
    "aws",
    "--account-id",
    "123456789012",
    "--region",
    "eu-central-1",
    "--part",
];
const AZURE: [&str; 6] = [
    "azure",
    "--tenant-id",
    TENANT,
    "--client-id",
    CLIENT,
    "--part",
];

fn with<'a>(first: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
    [first, rest].concat()
}

#[test]
fn the_printed_environments_are_all_that_aws_and_azure_need() {
    let blocks = [
        own_entry(&["key = \"rsa\"", "jwt_svid_ttl = \"1h\""]),
        file("aws", &["sts.amazonaws.com"], &[OWN, RSA, "jti = true"]),
        file("azure", &[AZURE_AUDIENCE], &[OWN, RSA, "jti = true"]),
    ];
    let Some(bench) = Bench::start(&blocks.concat()) else {
        return;
    };
    for (cloud, options) in [("aws", AWS), ("azure", AZURE)] {
        let token_file = bench.file(cloud);
        let path = token_file.to_str().unwrap();
        let own = ["env", "--token-file", path, "--name", "billing"];
        let env = printed(&bench, &with(&options, &own));
        let python = Command::new(python().unwrap());
        let said = bench.program_in(python, cloud, &variables(&env)).again();
        assert_eq!(said, grant_of(&token_file), "{cloud}");

        let env = printed(&bench, &with(&options, &["env", "--entry", "billing"]));
        let said = bench.program_in(starter(&env), cloud, &variables(&env));
        assert_eq!({ said }.again(), grant(&json!({"sub": BILLING})), "{cloud}");
    }

    let policy = printed(&bench, &with(&AWS, &["policy", "--entry", "billing"]));
    let policy: Value = serde_json::from_str(&policy).unwrap();
    let host = ISSUER.strip_prefix("https://").unwrap();
    let trust = json!({"StringEquals": {
        format!("{host}:aud"): "sts.amazonaws.com", format!("{host}:sub"): BILLING,
    }});
    assert_eq!(policy["Statement"][0]["Condition"], trust);
    aws_takes(&policy);

    let credential = printed(&bench, &with(&AZURE, &["credential", "--entry", "billing"]));
    let credential: Value = serde_json::from_str(&credential).unwrap();
    let trust = json!({
        "name": "agent-billing", "issuer": ISSUER, "subject": BILLING, "audiences": [AZURE_AUDIENCE],
    });
    assert_eq!(credential, trust);
}

/// Wants that the model of AWS's API takes the policy.
fn aws_takes(policy: &Value) {
    let check = r#"
import json, sys, botocore.session, botocore.validate
model = botocore.session.get_session().get_service_model("iam")
role = {"RoleName": "billing", "AssumeRolePolicyDocument": sys.argv[1]}
provider = {"Url": sys.argv[2], "ClientIDList": ["sts.amazonaws.com"]}
for call, sent in [("CreateRole", role), ("CreateOpenIDConnectProvider", provider)]:
    shape = model.operation_model(call).input_shape
    report = botocore.validate.ParamValidator().validate(sent, shape)
    assert not report.has_errors(), report.generate_report()
for statement in json.loads(sys.argv[1])["Statement"]:
    assert set(statement) == {"Effect", "Action", "Principal", "Condition"}
"#;
    let mut python = Command::new(python().unwrap());
    python.args(["-c", check, &policy.to_string(), ISSUER]);
    let output = python.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn the_role_for_all_directories_is_for_the_token_in_each() {
    const EACH: &str = "spiffe://example.org/containers/*";
    let rules = Rules {
        issuer: ISSUER,
        subject: EACH,
        gcp_audiences: &[],
    };
    let bench = Bench::with(&rules, |sandbox| {
        let place = sandbox.path("run/tokens").display().to_string();
        let block = format!(
            "token_file \"{place}/:name/token\" {{\n  spiffe_id = \"spiffe://example.org/containers/:name\"\n  \
             audience = \"sts.amazonaws.com\"\n}}\n"
        );
        fs::create_dir_all(sandbox.path("run/tokens/web")).unwrap();
        sandbox.config_text(&(crate::common::issuer("main", ISSUER, "RS256") + &block))
    });
    let Some(bench) = bench else {
        return;
    };
    let place = bench.sandbox.path("run/tokens");
    let all = place.join(":name/token");
    let config = bench.sandbox.config();
    let holder = ["policy", "--token-file", all.to_str().unwrap()];
    let mut command = bench.sandbox.command(&["integrate"]);
    command
        .args(with(&AWS, &holder))
        .arg("--config")
        .arg(config);
    let output = command.output().unwrap();
    assert!(text(&output.stderr).starts_with("warning (pattern): "));
    let policy: Value = serde_json::from_slice(&output.stdout).unwrap();
    let like = &policy["Statement"][0]["Condition"]["StringLike"];
    assert_eq!(like["id.example.org:sub"], EACH);
    aws_takes(&policy);

    let one = bench.file("web/token");
    let holder = [
        "env",
        "--name",
        "billing",
        "--token-file",
        one.to_str().unwrap(),
    ];
    let env = printed(&bench, &with(&AWS, &holder));
    let python = Command::new(python().unwrap());
    let said = bench.program_in(python, "aws", &variables(&env)).again();
    assert_eq!(said, grant_of(&one));
    assert_eq!(ROLE, "arn:aws:iam::123456789012:role/billing");
}

#[test]
fn the_printed_credentials_are_all_that_google_needs() {
    let blocks = [
        own_entry(&["key = \"rsa\""]),
        file("jwt", &[PROVIDER], &[OWN, RSA]),
        file("json", &[PROVIDER], &[OWN, RSA, "format = \"json\""]),
    ];
    let Some(bench) = Bench::start(&blocks.concat()) else {
        return;
    };
    let by_entry = [
        "--entry",
        "billing",
        "--project-number",
        "1",
        "--pool",
        "pool",
    ];
    let path = |name: &str| bench.file(name).display().to_string();
    let (jwt, json) = (path("jwt"), path("json"));
    let credentials = bench.sandbox.path("credentials.json");
    let named = credentials.to_str().unwrap();
    for holder in [
        &by_entry[..],
        &["--token-file", &jwt],
        &["--token-file", &json],
    ] {
        let gcp = with(
            &["gcp", "--credentials-file", named, "--part"],
            &["credentials"],
        );
        let mut document: Value =
            serde_json::from_str(&printed(&bench, &with(&gcp, holder))).unwrap();
        // The only thing that is not as it was printed: where the service is.
        assert_eq!(document["token_url"], "https://sts.googleapis.com/v1/token");
        document["token_url"] = json!(format!("{}/v1/token", bench.address));
        assert_eq!(document["audience"], PROVIDER);
        fs::write(&credentials, document.to_string()).unwrap();

        let gcp = ["gcp", "--credentials-file", named, "--part", "env"];
        let env = printed(&bench, &with(&gcp, holder));
        let python = Command::new(python().unwrap());
        let said = bench.program_in(python, "gcp", &variables(&env)).again();
        assert_eq!(said, grant(&json!({"sub": BILLING})), "{holder:?}");
    }
}

#[test]
fn the_printed_kubeconfig_is_all_that_a_client_of_kubernetes_needs() {
    let blocks = [
        own_entry(&["key = \"ec\"", "jwt_svid_ttl = \"1h\""]),
        file("token", &["kubernetes"], &[OWN, RSA]),
    ];
    let Some(bench) = Bench::start(&blocks.concat()) else {
        return;
    };
    let authority = bench.sandbox.path("ca.pem").display().to_string();
    let token = bench.file("token").display().to_string();
    for holder in [["--entry", "billing"], ["--token-file", &token]] {
        let options = [
            "kubernetes",
            "--server",
            &bench.address,
            "--certificate-authority",
            &authority,
            "--part",
        ];
        let part = |name| printed(&bench, &[&options[..], &[name], &holder].concat());
        let kubeconfig = bench.made("kubeconfig", part("kubeconfig"));
        let said = bench.program("kubernetes").begin(&kubeconfig);
        assert_eq!(said, grant(&json!({"sub": BILLING})), "{holder:?}");

        let server = yaml(&part("server"));
        let trust = json!({
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "AuthenticationConfiguration",
            "jwt": [{
                "issuer": {"url": ISSUER, "audiences": ["kubernetes"]},
                "claimMappings": {"username": {"claim": "sub", "prefix": "agent:"}},
            }],
        });
        assert_eq!(server, trust);
        kubernetes_takes(&part("rbac"));
    }
}

/// A document of YAML as PyYAML reads it.
fn yaml(document: &str) -> Value {
    let load = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.argv[1])))";
    let mut python = Command::new(python().unwrap());
    let output = python.args(["-c", load, document]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Wants that the library's model of a role binding has a place for everything in a document.
fn kubernetes_takes(document: &str) {
    let check = r#"
import sys, yaml
from kubernetes import client
said = yaml.safe_load(sys.argv[1])
api = client.ApiClient()
binding = api._ApiClient__deserialize(said, "V1ClusterRoleBinding")
assert api.sanitize_for_serialization(binding) == said, binding
"#;
    let mut python = Command::new(python().unwrap());
    let output = python.args(["-c", check, document]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_pattern_of_kubernetes_is_yaml_whose_expression_names_the_group() {
    let block = file(
        "x/:name/token",
        &["kubernetes"],
        &[RSA, "sub = \"c:name.\""],
    );
    let Some(bench) = Bench::start(&block) else {
        return;
    };
    let path = bench.sandbox.path("run/tokens/x/:name/token");
    let part = |name| {
        printed(
            &bench,
            &[
                "kubernetes",
                "--part",
                name,
                "--token-file",
                path_text(&path),
            ],
        )
    };
    let groups = &yaml(&part("server"))["jwt"][0]["claimMappings"]["groups"]["expression"];
    let expression = r#"claims.sub.startsWith("c") && claims.sub.endsWith(".") ? ["agent:c"] : []"#;
    assert_eq!(*groups, expression);
    let binding = yaml(&part("rbac"));
    assert_eq!(binding["subjects"][0]["kind"], "Group");
    assert_eq!(binding["subjects"][0]["name"], "agent:c");
}

fn path_text(path: &Path) -> &str {
    path.to_str().unwrap()
}
