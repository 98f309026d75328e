//! Who made a connection, by the word of the kernel.
//!
//! Everything is taken when the connection is accepted, before a byte of it is read, and held
//! by descriptors, never by a number that another process could come to bear.

mod by_number;
mod namespaces;
mod wants;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};
use thiserror::Error;

pub use self::namespaces::{Namespaces, knows_every_user, proc_is_ours};
pub use self::wants::Wants;
use crate::proc::{Exe, ProcDir, ProcError};
use crate::selector::Selector;
use crate::sys;

/// Why a process cannot be told, or is not the one that made the connection any more. The
/// connection gets no identity.
#[derive(Debug, Error)]
pub enum PeerError {
    /// The kernel cannot name it: it is in a pid namespace that we do not see.
    #[error("it is in another pid namespace: start it in the agent's, or below")]
    Foreign,
    /// `/proc` tells of other processes under the numbers that the kernel gives us.
    #[error("/proc is that of another pid namespace than the agent's: mount one for the agent")]
    Blind,
    /// Our user namespace has no number for its user, so that all such users look alike.
    #[error("its user or group does not exist in the agent's user namespace")]
    Unmapped,
    /// It has exited.
    #[error("the process has exited")]
    Gone,
    /// It is there, but another user by now, or half another.
    #[error("its user or group ids are no longer those it connected with")]
    ChangedIds,
    /// It runs another program than when it connected.
    #[error("it no longer runs the program it connected with")]
    ChangedProgram,
    /// It runs no file that anything could be told by.
    #[error("it runs no program: it is a thread of the kernel, or its main thread has ended")]
    NoProgram,
    /// Its number is that of a thread.
    #[error("the number is that of a thread: give the process it belongs to")]
    Thread,
    /// It is in another cgroup than a moment ago.
    #[error("it was moved to another cgroup meanwhile")]
    Moved,
    /// Something of the above was found before on this connection.
    #[error("the connection was refused before")]
    Refused,
    /// The kernel has no `SO_PEERPIDFD` and the configuration wants it.
    #[error("the kernel lacks SO_PEERPIDFD (Linux 6.5) and require_peerpidfd is set")]
    NoPeerPidfd,
    /// Something else did not work.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] io::Error),
}

impl From<ProcError> for PeerError {
    fn from(error: ProcError) -> Self {
        match error {
            ProcError::Gone => Self::Gone,
            ProcError::Io(what, source) => Self::Io(what, source),
        }
    }
}

/// The process that made a connection.
#[derive(Debug)]
pub struct Peer {
    pid: libc::pid_t,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    pidfd: Arc<OwnedFd>,
    /// Opened while the process was held, so that it is that of no other one for as long as it is open.
    proc: Arc<ProcDir>,
    known: Mutex<Known>,
    refused: AtomicBool,
}

/// The program that it runs and the cgroup it is in, and what was found out at some cost while both
/// were so.
#[derive(Debug, Clone)]
struct Known {
    exe: Exe,
    /// As `/proc/PID/cgroup` had it when somebody last wanted to know.
    cgroup: Option<Arc<[u8]>>,
    kept: (Wants, Vec<Selector>),
}

impl Known {
    fn of(exe: Exe) -> Self {
        Self {
            exe,
            cgroup: None,
            kept: Default::default(),
        }
    }
}

/// A process as it was at one moment.
#[derive(Debug)]
pub struct Seen {
    /// Its directory under `/proc`.
    pub proc: Arc<ProcDir>,
    /// The program that it ran.
    pub exe: Exe,
    /// The text of its `cgroup`, where that was wanted.
    pub cgroup: Option<Arc<[u8]>>,
}

