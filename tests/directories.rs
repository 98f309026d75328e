//! One token for each directory that appears: a path parameter, from the first directory to the last,
//! and whatever somebody makes, moves or mounts in its place.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};

use common::{Agent, Need, Sandbox, as_user, claims, eventually, have, issuer, text};

const OTHER: u32 = 1003;

/// Directories of containers, of which each gets a token.
struct Park {
    sandbox: Sandbox,
    parent: PathBuf,
}

impl Park {
    fn new(options: &str) -> Self {
        let sandbox = Sandbox::new("");
        let parent = sandbox.path("containers");
        fs::create_dir(&parent).unwrap();
        let park = Self { sandbox, parent };
        park.configure(options);
        park
    }

    fn configure(&self, options: &str) {
        let block = format!(
            "token_file \"{}/:name/token\" {{\n  audience = \"a\"\n  ttl = \"2h\"\n  {options}\n}}\n",
            self.parent.display()
        );
        let issuer = issuer("main", "https://id.example.org", "ES256");
        self.sandbox.configure(&(issuer + &block));
    }

    fn with_ids(options: &str) -> Self {
        Self::new(&format!(
            "spiffe_id = \"spiffe://example.org/containers/:name\"\n  {options}"
        ))
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.parent.join(name)
    }

    fn make(&self, name: &str) {
        fs::create_dir(self.directory(name)).unwrap();
    }

    fn token(&self, name: &str) -> String {
        let file = self.directory(name).join("token");
        eventually("the directory has a token", || {
            let token = fs::read_to_string(&file).ok()?;
            (token.split('.').count() == 3).then_some(token)
        })
    }

    fn sub(&self, name: &str) -> String {
        claims(&self.token(name))["sub"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn has_none(&self, name: &str) {
        assert!(!self.directory(name).join("token").exists(), "{name}");
    }
}

fn logged(agent: &Agent, wanted: &str) {
    eventually(wanted, || agent.log().contains(wanted).then_some(()));
}

#[test]
fn each_directory_has_the_token_of_its_name_whenever_it_appears() {
    if !have(&[Need::Root]) {
        return;
    }
    let park = Park::with_ids("claims = { container = \":name\" }");
    park.make("before");
    let _agent = park.sandbox.start();
    assert_eq!(park.sub("before"), "spiffe://example.org/containers/before");
    park.make("after");
    assert_eq!(park.sub("after"), "spiffe://example.org/containers/after");
    let said = claims(&park.token("after"));
    assert_eq!(said["container"], "after");
    let meta = fs::metadata(park.directory("after").join("token")).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (0, 0o400));
    // One that is moved in is as new; one that is renamed gets another token.
    let elsewhere = park.sandbox.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(&elsewhere, park.directory("moved-in")).unwrap();
    assert_eq!(
        park.sub("moved-in"),
        "spiffe://example.org/containers/moved-in"
    );
    fs::rename(park.directory("after"), park.directory("renamed")).unwrap();
    eventually("the token is that of the new name", || {
        (park.sub("renamed") == "spiffe://example.org/containers/renamed").then_some(())
    });
}

#[test]
fn a_parameter_named_sub_sets_the_sub_as_it_is() {
    if !have(&[Need::Root]) {
        return;
    }
    let park = Park::new("sub = \"x\"\n  shared = true");
    let block = format!(
        "token_file \"{}/:sub/deep/token\" {{\n  audience = \"a\"\n  ttl = \"2h\"\n}}\n",
        park.parent.display()
    );
    let issuer = issuer("main", "https://id.example.org", "ES256");
    park.sandbox.configure(&(issuer + &block));
    let _agent = park.sandbox.start();
    fs::create_dir_all(park.directory("web/deep")).unwrap();
    assert_eq!(claims(&park.token("web/deep"))["sub"], "web");
}

#[test]
fn names_that_do_not_fit_are_refused_and_told_of_with_their_characters_shown() {
    if !have(&[Need::Root]) {
        return;
    }
    let park = Park::with_ids("");
    let agent = park.sandbox.start();
    let long = "x".repeat(255);
    let names: [&[u8]; 9] = [
        b"..x",
        b".hidden",
        b"line\nbreak",
        b"two words",
        b"a:b",
        b"Upper",
        b"-dash",
        b"not-\xff-text",
        long.as_bytes(),
    ];
    for name in names {
        fs::create_dir(park.parent.join(OsStr::from_bytes(name))).unwrap();
    }
    fs::write(park.directory("file"), "").unwrap();
    symlink("/etc", park.directory("link")).unwrap();
    park.make("good");
    park.token("good");
    logged(&agent, "its name does not fit the pattern");
    assert!(!agent.log().contains("line\nbreak"));
    for name in names {
        let directory = park.parent.join(OsStr::from_bytes(name));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "{name:?}");
    }
    assert!(!Path::new("/etc/token").exists());
    let files = text(&park.sandbox.run(&["files", "--output", "json"]).stdout);
    assert_eq!(files.matches("\"path\"").count(), 1, "{files}");
}

