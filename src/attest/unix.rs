//! The `unix` attestor: user, groups and program of a process.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;

use super::facts::{Wanted, is_digest};
use super::findings::Findings;
use super::hash::Hasher;
use super::names::Names;
use crate::peer::{Peer, Wants};
use crate::proc::{Exe, ProcDir, path_text};
use crate::selector::Selector;
use crate::sys::{ExeStat, stat_unasked};

/// The selector type of this attestor.
pub const KIND: &str = "unix";

const PATH: &str = "path:";
const SHA256: &str = "sha256:";

/// What the attestor may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixSpec {
    /// Whether `unix:path` and `unix:sha256` are found at all.
    pub discover_path: bool,
    /// Largest program that is hashed, in bytes; `None` hashes any.
    pub size_limit: Option<u64>,
    /// Whether programs are hashed.
    pub hash: bool,
    /// How long the look at a program may take.
    pub timeout: Duration,
}

/// Checks the value of a `unix` selector.
///
/// # Errors
///
/// What is wrong with it, and how it is written.
pub fn check(value: &str) -> Result<Wanted, String> {
    let Some((name, value)) = value.split_once(':') else {
        return Err("it is written unix:NAME:VALUE, such as unix:uid:1001".to_owned());
    };
    if value.is_empty() {
        return Err(format!("unix:{name} needs a value"));
    }
    match name {
        "uid" | "gid" | "supplementary_gid" => match value.parse::<u32>() {
            Ok(number) if number.to_string() == value => Ok(Wanted::Plain),
            _ => Err(format!(
                "unix:{name} takes a number from 0 to 4294967295 without leading zeros"
            )),
        },
        "user" => Ok(Wanted::User(value.to_owned())),
        "group" | "supplementary_group" => Ok(Wanted::Group(value.to_owned())),
        "path" if value.starts_with('/') => Ok(Wanted::Plain),
        "path" => Err("unix:path takes an absolute path".to_owned()),
        "sha256" if is_digest(value) => Ok(Wanted::Plain),
        "sha256" => Err("unix:sha256 takes 64 hexadecimal digits in lower case".to_owned()),
        _ => Err(format!(
            "there is no unix:{name}; there are uid, gid, user, group, supplementary_gid, \
             supplementary_group, path, sha256"
        )),
    }
}

/// Checks the name of a field of a template: of what it stands for, a process has one at most.
///
/// # Errors
///
/// What is wrong with it, and what there is.
pub fn check_field(name: &str) -> Result<(), &'static str> {
    match name {
        "uid" | "gid" | "user" | "group" | "path" | "sha256" => Ok(()),
        "supplementary_gid" | "supplementary_group" => {
            Err("a process has any number of supplementary groups")
        }
        _ => Err("there are unix:uid, gid, user, group, path and sha256"),
    }
}

/// Whether a selector holds the name of a user or a group.
pub fn is_by_name(selector: &Selector) -> bool {
    let by_name = ["user:", "group:", "supplementary_group:"];
    by_name
        .iter()
        .any(|start| selector.value().starts_with(start))
        && selector.kind() == KIND
}

/// The fact that `unix` selectors with this name are.
pub fn wants(name: &str) -> Wants {
    match name {
        "path" => Wants::PATH,
        "sha256" => Wants::SHA256,
        "user" => Wants::USER,
        "group" => Wants::GROUP,
        _ => Wants::NONE,
    }
}

/// User and groups, by number and by those names that somebody asks for.
pub fn cheap(peer: &Peer, names: &Names) -> Vec<Selector> {
    let mut found = Vec::with_capacity(4 + peer.groups().len());
    let mut add = |value: String| found.extend(Selector::from_parts(KIND, value));
    add(format!("uid:{}", peer.uid()));
    add(format!("gid:{}", peer.gid()));
    for name in names.of_user(peer.uid()) {
        add(format!("user:{name}"));
    }
    for name in names.of_group(peer.gid()) {
        add(format!("group:{name}"));
    }
    for group in peer.groups() {
        add(format!("supplementary_gid:{group}"));
        for name in names.of_group(*group) {
            add(format!("supplementary_group:{name}"));
        }
    }
    found
}

/// How far a look at a program may go, least first. What is too much for it fails with
/// [`io::ErrorKind::WouldBlock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// Only what the kernel has in memory.
    Quick,
    /// It may wait for file systems.
    Look,
    /// It may read all of the program.
    Read,
}

