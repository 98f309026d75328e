//! The only writer of files, and the only reader of files that must not be trusted blindly.
//!
//! A directory is opened once, component by component, without following links, and held by its
//! descriptor. A file in it is written without a name, given its owner and mode, made durable
//! where asked, and renamed over the old one: whoever opens the name sees the old bytes or the
//! new ones, never a part, and never a file with the wrong owner or mode.

mod identity;
mod walk;
mod write;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

pub use self::identity::FileId;
use self::identity::Known;
pub use self::walk::{DirError, Trust};
pub use self::write::is_temporary;
use self::write::{Temporary, is_left_behind};

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

    /// Removes `name` if it is still a file that was written as one of `ids`; tells whether it was.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn remove_own(&self, name: &str, ids: &[FileId]) -> io::Result<bool> {
        match Known::of(&self.fd, name) {
            Ok(file) if ids.contains(&file.id) && file.is_regular() => {
                unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir)?;
                Ok(true)
            }
            Ok(_) | Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether what is written here never reaches a disk.
    ///
    /// # Errors
    ///
    /// Those of `fstatfs`.
    pub fn is_in_memory(&self) -> io::Result<bool> {
        const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);
        let kind = fstatfs(&self.fd)?.filesystem_type();
        Ok([TMPFS_MAGIC, RAMFS_MAGIC].contains(&kind))
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
        let mut names = Vec::new();
        self.each(|name, _| names.push(name.to_owned()))?;
        names.sort_unstable();
        Ok(names)
    }

    /// The names of the directories in it, in no order; those that are no UTF-8 are left out.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn directories(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        self.each(|name, kind| {
            let is_directory = match kind {
                Some(kind) => kind == nix::dir::Type::Directory,
                // The file system does not tell in passing.
                None => self.is_directory(name),
            };
            if is_directory {
                names.push(name.to_owned());
            }
        })?;
        Ok(names)
    }

    /// Whether there is a directory of this name, which is no link.
    pub fn is_directory(&self, name: &str) -> bool {
        fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| kind(&stat) == SFlag::S_IFDIR)
    }

    fn each(&self, mut see: impl FnMut(&str, Option<nix::dir::Type>)) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listing = nix::dir::Dir::openat(&self.fd, ".", flags, Mode::empty())?;
        for entry in listing.iter() {
            let entry = entry?;
            if let Ok(name) = entry.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                see(name, entry.file_type());
            }
        }
        Ok(())
    }

    /// The file `name`, to add to its end.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn append(&self, name: &str) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.fd, name, flags, Mode::empty())?))
    }

    /// Removes what somebody left half-written here, a killed agent as a rule: only names of our own
    /// random form, and only regular files and empty directories. Tells whether nothing of it is left.
    ///
    /// # Errors
    ///
    /// What the kernel says to listing the directory.
    pub fn sweep(&self) -> io::Result<bool> {
        let mut is_clean = true;
        for name in self.temporaries()? {
            let how = match fstatat(&self.fd, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) if kind(&stat) == SFlag::S_IFREG && stat.st_nlink == 1 => {
                    UnlinkatFlags::NoRemoveDir
                }
                // Does nothing to what is no directory, or is not empty.
                _ => UnlinkatFlags::RemoveDir,
            };
            let removed = unlinkat(&self.fd, name.as_str(), how);
            is_clean &= matches!(removed, Ok(()) | Err(Errno::ENOENT));
        }
        Ok(is_clean)
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
        let names = self.names()?.into_iter();
        Ok(names.filter(|name| is_left_behind(name)))
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

#[cfg(test)]
mod tests;
