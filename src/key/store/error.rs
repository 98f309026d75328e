//! Why keys cannot be read or kept.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::file::VERSION;
use crate::durable::DirError;
use crate::key::signing::KeyError;

/// Why keys cannot be read or kept.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A directory of the store cannot be used.
    #[error(transparent)]
    Directory(#[from] DirError),
    /// The private directory is open to others.
    #[error("{} has mode {mode:04o}: it holds private keys, run chmod 0700 on it", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another agent has the directory.
    #[error("{} is in use by another agent{holder}", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Which, where it told.
        holder: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The state was written by a later agent.
    #[error("{} has format {found}, this agent reads up to {VERSION}: use the newer agent that wrote it", path.display())]
    StateNewer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A key file is not the key that the state names.
    #[error("{} is damaged ({reason}): restore it from a backup", path.display())]
    KeyDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: KeyProblem,
    },
}

/// What is wrong with a key file.
#[derive(Debug, Error)]
pub enum KeyProblem {
    /// It cannot be parsed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Its content is another key than its name says.
    #[error("it holds another key than its name says")]
    Other,
}