/// A look at the program of a process.
#[derive(Debug)]
pub struct Search {
    /// The process.
    pub proc: Arc<ProcDir>,
    /// The program as it was when the process was verified.
    pub exe: Exe,
    /// Largest program that is hashed, in bytes; `None` hashes any.
    pub size_limit: Option<u64>,
    /// The user namespace of the agent.
    pub own_user_namespace: Option<Arc<OsStr>>,
    /// Computes hashes.
    pub hasher: Arc<Hasher>,
}

impl Search {
    /// One fact, the path of the program or its hash, only where it is certain.
    ///
    /// # Errors
    ///
    /// Something did not work that may work the next time.
    pub fn run(&self, fact: Wants, effort: Effort) -> io::Result<Findings> {
        let mut findings = Findings::default();
        let Exe::File(exe) = self.exe else {
            let why = "the agent may not look at the program: it lacks CAP_SYS_PTRACE, or the \
                       process hides it";
            findings.none(fact, why);
            return Ok(findings);
        };
        // A tracer acts through the process it traces, whatever program that is.
        if self.proc.is_traced().map_err(io::Error::other)? {
            let why = "the process is traced, so that another one can act through it";
            findings.none(fact, why);
            return Ok(findings);
        }
        if fact == Wants::PATH {
            match self.certain_path(&exe, effort)? {
                Ok(path) => findings.found(fact, KIND, format_args!("{PATH}{path}")),
                Err(why) => findings.none(fact, why),
            }
            return Ok(findings);
        }
        if effort < Effort::Look {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let may_read = effort == Effort::Read;
        let hash = self
            .hasher
            .hash(&self.proc, &exe, self.size_limit, may_read)?;
        match hash {
            Some(hash) => findings.found(fact, KIND, format_args!("{SHA256}{hash}")),
            None => findings.none(fact, "the program is larger than workload_size_limit"),
        }
        Ok(findings)
    }

    /// The path of the program, if the agent finds the very same file there, or why it is not certain.
    ///
    /// The path that the kernel gives is that of the process's own mount namespace, where its owner
    /// can mount what he likes over `/usr/bin`. So the process must be in our user namespace, its
    /// file must still have a name, and that name must lead here to that inode, through no link.
    fn certain_path(
        &self,
        exe: &ExeStat,
        effort: Effort,
    ) -> io::Result<Result<String, Cow<'static, str>>> {
        let namespace = self.proc.user_namespace()?;
        if Some(&*namespace) != self.own_user_namespace.as_deref() {
            let why = "the process is in another user namespace, where paths are what its owner \
                       mounts there";
            return Ok(Err(why.into()));
        }
        let path = self.proc.exe_path()?;
        Ok(match (replaced(&path, exe, effort)?, path_text(&path)) {
            (Some(why), _) => Err(why.into()),
            (None, Some(path)) => Ok(path.to_owned()),
            (None, None) => Err("the path is no text".into()),
        })
    }
}

/// Whether the path of a program leads to that program no longer, in words.
///
/// # Errors
///
/// Those of `openat2` and `statx`; [`io::ErrorKind::WouldBlock`] where a quick look does not do.
pub fn replaced(path: &Path, exe: &ExeStat, effort: Effort) -> io::Result<Option<String>> {
    let shown = path.display();
    if exe.links == 0 {
        return Ok(Some(
            "the file was replaced or deleted since the program started: restart it".to_owned(),
        ));
    }
    Ok(match inode_at(path, effort)? {
        Some(id) if id == exe.id => None,
        Some(_) => Some(format!(
            "another file lies at {shown}: it was replaced since the program started, or the \
             process has mounts of its own"
        )),
        None => Some(format!(
            "the agent finds no file at {shown}: it was moved, or the process has mounts of its own"
        )),
    })
}

