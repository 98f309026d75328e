//! The lock that keeps a second agent off the data directory.

use std::fs::File;
use std::io::Write;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat};
use nix::sys::stat::Mode;

use super::StoreError;
use crate::durable::Dir;

const LOCK: &str = "lock";

/// Takes the lock that keeps a second agent off the directory.
pub fn take(private: &Dir) -> Result<Flock<File>, StoreError> {
    let path = private.path().join(LOCK);
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let open = |flags| openat(private.as_fd(), LOCK, flags, Mode::S_IRUSR | Mode::S_IWUSR);
    let fd = open(flags).or_else(|errno| match errno {
        // A disk that cannot be written can be locked all the same.
        Errno::EROFS => open(OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC),
        errno => Err(errno),
    });
    let fd = fd.map_err(|errno| StoreError::File {
        path: path.clone(),
        source: errno.into(),
    })?;
    let mut lock = match Flock::lock(File::from(fd), FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err(_) => {
            let holder = private
                .read(LOCK)
                .ok()
                .and_then(|b| String::from_utf8(b).ok())
                .filter(|pid| !pid.trim().is_empty());
            let holder =
                holder.map_or_else(String::new, |pid| format!(" (process {})", pid.trim()));
            return Err(StoreError::Locked {
                path: private.path().to_owned(),
                holder,
            });
        }
    };
    // Only a courtesy for the message above: the lock holds without it.
    let _ = lock.set_len(0);
    let _ = writeln!(lock, "{}", std::process::id());
    Ok(lock)
}
