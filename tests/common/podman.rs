//! Podman with a store of its own, and an image that is made on the spot: the programs of this
//! machine are mounted into its containers.

#![allow(dead_code, reason = "helpers, of which each test file uses some")]

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::common::{binary, eventually, open_tempdir, text};

/// What some machines refuse to a container by default.
const CONF: &str = r#"[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
netns = "none"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"#;

/// A store; its containers end with it.
pub struct Podman {
    dir: tempfile::TempDir,
    /// Whose it is, unless root's.
    user: Option<u32>,
}

impl Podman {
    /// With the image `localhost/svid-agent-test`, labelled `team=payments`, with `STAGE=prod`.
    pub fn new() -> Self {
        Self::of(None)
    }

    /// As [`Podman::new`], run by a user without any privilege. That there is such a user, with further
    /// numbers for containers, these commands alone see.
    pub fn rootless(uid: u32) -> Self {
        Self::of(Some(uid))
    }

    fn of(user: Option<u32>) -> Self {
        let podman = Self {
            dir: open_tempdir(),
            user,
        };
        if let Some(uid) = user {
            let name = "svid-agent-test";
            for (file, line) in [
                ("passwd", format!("{name}:x:{uid}:{uid}::/:/bin/sh")),
                ("group", format!("{name}:x:{uid}:")),
            ] {
                let former = fs::read_to_string(Path::new("/etc").join(file)).unwrap();
                fs::write(podman.path(file), format!("{line}\n{former}")).unwrap();
            }
            fs::write(podman.path("subid"), format!("{name}:1000000:65536\n")).unwrap();
            fs::create_dir(podman.path("runtime")).unwrap();
            for path in [podman.path(""), podman.path("runtime")] {
                chown(path, Some(uid), Some(uid)).unwrap();
            }
        }
        fs::write(podman.path("containers.conf"), CONF).unwrap();
        let tree = podman.path("tree");
        fs::create_dir(&tree).unwrap();
        for (link, target) in [
            ("bin", "usr/bin"),
            ("lib", "usr/lib"),
            ("lib64", "usr/lib64"),
        ] {
            std::os::unix::fs::symlink(target, tree.join(link)).unwrap();
        }
        fs::create_dir(tree.join("usr")).unwrap();
        let tar = podman.path("tree.tar");
        let mut pack = Command::new("tar");
        pack.arg("-C").arg(&tree).arg("-cf").arg(&tar).arg(".");
        assert!(pack.status().unwrap().success());
        podman.run(&[
            "import",
            "--change=LABEL team=payments",
            "--change=ENV STAGE=prod",
            tar.to_str().unwrap(),
            "localhost/svid-agent-test",
        ]);
        podman
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = match self.user {
            None => Command::new("podman"),
            Some(uid) => self.unprivileged(uid),
        };
        command
            .arg("--root")
            .arg(self.path("root"))
            .arg("--runroot")
            .arg(self.path("runroot"))
            .args(["--storage-driver", "vfs"])
            .env("CONTAINERS_CONF", self.path("containers.conf"));
        command
    }

    fn unprivileged(&self, uid: u32) -> Command {
        let mut script = String::new();
        for (ours, theirs) in [
            ("passwd", "passwd"),
            ("group", "group"),
            ("subid", "subuid"),
            ("subid", "subgid"),
        ] {
            let ours = self.path(ours);
            script += &format!("mount --bind {} /etc/{theirs} && ", ours.display());
        }
        script += &format!("exec setpriv --reuid {uid} --regid {uid} --clear-groups podman \"$@\"");
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", &script, "sh"])
            .env("HOME", self.path(""))
            .env("XDG_RUNTIME_DIR", self.path("runtime"));
        command
    }

    /// Runs it to its end, which must be a good one.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.command().args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }

    /// Starts a container that sleeps, with the socket of the agent in `/api`; gives its id.
    pub fn start(&self, api: &Path, options: &[&str]) -> String {
        let program = binary().parent().unwrap().display();
        let (program, api) = (
            format!("{program}:/program:ro"),
            format!("{}:/api", api.display()),
        );
        let mut arguments = vec!["run", "--detach", "--init=false", "-v", "/usr:/usr:ro"];
        arguments.extend(["-v", &program, "-v", &api]);
        arguments.extend(options);
        arguments.extend(["localhost/svid-agent-test", "/bin/sleep", "600"]);
        self.run(&arguments)
    }

    /// Fetches a token in a container.
    pub fn fetch(&self, id: &str) -> Output {
        let mut command = self.command();
        command.args(["exec", "--env", "SPIFFE_ENDPOINT_SOCKET=/api/api.sock", id]);
        command.args(["/program/agent", "fetch-jwt", "--audience", "a"]);
        command.args(["--output", "json"]).output().unwrap()
    }

    /// Serves the API on a socket.
    pub fn serve(&self) -> Service {
        let socket = self.path("podman.sock");
        let mut command = self.command();
        command.args(["system", "service", "--time", "0"]);
        command.arg(format!("unix://{}", socket.display()));
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        let service = Service { child, socket };
        eventually("the socket of Podman", || {
            std::os::unix::net::UnixStream::connect(&service.socket).ok()
        });
        service
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let mut remove = self.command();
        let _ = remove
            .args(["rm", "--all", "--force", "--time", "0"])
            .output();
        // What holds the namespaces of a user's containers.
        let pause = fs::read_to_string(self.path("runtime/libpod/tmp/pause.pid"));
        if let Some(pid) = pause.ok().and_then(|pid| pid.trim().parse().ok()) {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// The API of Podman; ends with this.
pub struct Service {
    child: Child,
    /// Where it is served.
    pub socket: PathBuf,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
