//! `agent integrate`, by the tools that read what it prints: nginx, Terraform, the broker of Voidkey, a
//! shell. What the SDKs of clouds make of it is in `tests/sdk`.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use common::{
    Need, Sandbox, eventually, feed, free_port, have, issuer, node_modules, own_entry, text,
};

const URL: &str = "https://id.example.org";

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new("");
    let place = sandbox.path("run/tokens").display().to_string();
    let file =
        format!("token_file \"{place}/all\" {{\n  entry = \"me\"\n  audience = \"vault\"\n}}\n");
    let each = format!(
        "token_file \"{place}/:name/token\" {{\n  spiffe_id = \"spiffe://example.org/c/:name\"\n  audience = \"vault\"\n}}\n"
    );
    sandbox.configure(&(issuer("main", URL, "RS256") + &own_entry() + &file + &each));
    sandbox
}

fn integrate(sandbox: &Sandbox, arguments: &[&str]) -> Output {
    let mut command = sandbox.command(&["integrate"]);
    command
        .args(arguments)
        .arg("--config")
        .arg(sandbox.config());
    command.output().unwrap()
}

fn printed(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let output = integrate(sandbox, arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The ways to name whose tokens it is about.
fn holders(sandbox: &Sandbox) -> [[String; 2]; 4] {
    let file = |name: &str| {
        let path = sandbox.path("run/tokens").join(name);
        ["--token-file".to_owned(), path.display().to_string()]
    };
    let entry = ["--entry", "me"].map(str::to_owned);
    [entry, file("all"), file(":name/token"), file("web/token")]
}

#[test]
fn terraform_would_not_write_a_line_of_it_otherwise() {
    if Command::new("terraform").arg("version").output().is_err() {
        // No package of Debian has it.
        eprintln!("SKIP: it needs terraform");
        return;
    }
    let sandbox = sandbox();
    for [option, holder] in holders(&sandbox) {
        for more in [
            &["aws"][..],
            &["gcp"],
            &["gcp", "--service-account", "a@b.example"],
            &["azure"],
        ] {
            let output = integrate(&sandbox, &[more, &[&option, &holder]].concat());
            let terraform = text(&output.stdout);
            let mut command = Command::new("terraform");
            command.args(["fmt", "-check", "-diff", "-"]);
            let checked = feed(&mut command, &terraform);
            let told = text(&checked.stdout);
            assert!(checked.status.success(), "{told}\n{terraform}");
        }
    }
}

#[test]
fn a_shell_reads_the_commands() {
    let sandbox = sandbox();
    for [option, holder] in holders(&sandbox) {
        for [target, part] in [
            ["vault", "commands"],
            ["vault", "login"],
            ["voidkey", "mint"],
        ] {
            let output = integrate(&sandbox, &[target, &option, &holder, "--part", part]);
            let checked = feed(Command::new("sh").arg("-n"), &text(&output.stdout));
            assert!(
                checked.status.success(),
                "{target}: {}",
                text(&checked.stderr)
            );
        }
    }
    let login = printed(&sandbox, &["vault", "--entry", "me", "--part", "login"]);
    let told = "#!/bin/sh\necho \"$@\"; cat \"${4#jwt=@}\"\n";
    fs::write(sandbox.path("vault"), told).unwrap();
    let _agent = sandbox.start();
    Command::new("chmod")
        .arg("755")
        .arg(sandbox.path("vault"))
        .status()
        .unwrap();
    let path = format!("{}:/usr/bin:/bin", sandbox.path("").display());
    let output = Command::new("sh")
        .args(["-c", &login])
        .env("PATH", path)
        .output()
        .unwrap();
    let (arguments, token) = text(&output.stdout)
        .split_once('\n')
        .map(|(a, t)| (a.to_owned(), t.to_owned()))
        .unwrap();
    assert!(
        arguments.starts_with("write auth/jwt/login role=me jwt=@/"),
        "{arguments}"
    );
    assert_eq!(common::claims(&token)["aud"], json!(["vault"]));
}

#[test]
fn the_broker_of_voidkey_loads_its_configuration() {
    if !have(&[Need::Voidkey]) {
        return;
    }
    let sandbox = sandbox();
    let broker = printed(&sandbox, &["voidkey", "--entry", "me", "--part", "broker"]);
    let script = "const { IdpConfigLoader } = require(process.argv[1]); \
                  console.log(JSON.stringify(IdpConfigLoader.loadFromString(process.argv[2])));";
    let package = node_modules().join("@voidkey/broker-core");
    let mut node = Command::new("node");
    let output = node
        .args(["-e", script])
        .arg(package)
        .arg(broker)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let loaded: Value = serde_json::from_slice(&output.stdout).unwrap();
    let wanted = json!({"clientIdps": [{
        "name": "agent", "issuer": URL, "jwksUri": format!("{URL}/jwks.json"),
        "audience": "voidkey", "algorithms": ["RS256"],
    }]});
    assert_eq!(loaded, wanted);
}

/// A whole configuration of nginx with this server block.
fn around(sandbox: &Sandbox, server: &str) -> String {
    let at = |name: &str| sandbox.path(name).display().to_string();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};\n", at("nginx-temp")));
    format!(
        "daemon off;\npid {};\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{}{server}}}\n",
        at("nginx.pid"),
        temporary.concat()
    )
}

#[test]
fn nginx_takes_the_server_block() {
    if !have(&[Need::Nginx]) {
        return;
    }
    let sandbox = sandbox();
    let made = rcgen::generate_simple_self_signed(["id.example.org".to_owned()]).unwrap();
    let at = |name: &str| sandbox.path(name).display().to_string();
    fs::write(at("cert.pem"), made.cert.pem()).unwrap();
    fs::write(at("key.pem"), made.signing_key.serialize_pem()).unwrap();
    for url in [
        URL,
        "https://id.example.org/tenants/a",
        "https://id.example.org:8443",
    ] {
        sandbox.configure(&issuer("main", url, "RS256"));
        let (certificate, key) = (at("cert.pem"), at("key.pem"));
        let keys = ["--certificate", &certificate, "--certificate-key", &key];
        let server = printed(&sandbox, &[&["nginx"], &keys[..]].concat());
        fs::write(at("nginx.conf"), around(&sandbox, &server)).unwrap();
        let mut nginx = Command::new("nginx");
        let output = nginx
            .args(["-t", "-e", "stderr", "-c", &at("nginx.conf")])
            .output()
            .unwrap();
        let told = text(&output.stderr);
        assert!(
            output.status.success() && !told.contains("[warn]"),
            "{told}\n{server}"
        );
    }
}

/// A web server, ended when dropped.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

#[test]
fn the_documents_come_out_at_the_issuer_url() {
    if !have(&[Need::Nginx]) {
        return;
    }
    for path in ["", "/tenants/a"] {
        let sandbox = Sandbox::new("");
        let port = free_port();
        let url = format!("http://127.0.0.1:{port}{path}");
        sandbox.configure(&(issuer("main", &url, "RS256") + &own_entry()));
        let _agent = sandbox.start();
        let server = printed(&sandbox, &["nginx"]);
        // What is tried here may be without IPv6.
        let server = server.replace(&format!("    listen [::]:{port};\n"), "");
        let conf = sandbox.path("nginx.conf");
        fs::write(&conf, around(&sandbox, &server)).unwrap();
        let mut nginx = Command::new("nginx");
        nginx
            .args(["-e", "stderr", "-c"])
            .arg(conf)
            .stderr(Stdio::null());
        let _served = Served(nginx.spawn().unwrap());
        eventually("nginx listens", || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        let get = |place: &str| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            write!(stream, "GET {place} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
            let mut reply = String::new();
            stream.read_to_string(&mut reply).unwrap();
            let (head, body) = reply.split_once("\r\n\r\n").unwrap();
            (head.to_owned(), body.to_owned())
        };
        let (head, body) = get(&format!("{path}/.well-known/openid-configuration"));
        assert!(
            head.starts_with("HTTP/1.1 200") && head.contains("application/json"),
            "{head}"
        );
        assert!(
            head.contains("Cache-Control: public, max-age=300"),
            "{head}"
        );
        let discovery: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(discovery["issuer"], url);
        let keys = discovery["jwks_uri"].as_str().unwrap();
        let (head, body) = get(keys
            .strip_prefix(&format!("http://127.0.0.1:{port}"))
            .unwrap());
        assert!(
            head.contains("application/json") && body.contains("\"keys\""),
            "{head}"
        );
    }
}

#[test]
fn the_page_names_the_parts_that_there_are() {
    let sandbox = sandbox();
    let page = include_str!("../docs/integrations.md");
    let (_, file) = &holders(&sandbox)[1].clone().into();
    for target in ["aws", "gcp", "azure", "vault", "kubernetes", "voidkey"] {
        let arguments = [target, "--token-file", file, "--part", "none"];
        let told = text(&integrate(&sandbox, &arguments).stderr);
        let (_, there) = told.trim().split_once("there are ").unwrap();
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{target}` | ")));
        let parts = row.unwrap().split('|').nth(2).unwrap();
        let named: Vec<_> = parts
            .split(", ")
            .filter_map(|part| part.split('`').nth(1))
            .collect();
        assert_eq!(named.join(", "), there, "{target}");
    }
}

#[test]
fn what_would_be_refused_is_told_in_the_output_too_and_in_the_exit_code() {
    let sandbox = sandbox();
    let text_of = |url: &str| {
        sandbox.configure(&(issuer("main", url, "RS256") + &own_entry()));
        let output = integrate(&sandbox, &["aws", "--entry", "me"]);
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (code, out, err) = text_of("https://id.example.org:8443");
    let told = "error (port): https://id.example.org:8443 has the port 8443, and AWS takes none\n";
    assert_eq!(code, Some(1));
    assert!(out.starts_with(&format!("# {told}#   help: ")), "{out}");
    assert!(err.starts_with(told), "{err}");
    assert!(
        err.ends_with("note: replace REGION, or give --region\n"),
        "{err}"
    );
    let (code, out, _) = text_of(URL);
    assert_eq!(code, Some(0));
    assert!(out.starts_with("# AWS gives the role me"), "{out}");
    let (code, out, err) = text_of("nonsense");
    assert_eq!((code, out.as_str()), (Some(78), ""));
    assert!(err.contains("agent.conf:"), "{err}");
}

#[test]
fn a_command_line_that_names_nobody_or_no_part_is_answered_with_what_there_is() {
    let sandbox = sandbox();
    let told = |arguments: &[&str]| {
        let output = integrate(&sandbox, arguments);
        (output.status.code().unwrap(), text(&output.stderr))
    };
    let (code, message) = told(&["aws"]);
    assert!(code == 2 && message.contains("--entry"), "{code} {message}");
    let (code, message) = told(&["aws", "--entry", "me", "--part", "x"]);
    let parts = "there is no part \"x\" here: there are terraform, policy, env";
    assert!(code == 2 && message.contains(parts), "{code} {message}");
    let (code, message) = told(&["aws", "--entry", "you"]);
    assert!(
        code == 1 && message.contains("it has me"),
        "{code} {message}"
    );
    let (code, _) = told(&["aws", "--entry", "me", "--account-id", "12"]);
    assert_eq!(code, 2);

    sandbox.configure(&(issuer("a", URL, "RS256") + &issuer("b", "https://x", "RS256")));
    let (code, message) = told(&["nginx"]);
    assert!(
        code == 1 && message.contains("choose one with --issuer"),
        "{code} {message}"
    );
    assert_eq!(told(&["nginx", "--issuer", "b"]).0, 0);
}
