//! What callers cannot talk the agent into: paths, hosts and containers that are not theirs.

#[path = "common/callers.rs"]
mod callers;
mod common;
#[path = "common/podman.rs"]
mod podman;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use callers::{DISCOVER, entry, fetch, granted, names, sandbox, template};
use common::{Cgroup, Need, Sandbox, as_user, binary, eventually, have, issuer};

const CALLER: u32 = 1005;

/// A directory outside of `/tmp` with a copy of the program, which is told too.
fn house() -> (tempfile::TempDir, std::path::PathBuf) {
    let house = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(house.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = house.path().join("billing");
    fs::copy(binary(), &program).unwrap();
    (house, program)
}

#[test]
fn a_service_with_a_private_tmp_keeps_path_and_host_and_a_forger_has_neither() {
    if !have(&[Need::Root]) {
        return;
    }
    let (house, program) = house();
    let uid = format!("unix:uid:{CALLER}");
    let path = format!("unix:path:{}", program.display());
    let sandbox = sandbox(&[
        DISCOVER.to_owned(),
        entry("uid", &[&uid]),
        entry("path", &[&uid, &path]),
        entry("host", &[&uid, "ns:host"]),
    ]);
    let _agent = sandbox.start();
    let all = ["uid", "path", "host"];
    let own = fetch(as_user(CALLER), &program, &sandbox.socket());
    assert_eq!(granted(own), all);

    // As PrivateTmp= of systemd does.
    let mut private = Command::new("unshare");
    let run = sandbox.path("run");
    let script = format!(
        "mount --bind {} /mnt && mount -t tmpfs none /tmp && exec \"$@\"",
        run.display()
    );
    private.args(["--mount", "sh", "-c", &script, "sh", "setpriv"]);
    let id = CALLER.to_string();
    private.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    let private = fetch(private, &program, Path::new("/mnt/api/api.sock"));
    assert_eq!(granted(private), all);

    // A program of one's own, mounted over that path where one may mount.
    let evil = house.path().join("evil");
    fs::copy(binary(), &evil).unwrap();
    chown(&evil, Some(CALLER), Some(CALLER)).unwrap();
    let script = format!(
        "mount --bind {} {} && exec \"$@\"",
        evil.display(),
        program.display()
    );
    let mut forger = as_user(CALLER);
    forger.args(["unshare", "--user", "--map-root-user", "--mount"]);
    forger.args(["sh", "-c", &script, "sh"]);
    let forger = fetch(forger, &program, &sandbox.socket());
    assert_eq!(granted(forger), ["uid"]);
}

#[test]
fn a_file_that_is_called_as_the_kernel_calls_removed_ones_is_another_file() {
    if !have(&[Need::Root]) {
        return;
    }
    let (house, program) = house();
    let uid = format!("unix:uid:{CALLER}");
    let removed = house.path().join("billing (deleted)");
    let sandbox = sandbox(&[
        DISCOVER.to_owned(),
        entry("uid", &[&uid]),
        entry("path", &[&uid, &format!("unix:path:{}", program.display())]),
        entry(
            "removed",
            &[&uid, &format!("unix:path:{}", removed.display())],
        ),
    ]);
    // It runs before there is anybody to call, and is renamed and removed meanwhile.
    let mut call = fetch(as_user(CALLER), &program, &sandbox.socket());
    call.arg("--wait");
    let caller = call.stdout(Stdio::piped()).stderr(Stdio::piped());
    let caller = caller.spawn().unwrap();
    let exe = format!("/proc/{}/exe", caller.id());
    eventually("it runs", || {
        (fs::read_link(&exe).ok()? == program).then_some(())
    });
    fs::hard_link(&program, house.path().join("kept")).unwrap();
    fs::copy(binary(), &removed).unwrap();
    fs::remove_file(&program).unwrap();
    assert_eq!(fs::read_link(&exe).unwrap(), removed);
    let _agent = sandbox.start();
    assert_eq!(names(&caller.wait_with_output().unwrap()), ["uid"]);
}

#[test]
fn a_container_is_told_by_the_word_of_root_alone() {
    if !have(&[Need::Root, Need::Cgroups]) {
        return;
    }
    let id = "5a".repeat(32);
    let uid = format!("unix:uid:{CALLER}");
    let sandbox = sandbox(&[
        entry("host", &[&uid, "ns:host"]),
        entry("container", &[&uid, &format!("container:id:{id}")]),
    ]);
    let _agent = sandbox.start();
    let call = |mut by: Command| {
        let id = CALLER.to_string();
        by.args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]);
        granted(fetch(by, binary(), &sandbox.socket()))
    };
    assert_eq!(call(Command::new("env")), ["host"]);
    let real = Cgroup::new(&format!("svid-agent-test.slice/docker-{id}.scope"));
    assert_eq!(call(real.shell()), ["container"]);
    let deeper = Cgroup::new(&format!(
        "svid-agent-test.slice/docker-{id}.scope/init/docker-{}.scope",
        "5b".repeat(32)
    ));
    assert_eq!(call(deeper.shell()), ["container"]);

    // A rootless container may have no cgroup of its own; it is not the host.
    let mut rootless = Command::new("env");
    let id_of_caller = CALLER.to_string();
    rootless.args([
        "setpriv",
        "--reuid",
        &id_of_caller,
        "--regid",
        &id_of_caller,
    ]);
    rootless.args([
        "--clear-groups",
        "unshare",
        "--user",
        "--map-root-user",
        "--pid",
    ]);
    rootless.args(["--fork", "--mount-proc"]);
    assert_eq!(
        granted(fetch(rootless, binary(), &sandbox.socket())),
        [""; 0]
    );

    // A directory of the caller's own, as users have below user@UID.service.
    let own = Cgroup::new("svid-agent-test-own.service");
    chown(own.path(), Some(CALLER), Some(CALLER)).unwrap();
    let forged = Cgroup::new(&format!("svid-agent-test-own.service/docker-{id}.scope"));
    assert_eq!(call(forged.shell()), [""; 0]);
}

