//! A socket itself: where it lies, who may connect, and whose it is.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, umask};
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};

use crate::durable::{Dir, DirError};
use crate::sys;

/// The longest path that a Unix socket can have, in bytes.
pub const MAX_SOCKET_PATH: usize = 107;

/// Why the socket cannot be made.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Its directory cannot be used.
    #[error("socket: {0}")]
    Directory(#[from] DirError),
    /// Somebody listens there.
    #[error("socket: {} is served by another process", .0.display())]
    Live(PathBuf),
    /// Something that is no socket has the name.
    #[error("socket: {} exists and is not a socket: move it away", .0.display())]
    NotASocket(PathBuf),
    /// What the kernel says.
    #[error("socket: {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A bound socket; its name goes when this is dropped.
#[derive(Debug)]
pub struct BoundSocket {
    path: PathBuf,
    inode: (u64, u64),
}

impl BoundSocket {
    /// Makes the socket with the permission bits `mode`, and its directory with `directory_mode` where
    /// it is missing. What a killed agent left behind is replaced; a socket that somebody serves is
    /// not.
    ///
    /// # Errors
    ///
    /// Why there is no socket.
    pub async fn bind(
        path: &Path,
        mode: u32,
        directory_mode: u32,
    ) -> Result<(Self, UnixListener), SocketError> {
        let problem = |source| SocketError::Io {
            path: path.to_owned(),
            source,
        };
        Dir::create(path.parent().unwrap_or(Path::new("/")), directory_mode)?;
        match std::fs::symlink_metadata(path) {
            Ok(meta) if !meta.file_type().is_socket() => {
                return Err(SocketError::NotASocket(path.to_owned()));
            }
            Ok(_) => match UnixStream::connect(path).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(problem)?;
                }
                // A listener that is too busy to take us is alive.
                Ok(_) => return Err(SocketError::Live(path.to_owned())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(SocketError::Live(path.to_owned()));
                }
                Err(error) => return Err(problem(error)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(problem(error)),
        }
        // The mode must be right from the first moment, and only the umask can do that.
        let former = umask(Mode::from_bits_truncate(!mode & 0o777));
        let bound = listen_at(path);
        umask(former);
        let listener = bound.map_err(problem)?;
        let meta = std::fs::symlink_metadata(path).map_err(problem)?;
        let socket = Self {
            path: path.to_owned(),
            inode: (meta.dev(), meta.ino()),
        };
        Ok((socket, listener))
    }
}

/// A listener whose connections tell who sends, and take no descriptors. Both are inherited by a
/// connection when it is made, so they are set before there can be one.
fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    setsockopt(&socket, sockopt::PassCred, &true)?;
    sys::refuse_descriptors(socket.as_fd())?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::MAXCONN)?;
    UnixListener::from_std(socket.into())
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        let same = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == self.inode);
        if same {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
