//! A look at everything that can be told of a process, for people: where it was read, and why the
//! rest of it cannot be told.

use std::io;
use std::path::Path;

use super::unix::{Effort, Search, UnixSpec, inode_at};
use super::{Asked, WorkloadAttestor};
use crate::peer::{Peer, PeerError, Wants};
use crate::proc::{Exe, path_text};
use crate::selector::{Selector, SelectorSet};
use crate::sys::ExeStat;

/// Something that could not be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubt {
    /// The name of its selectors, such as `unix:path`.
    pub name: &'static str,
    /// Why not, and what to do about it where something can be done.
    pub reason: String,
}

/// Everything that can be told of a process.
#[derive(Debug, Clone)]
pub struct Examined {
    /// Its selectors.
    pub found: SelectorSet,
    /// What could not be found.
    pub doubts: Vec<Doubt>,
    /// The path of its program as it has it itself: a claim, no fact.
    pub program: Option<String>,
}

impl WorkloadAttestor {
    /// Everything that can be told of a process, whatever entries ask for.
    ///
    /// # Errors
    ///
    /// As [`WorkloadAttestor::attest`].
    pub async fn examine(&self, peer: &Peer, spec: UnixSpec) -> Result<Examined, PeerError> {
        let everything = Asked {
            program: Wants {
                path: true,
                sha256: true,
            },
            user: true,
            group: true,
        };
        let found = self.attest_for(peer, spec, |_| everything).await?;
        let search = self.search(peer, peer.verify()?.into(), everything.program, spec);
        let program = search.proc.exe_path().ok();
        let program = program.and_then(|path| path_text(&path).map(str::to_owned));
        let mut doubts = about_names(&found, peer.uid(), peer.gid());
        let known = found.clone();
        let looked = self.in_turn(peer.uid(), move || about_program(&search, &known));
        doubts.extend(looked.await.unwrap_or_default());
        peer.verify()?;
        Ok(Examined {
            found,
            doubts,
            program,
        })
    }
}

/// How a process came to be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It has connected.
    Connection,
    /// Somebody named its number.
    Number,
}

/// Where a selector is read.
pub fn source(selector: &Selector, origin: Origin) -> &'static str {
    match (selector.name(), origin) {
        ("unix:uid" | "unix:gid", Origin::Connection) => "the connection (SO_PEERCRED)",
        ("unix:supplementary_gid", Origin::Connection) => "the connection (SO_PEERGROUPS)",
        ("unix:uid" | "unix:gid" | "unix:supplementary_gid", Origin::Number) => "/proc/PID/status",
        ("unix:user", _) => "the user database",
        ("unix:group" | "unix:supplementary_group", _) => "the group database",
        ("unix:path", _) => "/proc/PID/exe, the file at that path",
        ("unix:sha256", _) => "/proc/PID/exe, its content",
        _ => "its attestor",
    }
}

/// Names of users and groups that there are not.
fn about_names(found: &SelectorSet, uid: u32, gid: u32) -> Vec<Doubt> {
    let known = |name: &str| found.iter().any(|selector| selector.name() == name);
    let mut doubts = Vec::new();
    for (name, reason) in [
        ("unix:user", format!("uid {uid} has no name")),
        ("unix:group", format!("gid {gid} has no name")),
    ] {
        if !known(name) {
            doubts.push(Doubt { name, reason });
        }
    }
    doubts
}

/// Why path and hash are not known, as far as they are not. May wait for file systems.
fn about_program(search: &Search, found: &SelectorSet) -> Vec<Doubt> {
    let known = |name: &str| found.iter().any(|selector| selector.name() == name);
    let mut doubts = Vec::new();
    let reasons: [(&'static str, Why); 2] =
        [("unix:path", why_no_path), ("unix:sha256", why_no_hash)];
    for (name, why) in reasons {
        if known(name) {
            continue;
        }
        let reason = match why_nothing(search) {
            Some(reason) => reason,
            None => {
                let Exe::File(exe) = search.exe else { continue };
                why(search, &exe)
            }
        };
        doubts.push(Doubt { name, reason });
    }
    doubts
}

type Why = fn(&Search, &ExeStat) -> String;

/// What keeps everything about the program from being told.
fn why_nothing(search: &Search) -> Option<String> {
    let reason = if !search.spec.discover_path {
        "it is not looked for: write attestor \"unix\" { discover_workload_path = true }"
    } else if search.exe == Exe::Unknown {
        "the agent may not look at the program: it lacks CAP_SYS_PTRACE, or the process hides it"
    } else if search.proc.is_traced().unwrap_or(false) {
        "the process is traced, so that another one can act through it"
    } else {
        return None;
    };
    Some(reason.to_owned())
}

fn why_no_path(search: &Search, exe: &ExeStat) -> String {
    try_why_no_path(search, exe).unwrap_or_else(|error| error.to_string())
}

fn try_why_no_path(search: &Search, exe: &ExeStat) -> io::Result<String> {
    if Some(search.proc.user_namespace()?) != search.own_user_namespace {
        return Ok(
            "the process is in another user namespace, where paths are what its owner mounts there"
                .to_owned(),
        );
    }
    let path = search.proc.exe_path()?;
    Ok(replaced(&path, exe, Effort::Full)?.unwrap_or_else(|| {
        let text = path_text(&path).is_some_and(|text| !text.chars().any(char::is_control));
        let reason = if text {
            "it could not be told in time"
        } else {
            "the path is no text, or holds control characters"
        };
        reason.to_owned()
    }))
}

/// Whether the path of a program leads to that program no longer, in words.
fn replaced(path: &Path, exe: &ExeStat, effort: Effort) -> io::Result<Option<String>> {
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

fn why_no_hash(search: &Search, _: &ExeStat) -> String {
    let UnixSpec {
        hash, size_limit, ..
    } = search.spec;
    if !hash {
        return "programs are not hashed: workload_size_limit is -1".to_owned();
    }
    let size = search.proc.open_exe().and_then(|file| file.metadata());
    match (size.map(|meta| meta.len()), size_limit) {
        (Ok(size), Some(limit)) if size > limit => {
            format!("the program has {size} bytes, and workload_size_limit is {limit}")
        }
        (Err(error), _) => format!("the program cannot be read: {error}"),
        _ => "it could not be told in time".to_owned(),
    }
}

/// Whether the program of a process was replaced since it started, as far as the kernel has that in
/// memory.
pub fn is_replaced(peer: &Peer) -> bool {
    let (Ok(proc), Exe::File(exe)) = (peer.verify(), peer.exe()) else {
        return false;
    };
    let path = proc.exe_path();
    let replaced = path.and_then(|path| replaced(&path, &exe, Effort::Quick));
    matches!(replaced, Ok(Some(_)))
}
