//! Where commands put files of their caller.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::unistd::{geteuid, mkdtemp};

use super::{advised, problem};
use crate::durable::{Attributes, Dir, DirError, Persistence};

/// `$XDG_RUNTIME_DIR`, if it is there and ours: after `su` it may be somebody else's.
pub(super) fn runtime_dir() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    let meta = std::fs::metadata(&path).ok()?;
    (path.is_absolute() && meta.is_dir() && meta.uid() == geteuid().as_raw()).then_some(path)
}

/// Makes a directory that nobody else can enter, with a new name.
pub(super) fn make_private(parent: &Path) -> anyhow::Result<PathBuf> {
    let template = parent.join("svid-agent.XXXXXX");
    mkdtemp(&template).with_context(|| format!("cannot make {}", template.display()))
}

/// Removes a directory with all that is in it, and tells where it cannot.
pub(super) fn remove(directory: &Path) {
    if let Err(error) = std::fs::remove_dir_all(directory) {
        let directory = directory.display();
        problem::error(format_args!("cannot remove {directory}: {error}"));
    }
}

/// Puts a token, or what holds one, into a file that only its owner can read.
pub(super) fn put_secret(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    // The file is always a new one. Where others can write too, as in /tmp, they cannot replace it.
    put(path, Dir::open_shared, |dir, name| {
        dir.replace(name, bytes, Attributes::own(0o600), Persistence::Volatile)?;
        Ok(())
    })
}

/// Puts what everybody may read into a file, unless it holds it already.
pub(super) fn put_public(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    put(path, Dir::open, |dir, name| {
        dir.replace_if_changed(name, bytes, Attributes::own(0o644), Persistence::Volatile)?;
        Ok(())
    })
}

/// Writes to a file in a directory that exists. No link is followed: where one leads, somebody else
/// may have chosen.
fn put(
    path: &Path,
    open: impl FnOnce(&Path) -> Result<Dir, DirError>,
    write: impl FnOnce(&Dir, &str) -> io::Result<()>,
) -> anyhow::Result<()> {
    let put = || {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.context("that is no name of a file")?;
        let whole = std::path::absolute(path)?;
        match open(whole.parent().unwrap_or(Path::new("/"))) {
            Err(error) if error.is_missing() => Err(advised(error, "make the directory first")),
            opened => Ok(write(&opened?, name)?),
        }
    };
    put().with_context(|| format!("cannot write {}", path.display()))
}
