//! A process that has not connected.

use std::os::fd::AsFd;

use super::{Namespaces, Peer, PeerError, poll_for_end};
use crate::proc::{ProcDir, ProcError};
use crate::sys;

impl Peer {
    /// A process by its number, as it would be if it had connected just now: to tell what it would get.
    ///
    /// # Errors
    ///
    /// Why it would get nothing.
    pub fn of_process(pid: libc::pid_t, namespaces: Namespaces) -> Result<Self, PeerError> {
        let proc = ProcDir::open(pid)?;
        let pidfd = sys::pidfd_open(pid).map_err(|error| match error.raw_os_error() {
            Some(libc::ESRCH) => PeerError::Gone,
            Some(libc::EINVAL | libc::ENOENT) => PeerError::Thread,
            _ => PeerError::Io("pidfd_open", error),
        })?;
        let ([_, uid, ..], [_, gid, ..]) = proc.ids()?;
        if namespaces.overflow_uid == Some(uid) || namespaces.overflow_gid == Some(gid) {
            return Err(PeerError::Unmapped);
        }
        let mut groups = proc.groups()?;
        groups.retain(|group| namespaces.overflow_gid != Some(*group));
        let alive = || poll_for_end(pidfd.as_fd()).is_ok();
        if matches!(proc.exe(), Err(ProcError::Gone)) && alive() {
            return Err(PeerError::NoProgram);
        }
        Self::held(pid, uid, gid, groups, pidfd)
    }
}
