//! The `unix` attestor: user, groups and program of a process.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};

use super::hash::Hasher;
use super::names::Names;
use crate::entry::Field;
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
}

/// A selector that some entry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Found without looking up anything.
    Plain,
    /// Needs the name of a user.
    User(String),
    /// Needs the name of a group.
    Group(String),
    /// Needs the program.
    Program,
}

/// Checks the value of a `unix` selector.
///
/// # Errors
///
/// What is wrong with it, and how it is written.
pub fn check(selector: &Selector) -> Result<Wanted, String> {
    let Some((name, value)) = selector.value().split_once(':') else {
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
        "path" if value.starts_with('/') => Ok(Wanted::Program),
        "path" => Err("unix:path takes an absolute path".to_owned()),
        "sha256" => {
            let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            if value.len() == 64 && value.bytes().all(digit) {
                Ok(Wanted::Program)
            } else {
                Err("unix:sha256 takes 64 hexadecimal digits in lower case".to_owned())
            }
        }
        _ => Err(format!(
            "there is no unix:{name}; there are uid, gid, user, group, supplementary_gid, \
             supplementary_group, path, sha256"
        )),
    }
}

/// Checks what a field of a template stands for: something of which a process has one at most.
///
/// # Errors
///
/// What is wrong with it, and what there is.
pub fn check_field(field: &Field) -> Result<(), String> {
    match field.as_str() {
        "unix:uid" | "unix:gid" | "unix:user" | "unix:group" | "unix:path" | "unix:sha256" => {
            Ok(())
        }
        "unix:supplementary_gid" | "unix:supplementary_group" => Err(format!(
            "a process has any number of what {field} stands for"
        )),
        _ => Err(format!(
            "there is no {field}; there are uid, gid, user, group, path, sha256 of unix"
        )),
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

/// What a selector wants to know of the program: a narrowing within one user, no boundary.
pub fn wants(selector: &Selector) -> Wants {
    wants_by_name(selector.name())
}

/// As [`wants`], of all selectors with this name.
pub fn wants_by_name(name: &str) -> Wants {
    Wants {
        path: name == "unix:path",
        sha256: name == "unix:sha256",
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

/// How far a look at a program may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Only what the kernel has in memory: it is quick, or fails with [`io::ErrorKind::WouldBlock`].
    Quick,
    /// It may wait for file systems.
    Full,
}

impl Effort {
    /// Whether files may be read: an error where that is too much.
    fn may_read(self) -> io::Result<bool> {
        match self {
            Self::Quick => Err(io::ErrorKind::WouldBlock.into()),
            Self::Full => Ok(true),
        }
    }
}

/// A look at the program of a process.
#[derive(Debug)]
pub struct Search {
    /// The process.
    pub proc: Arc<ProcDir>,
    /// The program as it was when the process was verified.
    pub exe: Exe,
    /// What to find.
    pub wanted: Wants,
    /// What may be found.
    pub spec: UnixSpec,
    /// The user namespace of the agent.
    pub own_user_namespace: Option<(u64, u64)>,
    /// Computes hashes.
    pub hasher: Arc<Hasher>,
}

impl Search {
    /// Path and hash of the program, each only where it is certain. What is not found is not there:
    /// it may be kept.
    ///
    /// # Errors
    ///
    /// Something did not work that may work the next time.
    pub fn run(&self, effort: Effort) -> io::Result<Vec<Selector>> {
        let Exe::File(exe) = self.exe else {
            return Ok(Vec::new());
        };
        // A tracer acts through the process it traces, whatever program that is.
        if self.proc.is_traced().map_err(io::Error::other)? {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        if self.wanted.path
            && let Some(path) = self.certain_path(&exe, effort)?
        {
            found.extend(Selector::from_parts(KIND, format!("{PATH}{path}")));
        }
        if self.wanted.sha256
            && self.spec.hash
            && effort.may_read()?
            && let Some(digest) = self.hasher.hash(&self.proc, &exe, self.spec.size_limit)?
        {
            found.extend(Selector::from_parts(KIND, format!("{SHA256}{digest}")));
        }
        Ok(found)
    }

    /// The path of the program, if the agent finds the very same file there.
    ///
    /// The path that the kernel gives is that of the process's own mount namespace, where its owner
    /// can mount what he likes over `/usr/bin`. So the process must be in our user namespace, its
    /// file must still have a name, and that name must lead here to that inode, through no link.
    fn certain_path(&self, exe: &ExeStat, effort: Effort) -> io::Result<Option<String>> {
        let namespace = self.proc.user_namespace()?;
        if Some(namespace) != self.own_user_namespace || exe.links == 0 {
            return Ok(None);
        }
        let path = self.proc.exe_path()?;
        let same = inode_at(&path, effort)? == Some(exe.id);
        Ok(path_text(&path).filter(|_| same).map(str::to_owned))
    }
}

/// What lies at a path that somebody else chose; nothing if it cannot be reached without links.
///
/// # Errors
///
/// Those of `openat2` and `statx`; [`io::ErrorKind::WouldBlock`] where a quick look does not do.
pub fn inode_at(path: &Path, effort: Effort) -> io::Result<Option<(u64, u64)>> {
    let mut resolve = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    if effort == Effort::Quick {
        resolve |= ResolveFlag::from_bits_retain(libc::RESOLVE_CACHED);
    }
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .resolve(resolve);
    match openat2(AT_FDCWD, path, how) {
        Ok(fd) => Ok(Some(stat_unasked(fd.as_fd(), None)?.id)),
        Err(
            Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES | Errno::ENAMETOOLONG,
        ) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_selector_is_checked_for_what_its_attestor_can_produce() {
        let check = |text: &str| check(&text.parse().unwrap());
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
        assert_eq!(check("unix:path:/a:b"), Ok(Wanted::Program));
        assert_eq!(check(&format!("unix:sha256:{hash}")), Ok(Wanted::Program));
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
            &format!("unix:sha256:{}", hash.to_uppercase()),
        ] {
            assert!(check(text).is_err(), "{text}");
        }
    }
}
