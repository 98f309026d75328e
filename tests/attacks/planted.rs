//! What the owner of a directory prepares in it: at the name of the file, at names under which files
//! are written before they are renamed, and in the rights of the directory itself.

use std::fs::{self, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

use crate::common::{as_user, eventually};
use crate::house::{
    House, OTHER, STRANGER, against_each_agent, is_token, logged, names, renewed, token_of,
};

/// A trap: how it is called, and how it is laid at a path.
type Trap = (&'static str, fn(&House, &Path));

/// What is no directory, and gives way to a file that is renamed over it.
const TRAPS: [Trap; 8] = [
    ("link", |house, at| symlink(house.victim(), at).unwrap()),
    ("broken-link", |house, at| {
        symlink(house.vault.join("new"), at).unwrap();
    }),
    ("link-to-directory", |house, at| {
        symlink(&house.vault, at).unwrap();
    }),
    // He can do so himself where fs.protected_hardlinks is off.
    ("hard-link", |house, at| {
        fs::hard_link(house.victim(), at).unwrap();
    }),
    ("pipe", |_, at| mkfifo(at, Mode::S_IRWXU).unwrap()),
    ("socket", |_, at| drop(UnixListener::bind(at).unwrap())),
    ("device", |_, at| {
        let all = Mode::from_bits_truncate(0o666);
        mknod(at, SFlag::S_IFCHR, all, makedev(1, 7)).unwrap();
    }),
    ("open-file", |_, at| {
        fs::write(at, "open to all").unwrap();
        fs::set_permissions(at, Permissions::from_mode(0o666)).unwrap();
    }),
];

/// Lays a trap that belongs to the attacker, as far as it can.
fn lay(house: &House, (name, trap): Trap, at: &Path) {
    trap(house, at);
    if name != "hard-link" {
        lchown(at, Some(OTHER), Some(OTHER)).unwrap();
    }
}

/// A5, A6 and A4.
#[test]
fn what_lies_at_the_name_of_the_file_gives_way_to_it_and_leads_nowhere() {
    against_each_agent(&[], |house| {
        let places = TRAPS.map(|(name, _)| house.home.join(name));
        for (trap, place) in TRAPS.into_iter().zip(&places) {
            lay(&house, trap, place);
        }
        house.configure(&places.clone().map(|place| (place, "ttl = \"2s\"")));
        let _agent = house.start();
        for place in &places {
            token_of(OTHER, place);
            assert_eq!(fs::metadata(place).unwrap().mode() & 0o7777, 0o400);
        }
        house.others_are_served();
        house.is_unharmed();
    });
}

/// A4 and row 57.
#[test]
fn what_cannot_give_way_is_told_and_the_file_comes_when_it_is_gone() {
    against_each_agent(&[], |house| {
        let [directory, fixed] = ["directory", "fixed"].map(|name| house.home.join(name));
        house.prepare(&["mkdir", "directory"]);
        house.prepare(&["touch", "directory/something"]);
        fs::write(&fixed, "fixed").unwrap();
        let fix = |how: &str| Command::new("chattr").arg(how).arg(&fixed).status();
        // Not every file system knows of it.
        let is_fixed = fix("+i").is_ok_and(|status| status.success());
        let files = [&directory, &fixed].map(|path| (path.clone(), "ttl = \"2s\""));
        house.configure(&files);
        let agent = house.start();
        house.others_are_served();
        house.tells(&directory, "Is a directory");
        if is_fixed {
            house.tells(&fixed, "Operation not permitted");
            assert_eq!(fs::read(&fixed).unwrap(), b"fixed");
            assert!(fix("-i").unwrap().success());
        }
        assert_eq!(names(&directory), ["something"]);
        house.prepare(&["rm", "-r", "directory"]);
        token_of(OTHER, &directory);
        token_of(OTHER, &fixed);
        logged(&agent, "the token file is written again");
        house.is_unharmed();
    });
}

/// A1, A2 and A4: names that are guessed from other programs, and all but the right one of ours.
#[test]
fn what_lies_at_temporary_names_is_neither_used_nor_followed_nor_in_the_way() {
    against_each_agent(&[], |house| {
        let token = house.home.join("token");
        let mut guesses = vec![".token.tmp", "token.tmp", ".token.diridp.tmp", "token~"];
        let ours: Vec<_> = (0..TRAPS.len())
            .map(|i| format!(".agent-{i:032x}.tmp"))
            .collect();
        guesses.extend(ours.iter().map(String::as_str));
        let places: Vec<_> = guesses.iter().map(|name| house.home.join(name)).collect();
        for (trap, place) in TRAPS.into_iter().cycle().zip(&places) {
            lay(&house, trap, place);
        }
        house.configure(&[(token.clone(), "ttl = \"2s\"")]);
        let agent = house.start();
        token_of(OTHER, &token);
        for _ in 0..3 {
            renewed(&token);
        }
        for place in &places {
            let is_link = fs::symlink_metadata(place).is_ok_and(|meta| meta.is_symlink());
            let content = match fs::metadata(place) {
                Ok(meta) if meta.is_file() && !is_link => fs::read_to_string(place).unwrap(),
                _ => String::new(),
            };
            assert!(!is_token(&content), "{} holds a token", place.display());
        }
        assert!(
            !agent.log().contains("cannot be written"),
            "it is in the way"
        );
        house.others_are_served();
        house.is_unharmed();
    });
}

/// A3: what he opened before is not what the token is written to.
#[test]
fn a_file_that_was_opened_before_neither_shows_the_token_nor_changes_it() {
    against_each_agent(&[], |house| {
        let token = house.home.join("token");
        let temporary = house.home.join(format!(".agent-{:032x}.tmp", 1));
        let mut held = [&token, &temporary].map(|path| {
            fs::write(path, "his").unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
            chown(path, Some(OTHER), Some(OTHER)).unwrap();
            let both = fs::OpenOptions::new().read(true).write(true).open(path);
            both.unwrap()
        });
        house.configure(&[(token.clone(), "")]);
        let _agent = house.start();
        let before = eventually("a token is there", || {
            let content = fs::read_to_string(&token).unwrap();
            is_token(&content).then_some(content)
        });
        let meta = fs::metadata(&token).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (OTHER, 0o400));
        for file in &mut held {
            let mut content = String::new();
            file.read_to_string(&mut content).unwrap();
            assert_eq!(content, "his");
            file.seek(SeekFrom::Start(0)).unwrap();
            file.write_all(b"changed").unwrap();
        }
        assert_eq!(fs::read_to_string(&token).unwrap(), before);
        house.is_unharmed();
    });
}

/// Whoever can write in the directory could take the token away or put another in its place.
#[test]
fn a_directory_that_others_can_write_gets_no_token() {
    against_each_agent(&[], |house| {
        let kinds = [("group", 0o775), ("all", 0o757), ("sticky", 0o1777)];
        let owners = [("root", 0), ("agent", house.runner.uid()), ("other", OTHER)];
        let mut files = Vec::new();
        for (owner, uid) in owners {
            for (kind, mode) in kinds {
                let directory = house.sandbox.path(&format!("{owner}-{kind}"));
                fs::create_dir(&directory).unwrap();
                fs::set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
                chown(&directory, Some(uid), Some(uid)).unwrap();
                files.push((directory.join("token"), "ttl = \"2s\""));
            }
        }
        house.configure(&files);
        let agent = house.start();
        house.others_are_served();
        for (file, _) in &files {
            let directory = file.parent().unwrap();
            logged(&agent, &format!("{} can be written", directory.display()));
            assert!(names(directory).is_empty());
        }
    });
}

/// Where all may make directories, whoever is first owns the one of the name that is waited for.
#[test]
fn a_directory_that_somebody_else_made_first_gets_no_token_of_a_named_owner() {
    against_each_agent(&[], |house| {
        let open = house.sandbox.path("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o1777)).unwrap();
        let directory = open.join("his");
        house.configure(&[(directory.join("token"), "owner = \"1003\"\n  ttl = \"2s\"")]);
        let agent = house.start();
        logged(&agent, "waits for its directory");
        let made = as_user(STRANGER).arg("mkdir").arg(&directory).status();
        assert!(made.unwrap().success());
        house.others_are_served();
        // What was waited for is logged once; what it is by now is shown.
        house.tells(&directory.join("token"), "can belong to nobody else");
        assert!(names(&directory).is_empty());
    });
}
