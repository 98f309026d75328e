//! File systems that are mounted over directories: one that never answers, and an ordinary one; and
//! files and directories that are mounted elsewhere.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::common::{eventually, text};
use crate::house::{House, OTHER, against_each_agent, logged, names, renewed, token_of};

/// A file system that takes every request and answers none; it ends when dropped.
pub struct Silent {
    path: PathBuf,
    // Whoever waits for an answer waits as long as this is open.
    _device: File,
}

impl Silent {
    /// Mounts it, if this kernel can.
    pub fn mount(path: &Path) -> Option<Self> {
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .ok()?;
        let mut mount = Command::new("mount");
        mount
            .args(["-i", "-t", "fuse", "-o"])
            .arg("fd=0,rootmode=40755,user_id=0,group_id=0,allow_other")
            .arg("silent")
            .arg(path)
            .stdin(device.try_clone().unwrap());
        mount.status().unwrap().success().then_some(Self {
            path: path.to_owned(),
            _device: device,
        })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(&self.path)
            .status();
    }
}

/// Something that is mounted until it is dropped.
pub struct Mounted(PathBuf);

impl Mounted {
    /// A small file system in memory.
    pub fn memory(path: &Path, options: &str) -> Self {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", options, "memory"])
            .arg(path);
        assert!(mount.status().unwrap().success());
        Self(path.to_owned())
    }

    /// What lies at one path, at another one too.
    fn again(path: &Path, at: &Path) -> Self {
        let mut mount = Command::new("mount");
        mount.arg("--bind").arg(path).arg(at);
        assert!(mount.status().unwrap().success());
        Self(at.to_owned())
    }

