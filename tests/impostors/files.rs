//! Programs whose files are not what their paths say, or have none.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::common::{Need, as_user, eventually, have};
use crate::house::{ATTACKER, House, Told, copy, entry, install, only};

/// A program that runs, and calls when it is told to.
struct Later(Child);

impl Later {
    fn start(house: &House, program: &Path) -> Self {
        let mut command = as_user(ATTACKER);
        house.equip(&mut command);
        command.arg(program).args(["call", "1", "1"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let exe = format!("/proc/{}/exe", child.id());
        eventually("it runs", || {
            (fs::read_link(&exe).ok()? == program).then_some(())
        });
        Self(child)
    }

    fn exe(&self) -> PathBuf {
        fs::read_link(format!("/proc/{}/exe", self.0.id())).unwrap()
    }

    fn call(self) -> Told {
        // Waiting closes the standard input.
        Told::of(&self.0.wait_with_output().unwrap())
    }
}

/// Row 9: the file was removed, another one is in its place, or lies where the kernel seems to say.
#[test]
fn a_program_whose_file_is_gone_or_replaced_has_no_path() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::with(&[("gone", "gone"), ("ghost", "gone (deleted)")]);
    let gone = install(&house.sandbox, "gone");
    let untouched = Later::start(&house, &gone);
    assert_eq!(untouched.call().won, only("gone", 1));

    let later = Later::start(&house, &gone);
    fs::remove_file(&gone).unwrap();
    house.denies("removed", || later.call());

    let gone = install(&house.sandbox, "gone");
    let later = Later::start(&house, &gone);
    let new = install(&house.sandbox, "new");
    fs::rename(&new, &gone).unwrap();
    house.denies("replaced", || later.call());

    let later = Later::start(&house, &gone);
    fs::remove_file(&gone).unwrap();
    let ghost = install(&house.sandbox, "gone (deleted)");
    assert_eq!(later.exe(), ghost);
    house.denies("removed, and a file of that name made", || later.call());
    // The file of that name is a program as any other.
    assert_eq!(house.call(ATTACKER, &ghost), only("ghost", 1));

    // A second name keeps the file, but not its path.
    let gone = install(&house.sandbox, "gone");
    let later = Later::start(&house, &gone);
    fs::hard_link(&gone, house.sandbox.path("kept")).unwrap();
    fs::remove_file(&gone).unwrap();
    house.denies("removed, and kept under another name", || later.call());
    house.is_left_as_it_was();
}

/// Row 9: it never had a file.
#[test]
fn a_program_in_memory_has_no_path() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    let config = fs::read_to_string(house.sandbox.config()).unwrap();
    let attacker = format!("unix:uid:{ATTACKER}");
    let memory = entry("memory", &[&attacker, "unix:path:/memfd:trusted (deleted)"]);
    fs::write(house.sandbox.config(), config + &memory).unwrap();
    assert!(house.sandbox.run(&["reload"]).status.success());
    house.serves_the_trusted();
    house.denies("memfd", || {
        house.play(ATTACKER, &house.impostor, &["memory", "1"])
    });
}

/// Rows 9 and 16: names that look like more than a name, or are longer than the kernel tells.
#[test]
fn names_of_programs_are_never_taken_apart() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::with(&[("odd", ") R 1 1 (")]);
    // It is told by its path all the same.
    let odd = install(&house.sandbox, ") R 1 1 (");
    assert_eq!(house.call(ATTACKER, &odd), only("odd", 1));

    let trusted = house.trusted.as_os_str().as_bytes();
    for (name, suffix) in [
        ("a line end", &b"\n"[..]),
        ("two lines", b"\nTracerPid:\t0\nUid:\t0\t0\t0\t0"),
        ("no UTF-8", b"\xff"),
        ("as removed", b" (deleted)"),
        ("a colon", b":0"),
    ] {
        let place = PathBuf::from(OsStr::from_bytes(&[trusted, suffix].concat()));
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).unwrap();
        }
        copy(&house.impostor, &place);
        house.denies(name, || house.play(ATTACKER, &place, &["call", "1"]));
    }
    // One that only a link makes the trusted one, and the other way round.
    let link = house.sandbox.path("link");
    symlink(&house.trusted, &link).unwrap();
    assert_eq!(house.call(ATTACKER, &link), only("trusted", 1));

    // Deeper than any path that can be told.
    let mut deep = Command::new("sh");
    let script = "cd \"$1\" && for i in $(seq 25); do d=$(printf %0200d 0); mkdir \"$d\" && cd -P \"$d\" 2>/dev/null || cd \"$d\" || exit 1; done; \
         cp \"$2\" ./trusted && exec setpriv --reuid 1003 --regid 1003 --clear-groups ./trusted call 1";
    deep.args(["-c", script, "sh"])
        .arg(house.sandbox.path(""))
        .arg(&house.impostor);
    house.equip(&mut deep);
    let told = house.denies("5 KiB of path", || Told::of(&deep.output().unwrap()));
    assert_eq!(told.tries, 1);
    house.is_left_as_it_was();
}
