//! SHA-256 of programs, computed once for each state of each file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use tokio::sync::Semaphore;

use crate::proc::ProcDir;

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
#[derive(Debug)]
pub struct Hasher {
    remembered: Arc<Mutex<HashMap<FileState, String>>>,
    /// One file at a time: two callers of one program wait for one hash.
    turn: Arc<Semaphore>,
}

impl Hasher {
    /// A hasher that remembers nothing yet.
    pub fn new() -> Self {
        Self {
            remembered: Arc::default(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// The hash of the file that a process runs, in lower-case hexadecimal.
    ///
    /// # Errors
    ///
    /// What the kernel says; `FileTooLarge` beyond `size_limit`; `Other` where the file changed
    /// while it was read.
    pub async fn hash(&self, proc: &ProcDir, size_limit: Option<u64>) -> io::Result<String> {
        let file = proc.open_exe()?;
        let state = FileState::of(&file)?;
        if size_limit.is_some_and(|limit| state.size > limit) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if let Some(known) = recall(&self.remembered, &state) {
            return Ok(known);
        }
        let turn = Arc::clone(&self.turn).acquire_owned().await;
        let remembered = Arc::clone(&self.remembered);
        let work = move || {
            let _turn = turn;
            if let Some(known) = recall(&remembered, &state) {
                return Ok(known);
            }
            let digest = digest(&file)?;
            if FileState::of(&file)? != state {
                return Err(io::Error::other("the file changed while it was read"));
            }
            let mut all = remembered.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= MAX_REMEMBERED {
                all.clear();
            }
            all.insert(state, digest.clone());
            Ok(digest)
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(io::Error::other)?
    }
}

fn recall(remembered: &Mutex<HashMap<FileState, String>>, state: &FileState) -> Option<String> {
    let all = remembered.lock().unwrap_or_else(PoisonError::into_inner);
    all.get(state).cloned()
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
