//! `/proc/PID` of a process, through one descriptor: whatever is read through it is of the
//! process that had the number when it was opened, or fails.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstatat};
use procfs::FromRead;
use procfs::process::{Stat, Status};
use thiserror::Error;

/// Why something of a process cannot be read.
#[derive(Debug, Error)]
pub enum ProcError {
    /// There is no such process, or not any more.
    #[error("the process has exited")]
    Gone,
    /// The kernel refused, or said what cannot be parsed.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] io::Error),
}

/// The file that a process runs, as far as it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exe {
    /// This file.
    File {
        /// Device and inode.
        id: (u64, u64),
        /// When its inode last changed, seconds and nanoseconds.
        ctime: (i64, i64),
    },
    /// We may not look: the agent lacks CAP_SYS_PTRACE, or the process hides.
    Unknown,
}

impl Exe {
    /// Whether both are the same file, or both unknown.
    pub fn is_same_program(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { id: a, .. }, Self::File { id: b, .. }) => a == b,
            (Self::Unknown, Self::Unknown) => true,
            _ => false,
        }
    }
}

/// An open `/proc/PID`.
#[derive(Debug)]
pub struct ProcDir(OwnedFd);

impl ProcDir {
    /// Opens the directory of the process that has this number now.
    ///
    /// # Errors
    ///
    /// [`ProcError::Gone`] where there is none.
    pub fn open(pid: libc::pid_t) -> Result<Self, ProcError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        openat(
            AT_FDCWD,
            format!("/proc/{pid}").as_str(),
            flags,
            Mode::empty(),
        )
        .map(Self)
        .map_err(|errno| gone_or("open /proc/PID", errno))
    }

    /// The file that it runs.
    ///
    /// # Errors
    ///
    /// [`ProcError::Gone`] for a process that has none any more.
    pub fn exe(&self) -> Result<Exe, ProcError> {
        match self.stat_exe() {
            Ok(stat) => Ok(Exe::File {
                id: (stat.st_dev, stat.st_ino),
                ctime: (stat.st_ctime, stat.st_ctime_nsec),
            }),
            Err(Errno::EACCES | Errno::EPERM) => Ok(Exe::Unknown),
            Err(errno) => Err(gone_or("stat /proc/PID/exe", errno)),
        }
    }

    /// All that the kernel tells about the file that it runs.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn stat_exe(&self) -> nix::Result<FileStat> {
        fstatat(&self.0, "exe", AtFlags::empty())
    }

    /// The path of that file as the process's own mount namespace has it: a claim, no fact.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn exe_path(&self) -> io::Result<PathBuf> {
        let path: OsString = readlinkat(&self.0, "exe")?;
        Ok(PathBuf::from(path))
    }

    /// The very file that it runs, for reading.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn open_exe(&self) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.0, "exe", flags, Mode::empty())?))
    }

    /// Device and inode of its user namespace.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn user_namespace(&self) -> io::Result<(u64, u64)> {
        let stat = fstatat(&self.0, "ns/user", AtFlags::empty())?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// Real, effective, saved and file system ids: of the user, then of the group.
    ///
    /// # Errors
    ///
    /// [`ProcError::Gone`] where the process is.
    pub fn ids(&self) -> Result<([u32; 4], [u32; 4]), ProcError> {
        let status: Status = self.parse("status")?;
        Ok((
            [status.ruid, status.euid, status.suid, status.fuid],
            [status.rgid, status.egid, status.sgid, status.fgid],
        ))
    }

    /// Whether another process traces it, and could thus act through it.
    ///
    /// # Errors
    ///
    /// [`ProcError::Gone`] where the process is.
    pub fn is_traced(&self) -> Result<bool, ProcError> {
        let status: Status = self.parse("status")?;
        Ok(status.tracerpid != 0)
    }

    /// When it started, in ticks since boot.
    ///
    /// # Errors
    ///
    /// [`ProcError::Gone`] where the process is.
    pub fn start_time(&self) -> Result<u64, ProcError> {
        let stat: Stat = self.parse("stat")?;
        Ok(stat.starttime)
    }

    fn parse<T: FromRead>(&self, name: &'static str) -> Result<T, ProcError> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let fd = openat(&self.0, name, flags, Mode::empty()).map_err(|e| gone_or(name, e))?;
        T::from_read(File::from(fd)).map_err(|error| ProcError::Io(name, io::Error::other(error)))
    }
}

fn gone_or(what: &'static str, errno: Errno) -> ProcError {
    match errno {
        Errno::ENOENT | Errno::ESRCH => ProcError::Gone,
        _ => ProcError::Io(what, errno.into()),
    }
}

/// The bytes of a path as text; `None` where they are no UTF-8.
pub fn path_text(path: &std::path::Path) -> Option<&str> {
    std::str::from_utf8(path.as_os_str().as_bytes()).ok()
}
