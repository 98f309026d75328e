//! Threads that work as somebody else, so that whatever that user prepares, links or mounts, leads to
//! nothing that he could not reach himself. A thread ends after its work: nothing is ever given back.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::unistd::{Gid, Uid, User, getgrouplist, setfsgid, setfsuid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_thread_groups};

use super::error::MirrorError;

/// How long a directory of somebody else may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The group of users who have none.
const NOGROUP: u32 = 65_534;

/// The threads that are at work, one to a directory.
#[derive(Debug, Clone, Default)]
pub struct Users(Arc<(Mutex<HashMap<PathBuf, Work>>, Condvar)>);

type AllWork = HashMap<PathBuf, Work>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    UnderWay,
    /// It did not come back in time: nobody goes after it, or waits for it.
    LeftBehind,
}

impl Users {
    /// Does something at a path in a thread that is somebody else. One that does not come back is
    /// left behind, and keeps others from going after it.
    ///
    /// # Errors
    ///
    /// That of the work, or that it was not done or not in time.
    pub fn work_as<T: Send + 'static>(
        &self,
        uid: u32,
        path: PathBuf,
        work: impl FnOnce(&Became) -> Result<T, MirrorError> + Send + 'static,
    ) -> Result<T, MirrorError> {
        let directory = path.parent().unwrap_or(&path).to_owned();
        self.enter(&directory)?;
        let entered = directory.clone();
        let (done, outcome) = sync_channel(1);
        let users = self.clone();
        let body = move || {
            let result = match become_user(uid) {
                Ok(user) => work(&user),
                Err(source) => Err(MirrorError::Become { uid, source }),
            };
            users.leave(&directory);
            // Nobody may be waiting any more.
            let _ = done.send(result);
        };
        let thread = std::thread::Builder::new().name("writer".to_owned());
        thread.spawn(body).map_err(|error| {
            self.leave(&entered);
            MirrorError::Write(error)
        })?;
        outcome.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            Err(match error {
                RecvTimeoutError::Timeout => {
                    self.leave_behind(&entered);
                    MirrorError::Hangs
                }
                RecvTimeoutError::Disconnected => {
                    MirrorError::Write(io::Error::other("the thread that writes has ended"))
                }
            })
        })
    }

    /// Waits until nobody else works in a directory.
    fn enter(&self, directory: &Path) -> Result<(), MirrorError> {
        let is_taken = |all: &mut AllWork| all.get(directory) == Some(&Work::UnderWay);
        let waited = self.0.1.wait_timeout_while(self.all(), PATIENCE, is_taken);
        let (mut all, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if all.contains_key(directory) {
            return Err(MirrorError::Hangs);
        }
        all.insert(directory.to_owned(), Work::UnderWay);
        Ok(())
    }

    fn leave_behind(&self, directory: &Path) {
        if let Some(work) = self.all().get_mut(directory) {
            *work = Work::LeftBehind;
        }
        self.0.1.notify_all();
    }

    fn leave(&self, directory: &Path) {
        self.all().remove(directory);
        self.0.1.notify_all();
    }

    fn all(&self) -> MutexGuard<'_, AllWork> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody whom the calling thread has become.
#[derive(Debug)]
pub struct Became {
    /// All his groups.
    pub groups: Vec<u32>,
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
