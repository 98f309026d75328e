//! Why a token file is not as it should be, and how loudly the operator is told.

use std::io;
use std::path::Path;

use thiserror::Error;

use super::parameter::Unfit;
use crate::attest::names::NoAccount;
use crate::durable::DirError;
use crate::issue::IssueError;

/// Why a file was not written.
#[derive(Debug, Error)]
pub enum MirrorError {
    /// There is no token.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// Its directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirError),
    /// Its owner or its group is nobody.
    #[error(transparent)]
    NoAccount(#[from] NoAccount),
    /// The name of its directory makes no identity.
    #[error("the name of its directory does not fit: {0}")]
    Unfit(#[from] Unfit),
    /// Its directory belongs to somebody who gets no token.
    #[error(
        "its directory belongs to uid {0}, whose directories get no token: directory_owner says whose do"
    )]
    DirectoryOwner(u32),
    /// Something is mounted over the file.
    #[error(
        "something is mounted over it, and would not see a new token: mount its directory instead"
    )]
    MountPoint,
    /// The kernel watches no more directories for us.
    #[error(
        "its directories cannot be watched: {0}; raise the sysctls fs.inotify.max_user_watches and max_user_instances"
    )]
    Watch(io::Error),
    /// We may not give it away.
    #[error("{0}: another owner or group than the agent's needs root, or CAP_CHOWN and CAP_FOWNER")]
    Owner(io::Error),
    /// Its directory belongs to somebody, and the file is to belong to somebody else.
    #[error(
        "its directory belongs to uid {0}, so it can belong to nobody else: leave out owner, or use a directory of root"
    )]
    OtherOwner(u32),
    /// Its directory belongs to somebody who is not in that group.
    #[error("its directory belongs to uid {0}, who is not in the group {1}")]
    OtherGroup(u32, u32),
    /// Its directory belongs to somebody whom we cannot become.
    #[error(
        "its directory belongs to uid {uid}: writing there needs root, or CAP_SETUID and CAP_SETGID ({source})"
    )]
    Become {
        /// Whose it is.
        uid: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another token belongs in it by now.
    #[error("another token belongs in it")]
    Obsolete,
    /// Its file system does not answer.
    #[error("its directory does not answer")]
    Hangs,
    /// It cannot be written.
    #[error(transparent)]
    Write(io::Error),
}

impl MirrorError {
    /// Whether this directory is not there, or one above it.
    pub fn misses(&self, directory: &Path) -> bool {
        match self {
            Self::Directory(DirError::Io { path, source }) => {
                directory.starts_with(path) && source.kind() == io::ErrorKind::NotFound
            }
            _ => false,
        }
    }

    /// Tells the operator, as loudly as it deserves; whether it did.
    pub fn complain(&self, path: &Path) -> bool {
        let path = path.display();
        match self {
            // The keys come in a moment, and the file with them.
            Self::Issue(IssueError::NotReady(_)) => return false,
            Self::Directory(error) if error.is_missing() => {
                tracing::info!(%path, %error, "the token file waits for its directory");
            }
            error => {
                tracing::warn!(%path, %error, "the token file cannot be written; trying again");
            }
        }
        true
    }
}
