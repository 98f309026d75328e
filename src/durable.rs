//! The only writer of files, and the only reader of files that must not be trusted blindly.
//!
//! A directory is opened once, component by component, without following links, and held by its
//! descriptor. A file in it is written without a name, given its owner and mode, made durable
//! where asked, and renamed over the old one: whoever opens the name sees the old bytes or the
//! new ones, never a part, and never a file with the wrong owner or mode.

mod walk;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, geteuid, linkat, unlinkat};

pub use self::walk::DirError;

/// The largest file that is read, in bytes; every file of the agent is far smaller.
const MAX_READ: u64 = 8 << 20;

/// Owner and permission bits of a file that is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, 0 to 0777.
    pub mode: u32,
    /// The owner; `None` leaves it to the kernel: the agent's user.
    pub owner: Option<u32>,
    /// The group; `None` leaves it to the kernel.
    pub group: Option<u32>,
}

impl Attributes {
    /// The agent's own file with this mode.
    pub const fn own(mode: u32) -> Self {
        Self {
            mode,
            owner: None,
            group: None,
        }
    }
}

/// Which file it is: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId(u64, u64);

impl FileId {
    fn of(stat: &FileStat) -> Self {
        Self(stat.st_dev, stat.st_ino)
    }
}

/// What must survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    /// The file and its name are on the disk when the write returns.
    Synced,
    /// Nothing is waited for: what is lost is made again at the next start.
    Volatile,
}

