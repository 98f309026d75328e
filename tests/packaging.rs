//! What is shipped beside the program: the unit, the configuration of a fresh machine, and what web
//! servers include. `.ci/package` installs all of it on a clean Debian.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use common::{Need, Sandbox, binary, eventually, free_port, have, text};

/// A file of the sources.
fn source(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(path).unwrap()
}

/// A file that is shipped.
fn shipped(name: &str) -> String {
    source(&format!("packaging/{name}"))
}

/// What a command says, both ways.
fn said(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn systemd_understands_the_unit_and_finds_it_closed_enough() {
    if !have(&[Need::Systemd]) {
        return;
    }
    let sandbox = Sandbox::new("");
    let unit = sandbox.path("svid-agent.service");
    // The program is not installed here.
    let program = binary().to_str().unwrap();
    let content = shipped("systemd/svid-agent.service").replace("/usr/bin/agent", program);
    fs::write(&unit, content).unwrap();
    let analyze = |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        command.args(arguments).arg(&unit).output().unwrap()
    };

    // It exits with 0 whatever it complains about.
    let verified = analyze(&["verify", "--man=no"]);
    assert_eq!(said(&verified), "");
    let judged = analyze(&["security", "--no-pager", "--offline=true", "--threshold=20"]);
    assert!(judged.status.success(), "{}", said(&judged));
}

/// The capabilities that a text names.
fn capabilities(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_uppercase() && c != '_');
    words.filter(|word| word.starts_with("CAP_")).collect()
}

#[test]
fn each_capability_of_the_unit_is_explained_and_each_explained_one_is_granted() {
    let unit = shipped("systemd/svid-agent.service");
    let of = |option: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(option));
        capabilities(line.unwrap())
    };
    let table = source("docs/running-without-root.md");
    let rows: String = table
        .lines()
        .filter(|line| line.starts_with("| `CAP_"))
        .collect();
    assert_eq!(of("AmbientCapabilities="), of("CapabilityBoundingSet="));
    assert_eq!(of("AmbientCapabilities="), capabilities(&rows));
}

#[test]
fn the_configuration_of_a_fresh_machine_serves_at_once_and_gives_nobody_anything() {
    let sandbox = Sandbox::new("");
    let at = |name: &str| sandbox.path(name).display().to_string();
    let directories = format!(
        "agent {{\n  data_dir = \"{}\"\n  runtime_dir = \"{}\"\n",
        at("data"),
        at("run")
    );
    let config = shipped("agent.conf")
        .replace("agent {\n", &directories)
        .replace("/run/agent/metrics", &at("run/metrics"));
    fs::write(sandbox.config(), config).unwrap();

    let validated = sandbox.run(&["validate", "--config", &at("agent.conf")]);
    let report = text(&validated.stderr);
    assert_eq!(validated.status.code(), Some(0), "{report}");
    // That the issuer is still to be named is all there is to say.
    let mut warnings = report.lines().filter(|line| line.contains(": warning: "));
    assert!(
        warnings
            .next()
            .is_some_and(|line| line.contains("https://localhost"))
    );
    assert_eq!(warnings.next(), None, "{report}");

    let _agent = sandbox.start();
    assert!(sandbox.run(&["health"]).status.success());
    let fetched = sandbox.run(&["fetch-jwt", "--audience", "a"]);
    assert_eq!(fetched.status.code(), Some(3), "{}", said(&fetched));
}