#[test]
fn a_name_that_the_pattern_takes_and_no_identity_can_hold_is_refused() {
    if !have(&[Need::Root]) {
        return;
    }
    let park = Park::with_ids("pattern = \".*\"");
    let agent = park.sandbox.start();
    park.make("two words");
    park.make("Fine_1");
    assert_eq!(park.sub("Fine_1"), "spiffe://example.org/containers/Fine_1");
    logged(&agent, "no SPIFFE ID can be made of it");
    park.has_none("two words");
}

#[test]
fn only_directories_of_the_configured_owner_get_a_token() {
    if !have(&[Need::Root]) {
        return;
    }
    let park = Park::with_ids("");
    let agent = park.sandbox.start();
    park.make("theirs");
    // Whether it got a token as root's or not, it is seen to change hands.
    chown(park.directory("theirs"), Some(OTHER), Some(OTHER)).unwrap();
    park.make("roots");
    park.token("roots");
    logged(&agent, "directory_owner says whose do");
    let _ = fs::remove_file(park.directory("theirs").join("token"));
    park.configure(&format!(
        "spiffe_id = \"spiffe://example.org/containers/:name\"\n  directory_owner = \"{OTHER}\""
    ));
    assert!(park.sandbox.run(&["reload"]).status.success());
    let file = park.directory("theirs").join("token");
    eventually("it belongs to the owner of its directory", || {
        (fs::metadata(&file).ok()?.uid() == OTHER).then_some(())
    });
    let read = as_user(OTHER).arg("cat").arg(&file).output().unwrap();
    assert_eq!(
        claims(&text(&read.stdout))["sub"],
        "spiffe://example.org/containers/theirs"
    );
}

#[test]
fn a_directory_that_changes_hands_has_a_file_of_its_new_owner_soon() {
    if !have(&[Need::Root]) {
        return;
    }
    let park = Park::with_ids("directory_owner = \"any\"");
    let _agent = park.sandbox.start();
    park.make("handed");
    park.token("handed");
    chown(park.directory("handed"), Some(OTHER), Some(OTHER)).unwrap();
    let file = park.directory("handed").join("token");
    eventually("it belongs to the new owner", || {
        (fs::metadata(&file).ok()?.uid() == OTHER).then_some(())
    });
}

