//! Callers in namespaces: services that have some of their own keep what they are, and whoever makes
//! some to look like a service does not become one.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::common::{Need, as_user, have};
use crate::house::{ATTACKER, House, Told, Won, copy, entry, only};

/// The entry that is added here: whoever is a user, and on this host.
const HOST: &str = "host";

/// A call by a script of the shell, in which `$1` is the trusted program, `$2` one of the attacker's,
/// `$3` the directory of the socket and `$4` an empty directory.
fn by_script(house: &House, mut shell: Command, script: &str) -> Told {
    let evil = house.sandbox.path("evil");
    if !evil.exists() {
        copy(&house.impostor, &evil);
        chown(&evil, Some(ATTACKER), Some(ATTACKER)).unwrap();
    }
    let empty = house.sandbox.path("empty");
    if !empty.exists() {
        fs::create_dir(&empty).unwrap();
        chown(&empty, Some(ATTACKER), Some(ATTACKER)).unwrap();
    }
    shell.args(["sh", "-euc", script, "sh"]);
    let arguments: [&Path; 4] = [
        &house.trusted,
        &evil,
        &house.sandbox.path("run/api"),
        &empty,
    ];
    shell.args(arguments);
    house.equip(&mut shell);
    Told::of(&shell.output().unwrap())
}

/// Adds [`HOST`] for the attacker, in a configuration changed by `change` besides.
fn add_host(house: &House, change: impl FnOnce(String) -> String) {
    let config = change(fs::read_to_string(house.sandbox.config()).unwrap());
    let host = entry(HOST, &[&format!("unix:uid:{ATTACKER}"), "ns:host"]);
    fs::write(house.sandbox.config(), config + &host).unwrap();
    assert!(house.sandbox.run(&["reload"]).status.success());
}

/// As systemd does with PrivateTmp=: its own mounts, the user namespace of everybody.
#[test]
fn a_service_with_a_private_tmp_keeps_its_path_and_is_on_the_host() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    // What it runs lies outside of the /tmp that it does not see.
    let away = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(away.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = away.path().join("trusted");
    copy(&house.trusted, &program);
    add_host(&house, |config| {
        config.replace(house.trusted.to_str().unwrap(), program.to_str().unwrap())
    });
    let mut unshare = Command::new("unshare");
    unshare.arg("--mount");
    let script = format!(
        "mount --bind \"$3\" /mnt; mount -t tmpfs none /tmp; SOCKET=/mnt/api.sock \
         exec setpriv --reuid {ATTACKER} --regid {ATTACKER} --clear-groups {} call 1",
        program.display()
    );
    let both: Won = [only("trusted", 1), only(HOST, 1)]
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(by_script(&house, unshare, &script).won, both);
}

/// Row 8: in a user namespace of one's own one may mount what one likes where one likes, and choose a
/// root.
#[test]
fn whoever_makes_namespaces_to_forge_a_path_has_none_and_is_on_no_host() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    house.serves_the_trusted();
    add_host(&house, |config| config);
    // Outside of them he is on the host, whatever he runs.
    assert_eq!(house.call(ATTACKER, &house.impostor), only(HOST, 1));
    let forged = |flags: &[&str], script: &str| {
        let mut command = as_user(ATTACKER);
        command.arg("unshare").args(flags);
        by_script(&house, command, script)
    };
    let user = ["--user", "--map-root-user", "--mount"];
    for (name, script) in [
        (
            "another file mounted at the path",
            "mount --bind \"$2\" \"$1\"; exec \"$1\" call 1",
        ),
        (
            "mounted and taken away again",
            "mount --bind \"$2\" \"$1\"; exec 3<\"$1\"; umount --lazy \"$1\"; exec /proc/self/fd/3 call 1",
        ),
        (
            "the path below another root",
            "mkdir -p \"$4$1\" \"$4$3\"; rm -r \"$4$1\"; cp \"$2\" \"$4$1\"; \
             mount --bind \"$3\" \"$4$3\"; exec chroot \"$4\" \"$1\" call 1",
        ),
        (
            "a copy in an own file system below an own root",
            "mount -t tmpfs none \"$4\"; mkdir -p \"$4$1\" \"$4$3\"; rmdir \"$4$1\"; cp \"$2\" \"$4$1\"; \
             mount --bind \"$3\" \"$4$3\"; exec chroot \"$4\" \"$1\" call 1",
        ),
        (
            "the trusted file itself, in a namespace of the attacker",
            "exec \"$1\" call 1",
        ),
    ] {
        house.denies(name, || forged(&user, script));
    }
    // Root there is not root here, with pids and all.
    let whole = ["--user", "--map-root-user", "--pid", "--fork", "--mount"];
    house.denies("root of its own namespaces", || {
        forged(&whole, "exec \"$2\" call 1")
    });
    house.is_left_as_it_was();
}
