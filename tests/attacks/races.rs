//! Races: the attacker changes the way to the file, or the file itself, while it is written. In each
//! he owns many directories and turns all of them over all the time. A round is one attempt of the
//! agent to write a file.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::attacker::{Role, Turns};
use crate::common::{Need, eventually, long};
use crate::house::{House, OTHER, against_each_agent, names, token_of};

/// The more there are, the more attempts to write are made in a second.
fn directories() -> usize {
    if long() { 256 } else { 64 }
}

fn rounds() -> u64 {
    if long() { 100_000 } else { 2_000 }
}

/// Plays a race to its end: nothing of root was touched, others were served meanwhile, and when
/// the attacker rests the files are there again.
fn race(house: &House, role: Role, files: &[PathBuf], refused: Option<&str>) {
    let often = "ttl = \"2s\"\n  refresh_at = 0.1";
    let blocks: Vec<_> = files.iter().map(|file| (file.clone(), often)).collect();
    house.configure(&blocks);
    let attacker = house.attack(role);
    let agent = match role {
        // Else he hardly ever sees a file before it has its name.
        Role::SwapFiles => house.start_slow("renameat"),
        _ => house.start(),
    };
    let mut seen = 0;
    while seen < rounds() {
        let before = seen;
        seen = eventually("files are attempted", || {
            Some(house.attempts()).filter(|count| *count >= before + 100)
        });
        house.is_unharmed();
    }
    house.others_are_served();
    let told = attacker.end();
    for file in files {
        token_of(OTHER, file);
    }
    house.is_unharmed();
    if let Some(words) = refused {
        assert!(agent.log().contains(words), "the agent met no {words:?}");
    }
    println!(
        "{role:?}, {:?}: {seen} attempts to write, {told}",
        house.runner
    );
}

/// Makes directories of the attacker in a directory of the attacker.
fn make(house: &House, name: &str) -> Vec<PathBuf> {
    let names: Vec<_> = (0..directories()).map(|i| format!("{name}{i}")).collect();
    let mut command = vec!["mkdir", "-p"];
    command.extend(names.iter().map(String::as_str));
    house.prepare(&command);
    names.iter().map(|name| house.home.join(name)).collect()
}

/// Links that lead to the directory of root, and names by which the attacker knows their places.
fn link(house: &House) {
    for i in 0..directories() {
        symlink(&house.vault, house.home.join(format!("other{i}"))).unwrap();
    }
}

/// The pairs that are exchanged.
fn pairs(home: &Path) -> Vec<[PathBuf; 2]> {
    (0..names(home).len())
        .map(|i| ["own", "other"].map(|name| home.join(format!("{name}{i}"))))
        .take_while(|pair| pair.iter().all(|path| path.symlink_metadata().is_ok()))
        .collect()
}

/// Exchanges each directory with what else is to lie in its place, and back.
pub fn exchange(home: &Path, turns: &Turns) -> String {
    let pairs = pairs(home);
    assert!(!pairs.is_empty());
    let mut count = 0;
    while turns.go_on() {
        // Twice, so that all is in its place at the end.
        for [own, other] in pairs.iter().chain(&pairs) {
            let both = RenameFlags::RENAME_EXCHANGE;
            renameat2(AT_FDCWD, own, AT_FDCWD, other, both).unwrap();
            count += 1;
        }
    }
    format!("{count} exchanges")
}

/// A7 and row 56.
#[test]
fn a_directory_that_is_exchanged_with_a_link_leads_nowhere_else() {
    against_each_agent(&[], |house| {
        let own = make(&house, "own");
        link(&house);
        let files: Vec<_> = own.iter().map(|own| own.join("token")).collect();
        race(&house, Role::Exchange, &files, Some("is a symbolic link"));
    });
}

/// A7: so that the directory itself is one where nobody but root may write.
#[test]
fn a_directory_that_is_exchanged_with_one_of_root_gets_the_file_and_the_other_does_not() {
    against_each_agent(&[], |house| {
        let own = make(&house, "own");
        for i in 0..directories() {
            let of_root = house.home.join(format!("other{i}"));
            fs::create_dir(&of_root).unwrap();
            fs::write(of_root.join("token"), "precious").unwrap();
        }
        let files: Vec<_> = own.iter().map(|own| own.join("token")).collect();
        race(&house, Role::Exchange, &files, Some("Permission denied"));
        for i in 0..directories() {
            let of_root = house.home.join(format!("other{i}"));
            assert_eq!(fs::metadata(&of_root).unwrap().uid(), 0);
            assert_eq!(names(&of_root), ["token"]);
            assert_eq!(fs::read(of_root.join("token")).unwrap(), b"precious");
        }
    });
}