#[test]
fn with_any_owner_each_user_names_his_own_and_none_that_of_another() {
    if !have(&[Need::Root]) {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let park = Park::with_ids("directory_owner = \"any\"");
    let open = |mode| fs::set_permissions(&park.parent, fs::Permissions::from_mode(mode));
    open(0o777).unwrap();
    let agent = park.sandbox.start();
    logged(&agent, "can be written by others");
    open(0o1777).unwrap();
    park.configure("spiffe_id = \"spiffe://example.org/containers/:name\"\n  directory_owner = \"any\"\n  jti = true");
    assert!(park.sandbox.run(&["reload"]).status.success());
    let make = as_user(OTHER)
        .arg("mkdir")
        .arg(park.directory("mine"))
        .status();
    assert!(make.unwrap().success());
    let file = park.directory("mine").join("token");
    eventually("the user's directory has a token", || {
        (fs::metadata(&file).ok()?.uid() == OTHER).then_some(())
    });
}

#[test]
fn beyond_the_limit_there_is_no_token_until_there_is_room() {
    if !have(&[Need::Root]) {
        return;
    }
    let park = Park::with_ids("max_directories = 2");
    let agent = park.sandbox.start();
    for name in ["one", "two"] {
        park.make(name);
        park.token(name);
    }
    park.make("three");
    park.make("four");
    logged(&agent, "more directories than max_directories");
    park.has_none("three");
    assert_eq!(agent.log().matches("more directories than").count(), 1);
}

#[test]
fn a_parent_that_is_removed_and_made_again_is_watched_again() {
    if !have(&[Need::Root]) {
        return;
    }
    let park = Park::with_ids("");
    let agent = park.sandbox.start();
    park.make("one");
    park.token("one");
    for round in 0..3 {
        fs::remove_dir_all(&park.parent).unwrap();
        logged(&agent, "wait for a directory");
        fs::create_dir(&park.parent).unwrap();
        let name = format!("again{round}");
        park.make(&name);
        park.token(&name);
    }
    // Moved away, it is not ours any more, and another one in its place is.
    let away = park.sandbox.path("away");
    fs::rename(&park.parent, &away).unwrap();
    fs::create_dir(&park.parent).unwrap();
    park.make("new");
    park.token("new");
    fs::create_dir(away.join("late")).unwrap();
    park.make("newer");
    park.token("newer");
    assert!(!away.join("late/token").exists());
}

#[test]
fn what_lies_above_the_parent_may_go_and_come_back_too() {
    if !have(&[Need::Root]) {
        return;
    }
    let park = Park::with_ids("");
    let above = park.sandbox.path("a");
    let parent = above.join("b/containers");
    let block = format!(
        "token_file \"{}/:name/token\" {{\n  audience = \"a\"\n  ttl = \"2h\"\n  spiffe_id = \"spiffe://example.org/:name\"\n}}\n",
        parent.display()
    );
    let issuer = issuer("main", "https://id.example.org", "ES256");
    park.sandbox.configure(&(issuer + &block));
    let _agent = park.sandbox.start();
    for round in 0..3 {
        let name = format!("n{round}");
        fs::create_dir_all(parent.join(&name)).unwrap();
        let file = parent.join(&name).join("token");
        eventually("the token is there", || file.exists().then_some(()));
        if round == 1 {
            fs::rename(&above, park.sandbox.path("aside")).unwrap();
        } else {
            fs::remove_dir_all(&above).unwrap();
        }
    }
}

#[test]
fn nothing_that_is_mounted_or_linked_in_place_of_a_directory_is_followed() {
    if !have(&[Need::Root]) {
        return;
    }
    let park = Park::with_ids("");
    let agent = park.sandbox.start();
    park.make("mounted");
    park.token("mounted");
    let target = park.directory("mounted");
    let tmpfs = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "none"])
        .arg(&target)
        .status();
    assert!(tmpfs.unwrap().success());
    // Everything is written anew.
    park.configure("spiffe_id = \"spiffe://example.org/containers/:name\"\n  jti = true");
    assert!(park.sandbox.run(&["reload"]).status.success());
    park.make("other");
    park.token("other");
    logged(&agent, "is a mount point");
    let left = fs::read_dir(&target).unwrap().count();
    let gone = std::process::Command::new("umount").arg(&target).status();
    assert!(gone.unwrap().success());
    assert_eq!(left, 0);
    fs::remove_dir_all(&target).unwrap();
    symlink("/etc", &target).unwrap();
    park.make("third");
    park.token("third");
    assert!(!Path::new("/etc/token").exists());
}

