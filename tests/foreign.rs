//! Token files in directories of other users, who prepare there what they like: nothing outside is
//! ever touched, and nobody else waits.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Need, Sandbox, as_user, binary, entry, eventually, have, issuer, text};

const OTHER: u32 = 1003;

struct House {
    sandbox: Sandbox,
    /// The directory of the other user.
    home: PathBuf,
    /// A file of root that nobody may touch.
    victim: PathBuf,
}

impl House {
    fn new() -> Self {
        let sandbox = Sandbox::new("");
        let home = sandbox.path("home");
        fs::create_dir(&home).unwrap();
        chown(&home, Some(OTHER), Some(OTHER)).unwrap();
        let victim = sandbox.path("victim");
        fs::write(&victim, "precious").unwrap();
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
        Self {
            sandbox,
            home,
            victim,
        }
    }

    /// Token files at these places, and one in a directory of root.
    fn configure(&self, files: &[(&Path, &str)]) -> PathBuf {
        let honest = self.sandbox.path("run/tokens/honest");
        let block = |path: &Path, options: &str| {
            format!(
                "token_file \"{}\" {{\n  entry = \"billing\"\n  audience = \"a\"\n  ttl = \"2s\"\n  {options}\n}}\n",
                path.display()
            )
        };
        let blocks: String = files
            .iter()
            .map(|(path, options)| block(path, options))
            .collect();
        let issuer = issuer("main", "https://id.example.org", "ES256");
        self.sandbox
            .configure(&(issuer + &entry("billing", 1001) + &blocks + &block(&honest, "")));
        honest
    }

    fn is_unharmed(&self) {
        let meta = fs::metadata(&self.victim).unwrap();
        assert_eq!(fs::read(&self.victim).unwrap(), b"precious");
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (0, 0o600));
    }
}

/// Waits until a file is a token that belongs to this user.
fn token_of(uid: u32, path: &Path) -> String {
    eventually("a token of that user", || {
        let meta = fs::symlink_metadata(path).ok()?;
        (meta.is_file() && meta.uid() == uid).then_some(())?;
        let token = fs::read_to_string(path).ok()?;
        (token.split('.').count() == 3).then_some(token)
    })
}

/// Waits until a file is written anew.
fn renewed(path: &Path) {
    let inode = || fs::symlink_metadata(path).map(|meta| meta.ino()).ok();
    let first = eventually("the file is there", inode);
    eventually("it is written anew", || inode().filter(|now| *now != first));
}

#[test]
fn a_file_in_a_directory_of_somebody_else_is_written_as_that_user() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    let file = house.home.join("token");
    house.configure(&[(&file, "")]);
    let _agent = house.sandbox.start();
    let token = token_of(OTHER, &file);
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o400);
    let read = |uid: u32| as_user(uid).arg("cat").arg(&file).output().unwrap();
    assert!(text(&read(OTHER).stdout).split('.').count() == 3, "{token}");
    assert!(!read(1001).status.success());
    renewed(&file);
    assert_eq!(fs::read_dir(&house.home).unwrap().count(), 1);
}

#[test]
fn there_it_can_belong_to_nobody_else_and_is_refused_by_name() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    let [owner, group] = ["owner", "group"].map(|name| house.home.join(name));
    let honest = house.configure(&[
        (&owner, "owner = \"1001\""),
        (&group, "group = \"0\"\n  mode = \"0440\""),
    ]);
    let agent = house.sandbox.start();
    token_of(0, &honest);
    for told in ["can belong to nobody else", "who is not in the group 0"] {
        eventually(told, || agent.log().contains(told).then_some(()));
    }
    assert!(!owner.exists() && !group.exists());
}

#[test]
fn whatever_its_owner_prepares_leads_nowhere_and_holds_up_nobody() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    let at = |name: &str| house.home.join(name);
    symlink(&house.victim, at("link")).unwrap();
    fs::hard_link(&house.victim, at("hard")).unwrap();
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(at("directory")).unwrap();
    symlink(house.victim.parent().unwrap(), at("up")).unwrap();
    let above = at("up").join("stolen");
    let honest = house.configure(&[
        (&at("link"), ""),
        (&at("hard"), ""),
        (&at("fifo"), ""),
        (&at("directory"), ""),
        (&above, ""),
    ]);
    let agent = house.sandbox.start();
    for name in ["link", "hard", "fifo"] {
        token_of(OTHER, &at(name));
    }
    renewed(&honest);
    eventually("the log tells of the link", || {
        agent.log().contains("up is a symbolic link").then_some(())
    });
    assert!(at("directory").is_dir());
    assert!(!house.sandbox.path("stolen").exists());
    house.is_unharmed();
}

#[test]
fn a_file_whose_block_is_gone_is_removed_there_too() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    let file = house.home.join("token");
    house.configure(&[(&file, "")]);
    let _agent = house.sandbox.start();
    token_of(OTHER, &file);
    house.configure(&[]);
    assert!(house.sandbox.run(&["reload"]).status.success());
    eventually("the file is gone", || (!file.exists()).then_some(()));
}

#[test]
fn an_agent_that_may_become_nobody_says_so_and_serves_the_others() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    let file = house.home.join("token");
    let honest = house.configure(&[(&file, "")]);
    let mut without = Command::new("setpriv");
    without
        .args(["--bounding-set", "-setuid,-setgid"])
        .arg(binary());
    let agent = house.sandbox.start_by(without, &[]);
    token_of(0, &honest);
    eventually("the log tells", || {
        agent
            .log()
            .contains("CAP_SETUID and CAP_SETGID")
            .then_some(())
    });
    assert!(!file.exists());
}
