//! A look at everything that can be told of a process, for people: where it was read, and why the
//! rest of it cannot be told.

use std::time::Duration;

use super::facts::{self, AttestorSpecs};
use super::findings::Silence;
use super::unix::{Effort, replaced};
use super::{Ask, WorkloadAttestor};
use crate::peer::{Peer, PeerError, Wants};
use crate::proc::{Exe, path_text};
use crate::selector::{Selector, SelectorSet};

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
    /// Everything that can be told of a process, whatever entries ask for. To read its program may take
    /// as long as `patience`, where callers wait less.
    ///
    /// # Errors
    ///
    /// As [`WorkloadAttestor::attest`].
    pub async fn examine(
        &self,
        peer: &Peer,
        specs: &AttestorSpecs,
        patience: Duration,
    ) -> Result<Examined, PeerError> {
        let mut specs = specs.clone();
        specs.unix.timeout = specs.unix.timeout.max(patience);
        let (found, silent) = self.attest_for(peer, Ask::Everything, &specs).await?;
        let program = peer.verify(false)?.proc.exe_path().ok();
        let program = program.and_then(|path| path_text(&path).map(str::to_owned));
        peer.verify(false)?;
        let mut doubts = about_names(&found, peer.uid(), peer.gid());
        doubts.extend(about_facts(&found, &silent, &specs));
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
        ("ns:host", _) => "/proc/PID/ns/pid and user, /proc/PID/cgroup",
        ("container:id" | "systemd:id", _) => "/proc/PID/cgroup",
        ("systemd:fragment_path" | "systemd:invocation_id", _) => "systemd, on the system bus",
        (name, _) if name.starts_with("docker:") => "/proc/PID/cgroup, the engine of the container",
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

/// What there is to tell of a process beyond names: the name of its selectors, the fact that they are,
/// and what it hangs on.
const FACTS: [(&str, Wants, Wants); 8] = [
    ("unix:path", Wants::PATH, Wants::NONE),
    ("unix:sha256", Wants::SHA256, Wants::NONE),
    ("ns:host", Wants::HOST, Wants::NONE),
    ("container:id", Wants::CONTAINER, Wants::NONE),
    ("docker", Wants::ENGINE, Wants::CONTAINER),
    ("systemd:id", Wants::UNIT, Wants::NONE),
    ("systemd:fragment_path", Wants::MANAGER, Wants::UNIT),
    ("systemd:invocation_id", Wants::MANAGER, Wants::UNIT),
];

/// Why the rest is not known.
fn about_facts(found: &SelectorSet, silent: &[Silence], specs: &AttestorSpecs) -> Vec<Doubt> {
    let known = |fact| found.iter().any(|one| facts::wants(one).meets(fact));
    let named = |name: &str| {
        found
            .iter()
            .any(|one| one.name() == name || one.kind() == name)
    };
    let unknown = FACTS.iter().filter(|(name, ..)| !named(name));
    let doubts = unknown.map(|(name, fact, on)| {
        let fact = if on.is_empty() || known(*on) {
            *fact
        } else {
            *on
        };
        let reasons = silent.iter().filter(|silence| silence.fact.meets(fact));
        let reasons: Vec<_> = reasons.map(|silence| &*silence.why).collect();
        let reason = match specs.lack(fact) {
            Some((why, help)) => format!("{why}: {help}"),
            None => reasons.join("; "),
        };
        Doubt { name, reason }
    });
    doubts.collect()
}

/// Whether the program of a process was replaced since it started, as far as the kernel has that in
/// memory.
pub fn is_replaced(peer: &Peer) -> bool {
    let Ok(seen) = peer.verify(false) else {
        return false;
    };
    let Exe::File(exe) = seen.exe else {
        return false;
    };
    let path = seen.proc.exe_path();
    let replaced = path.and_then(|path| replaced(&path, &exe, Effort::Quick));
    matches!(replaced, Ok(Some(_)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{attestor, specs};
    use super::*;
    use crate::peer::tests::this_process;

    #[tokio::test]
    async fn people_wait_for_a_program_that_takes_longer_to_read_than_callers_wait() {
        let mut specs = specs(true);
        specs.unix.timeout = Duration::ZERO;
        let examine = async |patience| {
            let examined = attestor().examine(&this_process(), &specs, patience).await;
            let examined = examined.unwrap();
            let mut names = examined.found.iter().map(Selector::name);
            let hashed = names.any(|name| name == "unix:sha256");
            (hashed, examined.doubts)
        };
        let (hashed, doubts) = examine(Duration::ZERO).await;
        let why = doubts.iter().find(|doubt| doubt.name == "unix:sha256");
        assert!(
            !hashed && why.unwrap().reason.contains("in time"),
            "{why:?}"
        );
        assert!(examine(Duration::from_secs(30)).await.0);
    }
}
