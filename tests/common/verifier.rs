//! Relying parties that run beside a test and say of each token what they think of it.

#![allow(dead_code, reason = "helpers, of which each test file uses some")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};

use crate::common::{DEADLINE, Sandbox, node_modules, python};

/// A process that says of each token what it thinks of it.
pub struct Verifier {
    pub name: &'static str,
    child: Child,
    tokens: ChildStdin,
    verdicts: Receiver<String>,
}

impl Verifier {
    /// The three of them, which trust nginx and believe for so many seconds what they have read.
    pub fn all(sandbox: &Sandbox, audience: &str, patience: u32) -> Vec<Self> {
        let scripts = folder("rotation");
        let authority = sandbox.path("ca.pem");
        let patience = patience.to_string();
        let of_python = |kind: &str| {
            let mut command = Command::new(python().unwrap());
            command
                .arg(scripts.join("verify.py"))
                .arg(kind)
                .arg(&authority)
                .args([audience, &patience]);
            command
        };
        let mut of_node = Command::new("node");
        of_node
            // nginx listens at 127.0.0.1 alone.
            .arg("--dns-result-order=ipv4first")
            .arg(scripts.join("verify.mjs"))
            .args([audience, &patience])
            .env("NODE_PATH", node_modules())
            .env("NODE_EXTRA_CA_CERTS", &authority);
        vec![
            Self::start("PyJWKClient", of_python("client")),
            Self::start("jose", of_node),
            Self::start("plain", of_python("plain")),
        ]
    }

    /// Starts one that reads an issuer and a token a line, and answers each with "VERDICT KID".
    pub fn start(name: &'static str, mut command: Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let tokens = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, verdicts) = mpsc::channel();
        // A thread, since a pipe cannot be read with a deadline.
        std::thread::spawn(move || {
            lines
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Self {
            name,
            child,
            tokens,
            verdicts,
        }
    }

    pub fn ask(&mut self, issuer: &str, token: &str) {
        let line = format!("{issuer} {token}\n");
        self.tokens.write_all(line.as_bytes()).unwrap();
    }

    /// What it thinks of the token, and the kid.
    pub fn verdict(&self) -> (String, String) {
        let line = self.verdicts.recv_timeout(DEADLINE);
        let line = line.unwrap_or_else(|error| panic!("{} says nothing: {error}", self.name));
        let (verdict, kid) = line.rsplit_once(' ').unwrap();
        (verdict.to_owned(), kid.to_owned())
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory of the tests.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}