#[test]
fn files_go_with_their_block_and_stay_with_a_restart() {
    if !have(&[Need::Root]) {
        return;
    }
    let park = Park::with_ids("");
    for name in ["one", "two", "three"] {
        park.make(name);
    }
    let agent = park.sandbox.start();
    let first = park.token("one");
    park.token("two");
    park.token("three");
    assert!(agent.stop().success());
    assert_eq!(park.token("one"), first);
    // What is not ours any more stays, whatever it is called.
    fs::remove_file(park.directory("three").join("token")).unwrap();
    fs::write(park.directory("three").join("token"), "mine").unwrap();
    fs::remove_dir_all(park.directory("two")).unwrap();
    let issuer = issuer("main", "https://id.example.org", "ES256");
    park.sandbox.configure(&issuer);
    let _agent = park.sandbox.start();
    eventually("the file of the block that is gone is removed", || {
        (!park.directory("one").join("token").exists()).then_some(())
    });
    let kept = fs::read_to_string(park.directory("three").join("token")).unwrap();
    assert_eq!(kept, "mine");
}

#[test]
fn a_start_writes_anew_whatever_lies_there() {
    if !have(&[Need::Root]) {
        return;
    }
    let park = Park::with_ids("");
    park.make("one");
    let agent = park.sandbox.start();
    let first = park.token("one");
    assert!(agent.stop().success());
    let file = park.directory("one").join("token");
    fs::remove_file(&file).unwrap();
    fs::write(&file, "a.b.tampered").unwrap();
    let _agent = park.sandbox.start();
    eventually("the file holds a token of ours", || {
        let token = fs::read_to_string(&file).ok()?;
        (token.len() > 100 && token != first).then_some(())
    });
}

#[test]
fn a_crowd_of_directories_delays_no_renewal() {
    if !have(&[Need::Root]) {
        return;
    }
    let park = Park::with_ids("max_directories = 100");
    let unrelated = park.sandbox.path("run/tokens/unrelated");
    let block = format!(
        "token_file \"{}\" {{\n  sub = \"x\"\n  audience = \"a\"\n  ttl = \"2s\"\n}}\n",
        unrelated.display()
    );
    let text = fs::read_to_string(park.sandbox.config()).unwrap();
    fs::write(park.sandbox.config(), text + &block).unwrap();
    let agent = park.sandbox.start();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let directory = park.directory(&format!("d{}", round % 500));
                let _ = fs::create_dir(&directory);
                let _ = fs::remove_dir_all(&directory);
                round += 1;
            }
        });
        let mut seen = std::collections::HashSet::new();
        eventually("ten tokens, none of them late", || {
            if let Ok(token) = fs::read_to_string(&unrelated) {
                seen.insert(token);
            }
            (seen.len() >= 10).then_some(())
        });
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    park.make("last");
    park.token("last");
    assert!(!agent.log().contains("internal fault"));
}

#[test]
fn once_writes_everything_and_tells_what_it_could_not() {
    if !have(&[Need::Root]) {
        return;
    }
    let park = Park::with_ids("");
    park.make("one");
    park.make("two");
    let config = park.sandbox.config().display().to_string();
    let run = || park.sandbox.run(&["run", "--once", "--config", &config]);
    let done = run();
    assert!(done.status.success(), "{}", text(&done.stderr));
    let first = park.token("one");
    park.token("two");
    assert!(park.sandbox.path("data/webroot/main/jwks.json").exists());
    assert!(run().status.success());
    assert_ne!(park.token("one"), first);
    park.make("theirs");
    chown(park.directory("theirs"), Some(OTHER), Some(OTHER)).unwrap();
    let failed = run();
    assert_eq!(failed.status.code(), Some(1));
    let told = text(&failed.stderr);
    assert!(
        told.contains("theirs/token: its directory belongs to uid 1003"),
        "{told}"
    );
    fs::remove_dir_all(&park.parent).unwrap();
    let failed = run();
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed.stderr));
}

#[test]
fn directories_are_seen_as_they_come_and_go_in_the_list() {
    if !have(&[Need::Root]) {
        return;
    }
    let park = Park::with_ids("");
    let _agent = park.sandbox.start();
    let list = || text(&park.sandbox.run(&["files"]).stdout);
    park.make("one");
    park.token("one");
    assert!(list().contains("containers/one/token"), "{}", list());
    fs::remove_dir_all(park.directory("one")).unwrap();
    eventually("it is gone from the list", || {
        (!list().contains("containers/one/token")).then_some(())
    });
    let health = park.sandbox.run(&["health"]);
    assert!(health.status.success(), "{}", text(&health.stdout));
}
