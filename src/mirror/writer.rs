//! Writing and removing files in directories, whosever they are.
//!
//! A directory of root or of the agent's user is worked in as ourselves. In one of somebody else a
//! thread of its own works that first becomes that user, in groups, in its view of the file system
//! and without any capability: whatever its owner prepares there, links or mounts, leads to nothing
//! that he could not reach himself. The thread ends after its work, so nothing is ever given back.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::{Gid, Uid, User, getgrouplist, setfsgid, setfsuid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_thread_groups};
use zeroize::Zeroizing;

use super::file::{MirrorError, TokenFileSpec, place, put};
use crate::attest::names::Names;
use crate::durable::{Attributes, Dir, DirError, FileId, Persistence};

/// How long a directory of somebody else may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The group of users who have none.
const NOGROUP: u32 = 65_534;

/// Threads that work as somebody else, one to a directory.
#[derive(Debug, Clone, Default)]
pub struct Writers(Arc<Mutex<HashSet<PathBuf>>>);

impl Writers {
    /// Writes one file.
    ///
    /// # Errors
    ///
    /// Why it is as it was.
    pub fn put(
        &self,
        spec: &Arc<TokenFileSpec>,
        names: &Names,
        content: Zeroizing<String>,
    ) -> Result<FileId, MirrorError> {
        let uid = match put(spec, names, content.as_bytes()) {
            Err(MirrorError::Directory(DirError::Owner { uid, .. })) => uid,
            done => return done,
        };
        if let Some(owner) = &spec.owner
            && owner.uid(names)? != uid
        {
            return Err(MirrorError::OtherOwner(uid));
        }
        let group = spec.group.as_ref().map(|group| group.gid(names));
        let group = group.transpose()?;
        let spec = Arc::clone(spec);
        self.as_user(uid, spec.path.clone(), move |user| {
            if let Some(group) = group
                && !user.groups.contains(&group)
            {
                return Err(MirrorError::OtherGroup(uid, group));
            }
            let (directory, name) = place(&spec.path)?;
            let dir = Dir::open_of(directory, uid)?;
            dir.sweep().map_err(MirrorError::Write)?;
            let attributes = Attributes {
                mode: spec.mode,
                owner: None,
                group,
            };
            let content = content.as_bytes();
            dir.replace(name, content, attributes, Persistence::Volatile)
                .map_err(MirrorError::Write)
        })
    }

    /// Removes files whose token nobody is to have any more; gives back those that could not be.
    pub fn remove_all(&self, files: Vec<(PathBuf, FileId)>) -> Vec<(PathBuf, FileId)> {
        files
            .into_iter()
            .filter(|(path, id)| !self.is_removed(path, *id))
            .collect()
    }

    /// Removes one, if it is still the one that was written; whether nothing is left to do.
    fn is_removed(&self, path: &Path, id: FileId) -> bool {
        let removed = match self.remove(path, id) {
            // With its directory, the file is gone too.
            Err(MirrorError::Directory(error)) if error.is_missing() => Ok(false),
            removed => removed,
        };
        let path = path.display();
        match removed {
            Ok(true) => tracing::info!(%path, "the token file is removed"),
            Ok(false) => tracing::info!(%path, "the token file is no longer ours: left alone"),
            Err(error) => {
                tracing::warn!(%path, %error, "the token file cannot be removed; trying again");
                return false;
            }
        }
        true
    }

    fn remove(&self, path: &Path, id: FileId) -> Result<bool, MirrorError> {
        let (directory, name) = place(path)?;
        let uid = match Dir::open(directory) {
            Ok(dir) => return dir.remove_own(name, id).map_err(MirrorError::Write),
            Err(DirError::Owner { uid, .. }) => uid,
            Err(error) => return Err(error.into()),
        };
        let path = path.to_owned();
        self.as_user(uid, path.clone(), move |_| {
            let (directory, name) = place(&path)?;
            let dir = Dir::open_of(directory, uid)?;
            dir.remove_own(name, id).map_err(MirrorError::Write)
        })
    }

    /// Does something at a path in a thread that is somebody else. One that does not come back is
    /// left behind, and keeps others from going after it.
    ///
    /// # Errors
    ///
    /// That of the work, or that it was not done or not in time.
    pub fn as_user<T: Send + 'static>(
        &self,
        uid: u32,
        path: PathBuf,
        work: impl FnOnce(&Became) -> Result<T, MirrorError> + Send + 'static,
    ) -> Result<T, MirrorError> {
        let directory = path.parent().unwrap_or(&path).to_owned();
        if !self.busy().insert(directory.clone()) {
            return Err(MirrorError::Hangs);
        }
        let (done, outcome) = sync_channel(1);
        let writers = self.clone();
        let body = move || {
            let result = match become_user(uid) {
                Ok(user) => work(&user),
                Err(source) => Err(MirrorError::Become { uid, source }),
            };
            writers.busy().remove(&directory);
            // Nobody may be waiting any more.
            let _ = done.send(result);
        };
        let thread = std::thread::Builder::new().name("writer".to_owned());
        thread.spawn(body).map_err(MirrorError::Write)?;
        outcome.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            Err(match error {
                RecvTimeoutError::Timeout => MirrorError::Hangs,
                RecvTimeoutError::Disconnected => {
                    MirrorError::Write(io::Error::other("the thread that writes has ended"))
                }
            })
        })
    }

    fn busy(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody whom the calling thread has become.
#[derive(Debug)]
pub struct Became {
    groups: Vec<u32>,
}

/// Makes the calling thread somebody else for good, as far as files go: groups first, then user,
/// then no capability is left to undo it with.
fn become_user(uid: u32) -> io::Result<Became> {
    let user = User::from_uid(Uid::from_raw(uid))?;
    let (gid, groups) = match user {
        Some(user) => {
            let name = std::ffi::CString::new(user.name).map_err(io::Error::other)?;
            (user.gid, getgrouplist(&name, user.gid)?)
        }
        None => (Gid::from_raw(NOGROUP), Vec::new()),
    };
    if Uid::from_raw(uid) != nix::unistd::geteuid() {
        let raw: Vec<_> = groups
            .iter()
            .map(|group| rustix::thread::Gid::from_raw(group.as_raw()))
            .collect();
        set_thread_groups(&raw)?;
        setfsgid(gid);
        setfsuid(Uid::from_raw(uid));
    }
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )?;
    // The calls do not tell whether they worked; asked for what cannot be, they tell what is.
    let nobody = u32::MAX;
    let (is, of) = (
        setfsuid(Uid::from_raw(nobody)),
        setfsgid(Gid::from_raw(nobody)),
    );
    if is != Uid::from_raw(uid) || of != gid {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut groups: Vec<u32> = groups.iter().map(|group| group.as_raw()).collect();
    groups.push(gid.as_raw());
    Ok(Became { groups })
}
