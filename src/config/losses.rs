//! What a configuration asks for and this process may not do, told when it starts: who reads it need
//! not wait for the first failure, nor guess which option it comes from.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat, getegid, geteuid, getgroups};
use rustix::thread::CapabilitySet;

use super::Config;
use crate::attest::facts::wants_by_name;
use crate::attest::names::Names;
use crate::attest::sight::and_more;
use crate::mirror::{DirectoryOwner, TokenFileSpec};
use crate::peer::Wants;

/// What a process may do.
#[derive(Debug, Clone)]
pub struct Means {
    /// Its effective user.
    pub uid: u32,
    /// All its groups.
    pub groups: Vec<u32>,
    /// Its effective capabilities.
    pub capabilities: CapabilitySet,
}

impl Means {
    /// Those of the calling thread.
    pub fn own() -> Self {
        let mut groups: Vec<_> = getgroups().unwrap_or_default();
        groups.push(getegid());
        let sets = rustix::thread::capabilities(None);
        Self {
            uid: geteuid().as_raw(),
            groups: groups.into_iter().map(nix::unistd::Gid::as_raw).collect(),
            capabilities: sets.map_or(CapabilitySet::empty(), |sets| sets.effective),
        }
    }
}

/// Whose a token file is to be, which decides what writing it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// The agent's own.
    Own,
    /// Somebody else's, in a directory of root or of the agent.
    Given,
    /// That of a user in whose directory it lies, or may lie.
    Theirs,
}

impl Config {
    /// What is lost to a process with these means, a sentence for each option or feature. Programs and
    /// documents are not among them: `attest::sight` and the rotator try, and tell what they find.
    /// Looks at directories and sockets.
    pub fn losses(&self, names: &Names, means: &Means) -> Vec<String> {
        let whose = |file: &TokenFileSpec| whose(file, names, means);
        let paths = |which: &dyn Fn(&TokenFileSpec) -> bool| -> Vec<String> {
            let files = self.token_files.iter().filter(|file| which(file));
            files.map(|file| file.path.display().to_string()).collect()
        };
        let given = paths(&|file| whose(file) == Whose::Given);
        let theirs = paths(&|file| whose(file) == Whose::Theirs);
        let closed = paths(&|file| is_closed(file.path.parent()));
        let signalled = paths(&|file| file.renewal.is_some() && whose(file) != Whose::Own);
        let engines = &self.rules.attestors.engines;
        let engines = [&engines.docker, &engines.podman].into_iter().flatten();
        let engines = engines.filter(|engine| is_closed(Some(&engine.socket)));
        let engines = engines.map(|engine| engine.socket.display().to_string());

        let lacks = |wanted: CapabilitySet| wanted.difference(means.capabilities);
        let overriding = lacks(CapabilitySet::DAC_OVERRIDE);
        // Either lets it read what it likes; who sees no programs at all has been told so.
        let reading = lacks(CapabilitySet::DAC_READ_SEARCH);
        let reads = overriding.is_empty() || reading.is_empty();
        let sees = lacks(CapabilitySet::SYS_PTRACE).is_empty();
        let unread = if sees && !reads {
            self.of_programs()
        } else {
            Vec::new()
        };
        let table = [
            (
                lacks(CapabilitySet::CHOWN | CapabilitySet::FOWNER),
                "no token file is written whose owner or group is another than the agent's",
                given,
            ),
            (
                lacks(CapabilitySet::SETUID | CapabilitySet::SETGID),
                "no token file is written in a directory of another user",
                theirs,
            ),
            (
                overriding,
                "no token file is written in a directory that is closed to the agent's user",
                closed,
            ),
            (
                lacks(CapabilitySet::KILL),
                "renew_signal reaches no process of another user",
                signalled,
            ),
            (
                overriding,
                "there are no docker selectors, since the socket is closed to the agent's user",
                engines.collect(),
            ),
            (
                overriding | reading,
                "programs that are closed to the agent's user have no unix:sha256, and in closed directories no unix:path",
                unread,
            ),
        ];
        let told = table.into_iter().filter_map(|(lacking, lost, where_)| {
            let (first, further) = where_.split_first()?;
            let further = and_more(further.len());
            let lacking = written(lacking)?;
            Some(format!(
                "the agent lacks {lacking}: {lost}: {first}{further}"
            ))
        });
        told.collect()
    }

    /// The entries that ask for programs.
    fn of_programs(&self) -> Vec<String> {
        let asks = |name: &str| wants_by_name(name).meets(Wants::PROGRAM);
        let entries = self.entries.iter().filter(|entry| entry.asks().any(asks));
        entries.map(|entry| format!("entry {}", entry.id)).collect()
    }
}

fn whose(file: &TokenFileSpec, names: &Names, means: &Means) -> Whose {
    if let Some(parameter) = &file.parameter {
        match &parameter.owner {
            DirectoryOwner::Any => return Whose::Theirs,
            DirectoryOwner::Only(account) => match account.uid(names) {
                Ok(uid) if uid == means.uid => {}
                Ok(0) => return Whose::Given,
                _ => return Whose::Theirs,
            },
        }
    }
    let directory = file.path.parent().and_then(|path| fs::metadata(path).ok());
    let (uid, gid) = directory.map_or((means.uid, None), |is| (is.uid(), Some(is.gid())));
    if uid != means.uid && uid != 0 {
        return Whose::Theirs;
    }
    let owner = file
        .owner
        .as_ref()
        .map_or(Ok(uid), |owner| owner.uid(names));
    let group = match &file.group {
        Some(group) => group.gid(names).map(Some),
        None => Ok(gid),
    };
    let is_own = owner == Ok(means.uid)
        && group.is_ok_and(|group| group.is_none_or(|gid| means.groups.contains(&gid)));
    if is_own { Whose::Own } else { Whose::Given }
}

/// Whether root's permission bits keep this process from writing there.
fn is_closed(path: Option<&Path>) -> bool {
    let is_roots = |path: &&Path| fs::metadata(path).is_ok_and(|is| is.uid() == 0);
    path.filter(is_roots).is_some_and(|path| {
        let mode = AccessFlags::W_OK;
        faccessat(AT_FDCWD, path, mode, AtFlags::AT_EACCESS) == Err(nix::errno::Errno::EACCES)
    })
}

/// Their names, if there are any.
fn written(capabilities: CapabilitySet) -> Option<String> {
    let names: Vec<_> = capabilities
        .iter_names()
        .map(|(name, _)| format!("CAP_{name}"))
        .collect();
    (!names.is_empty()).then(|| names.join(" and "))
}
