//! SHA-256 of programs, computed once for each state of each file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// Hashes programs and remembers the results.
#[derive(Debug, Default)]
pub struct Hasher(Mutex<HashMap<FileState, String>>);

impl Hasher {
    /// The hash of the file that a process runs, in lower-case hexadecimal; `None` where it is
    /// larger than the limit. Reads the file unless its state is remembered.
    ///
    /// # Errors
    ///
    /// What the kernel says; `Other` where the process runs another file than `exe` by now, or the
    /// file changed while it was read.
    pub fn hash(
        &self,
        proc: &ProcDir,
        exe: &ExeStat,
        size_limit: Option<u64>,
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
        if let Some(known) = self.remembered().get(&state) {
            return Ok(Some(known.clone()));
        }
        let digest = digest(&file)?;
        if FileState::of(&file)? != state {
            return Err(changed());
        }
        let mut all = self.remembered();
        if all.len() >= MAX_REMEMBERED {
            all.clear();
        }
        all.insert(state, digest.clone());
        Ok(Some(digest))
    }

    fn remembered(&self) -> MutexGuard<'_, HashMap<FileState, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let digest = hasher.hash(&proc, &exe, None).unwrap().unwrap();
        assert_eq!(digest.len(), 64);
        assert_eq!(hasher.hash(&proc, &exe, None).unwrap(), Some(digest));
        assert_eq!(hasher.hash(&proc, &exe, Some(1)).unwrap(), None);
        let other = ExeStat {
            id: (exe.id.0, exe.id.1 + 1),
            ..exe
        };
        assert!(hasher.hash(&proc, &other, None).is_err());
    }
}