/// A8: a link in the place of a directory above the one of the file.
#[test]
fn a_directory_above_that_is_exchanged_with_a_link_leads_nowhere_else() {
    against_each_agent(&[], |house| {
        let own = make(&house, "own");
        for own in &own {
            house.prepare(&["mkdir", own.join("inner").to_str().unwrap()]);
        }
        link(&house);
        let files: Vec<_> = own.iter().map(|own| own.join("inner/token")).collect();
        race(&house, Role::Exchange, &files, Some("is a symbolic link"));
    });
}

/// Moves each directory away and back.
pub fn take_away(home: &Path, turns: &Turns) -> String {
    let own: Vec<_> = names(home).iter().map(|name| home.join(name)).collect();
    let away: Vec<_> = (0..own.len())
        .map(|i| home.join(format!("away{i}")))
        .collect();
    let mut count = 0;
    while turns.go_on() {
        for (own, away) in own.iter().zip(&away) {
            fs::rename(own, away).unwrap();
        }
        for (own, away) in own.iter().zip(&away) {
            fs::rename(away, own).unwrap();
            count += 1;
        }
    }
    format!("{count} moves away and back")
}

/// A9: an attempt that is under way ends in the directory where it began; none begins there.
#[test]
fn a_directory_that_is_moved_away_and_back_gets_its_file_when_it_is_there() {
    against_each_agent(&[], |house| {
        let own = make(&house, "own");
        let files: Vec<_> = own.iter().map(|own| own.join("token")).collect();
        race(
            &house,
            Role::TakeAway,
            &files,
            Some("waits for its directory"),
        );
        for own in &own {
            assert_eq!(names(own), ["token"], "nothing is left half-written");
        }
    });
}

/// Puts links and pipes in the place of whatever appears, half-written files among it.
pub fn swap_files(home: &Path, turns: &Turns) -> String {
    let directories: Vec<_> = names(home).iter().map(|name| home.join(name)).collect();
    let victim = home.parent().unwrap().join("vault/token");
    let (mut swapped, mut temporary) = (0, 0);
    while turns.go_on() {
        for directory in &directories {
            for name in names(directory) {
                let is_temporary = name.starts_with(".agent-");
                let path = directory.join(&name);
                let trap = directory.join("trap");
                let laid = if swapped % 2 == 0 || is_temporary {
                    symlink(&victim, &trap).is_ok()
                } else {
                    nix::unistd::mkfifo(&trap, nix::sys::stat::Mode::S_IRWXU).is_ok()
                };
                // The agent may have been quicker.
                if laid && path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                    fs::rename(&trap, &path).unwrap();
                    swapped += 1;
                    temporary += usize::from(is_temporary);
                } else if laid {
                    fs::remove_file(&trap).unwrap();
                }
            }
        }
    }
    for directory in &directories {
        for name in names(directory).iter().filter(|name| *name != "token") {
            let _ = fs::remove_file(directory.join(name));
        }
    }
    format!("{swapped} files swapped, {temporary} of them before they had their name")
}

/// Between the link and the rename, and after.
#[test]
fn a_file_that_is_swapped_while_it_is_written_leads_nowhere_else() {
    against_each_agent(&[Need::Strace], |house| {
        let own = make(&house, "own");
        // Nor does it help to let nobody look.
        for own in own.iter().step_by(2) {
            fs::set_permissions(own, fs::Permissions::from_mode(0o700)).unwrap();
        }
        let files: Vec<_> = own.iter().map(|own| own.join("token")).collect();
        race(&house, Role::SwapFiles, &files, None);
    });
}

/// Row 60: a directory that stays away is waited for, and what it became gets no more tokens.
#[test]
fn a_directory_that_was_moved_gets_no_token_any_more_where_it_is() {
    against_each_agent(&[], |house| {
        house.prepare(&["mkdir", "own"]);
        let token = house.home.join("own/token");
        house.configure(&[(token.clone(), "ttl = \"2s\"")]);
        let agent = house.start();
        let last = token_of(OTHER, &token);
        house.prepare(&["mv", "own", "moved"]);
        crate::house::logged(&agent, "waits for its directory");
        let moved = house.home.join("moved/token");
        let left = fs::metadata(&moved).unwrap().ino();
        house.others_are_served();
        assert_eq!(fs::metadata(&moved).unwrap().ino(), left);
        assert!(!house.home.join("own").exists(), "it is not made again");
        house.prepare(&["mv", "moved", "own"]);
        let what = "the file is written where it is configured";
        eventually(what, || (token_of(OTHER, &token) != last).then_some(()));
        house.is_unharmed();
    });
}