/// An engine on a socket that knows one container.
struct Engine {
    socket: std::path::PathBuf,
    /// How often it was asked.
    asked: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Engine {
    /// Answers for the container `id` with `answer`; never, where that is empty.
    fn new(socket: std::path::PathBuf, id: &str, answer: &str) -> Self {
        use std::io::{BufRead, BufReader, Write};

        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (count, answer) = (std::sync::Arc::clone(&asked), answer.to_owned());
        let wanted = format!("GET /containers/{id}/json HTTP/1.1");
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let lines = lines.map_while(Result::ok);
                let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
                if answer.is_empty() {
                    held.push(stream);
                    continue;
                }
                let (status, body) = if head.first() == Some(&wanted) {
                    ("200 OK", answer.as_str())
                } else {
                    ("404 Not Found", "{}")
                };
                let length = body.len();
                let reply = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
                // Who asked may have given up.
                let _ = stream.write_all(reply.as_bytes());
            }
        });
        Self { socket, asked }
    }

    fn block(&self, kind: &str) -> String {
        let socket = self.socket.display();
        format!("attestor \"{kind}\" {{\n  socket_path = \"{socket}\"\n  timeout = \"1s\"\n}}\n")
    }
}

#[test]
fn docker_is_asked_for_the_container_that_the_cgroup_names() {
    if !have(&[Need::Root, Need::Cgroups]) {
        return;
    }
    let (id, other) = ("6a".repeat(32), "6b".repeat(32));
    let digest = format!("sha256:{}", "d1".repeat(32));
    let answer = serde_json::json!({
        "Id": id, "Image": digest, "Name": "/x",
        "Config": {"Image": "shop/web:1", "Labels": {"team": "web"}, "Env": ["STAGE=prod"]},
    });
    let house = Sandbox::new("");
    let engine = Engine::new(house.path("docker.sock"), &id, &answer.to_string());
    let blocks = [
        engine.block("docker"),
        entry("root", &["unix:uid:0"]),
        entry("label", &["docker:label:team:web"]),
        entry("env", &["docker:env:STAGE=prod"]),
        entry("image", &["docker:image_id:shop/web:1"]),
        entry("digest", &[&format!("docker:image_config_digest:{digest}")]),
        entry("other-label", &["docker:label:team:shop"]),
        entry("other-user", &["unix:uid:7", "docker:label:team:web"]),
        entry(
            "both",
            &[&format!("container:id:{id}"), "docker:label:team:web"],
        ),
    ];
    let sandbox = sandbox(&blocks);
    let agent = sandbox.start();
    let call = |by: Command| granted(fetch(by, binary(), &sandbox.socket()));
    let real = Cgroup::new(&format!("svid-agent-test-docker.slice/docker-{id}.scope"));
    assert_eq!(
        call(real.shell()),
        ["root", "label", "env", "image", "digest", "both"]
    );
    // Nobody is asked for one who is in no container, and a container that Docker does not know
    // has nothing; that of Podman is not asked of Docker.
    let before = engine.asked.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(call(Command::new("env")), ["root"]);
    let podman = Cgroup::new(&format!("svid-agent-test-docker.slice/libpod-{id}.scope"));
    assert_eq!(call(podman.shell()), ["root"]);
    let after = engine.asked.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(after, before);
    let unknown = Cgroup::new(&format!(
        "svid-agent-test-docker.slice/docker-{other}.scope"
    ));
    assert_eq!(call(unknown.shell()), ["root"]);
    assert!(!agent.log().contains("cannot be told"), "{}", agent.log());
}

