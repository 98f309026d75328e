//! SHA-256 of programs, computed once for each state of each file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::proc::ProcDir;
use crate::sys::ExeStat;
use aws_lc_rs::digest::{Context, SHA256};

/// How many hashes are remembered; beyond that all are forgotten, which costs time and nothing
/// else.
const MAX_REMEMBERED: usize = 4096;

/// What cannot stay the same when a file changes: ctime cannot be set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FileState {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl FileState {
    fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// A hash, once it is known. Who computes it holds the lock, and others who want it wait for it.
type Slot = Arc<Mutex<Option<String>>>;

/// Hashes programs and remembers the results.
#[derive(Debug, Default)]
pub struct Hasher(Mutex<HashMap<FileState, Slot>>);

impl Hasher {
    /// The hash of the file that a process runs, in lower-case hexadecimal; `None` where it is
    /// larger than the limit. Reads the file unless the hash of its state is remembered, or is being
    /// computed for somebody else.
    ///
    /// # Errors
    ///
    /// What the kernel says; `Other` where the process runs another file than `exe` by now, or the
    /// file changed while it was read; `WouldBlock` where it would have to be read and `may_read` is
    /// false.
    pub fn hash(
        &self,
        proc: &ProcDir,
        exe: &ExeStat,
        size_limit: Option<u64>,
        may_read: bool,
    ) -> io::Result<Option<String>> {
        let file = proc.open_exe()?;
        let state = FileState::of(&file)?;
        let changed = || io::Error::other("the program changed meanwhile");
        if (state.dev, state.ino) != exe.id {
            return Err(changed());
        }
        if size_limit.is_some_and(|limit| state.size > limit) {
            return Ok(None);
        }
        let slot = self.slot(state);
        // Whoever has it computes it, for as long as that takes.
        let mut known = if may_read {
            slot.lock().unwrap_or_else(PoisonError::into_inner)
        } else {
            slot.try_lock().map_err(|_| io::ErrorKind::WouldBlock)?
        };
        if known.is_none() {
            if !may_read {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let digest = digest(&file)?;
            if FileState::of(&file)? != state {
                return Err(changed());
            }
            *known = Some(digest);
        }
        Ok(known.clone())
    }

    fn slot(&self, state: FileState) -> Slot {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_REMEMBERED && !all.contains_key(&state) {
            all.clear();
        }
        Arc::clone(all.entry(state).or_default())
    }
}

fn digest(mut file: &File) -> io::Result<String> {
    use std::fmt::Write;

    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => context.update(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut text = String::with_capacity(64);
    for byte in context.finish().as_ref() {
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc::Exe;

    #[test]
    fn the_hash_is_that_of_the_program_that_was_verified_or_there_is_none() {
        let own = std::process::id().cast_signed();
        let proc = ProcDir::open(own).unwrap();
        let Exe::File(exe) = proc.exe().unwrap() else {
            panic!("our own program is known");
        };
        let hasher = Hasher::default();
        let hash = |exe, limit| hasher.hash(&proc, exe, limit, true);
        let unread = hasher.hash(&proc, &exe, None, false).unwrap_err();
        assert_eq!(unread.kind(), io::ErrorKind::WouldBlock);
        let digest = hash(&exe, None).unwrap().unwrap();
        assert_eq!(digest.len(), 64);
        let remembered = hasher.hash(&proc, &exe, None, false);
        assert_eq!(remembered.unwrap(), Some(digest));
        assert_eq!(hash(&exe, Some(1)).unwrap(), None);
        let other = ExeStat {
            id: (exe.id.0, exe.id.1 + 1),
            ..exe
        };
        assert!(hash(&other, None).is_err());
    }
}
