//! What the kernel offers and no safe crate does. The only module that may be unsafe.

use std::ffi::CStr;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `struct pidfd_info` as of Linux 6.13 (`PIDFD_INFO_SIZE_VER0`, 64 bytes).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct RawPidfdInfo {
    mask: u64,
    cgroupid: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ruid: u32,
    rgid: u32,
    euid: u32,
    egid: u32,
    suid: u32,
    sgid: u32,
    fsuid: u32,
    fsgid: u32,
    exit_code: i32,
}

const INFO_PID: u64 = 1;
const INFO_CREDS: u64 = 1 << 1;

nix::ioctl_readwrite! {
    /// `PIDFD_GET_INFO`.
    pidfd_get_info, 0xFF, 11, RawPidfdInfo
}

/// Who the process behind a pidfd is at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PidfdInfo {
    /// Its process id in our pid namespace.
    pub tgid: u32,
    /// Real, effective, saved and file system user ids.
    pub uids: [u32; 4],
    /// Real, effective, saved and file system group ids.
    pub gids: [u32; 4],
}

/// Asks the kernel who the process behind `pidfd` is (Linux 6.13).
///
/// # Errors
///
/// `ENOTTY` or `EINVAL` where the kernel does not know the question, `EREMOTE` where the process
/// is in a pid namespace that we cannot see, `ESRCH` where it is gone.
pub fn pidfd_info(pidfd: BorrowedFd<'_>) -> io::Result<PidfdInfo> {
    let mut raw = RawPidfdInfo {
        mask: INFO_PID | INFO_CREDS,
        ..RawPidfdInfo::default()
    };
    // SAFETY: the descriptor is open for the length of the borrow, and `raw` is a live, exclusive
    // `pidfd_info` of the very size that the request number carries, which bounds what the kernel
    // writes.
    unsafe { pidfd_get_info(pidfd.as_raw_fd(), &raw mut raw) }?;
    if raw.mask & (INFO_PID | INFO_CREDS) != INFO_PID | INFO_CREDS {
        // A process that was waited for has neither id nor credentials left.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(PidfdInfo {
        tgid: raw.tgid,
        uids: [raw.ruid, raw.euid, raw.suid, raw.fsuid],
        gids: [raw.rgid, raw.egid, raw.sgid, raw.fsgid],
    })
}

/// The supplementary groups that the peer of a Unix socket had when it connected.
///
/// # Errors
///
/// Those of `getsockopt(SO_PEERGROUPS)`.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    // Groups are few as a rule; the kernel tells the size where they are not (at most 65,536).
    let mut groups = vec![0u32; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(mem::size_of_val(groups.as_slice()))
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        // SAFETY: the descriptor is open for the length of the borrow; the buffer is live,
        // exclusive and `bytes` long, and the kernel writes no more than that.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / mem::size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// Lets nobody send descriptors to a Unix socket (`SO_PASSRIGHTS`); no effect before Linux 6.16.
///
/// # Errors
///
/// Those of `setsockopt`, but for `ENOPROTOOPT`.
pub fn refuse_descriptors(socket: BorrowedFd<'_>) -> io::Result<()> {
    const SO_PASSRIGHTS: libc::c_int = 83;
    static OFF: libc::c_int = 0;
    let (fd, off) = (socket.as_raw_fd(), &raw const OFF);
    // SAFETY: the descriptor is open for the length of the borrow, and the kernel reads one `int`.
    let result = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, SO_PASSRIGHTS, off.cast(), 4) };
    if result == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        error => Err(error),
    }
}

/// Gives free memory back to the system.
pub fn trim_memory() {
    // SAFETY: the call takes an integer and may be made at any time.
    unsafe { libc::malloc_trim(0) };
}

/// A descriptor for the process with this id, for kernels without `SO_PEERPIDFD` (Linux 5.3).
///
/// # Errors
///
/// Those of `pidfd_open`: `ESRCH` where there is no such process.
pub fn pidfd_open(pid: libc::pid_t) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What identifies the file that an open `/proc/PID` says the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExeStat {
    /// Device and inode.
    pub id: (u64, u64),
    /// Last change of the inode, seconds and nanoseconds.
    pub ctime: (i64, u32),
    /// Names that it has.
    pub links: u32,
}

/// Looks at what an open descriptor stands for, or at `name` in it, without asking the server of a
/// network or FUSE file system: its owner chose it, and it may never answer.
///
/// # Errors
///
/// Those of `statx`.
pub fn stat_unasked(fd: BorrowedFd<'_>, name: Option<&CStr>) -> io::Result<ExeStat> {
    let mut stat = mem::MaybeUninit::<libc::statx>::zeroed();
    let wanted = libc::STATX_INO | libc::STATX_CTIME | libc::STATX_NLINK;
    // SAFETY: the descriptor is open for the length of the borrow, the path ends with its NUL, and
    // the kernel writes one `statx` into the live, exclusive buffer.
    let result = unsafe {
        libc::statx(
            fd.as_raw_fd(),
            name.unwrap_or_default().as_ptr(),
            libc::AT_STATX_DONT_SYNC | name.map_or(libc::AT_EMPTY_PATH, |_| 0),
            wanted,
            stat.as_mut_ptr(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every field is an integer, for which the zeroes it was made of are valid too.
    let stat = unsafe { stat.assume_init() };
    Ok(ExeStat {
        id: (
            libc::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            stat.stx_ino,
        ),
        ctime: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        links: stat.stx_nlink,
    })
}

#[cfg(test)]
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_live_process_has_ids_and_a_reaped_one_is_gone() {
        let mut child = std::process::Command::new("sleep")
            .arg("30")
            .spawn()
            .unwrap();
        let pidfd = pidfd_open(child.id().cast_signed()).unwrap();
        let info = match pidfd_info(pidfd.as_fd()) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL)) => {
                eprintln!("SKIP: the kernel has no PIDFD_GET_INFO (Linux 6.13)");
                child.kill().unwrap();
                child.wait().unwrap();
                return;
            }
            other => other.unwrap(),
        };
        assert_eq!(info.tgid, child.id());
        assert_eq!(info.uids, [nix::unistd::geteuid().as_raw(); 4]);
        assert_eq!(info.gids, [nix::unistd::getegid().as_raw(); 4]);
        child.kill().unwrap();
        child.wait().unwrap();
        let error = pidfd_info(pidfd.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn the_groups_of_a_peer_are_those_of_this_process() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut found = peer_groups(ours.as_fd()).unwrap();
        let mut own: Vec<u32> = nix::unistd::getgroups()
            .unwrap()
            .into_iter()
            .map(nix::unistd::Gid::as_raw)
            .collect();
        found.sort_unstable();
        own.sort_unstable();
        assert_eq!(found, own);
    }
}