/// A web server that is stopped when dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// Waits until it listens.
    fn start(command: &mut Command, port: u16) -> Self {
        let child = command.stdout(Stdio::null()).spawn().unwrap();
        let mut server = Self { child, port };
        eventually("the web server listens", || {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none(), "the web server has ended");
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        server
    }

    /// The status line and the headers that it answers with.
    fn answer(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: id.example.org\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, _) = answer.split_once("\r\n\r\n").unwrap();
        head.to_owned()
    }

    /// That it serves what an agent has published there as verifiers want it, and nothing else.
    fn serves_the_documents_alone(&self) {
        for path in [
            "/.well-known/openid-configuration",
            "/jwks.json",
            "/bundle.json",
        ] {
            let head = self.answer(path);
            for wanted in [
                "HTTP/1.1 200",
                "\r\nContent-Type: application/json",
                "\r\nCache-Control: public, max-age=300",
                "\r\nX-Content-Type-Options: nosniff",
            ] {
                assert!(head.contains(wanted), "{path} lacks {wanted:?}: {head}");
            }
        }
        for path in [
            "/",
            "/other.json",
            "/jwks.json/",
            "/jwks.json.bak",
            "/.well-known/",
            "/../private/state.json",
        ] {
            let head = self.answer(path);
            let refused = ["400", "403", "404"].iter().any(|code| {
                let line = format!("HTTP/1.1 {code}");
                head.starts_with(&line)
            });
            assert!(refused, "{path}: {head}");
            assert!(!head.contains("Cache-Control"), "{path}: {head}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// A published webroot with something else in it, and a snippet that is changed to serve it.
fn published(snippet: &str) -> (Sandbox, String) {
    let sandbox = Sandbox::with_entry("ES256");
    let _agent = sandbox.start();
    let webroot = sandbox.path("data/webroot/main");
    for name in ["other.json", "jwks.json.bak", "index.html"] {
        fs::write(webroot.join(name), "{}").unwrap();
    }
    let snippet =
        shipped(snippet).replace("/var/lib/agent/webroot/main", webroot.to_str().unwrap());
    (sandbox, snippet)
}

#[test]
fn nginx_serves_the_documents_and_nothing_else() {
    if !have(&[Need::Root, Need::Nginx]) {
        return;
    }
    let (sandbox, snippet) = published("nginx.conf");
    let port = free_port();
    let at = |name: &str| sandbox.path(name).display().to_string();
    // As on Debian: types by ending, and a rule against files that begin with a dot.
    let config = format!(
        "daemon off; pid {}; error_log stderr;\nevents {{}}\nhttp {{ access_log off;\n\
         client_body_temp_path {t}; proxy_temp_path {t}; fastcgi_temp_path {t}; uwsgi_temp_path {t}; scgi_temp_path {t};\n\
         types {{ text/plain json; }}\n\
         server {{ listen 127.0.0.1:{port}; root /nonexistent; location ~ /\\. {{ deny all; }}\n{snippet}}}\n}}\n",
        at("nginx.pid"),
        t = at("nginx-temp"),
    );
    fs::write(sandbox.path("nginx.conf"), config).unwrap();
    let mut nginx = Command::new("nginx");
    nginx.args(["-e", "stderr", "-c", &at("nginx.conf")]);
    nginx.stderr(Stdio::null());
    Server::start(&mut nginx, port).serves_the_documents_alone();
}

#[test]
fn apache_serves_the_documents_and_nothing_else() {
    if !have(&[Need::Root, Need::Apache]) {
        return;
    }
    let (sandbox, snippet) = published("apache.conf");
    let port = free_port();
    let here = sandbox.path("").display().to_string();
    let modules: String = ["mpm_event", "authz_core", "alias", "headers", "dir"]
        .iter()
        .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
        .collect();
    let empty = sandbox.path("empty");
    fs::create_dir(&empty).unwrap();
    let config = format!(
        "ServerRoot {here}\nServerName id.example.org\nPidFile apache.pid\nDefaultRuntimeDir {here}\n\
         ErrorLog apache.log\nListen 127.0.0.1:{port}\n{modules}User nobody\nGroup nogroup\n\
         DocumentRoot {}\n<Directory />\n  Require all denied\n</Directory>\n\
         <VirtualHost *:{port}>\n{snippet}</VirtualHost>\n",
        empty.display(),
    );
    fs::write(sandbox.path("apache.conf"), config).unwrap();
    let mut apache = Command::new("apache2");
    apache
        .args(["-D", "FOREGROUND", "-f"])
        .arg(sandbox.path("apache.conf"));
    Server::start(&mut apache, port).serves_the_documents_alone();
}

#[test]
fn the_licences_of_the_package_are_those_that_are_checked() {
    let list = |file: &str, option: &str| -> Vec<String> {
        let text = source(file);
        let lines = text
            .lines()
            .skip_while(|line| *line != format!("{option} = ["));
        let lines = lines.skip(1).take_while(|line| *line != "]");
        lines.map(|line| line.trim().to_owned()).collect()
    };
    let checked = list("deny.toml", "allow");
    assert!(checked.len() > 3);
    assert_eq!(list("packaging/about.toml", "accepted"), checked);
}

#[test]
fn the_changelog_of_the_package_begins_with_the_version_that_is_built() {
    let log = shipped("changelog");
    let first = format!("svid-agent ({}-1) ", env!("CARGO_PKG_VERSION"));
    assert!(log.starts_with(&first), "{log}");
}
