//! The `unix` attestor: user, groups and program of a process.

use std::path::Path;

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::fstat;

use super::hash::Hasher;
use super::names::Names;
use crate::peer::Peer;
use crate::proc::{Exe, ProcDir, path_text};
use crate::selector::Selector;

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

/// Whether a selector speaks of the program: a narrowing within one user, no boundary.
pub fn is_about_program(selector: &Selector) -> bool {
    selector.kind() == KIND
        && (selector.value().starts_with(PATH) || selector.value().starts_with(SHA256))
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

/// Path and hash of the program, each only where it is certain.
pub async fn program(
    proc: &ProcDir,
    exe: &Exe,
    spec: UnixSpec,
    own_user_namespace: Option<(u64, u64)>,
    hasher: &Hasher,
) -> Vec<Selector> {
    let Exe::File { id, .. } = *exe else {
        return Vec::new();
    };
    // A tracer acts through the process it traces, whatever program that is.
    if proc.is_traced().unwrap_or(true) {
        return Vec::new();
    }
    let mut found = Vec::new();
    if let Some(path) = certain_path(proc, id, own_user_namespace) {
        found.extend(Selector::from_parts(KIND, format!("{PATH}{path}")));
    }
    if spec.hash {
        match hasher.hash(proc, spec.size_limit).await {
            Ok(digest) => found.extend(Selector::from_parts(KIND, format!("{SHA256}{digest}"))),
            Err(reason) => tracing::debug!(%reason, "no unix:sha256 for this caller"),
        }
    }
    found
}

/// The path of the program, if the agent finds the very same file there.
///
/// The path that the kernel gives is that of the process's own mount namespace, where its owner
/// can mount what he likes over `/usr/bin`. So the process must be in our user namespace, its
/// file must still have a name, and that name must lead here to that inode, through no link.
fn certain_path(
    proc: &ProcDir,
    id: (u64, u64),
    own_user_namespace: Option<(u64, u64)>,
) -> Option<String> {
    let namespace = proc.user_namespace().ok()?;
    let stat = proc.stat_exe().ok()?;
    if Some(namespace) != own_user_namespace || stat.st_nlink == 0 {
        return None;
    }
    let path = proc.exe_path().ok()?;
    let here = inode_at(&path)?;
    if here == id && (stat.st_dev, stat.st_ino) == id {
        path_text(&path).map(str::to_owned)
    } else {
        None
    }
}

fn inode_at(path: &Path) -> Option<(u64, u64)> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let fd = openat2(AT_FDCWD, path, how).ok()?;
    let stat = fstat(&fd).ok()?;
    Some((stat.st_dev, stat.st_ino))
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
