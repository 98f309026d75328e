//! What the agent cannot see from where it stands: looked at once, when it starts, so that an entry
//! that can never match is a problem that is told and not a riddle.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use rustix::thread::CapabilitySet;

use super::facts::wants_by_name;
use crate::entry::{Entry, EntrySet};
use crate::peer::{Wants, knows_every_user, proc_is_ours};
use crate::sys;

/// What works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Whether `/proc` tells of the processes that the kernel names to us.
    proc: bool,
    /// Whether programs of other users can be seen.
    others: bool,
    /// Whether the kernel has `SO_PEERPIDFD` (Linux 6.5).
    peer_pidfd: bool,
    /// Whether the kernel has `PIDFD_GET_INFO` (Linux 6.13).
    pidfd_info: bool,
}

impl Sight {
    /// Tries what can be tried on ourselves.
    pub fn probe() -> Self {
        let pidfd = UnixStream::pair().map(|(ours, _theirs)| getsockopt(&ours, sockopt::PeerPidfd));
        let own = libc::pid_t::try_from(std::process::id()).unwrap_or(0);
        let info = sys::pidfd_open(own).and_then(|pidfd| sys::pidfd_info(pidfd.as_fd()));
        let unknown = |errno| matches!(errno, Some(libc::ENOTTY | libc::EINVAL));
        Self {
            proc: proc_is_ours(),
            others: sees_programs_of_others(),
            peer_pidfd: !matches!(pidfd, Ok(Err(Errno::ENOPROTOOPT))),
            pidfd_info: !info.is_err_and(|error| unknown(error.raw_os_error())),
        }
    }

    /// What the kernel offers for telling callers, and whether this one has it.
    pub fn kernel(self) -> [(&'static str, bool); 2] {
        [
            ("SO_PEERPIDFD", self.peer_pidfd),
            ("PIDFD_GET_INFO", self.pidfd_info),
        ]
    }

    /// Tells the log, once, what is wrong for these entries too.
    pub fn tell(self, entries: &EntrySet) {
        for problem in self.problems(entries) {
            tracing::warn!("{problem}");
        }
        if !self.peer_pidfd {
            tracing::warn!(
                "the kernel lacks SO_PEERPIDFD (Linux 6.5): processes are opened by number, \
                 and another one of the same user could be taken for the one that connected"
            );
        }
        if !self.pidfd_info {
            tracing::info!("the kernel lacks PIDFD_GET_INFO (Linux 6.13): status files are read");
        }
    }

    /// What is wrong for these entries.
    pub fn problems(self, entries: &EntrySet) -> Vec<String> {
        if !self.proc {
            let why = "/proc is that of another pid namespace, so no caller can be told: \
                       mount one for the agent";
            return vec![why.to_owned()];
        }
        if self.others {
            return Vec::new();
        }
        // Processes of our own user can be seen, unless they may do more than we: those of root.
        let user = nix::unistd::geteuid();
        let own = (!user.is_root()).then(|| format!("unix:uid:{user}"));
        let is_blind = |entry: &Entry| {
            let mut selectors = entry.selectors.iter();
            let mut asks = entry.asks();
            asks.any(|name| wants_by_name(name).meets(Wants::PROGRAM))
                && !selectors.any(|selector| Some(selector.as_str()) == own.as_deref())
        };
        let blind = entries.iter().filter(|(_, entry)| is_blind(entry));
        let mut blind: Vec<_> = blind.collect();
        blind.sort_unstable_by_key(|(place, _)| *place);
        let [(_, first), further @ ..] = blind.as_slice() else {
            return Vec::new();
        };
        let further = and_more(further.len());
        vec![format!(
            "the agent lacks CAP_SYS_PTRACE and sees no program of another user: entry {}{further} \
             with unix:path or unix:sha256 cannot match",
            first.id
        )]
    }
}

/// What follows the first of several in a sentence.
pub fn and_more(further: usize) -> String {
    match further {
        0 => String::new(),
        more => format!(" and {more} more"),
    }
}

/// In a user namespace of its own, the capability does not reach beyond it.
fn sees_programs_of_others() -> bool {
    let sets = rustix::thread::capabilities(None);
    let capable = sets.is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_PTRACE));
    capable && knows_every_user()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::entry;

    #[test]
    fn entries_about_programs_of_others_are_named_where_those_cannot_be_seen() {
        let own = format!("unix:uid:{}", nix::unistd::geteuid());
        let other = format!("unix:uid:{}", nix::unistd::geteuid().as_raw() + 1);
        let entries = [
            entry("own", "spiffe://td/a", &[&own, "ns:host"]),
            entry("other", "spiffe://td/a", &[&other, "unix:path:/x"]),
            entry("named", "spiffe://td/a", &["unix:user:x", "unix:path:/x"]),
            entry("plain", "spiffe://td/a", &[&other, "ns:host"]),
        ];
        let sight = Sight {
            proc: true,
            others: true,
            peer_pidfd: true,
            pidfd_info: true,
        };
        let all: EntrySet = entries.iter().cloned().collect();
        assert!(sight.problems(&all).is_empty());
        let blind = Sight {
            others: false,
            ..sight
        };
        let told = blind.problems(&all).concat();
        assert!(told.contains("CAP_SYS_PTRACE"), "{told}");
        assert!(told.contains("entry other and 1 more"), "{told}");
        let some: EntrySet = [entries[0].clone(), entries[3].clone()]
            .into_iter()
            .collect();
        assert!(blind.problems(&some).is_empty());
        let nothing = Sight {
            proc: false,
            ..sight
        };
        assert_eq!(nothing.problems(&all).len(), 1);
    }
}