#[test]
fn an_engine_that_fails_loses_its_own_selectors_and_no_others() {
    if !have(&[Need::Root, Need::Cgroups]) {
        return;
    }
    let id = "7a".repeat(32);
    let house = Sandbox::new("");
    let lies = serde_json::json!({
        "Id": "7b".repeat(32), "Image": "", "Config": {"Image": "", "Labels": {"team": "web"}},
    });
    let silent = Engine::new(house.path("silent.sock"), &id, "");
    let broken = Engine::new(house.path("broken.sock"), &id, "{");
    let lying = Engine::new(house.path("lying.sock"), &id, &lies.to_string());
    let absent = format!(
        "attestor \"docker\" {{\n  socket_path = \"{}\"\n}}\n",
        house.path("absent.sock").display()
    );
    let real = Cgroup::new(&format!("svid-agent-test-fail.slice/docker-{id}.scope"));
    for (block, told) in [
        (silent.block("docker"), "does not answer in time"),
        (broken.block("docker"), "cannot be read"),
        (lying.block("docker"), ""),
        (absent, "No such file"),
    ] {
        let sandbox = sandbox(&[
            block,
            entry("label", &["docker:label:team:web"]),
            entry("container", &[&format!("container:id:{id}")]),
        ]);
        let agent = sandbox.start();
        let found = granted(fetch(real.shell(), binary(), &sandbox.socket()));
        assert_eq!(found, ["container"], "{told}");
        assert!(agent.log().contains(told), "{told}\n{}", agent.log());
        assert_eq!(agent.log().contains("cannot be told"), !told.is_empty());
    }
}

#[test]
fn a_container_of_podman_and_a_process_outside_are_never_taken_for_each_other() {
    if !have(&[Need::Root, Need::Podman]) {
        return;
    }
    let sandbox = sandbox(&[]);
    let _agent = sandbox.start();
    let podman = podman::Podman::new();
    let service = podman.serve();
    let api = sandbox.path("run/api");
    let id = podman.start(&api, &["--label", "tier=front"]);
    // In the namespaces of the host, but for its mounts.
    let near = podman.start(&api, &["--pid=host", "--userns=host"]);
    let block = format!(
        "attestor \"podman\" {{\n  socket_path = \"{}\"\n}}\n",
        service.socket.display()
    );
    let digest = podman.run(&["image", "inspect", "--format", "{{.Id}}", "svid-agent-test"]);
    let blocks = [
        block,
        DISCOVER.to_owned(),
        entry("root", &["unix:uid:0"]),
        entry("host", &["unix:uid:0", "ns:host"]),
        entry("container", &["unix:uid:0", &format!("container:id:{id}")]),
        entry("near", &["unix:uid:0", &format!("container:id:{near}")]),
        entry("team", &["unix:uid:0", "docker:label:team:payments"]),
        entry("tier", &["unix:uid:0", "docker:label:tier:front"]),
        entry("stage", &["unix:uid:0", "docker:env:STAGE=prod"]),
        entry(
            "image",
            &["docker:image_id:localhost/svid-agent-test:latest"],
        ),
        entry(
            "digest",
            &[&format!("docker:image_config_digest:sha256:{digest}")],
        ),
        entry(
            "path",
            &["unix:uid:0", &format!("unix:path:{}", binary().display())],
        ),
        template("container/{container:id}", &["unix:uid:0"]),
        template("tier/{docker:label:tier}", &["docker:label:team:payments"]),
    ];
    sandbox.configure(&(issuer("main", "https://localhost", "ES256") + &blocks.concat()));
    assert!(sandbox.run(&["reload"]).status.success());

    let outside = fetch(Command::new("env"), binary(), &sandbox.socket());
    assert_eq!(granted(outside), ["root", "host", "path"]);
    let expected = [
        "root",
        "container",
        "team",
        "tier",
        "stage",
        "image",
        "digest",
        &id,
        "front",
    ];
    assert_eq!(names(&podman.fetch(&id)), expected);
    // Without that label there is nothing that its identity could be of.
    let expected = ["root", "near", "team", "stage", "image", "digest", &near];
    assert_eq!(names(&podman.fetch(&near)), expected);
}

#[test]
fn a_rootless_container_without_a_cgroup_is_none_and_explain_says_why() {
    if !have(&[Need::Root, Need::Podman, Need::Rootless]) {
        return;
    }
    let sandbox = sandbox(&[]);
    let _agent = sandbox.start();
    let podman = podman::Podman::rootless(CALLER);
    let service = podman.serve();
    let id = podman.start(&sandbox.path("run/api"), &[]);
    let uid = format!("unix:uid:{CALLER}");
    let blocks = [
        format!(
            "attestor \"podman\" {{\n  socket_path = \"{}\"\n}}\n",
            service.socket.display()
        ),
        entry("user", &[&uid]),
        entry("host", &[&uid, "ns:host"]),
        entry("container", &[&uid, &format!("container:id:{id}")]),
        entry("team", &[&uid, "docker:label:team:payments"]),
    ];
    sandbox.configure(&(issuer("main", "https://localhost", "ES256") + &blocks.concat()));
    assert!(sandbox.run(&["reload"]).status.success());

    // Its root is the user who started it.
    assert_eq!(names(&podman.fetch(&id)), ["user"]);
    let outside = fetch(as_user(CALLER), binary(), &sandbox.socket());
    assert_eq!(granted(outside), ["user", "host"]);

    let pid = podman.run(&["inspect", "--format", "{{.State.Pid}}", &id]);
    let explained = sandbox.run(&["explain", "--pid", &pid]);
    let explained = common::text(&explained.stdout);
    assert!(
        explained.contains("its cgroup names no container"),
        "{explained}"
    );
}