impl Peer {
    /// Asks the kernel who made the connection.
    ///
    /// # Errors
    ///
    /// The connection is then closed unread.
    pub fn of(socket: BorrowedFd<'_>, namespaces: Namespaces) -> Result<Self, PeerError> {
        let io = |what| move |errno: Errno| PeerError::Io(what, errno.into());
        let credentials =
            getsockopt(&socket, sockopt::PeerCredentials).map_err(io("SO_PEERCRED"))?;
        let (pid, uid) = (credentials.pid(), credentials.uid());
        if pid <= 0 {
            return Err(PeerError::Foreign);
        }
        if !namespaces.proc_is_ours {
            return Err(PeerError::Blind);
        }
        let gid = credentials.gid();
        if namespaces.overflow_uid == Some(uid) || namespaces.overflow_gid == Some(gid) {
            return Err(PeerError::Unmapped);
        }
        let pidfd = match getsockopt(&socket, sockopt::PeerPidfd) {
            Ok(pidfd) => pidfd,
            // Only this answer means that the kernel does not know the option.
            Err(Errno::ENOPROTOOPT) if namespaces.require_peerpidfd => {
                return Err(PeerError::NoPeerPidfd);
            }
            Err(Errno::ENOPROTOOPT) => pidfd_by_number(pid, uid)?,
            Err(Errno::EINVAL | Errno::ESRCH) => return Err(PeerError::Gone),
            Err(errno) => return Err(PeerError::Io("SO_PEERPIDFD", errno.into())),
        };
        let mut groups =
            sys::peer_groups(socket).map_err(|error| PeerError::Io("SO_PEERGROUPS", error))?;
        groups.retain(|group| namespaces.overflow_gid != Some(*group));
        Self::held(pid, uid, gid, groups, pidfd)
    }

    /// A process that is held by a descriptor, with the program that it runs now.
    fn held(
        pid: libc::pid_t,
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
        pidfd: OwnedFd,
    ) -> Result<Self, PeerError> {
        let proc = ProcDir::open(pid)?;
        let exe = proc.exe()?;
        // Alive at the end, so what was opened by number is this process's and no other's.
        poll_for_end(pidfd.as_fd())?;
        Ok(Self {
            pid,
            uid,
            gid,
            groups,
            pidfd: Arc::new(pidfd),
            proc: Arc::new(proc),
            known: Mutex::new(Known::of(exe)),
            refused: AtomicBool::new(false),
        })
    }

    /// The user that made a connection, by the word of the kernel; nothing else is looked at.
    ///
    /// # Errors
    ///
    /// That of `getsockopt`.
    pub fn uid_of(socket: BorrowedFd<'_>) -> Result<u32, PeerError> {
        getsockopt(&socket, sockopt::PeerCredentials)
            .map(|credentials| credentials.uid())
            .map_err(|errno| PeerError::Io("SO_PEERCRED", errno.into()))
    }

