//! A signal to the reader of a token file, after each write.
//!
//! Whoever can write the file with the process id could have anybody signalled. So a file of root or
//! of the agent's user is believed; one in a directory of somebody else names only processes that
//! are that user's.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use thiserror::Error;

use super::error::MirrorError;
use super::parameter::Parameter;
use super::user::Users;
use super::writer::place;
use crate::durable::{Dir, DirError};
use crate::proc::{ProcDir, ProcError};

/// Whom to tell of a write, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// The file that holds the process id.
    pub pid_file: PathBuf,
    /// The signal.
    pub signal: Signal,
}

/// Why nobody was told.
#[derive(Debug, Error)]
pub enum RenewError {
    /// The file with the process id cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: MirrorError,
    },
    /// It holds no process id.
    #[error("{} holds no process id", .0.display())]
    NoPid(PathBuf),
    /// The process is not there, or not any more.
    #[error("process {0} has ended")]
    Gone(i32),
    /// The process is somebody else's than the file.
    #[error("process {pid} is not that of uid {uid}, whose {} names it", path.display())]
    Foreign {
        /// The process.
        pid: i32,
        /// Whose directory the file is in.
        uid: u32,
        /// The file.
        path: PathBuf,
    },
    /// The kernel does not let us.
    #[error(
        "process {pid} cannot be signalled: {source}; for processes of others it takes CAP_KILL"
    )]
    Refused {
        /// The process.
        pid: i32,
        /// What it said.
        source: io::Error,
    },
}

impl Renewal {
    /// The same for one value of a path parameter, which may stand in the path of the pid file too.
    pub fn of(&self, parameter: Option<&Parameter>, value: &str) -> Self {
        let path = self.pid_file.to_str();
        let filled = parameter.zip(path);
        Self {
            pid_file: filled.map_or_else(
                || self.pid_file.clone(),
                |(parameter, path)| parameter.fill(path, value).into(),
            ),
            signal: self.signal,
        }
    }
}

impl Users {
    /// Signals the process that is named.
    ///
    /// # Errors
    ///
    /// Why it was not.
    pub fn renew(&self, renewal: &Renewal) -> Result<(), RenewError> {
        let path = &renewal.pid_file;
        let (pid, owner) = self.pid_in(path)?;
        let refused = |source: io::Error| RenewError::Refused { pid, source };
        let named = Pid::from_raw(pid).ok_or_else(|| RenewError::NoPid(path.clone()))?;
        // From here on it is this process, whatever becomes of its number.
        let pidfd = pidfd_open(named, PidfdFlags::empty()).map_err(|errno| match errno {
            rustix::io::Errno::SRCH => RenewError::Gone(pid),
            errno => refused(errno.into()),
        })?;
        if let Some(uid) = owner {
            let ids = ProcDir::open(pid).and_then(|proc| proc.ids());
            let (uids, _) = ids.map_err(|error| match error {
                ProcError::Gone => RenewError::Gone(pid),
                ProcError::Io(_, source) => refused(source),
            })?;
            if uids != [uid; 4] {
                let path = path.clone();
                return Err(RenewError::Foreign { pid, uid, path });
            }
        }
        if self.pid_in(path)?.0 != pid {
            return Err(RenewError::Gone(pid));
        }
        pidfd_send_signal(pidfd, renewal.signal).map_err(|errno| match errno {
            rustix::io::Errno::SRCH => RenewError::Gone(pid),
            errno => refused(errno.into()),
        })
    }

    /// The process id in a file, and the user whose directory it is in, where that is neither root
    /// nor ours.
    fn pid_in(&self, path: &Path) -> Result<(i32, Option<u32>), RenewError> {
        let problem = |source| RenewError::File {
            path: path.to_owned(),
            source,
        };
        let (bytes, owner) = self.bytes_of(path).map_err(problem)?;
        let text = String::from_utf8_lossy(&bytes);
        let pid = text.trim().parse().ok().filter(|pid| *pid > 0);
        let own = i32::try_from(std::process::id()).ok();
        pid.filter(|pid| Some(*pid) != own)
            .map(|pid| (pid, owner))
            .ok_or_else(|| RenewError::NoPid(path.to_owned()))
    }

    fn bytes_of(&self, path: &Path) -> Result<(Vec<u8>, Option<u32>), MirrorError> {
        let (directory, name) = place(path)?;
        let uid = match Dir::open(directory) {
            Ok(dir) => return Ok((dir.read_trusted(name)?, None)),
            Err(DirError::Owner { uid, .. }) => uid,
            Err(error) => return Err(error.into()),
        };
        let path: Arc<Path> = path.into();
        let bytes = self.work_as(uid, path.to_path_buf(), move |_| {
            let (directory, name) = place(&path)?;
            let dir = Dir::open_of(directory, uid)?;
            dir.read(name).map_err(MirrorError::Write)
        })?;
        Ok((bytes, Some(uid)))
    }
}