/// A directory held by its descriptor.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens or makes the directory `name` in this one.
    ///
    /// # Errors
    ///
    /// As [`Dir::create`].
    pub fn create_below(&self, name: &str, mode: u32) -> Result<Self, DirError> {
        Self::create(&self.path.join(name), mode)
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its permission bits.
    ///
    /// # Errors
    ///
    /// Those of `fstat`.
    pub fn mode(&self) -> io::Result<u32> {
        Ok(fstat(&self.fd)?.st_mode & 0o7777)
    }

    /// The numbers of its owner and its group.
    ///
    /// # Errors
    ///
    /// Those of `fstat`.
    pub fn owner(&self) -> io::Result<(u32, u32)> {
        let stat = fstat(&self.fd)?;
        Ok((stat.st_uid, stat.st_gid))
    }

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
        let temporary = temporary_name()?;
        let unnamed = openat(
            &self.fd,
            ".",
            OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        );
        let id = match unnamed {
            Ok(fd) => {
                let id = fill(&fd, bytes, attributes, persistence)?;
                let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
                let follow = AtFlags::AT_SYMLINK_FOLLOW;
                linkat(
                    AT_FDCWD,
                    link.as_str(),
                    &self.fd,
                    temporary.as_str(),
                    follow,
                )?;
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
                fill(&fd, bytes, attributes, persistence)
                    .inspect_err(|_| self.discard(&temporary))?
            }
            Err(errno) => return Err(errno.into()),
        };
        if let Err(errno) = renameat(&self.fd, temporary.as_str(), &self.fd, name) {
            self.discard(&temporary);
            return Err(errno.into());
        }
        if persistence == Persistence::Synced {
            nix::unistd::fsync(&self.fd)?;
        }
        Ok(id)
    }

    /// Removes `name` if it is still the file that was written as `id`; tells whether it was.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn remove_own(&self, name: &str, id: FileId) -> io::Result<bool> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if FileId::of(&stat) == id => {
                unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir)?;
                Ok(true)
            }
            Ok(_) | Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Puts `bytes` under `name` unless the file there already has them and these attributes; tells
    /// whether it wrote.
    ///
    /// # Errors
    ///
    /// As [`Dir::replace`].
    pub fn replace_if_changed(
        &self,
        name: &str,
        bytes: &[u8],
        attributes: Attributes,
        persistence: Persistence,
    ) -> io::Result<bool> {
        let fits = |stat: FileStat| {
            stat.st_mode & 0o7777 == attributes.mode
                && attributes.owner.is_none_or(|owner| owner == stat.st_uid)
                && attributes.group.is_none_or(|group| group == stat.st_gid)
        };
        let as_it_should = self.open_regular(name).is_ok_and(|(_, stat)| fits(stat));
        if as_it_should && self.read(name).is_ok_and(|old| old == bytes) {
            return Ok(false);
        }
        self.replace(name, bytes, attributes, persistence)?;
        Ok(true)
    }

    /// The bytes of the regular file `name`; links are not followed and nothing is waited for.
    ///
    /// # Errors
    ///
    /// What the kernel says; `InvalidInput` for anything but a regular file of sensible size.
    pub fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let (file, stat) = self.open_regular(name)?;
        let length = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if length > MAX_READ {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is far too large",
            ));
        }
        let mut bytes = Vec::new();
        file.take(MAX_READ).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// As [`Dir::read`], for a file that holds a secret: it must be ours and closed to others.
    ///
    /// # Errors
    ///
    /// As [`Dir::read`]; `PermissionDenied`, naming owner or mode, where it is not so.
    pub fn read_secret(&self, name: &str) -> io::Result<Vec<u8>> {
        let (_, stat) = self.open_regular(name)?;
        let problem = if stat.st_uid != geteuid().as_raw() {
            format!("it belongs to uid {}, not to the agent", stat.st_uid)
        } else if stat.st_mode & 0o077 != 0 {
            let mode = stat.st_mode & 0o7777;
            format!("its mode is {mode:04o}: a key may be open to its owner only (chmod 0600)")
        } else {
            return self.read(name);
        };
        Err(io::Error::new(io::ErrorKind::PermissionDenied, problem))
    }

    /// As [`Dir::read`], for a file that nobody but root and we may change.
    ///
    /// # Errors
    ///
    /// As [`Dir::read`], and whose it is or who can write it.
    pub fn read_trusted(&self, name: &str) -> Result<Vec<u8>, DirError> {
        let path = self.path.join(name);
        let io = |source| DirError::Io {
            path: path.clone(),
            source,
        };
        let (_, stat) = self.open_regular(name).map_err(io)?;
        walk::check_owner(&stat, &path, walk::Trust::default())?;
        self.read(name).map_err(io)
    }

    fn open_regular(&self, name: &str) -> io::Result<(File, FileStat)> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fd = openat(&self.fd, name, flags, Mode::empty())?;
        let stat = fstat(&fd)?;
        if kind(&stat) == SFlag::S_IFREG {
            Ok((File::from(fd), stat))
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is not a regular file",
            ))
        }
    }

    /// The names in the directory, `.` and `..` aside, sorted; names that are no UTF-8 are left
    /// out, since none of ours is.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listing = nix::dir::Dir::openat(&self.fd, ".", flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in listing.iter() {
            if let Ok(name) = entry?.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Removes what a killed agent left half-written here: only names of our own random form, and
    /// only regular files and empty directories.
    ///
    /// # Errors
    ///
    /// What the kernel says to listing the directory.
    pub fn sweep(&self) -> io::Result<()> {
        for name in self.temporaries()? {
            match fstatat(&self.fd, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) if kind(&stat) == SFlag::S_IFREG && stat.st_nlink == 1 => {
                    self.discard(&name);
                }
                _ => {}
            }
        }
        self.sweep_directories()
    }

    /// As [`Dir::sweep`], of directories alone.
    fn sweep_directories(&self) -> io::Result<()> {
        for name in self.temporaries()? {
            // Does nothing to what is no directory, or is not empty.
            let _ = unlinkat(&self.fd, name.as_str(), UnlinkatFlags::RemoveDir);
        }
        Ok(())
    }

    fn temporaries(&self) -> io::Result<impl Iterator<Item = String>> {
        Ok(self.names()?.into_iter().filter(|name| is_temporary(name)))
    }

    /// Removes a temporary file; one that stays is swept at the next start.
    fn discard(&self, temporary: &str) {
        let _ = unlinkat(&self.fd, temporary, UnlinkatFlags::NoRemoveDir);
    }

    /// The descriptor, for calls that take one.
    pub fn as_fd(&self) -> impl AsFd + '_ {
        &self.fd
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// Owner first, then mode, then the bytes: at no moment can somebody read a part, or read what
/// was meant for another owner.
fn fill(
    fd: &OwnedFd,
    bytes: &[u8],
    attributes: Attributes,
    persistence: Persistence,
) -> io::Result<FileId> {
    // Whose a new file is, the directory may have decided.
    let is = fstat(fd)?;
    let owner = attributes.owner.filter(|owner| *owner != is.st_uid);
    let group = attributes.group.filter(|group| *group != is.st_gid);
    if owner.is_some() || group.is_some() {
        fchown(fd, owner.map(Uid::from_raw), group.map(Gid::from_raw))?;
    }
    fchmod(fd, Mode::from_bits_truncate(attributes.mode))?;
    let mut file = File::from(fd.try_clone()?);
    file.write_all(bytes)?;
    if persistence == Persistence::Synced {
        file.sync_all()?;
    }
    Ok(FileId::of(&is))
}

const TEMPORARY_START: &str = ".agent-";
const TEMPORARY_END: &str = ".tmp";

/// A name that nobody can guess.
fn temporary_name() -> io::Result<String> {
    let mut random = [0u8; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("no randomness"))?;
    let digits = u128::from_ne_bytes(random);
    Ok(format!("{TEMPORARY_START}{digits:032x}{TEMPORARY_END}"))
}

/// Whether a name has the form of those under which files are written before they are renamed.
pub fn is_temporary(name: &str) -> bool {
    name.strip_prefix(TEMPORARY_START)
        .and_then(|rest| rest.strip_suffix(TEMPORARY_END))
        .is_some_and(|digits| digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests;
