//! What lies at the place of the socket, or is said to be one.

use std::fs;
use std::os::unix::fs::symlink;

use crate::common::{Sandbox, text};

/// Row 23: a link at the place of the socket leads nowhere.
#[test]
fn a_link_at_the_place_of_the_socket_is_left_alone_and_where_it_leads_too() {
    let sandbox = Sandbox::with_entry("ES256");
    fs::create_dir_all(sandbox.path("run/api")).unwrap();
    let precious = sandbox.path("precious");
    let missing = sandbox.path("missing");
    for target in [&precious, &missing] {
        fs::write(&precious, "precious").unwrap();
        symlink(target, sandbox.socket()).unwrap();
        let config = sandbox.config();
        let output = sandbox.run(&["run", "--config", config.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("is not a socket"));
        assert_eq!(fs::read_link(sandbox.socket()).unwrap(), *target);
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        assert!(!missing.exists());
        fs::remove_file(sandbox.socket()).unwrap();
    }
}

/// Row 26: whoever calls has to be on this machine, and in reach of the socket's name.
#[test]
fn the_workload_socket_is_a_file_and_nothing_else() {
    let sandbox = Sandbox::with_entry("ES256");
    let config = fs::read_to_string(sandbox.config()).unwrap();
    for address in [
        "@agent",
        "\\u0000agent",
        "unix-abstract:agent",
        "tcp://127.0.0.1:8080",
        "0.0.0.0:8080",
        "vsock://2:8080",
        "",
    ] {
        let option = format!("agent {{\n  socket_path = \"{address}\"");
        fs::write(sandbox.config(), config.replacen("agent {", &option, 1)).unwrap();
        let path = sandbox.config();
        let output = sandbox.run(&["validate", "--config", path.to_str().unwrap()]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{address}: {told}");
        assert!(told.contains("socket_path"), "{address}: {told}");
    }
}