    /// The descriptor that stands for the process: readable when it has ended.
    pub fn pidfd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.pidfd)
    }

    /// The user it connected as.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The group it connected as.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// The supplementary groups it connected with.
    pub fn groups(&self) -> &[u32] {
        &self.groups
    }

    /// Its process id, for logs: everything else goes by descriptor.
    pub fn pid(&self) -> libc::pid_t {
        self.pid
    }

    /// Makes sure that the process is still there, still whom it was, and still runs the program
    /// it connected with; hands out what was seen of it on the way, its cgroup where that is wanted.
    ///
    /// # Errors
    ///
    /// The process must get nothing, and its connection is not to be used again.
    pub fn verify(&self, with_cgroup: bool) -> Result<Seen, PeerError> {
        self.verify_ids()?;
        let exe = self.verify_program()?;
        let cgroup = with_cgroup.then(|| self.proc.cgroup()).transpose()?;
        self.verify_ids()?;
        self.still_lives()?;
        let cgroup = cgroup.map(|cgroup| self.note_cgroup(cgroup));
        Ok(Seen {
            proc: Arc::clone(&self.proc),
            exe,
            cgroup,
        })
    }

    /// The last look before an answer goes out: as [`Peer::verify`].
    ///
    /// # Errors
    ///
    /// As [`Peer::verify`].
    pub fn verify_again(&self, seen: &Seen) -> Result<(), PeerError> {
        self.verify_program()?;
        if let Some(cgroup) = &seen.cgroup
            && self.proc.cgroup()? != **cgroup
        {
            return Err(PeerError::Moved);
        }
        self.verify_ids()?;
        self.still_lives()
    }

    fn verify_ids(&self) -> Result<(), PeerError> {
        let ids = match sys::pidfd_info(self.pidfd.as_fd()) {
            Ok(info) if u32::try_from(self.pid) == Ok(info.tgid) => (info.uids, info.gids),
            Ok(_) => return Err(PeerError::Gone),
            Err(error) => match error.raw_os_error() {
                // Before Linux 6.13 the question is unknown; the status file answers it.
                Some(libc::ENOTTY | libc::EINVAL) => {
                    let ids = self.proc.ids()?;
                    self.still_lives()?;
                    ids
                }
                Some(libc::EREMOTE) => return Err(PeerError::Foreign),
                Some(libc::ESRCH) => return Err(PeerError::Gone),
                _ => return Err(PeerError::Io("PIDFD_GET_INFO", error)),
            },
        };
        if ids == ([self.uid; 4], [self.gid; 4]) {
            Ok(())
        } else {
            Err(PeerError::ChangedIds)
        }
    }

    /// Another file is another program. A change of its ctime alone (a link was made, a package
    /// replaced it) is none, but what was found out about the file is then void.
    fn verify_program(&self) -> Result<Exe, PeerError> {
        let exe = self.proc.exe()?;
        let mut known = self.known();
        if !known.exe.is_same_program(&exe) {
            return Err(PeerError::ChangedProgram);
        }
        if known.exe != exe {
            *known = Known::of(exe);
        }
        Ok(exe)
    }

    /// Whether nothing has been heard of its end. A pidfd can be had even of a process that is
    /// long gone, so this is asked again after each step.
    fn still_lives(&self) -> Result<(), PeerError> {
        poll_for_end(self.pidfd.as_fd())
    }

    /// Remembers its cgroup. What was found out while it was in another one is void.
    fn note_cgroup(&self, cgroup: Vec<u8>) -> Arc<[u8]> {
        let mut known = self.known();
        match &known.cgroup {
            Some(same) if **same == *cgroup => Arc::clone(same),
            _ => {
                let cgroup: Arc<[u8]> = cgroup.into();
                let exe = known.exe;
                *known = Known::of(exe);
                known.cgroup = Some(Arc::clone(&cgroup));
                cgroup
            }
        }
    }

    /// What was looked for already, and what was found. Facts that depend on the cgroup hold only if
    /// it was just verified too.
    pub fn kept(&self) -> (Wants, Vec<Selector>) {
        self.known().kept.clone()
    }

    /// Keeps what was found of what was `seen` for as long as that stays as it is; `settled` need not
    /// be looked for again.
    pub fn keep(&self, seen: &Seen, settled: Wants, selectors: &[Selector]) {
        let mut known = self.known();
        if known.exe == seen.exe && (seen.cgroup.is_none() || known.cgroup == seen.cgroup) {
            let (had, kept) = &mut known.kept;
            *had = had.or(settled);
            let new = selectors.iter().filter(|found| !kept.contains(found));
            let new: Vec<_> = new.cloned().collect();
            kept.extend(new);
        }
    }

    /// Lets nothing more be read from the connection.
    pub fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Whether [`Peer::refuse`] was called.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        // Whoever panicked here left a whole value behind: it is replaced in one piece.
        self.known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// An error where a process has ended, or that cannot be told.
fn poll_for_end(pidfd: BorrowedFd<'_>) -> Result<(), PeerError> {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::ZERO) {
        Ok(0) => Ok(()),
        Ok(_) => Err(PeerError::Gone),
        Err(errno) => Err(PeerError::Io("poll", errno.into())),
    }
}

