//! The Python client of Kubernetes with `users[].user.exec` and `.tokenFile`.

use serde_json::json;

use crate::bench::{BILLING, Bench, EC, OWN, RENEWED, file, own_entry, replaced};
use crate::common::binary;

#[test]
fn kubernetes_knows_the_caller_by_command_and_by_file() {
    let blocks = [
        own_entry(&["key = \"ec\"", "jti = true"]),
        file("token", &["kubernetes"], &[OWN, EC, RENEWED]),
        file("other", &["vault"], &[OWN, EC]),
    ];
    let Some(bench) = Bench::start(&blocks.concat()) else {
        return;
    };
    let mut client = bench.program("kubernetes");
    let command = |audience: &str| {
        json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": binary(),
            "args": ["fetch-jwt", "--audience", audience, "--output", "k8s-exec-credential"],
            "interactiveMode": "Never",
        }})
    };
    let token_file = |name: &str| json!({"tokenFile": bench.file(name)});

    let first = client.begin(&bench.kubeconfig("command", &command("kubernetes")));
    assert!(first.starts_with(&format!("granted {BILLING} ")), "{first}");
    let second = client.again();
    assert!(second.starts_with("granted "), "{second}");
    assert_ne!(
        first, second,
        "the command runs five minutes before the end"
    );

    let first = client.begin(&bench.kubeconfig("file", &token_file("token")));
    assert!(first.starts_with(&format!("granted {BILLING} ")), "{first}");
    replaced(&bench.file("token"), &first);
    assert_eq!(client.again(), first, "this client reads the file once");
    let second = client.begin(&bench.kubeconfig("file", &token_file("token")));
    assert!(
        second.starts_with("granted ") && second != first,
        "{second}"
    );

    for (name, user) in [
        ("other-command", command("vault")),
        ("other-file", token_file("other")),
    ] {
        let config = bench.kubeconfig(name, &user);
        client.refused(&config, &["(401)", "audience"]);
    }
}