/// What lies at a path that somebody else chose; nothing if it cannot be reached without links.
///
/// # Errors
///
/// Those of `openat2` and `statx`; [`io::ErrorKind::WouldBlock`] where a quick look does not do.
fn inode_at(path: &Path, effort: Effort) -> io::Result<Option<(u64, u64)>> {
    let mut resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    if effort == Effort::Quick {
        resolve |= ResolveFlag::from_bits_retain(libc::RESOLVE_CACHED);
    }
    let how = OpenHow::new().flags(NOTHING_BUT).resolve(resolve);
    let opened = match openat2(AT_FDCWD, path, how) {
        // A filter of system calls that does not know it: that of RestrictSUIDSGID=, and old ones.
        Err(Errno::ENOSYS | Errno::EPERM) if effort == Effort::Quick => {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Err(Errno::ENOSYS | Errno::EPERM) => step_by_step(path),
        opened => opened,
    };
    match opened {
        Ok(fd) => Ok(Some(stat_unasked(fd.as_fd(), None)?.id)),
        Err(
            Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES | Errno::ENAMETOOLONG,
        ) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens a name and no link that it may be, for nothing but to look at it.
const NOTHING_BUT: OFlag = OFlag::O_PATH
    .union(OFlag::O_CLOEXEC)
    .union(OFlag::O_NOFOLLOW);

/// What lies at a path, one name after the other: a link on the way is opened as such, and nothing
/// lies below it.
fn step_by_step(path: &Path) -> nix::Result<OwnedFd> {
    let mut names = path.components();
    if names.next() != Some(Component::RootDir) {
        return Err(Errno::ENOENT);
    }
    let mut at = openat(AT_FDCWD, "/", NOTHING_BUT, Mode::empty())?;
    for name in names {
        let Component::Normal(name) = name else {
            return Err(Errno::ENOENT);
        };
        at = openat(&at, name, NOTHING_BUT, Mode::empty())?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn the_way_of_older_filters_leads_to_the_same_files_and_over_no_link() {
        let house = tempfile::tempdir().unwrap();
        let house = house.path().canonicalize().unwrap();
        let at = |name: &str| house.join(name);
        std::fs::create_dir(at("real")).unwrap();
        std::fs::write(at("real/program"), "x").unwrap();
        symlink("real", at("linked")).unwrap();
        symlink("real/program", at("link")).unwrap();
        let walked = |path: &Path| {
            let fd = step_by_step(path).ok()?;
            Some(stat_unasked(fd.as_fd(), None).unwrap().id)
        };
        let program = walked(&at("real/program"));
        assert!(program.is_some());
        let own = std::env::current_exe().unwrap();
        for path in [
            at("real/program"),
            at("link"),
            at("linked/program"),
            at("real/program/x"),
            at("missing"),
            at(&"x".repeat(300)),
            PathBuf::from("/"),
            PathBuf::from("/proc/self/exe"),
            PathBuf::from("/proc/self/root/etc"),
            PathBuf::from("/dev/null"),
            own,
        ] {
            let opened = inode_at(&path, Effort::Look).unwrap();
            assert_eq!(walked(&path), opened, "{}", path.display());
        }
        assert_ne!(walked(&at("link")), program);
        // The kernel never tells a path like these, and nobody is believed who does.
        assert_eq!(walked(&at("real/../real/program")), None);
        assert_eq!(walked(Path::new("(unreachable)/etc")), None);
    }

    #[test]
    fn each_selector_is_checked_for_what_its_attestor_can_produce() {
        let check = |text: &str| super::super::facts::check(&text.parse().unwrap());
        let hash = "a".repeat(64);
        assert_eq!(check("unix:uid:0"), Ok(Wanted::Plain));
        assert_eq!(
            check("unix:user:www-data"),
            Ok(Wanted::User("www-data".into()))
        );
        assert_eq!(
            check("unix:supplementary_group:adm"),
            Ok(Wanted::Group("adm".into()))
        );
        assert_eq!(check("ns:host"), Ok(Wanted::Plain));
        assert_eq!(check(&format!("container:id:{hash}")), Ok(Wanted::Plain));
        assert_eq!(check("unix:path:/a:b"), Ok(Wanted::Plain));
        assert_eq!(check(&format!("unix:sha256:{hash}")), Ok(Wanted::Plain));
        for text in [
            "unix:uid",
            "unix:uid:",
            "unix:uid:-1",
            "unix:uid:01",
            "unix:uid:4294967296",
            "unix:uid:root",
            "unix:path:bin/x",
            "unix:sha256:abc",
            "unix:pid:1",
            "ns:guest",
            "container:id:abc",
            "uid:1",
            &format!("unix:sha256:{}", hash.to_uppercase()),
        ] {
            assert!(check(text).is_err(), "{text}");
        }
    }
}
