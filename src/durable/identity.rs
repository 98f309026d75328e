//! Which file it is, so that nothing is taken for ours that only lies where ours lay.

use std::fmt;
use std::num::ParseIntError;
use std::os::fd::AsFd;
use std::str::FromStr;

use rustix::fs::{AtFlags, Statx, StatxFlags, makedev, statx};
use rustix::io::Errno;

/// Which file it is: device, inode, and when that was made, since the number of a file that is gone
/// may be given to the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
    /// In nanoseconds from 1970; 0 where the file system does not keep it.
    made: u64,
}

/// What is known of a file at one moment.
pub struct Known {
    /// Which it is.
    pub id: FileId,
    /// The number of its owner.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
    mode: u16,
}

impl Known {
    /// Asks about `name` in a directory, or about an open file where that is empty. Links are not
    /// followed.
    ///
    /// # Errors
    ///
    /// Those of `statx`.
    pub fn of(at: impl AsFd, name: &str) -> Result<Self, Errno> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = statx(at, name, flags, wanted)?;
        Ok(Self {
            id: FileId::of(&stat),
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            mode: stat.stx_mode,
        })
    }

    /// Whether it is a regular file.
    pub fn is_regular(&self) -> bool {
        rustix::fs::FileType::from_raw_mode(self.mode.into()).is_file()
    }
}

impl FileId {
    fn of(stat: &Statx) -> Self {
        let kept = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        let seconds = u64::try_from(stat.stx_btime.tv_sec).unwrap_or_default();
        let made = seconds.saturating_mul(1_000_000_000);
        Self {
            device: makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            made: if kept {
                made.saturating_add(stat.stx_btime.tv_nsec.into())
            } else {
                0
            },
        }
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}:{:x}:{:x}", self.device, self.inode, self.made)
    }
}

impl FromStr for FileId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, ':');
        let mut number = || u64::from_str_radix(parts.next().unwrap_or_default(), 16);
        Ok(Self {
            device: number()?,
            inode: number()?,
            made: number()?,
        })
    }
}