/// For kernels before 6.5: a pidfd by number. The number may have been given to another process
/// since it connected; only that the user is the same protects then, so the user and the start
/// time are looked at on both sides of the opening.
fn pidfd_by_number(pid: libc::pid_t, uid: u32) -> Result<OwnedFd, PeerError> {
    let look = || -> Result<u64, PeerError> {
        let proc = ProcDir::open(pid)?;
        if proc.ids()?.0 != [uid; 4] {
            return Err(PeerError::ChangedIds);
        }
        Ok(proc.start_time()?)
    };
    let before = look()?;
    let pidfd = sys::pidfd_open(pid).map_err(|error| match error.raw_os_error() {
        Some(libc::ESRCH) => PeerError::Gone,
        _ => PeerError::Io("pidfd_open", error),
    })?;
    if look()? == before {
        Ok(pidfd)
    } else {
        Err(PeerError::Gone)
    }
}

#[cfg(test)]
pub mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    /// This process, as it looks to itself over a socket.
    pub fn this_process() -> Peer {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        Peer::of(ours.as_fd(), Namespaces::of_self(false)).unwrap()
    }

    #[test]
    fn a_process_that_stays_as_it_is_is_verified_again_and_again() {
        let peer = this_process();
        assert_eq!(peer.uid(), nix::unistd::geteuid().as_raw());
        for _ in 0..3 {
            let seen = peer.verify(true).unwrap();
            peer.verify_again(&seen).unwrap();
        }
    }

    /// With `SVID_AGENT_LONG` alone: it measures. Floor and check take turns on the same core.
    #[test]
    #[expect(clippy::print_stdout, reason = "a figure is told")]
    fn a_lean_check_costs_no_more_than_sixty_questions_who_is_calling() {
        use std::time::Instant;

        if std::env::var_os("SVID_AGENT_LONG").is_none() {
            return;
        }
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::of(ours.as_fd(), Namespaces::of_self(false)).unwrap();
        let each = |work: &dyn Fn()| {
            let start = Instant::now();
            (0..2_000).for_each(|_| work());
            start.elapsed().as_secs_f64() * 1e6 / 2_000.0
        };
        let (mut asked, mut checked) = (Vec::new(), Vec::new());
        for _ in 0..21 {
            asked.push(each(&|| {
                Peer::uid_of(ours.as_fd()).unwrap();
            }));
            checked.push(each(&|| {
                peer.verify(true).unwrap();
            }));
        }
        let median = |mut all: Vec<f64>| {
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let (asked, checked) = (median(asked), median(checked));
        let ratio = checked / asked;
        println!(
            "SO_PEERCRED {asked:.2} us, lean check with cgroup {checked:.2} us: {ratio:.1} times"
        );
        assert!(ratio <= 60.0, "{ratio}");
    }

    #[test]
    fn what_is_kept_belongs_to_the_program_and_the_cgroup_it_was_found_of() {
        let peer = this_process();
        let selectors: Vec<Selector> = vec!["unix:path:/x".parse().unwrap()];
        let mut seen = peer.verify(false).unwrap();
        seen.exe = Exe::Unknown;
        peer.keep(&seen, Wants::PATH, &selectors);
        assert_eq!(peer.kept(), (Wants::NONE, Vec::new()));
        let seen = peer.verify(true).unwrap();
        for _ in 0..2 {
            peer.keep(&seen, Wants::PATH, &selectors);
        }
        assert_eq!(peer.kept(), (Wants::PATH, selectors.clone()));
        peer.note_cgroup(b"0::/elsewhere\n".to_vec());
        assert_eq!(peer.kept(), (Wants::NONE, Vec::new()));
        peer.keep(&seen, Wants::PATH, &selectors);
        assert_eq!(peer.kept(), (Wants::NONE, Vec::new()));
        let moved = Seen {
            cgroup: Some(b"0::/elsewhere\n".as_slice().into()),
            ..seen
        };
        assert!(matches!(peer.verify_again(&moved), Err(PeerError::Moved)));
    }

    #[test]
    fn the_way_of_older_kernels_finds_the_same_process() {
        let own = nix::unistd::getpid().as_raw();
        let uid = nix::unistd::geteuid().as_raw();
        let pidfd = pidfd_by_number(own, uid).unwrap();
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::ZERO), Ok(0));
        assert!(matches!(
            pidfd_by_number(own, uid + 1),
            Err(PeerError::ChangedIds)
        ));
    }
}
