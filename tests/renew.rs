//! The reader of a token file is told of each write, and nobody else can be made to be told.

mod common;

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Child, Command};

use common::{Need, Sandbox, as_user, entry, eventually, have, issuer};

const OTHER: u32 = 1003;

/// A process that notes each hangup in a file, once it is ready for them.
struct Reader(Child);

impl Reader {
    fn start(mut command: Command, told: &Path) -> Self {
        let script = format!(
            "trap 'echo told >> {0}' HUP; echo ready > {0}; while :; do sleep 0.05; done",
            told.display()
        );
        let child = command.args(["sh", "-c", &script]).spawn().unwrap();
        eventually("the reader is ready", || told.exists().then_some(()));
        Self(child)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn configure(sandbox: &Sandbox, pid_file: &Path) {
    let block = format!(
        "token_file \"{}\" {{\n  entry = \"billing\"\n  audience = \"a\"\n  ttl = \"2s\"\n  pid_file = \"{}\"\n  renew_signal = \"SIGHUP\"\n}}\n",
        sandbox.path("run/tokens/t").display(),
        pid_file.display()
    );
    let issuer = issuer("main", "https://id.example.org", "ES256");
    sandbox.configure(&(issuer + &entry("billing", 1001) + &block));
}

#[test]
fn the_process_of_the_pid_file_is_signalled_after_each_write() {
    let sandbox = Sandbox::new("");
    let (told, pid_file) = (sandbox.path("told"), sandbox.path("reader.pid"));
    let reader = Reader::start(Command::new("env"), &told);
    fs::write(&pid_file, format!("{}\n", reader.0.id())).unwrap();
    configure(&sandbox, &pid_file);
    let agent = sandbox.start();
    eventually("it is told three times", || {
        let times = fs::read_to_string(&told).unwrap().matches("told").count();
        (times >= 3).then_some(())
    });
    drop(reader);
    eventually("the log tells that it has ended", || {
        let log = agent.log();
        let files = common::text(&sandbox.run(&["files"]).stdout);
        (log.contains("has ended") && files.contains("its reader was not told")).then_some(())
    });
}

#[test]
fn a_pid_file_of_another_user_reaches_only_processes_of_that_user() {
    if !have(&[Need::Root]) {
        return;
    }
    let sandbox = Sandbox::new("");
    let home = sandbox.path("home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(OTHER), Some(OTHER)).unwrap();
    let (roots, own) = (sandbox.path("told"), home.join("told"));
    let of_root = Reader::start(Command::new("env"), &roots);
    let of_other = Reader::start(as_user(OTHER), &own);
    let pid_file = home.join("reader.pid");
    fs::write(&pid_file, of_root.0.id().to_string()).unwrap();
    configure(&sandbox, &pid_file);
    let agent = sandbox.start();
    eventually("the log tells", || {
        agent
            .log()
            .contains("is not that of uid 1003")
            .then_some(())
    });
    fs::write(&pid_file, of_other.0.id().to_string()).unwrap();
    eventually("the own process is told", || {
        let told = fs::read_to_string(&own).unwrap();
        told.contains("told").then_some(())
    });
    assert_eq!(fs::read_to_string(&roots).unwrap(), "ready\n");
}