    /// Changes its options; not while something is written to it.
    pub fn remount(&self, options: &str) {
        eventually("it is mounted anew", || {
            let mut mount = Command::new("mount");
            mount
                .args(["-o", &format!("remount,{options}")])
                .arg(&self.0);
            let status = mount.stderr(Stdio::null()).status().unwrap();
            status.success().then_some(())
        });
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Where the silent one lies.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Over the directory of the attacker.
    Home,
    /// Below it.
    BelowHome,
    /// In the directory of the agent.
    Tokens,
}

/// An agent whose files at a place were there before the place became silent.
fn silenced(
    house: &House,
    place: Place,
    files: usize,
    spread: bool,
) -> Option<(crate::common::Agent, Silent, Vec<PathBuf>)> {
    let at = match place {
        Place::Home => house.home.clone(),
        Place::BelowHome => house.home.join("mounted"),
        Place::Tokens => house.sandbox.path("run/tokens/mounted"),
    };
    let path = |i: usize| {
        at.join(if spread {
            format!("{i}/token")
        } else {
            format!("token{i}")
        })
    };
    let paths: Vec<_> = (0..files).map(path).collect();
    if !matches!(place, Place::Tokens) {
        for directory in paths.iter().filter_map(|path| path.parent()) {
            house.prepare(&["mkdir", "-p", directory.to_str().unwrap()]);
        }
    }
    let blocks: Vec<_> = paths
        .iter()
        .map(|path| (path.clone(), "ttl = \"2s\""))
        .collect();
    house.configure(&blocks);
    let agent = house.start();
    for path in &paths {
        let owner = if matches!(place, Place::Tokens) {
            house.runner.uid()
        } else {
            OTHER
        };
        token_of(owner, path);
    }
    let Some(silent) = Silent::mount(&at) else {
        println!("there is no FUSE here");
        return None;
    };
    Some((agent, silent, paths))
}

/// A10 and row 59, as long as few files lie there.
#[test]
fn a_file_system_that_does_not_answer_holds_up_nobody_else_and_is_left_when_it_ends() {
    against_each_agent(&[], |house| {
        for place in [Place::Home, Place::BelowHome, Place::Tokens] {
            let Some((agent, silent, paths)) = silenced(&house, place, 2, false) else {
                return;
            };
            for _ in 0..3 {
                house.others_are_served();
            }
            let reload = house.sandbox.run(&["reload"]);
            assert!(reload.status.success(), "{}", text(&reload.stderr));
            house.others_are_served();
            drop(silent);
            paths.iter().for_each(|path| renewed(path));
            agent.stop();
            fs::remove_dir_all(paths[0].parent().unwrap()).unwrap();
            if matches!(place, Place::Home) {
                fs::create_dir(&house.home).unwrap();
                std::os::unix::fs::chown(&house.home, Some(OTHER), Some(OTHER)).unwrap();
            }
        }
    });
}

/// Row 59: the operator is told what is the matter.
#[test]
fn a_file_system_that_does_not_answer_is_named() {
    against_each_agent(&[], |house| {
        for place in [Place::BelowHome, Place::Home, Place::Tokens] {
            let Some((_agent, _silent, paths)) = silenced(&house, place, 1, false) else {
                return;
            };
            house.tells(&paths[0], "does not answer");
        }
    });
}

/// Row 59: more of them than files are written at a time.
#[test]
fn however_many_files_lie_where_nothing_answers_the_others_are_written() {
    against_each_agent(&[], |house| {
        let Some((_agent, _silent, _)) = silenced(&house, Place::Tokens, 40, false) else {
            return;
        };
        for _ in 0..3 {
            house.others_are_served();
        }
    });
}

/// Row 59: so that each of them is waited for by itself.
#[test]
fn however_many_directories_do_not_answer_the_others_are_written() {
    against_each_agent(&[], |house| {
        let Some((_agent, _silent, _)) = silenced(&house, Place::BelowHome, 40, true) else {
            return;
        };
        for _ in 0..3 {
            house.others_are_served();
        }
    });
}

/// Row 59: nor do those stay whose token nobody is to have any more.
#[test]
fn files_are_removed_though_others_that_go_lie_where_nothing_answers() {
    against_each_agent(&[], |house| {
        let Some((_agent, _silent, paths)) = silenced(&house, Place::Tokens, 20, false) else {
            return;
        };
        let reload = |blocks: &[(PathBuf, &str)]| {
            house.configure(blocks);
            let reload = house.sandbox.run(&["reload"]);
            assert!(reload.status.success(), "{}", text(&reload.stderr));
        };
        let extra = house.sandbox.path("run/tokens/extra");
        let silent = paths.iter().map(|path| (path.clone(), "ttl = \"2s\""));
        let all: Vec<_> = silent.chain([(extra.clone(), "")]).collect();
        reload(&all);
        token_of(house.runner.uid(), &extra);
        reload(&[]);
        eventually("it is removed", || (!extra.exists()).then_some(()));
        house.others_are_served();
    });
}

#[test]
fn an_agent_that_waits_for_an_answer_ends_when_it_is_told_to() {
    against_each_agent(&[], |house| {
        let Some((agent, _silent, _)) = silenced(&house, Place::Tokens, 1, false) else {
            return;
        };
        house.others_are_served();
        agent.signal(Signal::SIGHUP);
        house.others_are_served();
        assert!(agent.stop().success());
    });
}

/// A10: only root can mount, so what is mounted over a directory is the directory from then on.
#[test]
fn a_mounted_directory_is_judged_by_its_own_rights_and_left_when_it_goes() {
    against_each_agent(&[], |house| {
        let ours = house.sandbox.path("run/tokens/ours/token");
        let his = house.home.join("his/token");
        house.prepare(&["mkdir", "his"]);
        let files = [&ours, &his].map(|path| (path.clone(), "ttl = \"2s\""));
        house.configure(&files);
        let agent = house.start();
        token_of(house.runner.uid(), &ours);
        token_of(OTHER, &his);
        let over = [&ours, &his].map(|path| {
            let directory = path.parent().unwrap();
            Mounted::memory(directory, "size=1m,mode=755")
        });
        // That of root is one of root; below his directory the agent works as he does.
        token_of(0, &ours);
        logged(&agent, "Permission denied");
        assert!(names(his.parent().unwrap()).is_empty());
        house.others_are_served();
        drop(over);
        renewed(&ours);
        renewed(&his);
        house.is_unharmed();
    });
}

/// A18: what the documentation says of containers.
#[test]
fn a_mounted_directory_shows_each_new_token_and_a_mounted_file_the_first_one_for_ever() {
    against_each_agent(&[], |house| {
        let token = house.home.join("token");
        house.configure(&[(token.clone(), "ttl = \"2s\"")]);
        let _agent = house.start();
        token_of(OTHER, &token);
        let (file, directory) = (house.sandbox.path("file"), house.sandbox.path("directory"));
        File::create(&file).unwrap();
        fs::create_dir(&directory).unwrap();
        let _mounted = [
            Mounted::again(&token, &file),
            Mounted::again(&house.home, &directory),
        ];
        let old = fs::metadata(&file).unwrap().ino();
        renewed(&directory.join("token"));
        renewed(&directory.join("token"));
        assert_eq!(fs::metadata(&file).unwrap().ino(), old);
        assert_eq!(names(&house.home), ["token"]);
    });
}

/// A18: a file cannot be renamed over one that something is mounted on.
#[test]
fn something_that_is_mounted_on_the_file_itself_is_told_and_the_file_comes_when_it_is_gone() {
    against_each_agent(&[], |house| {
        let token = house.home.join("token");
        house.configure(&[(token.clone(), "ttl = \"2s\"")]);
        let agent = house.start();
        let old = token_of(OTHER, &token);
        let on = Mounted::again(&house.victim(), &token);
        logged(&agent, "something is mounted over it");
        house.others_are_served();
        assert_eq!(
            names(&house.home),
            ["token"],
            "nothing is left half-written"
        );
        drop(on);
        let what = "the file is written";
        eventually(what, || (token_of(OTHER, &token) != old).then_some(()));
        house.is_unharmed();
    });
}
