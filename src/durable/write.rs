//! How a file comes to its name: whole, with its owner and its mode, or not at all.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchown, linkat};

use super::identity::Known;
use super::{Attributes, Dir, FileId, Persistence};

impl Dir {
    /// Puts `bytes` under `name`, replacing what is there. The name never shows anything but the
    /// old file or the whole new one.
    ///
    /// # Errors
    ///
    /// What the kernel says; the name then shows the old file or the whole new one, and nothing else
    /// is left behind.
    pub fn replace(
        &self,
        name: &str,
        bytes: &[u8],
        attributes: Attributes,
        persistence: Persistence,
    ) -> io::Result<FileId> {
        self.replace_noted(name, bytes, attributes, persistence, |_| {})
    }

    /// As [`Dir::replace`]; `note` hears which file it will be before anybody can see it.
    ///
    /// # Errors
    ///
    /// As [`Dir::replace`].
    pub fn replace_noted(
        &self,
        name: &str,
        bytes: &[u8],
        attributes: Attributes,
        persistence: Persistence,
        note: impl FnOnce(FileId),
    ) -> io::Result<FileId> {
        let temporary = Temporary::new()?;
        let unnamed = openat(
            &self.fd,
            ".",
            OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        );
        let id = match unnamed {
            Ok(fd) => {
                let (file, id) = fill(fd, bytes, attributes, persistence)?;
                note(id);
                self.link(&file, temporary.as_str())?;
                id
            }
            // The file system cannot make files without a name (NFS, some overlays).
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL | Errno::ENOENT) => {
                let flags = OFlag::O_CREAT
                    | OFlag::O_EXCL
                    | OFlag::O_NOFOLLOW
                    | OFlag::O_WRONLY
                    | OFlag::O_CLOEXEC;
                let fd = openat(&self.fd, temporary.as_str(), flags, Mode::empty())?;
                let filled = fill(fd, bytes, attributes, persistence);
                let (_, id) = filled.inspect_err(|_| self.discard(temporary.as_str()))?;
                note(id);
                id
            }
            Err(errno) => return Err(errno.into()),
        };
        if let Err(errno) = renameat(&self.fd, temporary.as_str(), &self.fd, name) {
            self.discard(temporary.as_str());
            return Err(errno.into());
        }
        if persistence == Persistence::Synced {
            nix::unistd::fsync(&self.fd)?;
        }
        Ok(id)
    }

    /// Gives a file without a name one.
    fn link(&self, file: &File, name: &str) -> nix::Result<()> {
        match linkat(file, "", &self.fd, name, AtFlags::AT_EMPTY_PATH) {
            // Before Linux 6.10 this takes CAP_DAC_READ_SEARCH; the way through /proc takes nothing.
            Err(Errno::ENOENT) => {
                let way = format!("/proc/self/fd/{}", file.as_raw_fd());
                let follow = AtFlags::AT_SYMLINK_FOLLOW;
                linkat(AT_FDCWD, way.as_str(), &self.fd, name, follow)
            }
            linked => linked,
        }
    }
}

/// Owner first, then mode, then the bytes: at no moment can somebody read a part, or read what
/// was meant for another owner.
fn fill(
    fd: OwnedFd,
    bytes: &[u8],
    attributes: Attributes,
    persistence: Persistence,
) -> io::Result<(File, FileId)> {
    // Whose a new file is, the directory may have decided.
    let is = Known::of(&fd, "")?;
    let owner = attributes.owner.filter(|owner| *owner != is.uid);
    let group = attributes.group.filter(|group| *group != is.gid);
    if owner.is_some() || group.is_some() {
        fchown(&fd, owner.map(Uid::from_raw), group.map(Gid::from_raw))?;
    }
    fchmod(&fd, Mode::from_bits_truncate(attributes.mode))?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    if persistence == Persistence::Synced {
        file.sync_all()?;
    }
    Ok((file, is.id))
}

const TEMPORARY_START: &str = ".agent-";
const TEMPORARY_END: &str = ".tmp";

/// The temporary files that this process is writing.
static IN_USE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The name of a temporary file or directory while it is in use.
pub struct Temporary(String);

impl Temporary {
    /// A name that nobody can guess.
    ///
    /// # Errors
    ///
    /// There is no randomness.
    pub fn new() -> io::Result<Self> {
        let mut random = [0u8; 16];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("no randomness"))?;
        let digits = u128::from_ne_bytes(random);
        let name = format!("{TEMPORARY_START}{digits:032x}{TEMPORARY_END}");
        in_use().insert(name.clone());
        Ok(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        in_use().remove(&self.0);
    }
}

fn in_use() -> MutexGuard<'static, BTreeSet<String>> {
    IN_USE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a name has the form of those under which files are written before they are renamed.
pub fn is_temporary(name: &str) -> bool {
    name.strip_prefix(TEMPORARY_START)
        .and_then(|rest| rest.strip_suffix(TEMPORARY_END))
        .is_some_and(|digits| digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Whether it is such a name that nobody here is using: somebody has left it behind.
pub fn is_left_behind(name: &str) -> bool {
    is_temporary(name) && !in_use().contains(name)
}
