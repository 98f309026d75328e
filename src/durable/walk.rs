//! The way to a directory: component by component, through nothing that others control.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{
    AT_FDCWD, AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat, openat2, renameat2,
};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, fsync, geteuid, unlinkat};
use thiserror::Error;

use super::{Dir, Temporary, kind};

/// Why a directory is not used.
#[derive(Debug, Error)]
pub enum DirError {
    /// It cannot be opened, examined or made.
    #[error("{}: {source}", path.display())]
    Io {
        /// The component at which it ended.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The path does not start at the root, or climbs with `..`.
    #[error("{}: a path must be absolute and without '..'", .0.display())]
    NotAbsolute(PathBuf),
    /// A component is a symbolic link.
    #[error("{} is a symbolic link: write the path that it leads to", .0.display())]
    Symlink(PathBuf),
    /// A component belongs to a user who could replace what lies below.
    #[error("{} belongs to uid {uid}: it must belong to root or to the user that the agent runs as", path.display())]
    Owner {
        /// The component.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// Others can write in a component.
    #[error("{} can be written by others (mode {mode:04o}): run chmod go-w on it", path.display())]
    Writable {
        /// The component.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Something is mounted there.
    #[error("{} is a mount point, and what is mounted in a directory with a path parameter is not followed", .0.display())]
    Mounted(PathBuf),
}

impl DirError {
    /// Whether the directory, or one above it, does not exist.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl Dir {
    /// Opens a directory whose every component belongs to root or to us and can be written by
    /// nobody else. Components above the last may be sticky, as `/tmp` is.
    ///
    /// # Errors
    ///
    /// The first component that does not hold.
    pub fn open(path: &Path) -> Result<Self, DirError> {
        Self::walk(path, None, Trust::default())
    }

    /// As [`Dir::open`], for files of ours: the last component may be sticky too, since nobody can
    /// take away or replace what is not his there.
    ///
    /// # Errors
    ///
    /// As [`Dir::open`].
    pub fn open_shared(path: &Path) -> Result<Self, DirError> {
        let trust = Trust {
            sticky: true,
            ..Trust::default()
        };
        Self::walk(path, None, trust)
    }

    /// As [`Dir::open`], where components may also belong to a user: for a thread that works as that
    /// user, and can do no harm there.
    ///
    /// # Errors
    ///
    /// As [`Dir::open`].
    pub fn open_of(path: &Path, uid: u32) -> Result<Self, DirError> {
        let trust = Trust {
            also: Some(uid),
            ..Trust::default()
        };
        Self::open_trusting(path, trust)
    }

    /// As [`Dir::open`], where components may belong to whom `trust` says.
    ///
    /// # Errors
    ///
    /// As [`Dir::open`].
    pub fn open_trusting(path: &Path, trust: Trust) -> Result<Self, DirError> {
        Self::walk(path, None, trust)
    }

    /// As [`Dir::open`], making what is missing with the permission bits `mode`.
    ///
    /// # Errors
    ///
    /// As [`Dir::open`], and what the kernel says to making a directory.
    pub fn create(path: &Path, mode: u32) -> Result<Self, DirError> {
        Self::walk(path, Some(mode), Trust::default())
    }

    /// The directory at `relative`, which is not empty, below this one: through no link and onto no other file system,
    /// each component belonging to whom `trust` says.
    ///
    /// # Errors
    ///
    /// The first component that does not hold.
    pub fn below(&self, relative: &Path, trust: Trust) -> Result<Self, DirError> {
        let mut found: Option<Self> = None;
        for component in relative.components() {
            let Component::Normal(name) = component else {
                return Err(DirError::NotAbsolute(relative.to_owned()));
            };
            let at = found.as_ref().unwrap_or(self);
            let path = at.path.join(name);
            let fd = at.step_below(name).map_err(|errno| match errno {
                Errno::EXDEV => DirError::Mounted(path.clone()),
                Errno::ELOOP => DirError::Symlink(path.clone()),
                errno => DirError::Io {
                    path: path.clone(),
                    source: errno.into(),
                },
            })?;
            check_trust(&fd, &path, trust)?;
            found = Some(Self { fd, path });
        }
        found.ok_or_else(|| DirError::NotAbsolute(relative.to_owned()))
    }

    fn step_below(&self, name: &std::ffi::OsStr) -> nix::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_XDEV;
        let how = OpenHow::new().flags(READABLE).resolve(resolve);
        match openat2(&self.fd, name, how) {
            // A filter of system calls that does not know it yet.
            Err(Errno::ENOSYS) => {
                let fd = openat(&self.fd, name, READABLE, Mode::empty())?;
                if fstat(&fd)?.st_dev == fstat(&self.fd)?.st_dev {
                    Ok(fd)
                } else {
                    Err(Errno::EXDEV)
                }
            }
            opened => opened,
        }
    }

    fn walk(path: &Path, create: Option<u32>, trust: Trust) -> Result<Self, DirError> {
        let mut names = Vec::new();
        for component in path.components() {
            match component {
                Component::RootDir => {}
                Component::Normal(name) => names.push(name),
                _ => return Err(DirError::NotAbsolute(path.to_owned())),
            }
        }
        if !path.is_absolute() {
            return Err(DirError::NotAbsolute(path.to_owned()));
        }
        let mut at = PathBuf::from("/");
        let io_error = |path: &Path, errno: Errno| DirError::Io {
            path: path.to_owned(),
            source: errno.into(),
        };
        let step = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut fd = openat(AT_FDCWD, "/", step | OFlag::O_PATH, Mode::empty())
            .map_err(|errno| io_error(&at, errno))?;
        for (index, name) in names.iter().enumerate() {
            let above = Trust {
                sticky: true,
                ..trust
            };
            check_trust(&fd, &at, above)?;
            at.push(name);
            let last = index + 1 == names.len();
            let flags = step | if last { OFlag::O_RDONLY } else { OFlag::O_PATH };
            let mut opened = openat(&fd, *name, flags, Mode::empty());
            if let (Err(Errno::ENOENT), Some(mode)) = (&opened, create) {
                opened = make_directory(&fd, name, mode, flags);
            }
            fd = opened.map_err(|errno| {
                match fstatat(&fd, *name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                    Ok(stat) if kind(&stat) == SFlag::S_IFLNK => DirError::Symlink(at.clone()),
                    _ => io_error(&at, errno),
                }
            })?;
        }
        check_trust(&fd, &at, trust)?;
        Ok(Self { fd, path: at })
    }
}

/// Makes a directory with exactly these permission bits, whatever the umask says: it has its name
/// only when it has its mode, and the name is on the disk before anything is put into it. What an
/// agent left that was killed while it did the same is removed.
fn make_directory(
    parent: &OwnedFd,
    name: &std::ffi::OsStr,
    mode: u32,
    flags: OFlag,
) -> nix::Result<OwnedFd> {
    let listed = Dir {
        fd: openat(parent, ".", READABLE, Mode::empty())?,
        path: PathBuf::new(),
    };
    let _ = listed.sweep_directories();
    let mut named = make_named(parent, name, mode);
    if named == Err(Errno::ENOENT) {
        // Another agent that makes one here took ours for a dead one's.
        named = make_named(parent, name, mode);
    }
    match named {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    fsync(&listed.fd)?;
    openat(parent, name, flags, Mode::empty())
}

const READABLE: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

fn make_named(parent: &OwnedFd, name: &std::ffi::OsStr, mode: u32) -> nix::Result<()> {
    let temporary = Temporary::new().map_err(|_| Errno::EIO)?;
    mkdirat(parent, temporary.as_str(), Mode::S_IRWXU)?;
    openat(parent, temporary.as_str(), READABLE, Mode::empty())
        .and_then(|made| {
            fchmod(&made, Mode::from_bits_truncate(mode))?;
            let exclusive = RenameFlags::RENAME_NOREPLACE;
            renameat2(parent, temporary.as_str(), parent, name, exclusive)
        })
        .inspect_err(|_| {
            let _ = unlinkat(parent, temporary.as_str(), UnlinkatFlags::RemoveDir);
        })
}

/// Checks that only root and we decide what lies below a directory.
fn check_trust(fd: &OwnedFd, path: &Path, trust: Trust) -> Result<(), DirError> {
    let stat = fstat(fd).map_err(|errno| DirError::Io {
        path: path.to_owned(),
        source: errno.into(),
    })?;
    check_owner(&stat, path, trust)
}

/// Whom a file or directory may belong to besides root and us, and who may write there.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trust {
    /// Others may write in it if it is sticky.
    pub sticky: bool,
    /// It may belong to this user.
    pub also: Option<u32>,
}

/// Checks whom a file belongs to, and that nobody else can write it.
pub fn check_owner(stat: &FileStat, path: &Path, trust: Trust) -> Result<(), DirError> {
    let trusted = stat.st_uid == 0 || stat.st_uid == geteuid().as_raw();
    if !trusted && trust.also != Some(stat.st_uid) {
        return Err(DirError::Owner {
            path: path.to_owned(),
            uid: stat.st_uid,
        });
    }
    // With an access list, the bits of the group tell what others may at most.
    let by_others = stat.st_mode & 0o022 != 0;
    let sticky = stat.st_mode & 0o1000 != 0 && trust.sticky;
    if by_others && !sticky {
        return Err(DirError::Writable {
            path: path.to_owned(),
            mode: stat.st_mode & 0o7777,
        });
    }
    Ok(())
}
