//! `/proc/PID` of a process, through one descriptor: whatever is read through it is of the
//! process that had the number when it was opened, or fails.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat};
use nix::sys::stat::Mode;
use procfs::FromRead;
use procfs::process::Status;
use thiserror::Error;

use crate::sys::{self, ExeStat};

/// The most that is read of a file, in bytes.
const MAX_READ: u64 = 1 << 20;

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
    /// This file, in this state.
    File(ExeStat),
    /// We may not look: the agent lacks CAP_SYS_PTRACE, or the process hides.
    Unknown,
}

impl Exe {
    /// Whether both are the same file, or both unknown.
    pub fn is_same_program(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(a), Self::File(b)) => a.id == b.id,
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
        match sys::stat_unasked(self.0.as_fd(), Some(c"exe")) {
            Ok(stat) => Ok(Exe::File(stat)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Exe::Unknown),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT | libc::ESRCH) => Err(ProcError::Gone),
                _ => Err(ProcError::Io("statx /proc/PID/exe", error)),
            },
        }
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

    /// Its user namespace, as the kernel names it (`user:[4026531837]`): two processes are in the same
    /// one if the names are the same.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn user_namespace(&self) -> io::Result<OsString> {
        self.namespace("ns/user")
    }

    fn namespace(&self, name: &str) -> io::Result<OsString> {
        Ok(readlinkat(&self.0, name)?)
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

    /// Its supplementary groups.
    ///
    /// # Errors
    ///
    /// [`ProcError::Gone`] where the process is.
    pub fn groups(&self) -> Result<Vec<u32>, ProcError> {
        let status: Status = self.parse("status")?;
        Ok(status.groups)
    }

    /// Whether it is in our pid and our user namespace. Told by what needs no privilege: a process
    /// of a pid namespace below ours has several numbers, and one of another user namespace another
    /// map of users; where we may look at the links of the namespaces, they decide.
    ///
    /// # Errors
    ///
    /// [`ProcError::Gone`] where the process is.
    pub fn shares_namespaces_with_us(&self) -> Result<bool, ProcError> {
        let own = libc::pid_t::try_from(std::process::id()).unwrap_or(0);
        let own = Self::open(own)?;
        for name in ["ns/user", "ns/pid"] {
            let (theirs, ours) = (self.namespace(name), own.namespace(name));
            if let (Ok(theirs), Ok(ours)) = (theirs, ours)
                && theirs != ours
            {
                return Ok(false);
            }
        }
        let status: Status = self.parse("status")?;
        let numbers = status.nspid.map_or(1, |numbers| numbers.len());
        let map = |proc: &Self| proc.read("uid_map");
        Ok(numbers == 1 && map(self)? == map(&own)?)
    }

    /// The cgroups that it is in, a line for each hierarchy.
    ///
    /// # Errors
    ///
    /// [`ProcError::Gone`] where the process is.
    pub fn cgroup(&self) -> Result<Vec<u8>, ProcError> {
        self.read("cgroup")
    }

    /// Whether another process traces it, and could thus act through it.
    ///
    /// # Errors
    ///
    /// [`ProcError::Gone`] where the process is.
    pub fn is_traced(&self) -> Result<bool, ProcError> {
        traced(&self.read("status")?)
    }

    /// When it started, in ticks since boot.
    ///
    /// # Errors
    ///
    /// [`ProcError::Gone`] where the process is.
    pub fn start_time(&self) -> Result<u64, ProcError> {
        start_time(&self.read("stat")?)
    }

    fn parse<T: FromRead>(&self, name: &'static str) -> Result<T, ProcError> {
        parsed(name, &self.read(name)?)
    }

    fn read(&self, name: &'static str) -> Result<Vec<u8>, ProcError> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let fd = openat(&self.0, name, flags, Mode::empty()).map_err(|e| gone_or(name, e))?;
        // These files have no size to go by, and are shorter than this as a rule.
        let mut bytes = Vec::with_capacity(4096);
        match File::from(fd).take(MAX_READ).read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(ProcError::Gone),
            Err(error) => Err(ProcError::Io(name, error)),
        }
    }
}

fn parsed<T: FromRead>(name: &'static str, bytes: &[u8]) -> Result<T, ProcError> {
    // The name of a process is whatever its owner likes, and cut off anywhere.
    let text = String::from_utf8_lossy(bytes);
    T::from_read(text.as_bytes()).map_err(|error| ProcError::Io(name, io::Error::other(error)))
}

/// Whether the text of a `status` file names a tracer.
fn traced(status: &[u8]) -> Result<bool, ProcError> {
    // One number of sixty: not worth the parser, since each new connection asks for it. The
    // kernel escapes line ends in names, so that no process can write such a line itself.
    let mut lines = status.split(|byte| *byte == b'\n');
    let tracer = lines.find_map(|line| line.strip_prefix(b"TracerPid:\t"));
    tracer.map(|pid| pid != b"0").ok_or_else(|| {
        let missing = io::Error::new(io::ErrorKind::InvalidData, "there is no TracerPid");
        ProcError::Io("status", missing)
    })
}

/// The start time in the text of a `stat` file, behind the name, which may hold anything.
fn start_time(stat: &[u8]) -> Result<u64, ProcError> {
    let fields = stat.rsplit(|byte| *byte == b')').next().unwrap_or_default();
    // The third field of the file follows the name; the start time is the twenty-second.
    let mut fields = fields.trim_ascii().split(|byte| *byte == b' ').skip(19);
    let text = fields
        .next()
        .and_then(|text| std::str::from_utf8(text).ok());
    text.and_then(|text| text.parse().ok()).ok_or_else(|| {
        let missing = io::Error::new(io::ErrorKind::InvalidData, "there is no start time");
        ProcError::Io("stat", missing)
    })
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

#[cfg(any(test, fuzzing))]
pub mod fuzz {
    use super::*;

    /// No text makes the parsers panic, and a name that looks like the end of a `stat` line moves
    /// no field.
    pub fn process(bytes: &[u8]) {
        let _ = traced(bytes);
        let _ = parsed::<Status>("status", bytes);
        let _ = start_time(bytes);
        let name = bytes.get(..15).unwrap_or(bytes);
        let text = [b"7 (".as_slice(), name, b") S 1 7 7 0 -1 4194560 90 0 0 0 0 0 0 0 20 0 1 0 4711 1 1 1 1 1 1 1 1 0 0 0 0 0 0 0 17 0 0 0 0 0 0 1 1 1 1 1 1 1 0\n"];
        assert_eq!(start_time(&text.concat()).ok(), Some(4711));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn no_name_of_a_process_moves_a_field(
            name in "[() SRZ0-9\\n\u{e9}]{0,20}",
            noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64),
        ) {
            fuzz::process(name.as_bytes());
            fuzz::process(&noise);
        }
    }

    #[test]
    fn a_process_name_cut_inside_a_character_hides_nothing() {
        let directory = tempfile::tempdir().unwrap();
        // The kernel keeps 15 bytes of it: the last one is half a character.
        let program = directory.path().join("aaaaaaaaaaaaaa\u{e9}");
        std::fs::copy("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(&program)
            .arg("30")
            .spawn()
            .unwrap();
        let proc = ProcDir::open(child.id().cast_signed()).unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        let ids = proc.ids();
        let traced = proc.is_traced();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(ids.unwrap().0, [uid; 4]);
        assert!(!traced.unwrap());
        assert!(matches!(proc.ids(), Err(ProcError::Gone)));
    }
}
