//! Hears of directories that come and go where blocks have a path parameter, and of those that files
//! wait for.
//!
//! A survey sets the watches of one block and then looks at what is there; the events that come
//! meanwhile wait in the kernel, so nothing falls between the two. After that each event tells of one
//! name. Where the kernel has lost events, everything is looked at again.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::inotify::{
    CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init, remove_watch,
};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::error::MirrorError;
use super::spec::TokenFileSpec;
use super::writer::parent;
use crate::attest::names::Names;
use crate::durable::Dir;

/// What is told of the directory in which directories appear.
const OF_PARENT: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::ATTRIB)
    .union(OF_PLACE);
/// What is told of a directory above one that is not there.
const OF_GAP: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(OF_PLACE);
/// What is told of each directory above, so that we know when a path leads elsewhere.
const OF_PLACE: WatchFlags = WatchFlags::MOVE_SELF
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::DONT_FOLLOW)
    .union(WatchFlags::MASK_ADD);

/// What is told of the directory of a single file.
const OF_HOME: WatchFlags = WatchFlags::DELETE
    .union(WatchFlags::MOVED_FROM)
    .union(OF_PLACE);

/// The events that are read at a time, in bytes.
const BUFFER: usize = 32 << 10;
/// How often a survey begins anew because what it saw was no longer so.
const TRIES: usize = 8;

/// What has happened.
#[derive(Debug, PartialEq, Eq)]
pub enum Notice {
    /// A directory of this name appeared at the place of a block's parameter.
    Appeared(Arc<Path>, String),
    /// It may be another one than before, or somebody else's.
    Changed(Arc<Path>, String),
    /// It is there no more.
    Vanished(Arc<Path>, String),
    /// The file of this block is gone.
    Missing(Arc<Path>),
    /// A directory appeared whose name is no text.
    Unreadable(Arc<Path>),
    /// The path of this block leads elsewhere: it is to be surveyed.
    Elsewhere(Arc<Path>),
    /// Events were lost: all blocks are to be surveyed.
    Lost,
}

/// Why a directory is watched, for one block.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    /// Directories appear in it.
    Parent,
    /// The file of this name lies in it.
    Home(OsString),
    /// The path leads through it; the next component, where that is not there.
    Above(Option<OsString>),
}

/// What a survey has found.
#[derive(Debug)]
pub struct Survey {
    /// Whose.
    pub block: Arc<Path>,
    /// The names of the directories that are there; none for a block without a parameter.
    pub found: Result<Vec<String>, MirrorError>,
    /// Whether the file of a block without a parameter is not there.
    pub lacks_file: bool,
    watches: Vec<(i32, Role)>,
}

/// Watches directories.
#[derive(Debug)]
pub struct Watcher {
    inotify: AsyncFd<Arc<OwnedFd>>,
    watches: HashMap<i32, Vec<(Arc<Path>, Role)>>,
}

impl Watcher {
    /// A watcher that watches nothing yet.
    ///
    /// # Errors
    ///
    /// The kernel has none to give: `fs.inotify.max_user_instances` is used up.
    pub fn new() -> io::Result<Self> {
        let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self {
            inotify: register(Arc::new(inotify))?,
            watches: HashMap::new(),
        })
    }

    /// What surveys need of it.
    pub fn handle(&self) -> Arc<OwnedFd> {
        Arc::clone(self.inotify.get_ref())
    }

    /// Takes over the watches of a survey, in place of those that the block had.
    pub fn adopt(&mut self, survey: &mut Survey) {
        for roles in self.watches.values_mut() {
            roles.retain(|(block, _)| *block != survey.block);
        }
        for (watch, role) in survey.watches.drain(..) {
            let roles = self.watches.entry(watch).or_default();
            roles.push((Arc::clone(&survey.block), role));
        }
        self.drop_unneeded();
    }

    /// Keeps only the watches of blocks that are still there.
    pub fn keep(&mut self, is_there: impl Fn(&Path) -> bool) {
        for roles in self.watches.values_mut() {
            roles.retain(|(block, _)| is_there(block));
        }
        self.drop_unneeded();
    }

    /// Gives back the watches that no block needs.
    fn drop_unneeded(&mut self) {
        let inotify = self.inotify.get_ref();
        self.watches.retain(|watch, roles| {
            let needed = !roles.is_empty();
            if !needed {
                // It may have ended by itself.
                let _ = remove_watch(inotify, *watch);
            }
            needed
        });
    }

    /// The next events, as many as are read at a time.
    ///
    /// # Errors
    ///
    /// The kernel does not tell any more.
    pub async fn notices(&mut self) -> io::Result<Vec<Notice>> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let mut notices = Vec::new();
            let read = ready
                .try_io(|inotify| read_events(inotify.get_ref(), &mut self.watches, &mut notices));
            match read {
                Ok(done) => {
                    done?;
                    return Ok(notices);
                }
                Err(_would_block) => {}
            }
        }
    }
}

/// Reads one buffer full of events.
fn read_events(
    inotify: &OwnedFd,
    watches: &mut HashMap<i32, Vec<(Arc<Path>, Role)>>,
    notices: &mut Vec<Notice>,
) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut reader = Reader::new(inotify, &mut buffer);
    loop {
        let event = reader.next()?;
        let name = event
            .file_name()
            .map(|name| OsStr::from_bytes(name.to_bytes()));
        let (watch, what) = (event.wd(), event.events());
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            notices.push(Notice::Lost);
        }
        for (block, role) in watches.get(&watch).into_iter().flatten() {
            notices.extend(notice(block, role, what, name));
        }
        if what.contains(ReadFlags::IGNORED) {
            watches.remove(&watch);
        }
        if reader.is_buffer_empty() {
            return Ok(());
        }
    }
}

/// What an event means for one block.
fn notice(block: &Arc<Path>, role: &Role, what: ReadFlags, name: Option<&OsStr>) -> Option<Notice> {
    let itself =
        ReadFlags::MOVE_SELF | ReadFlags::DELETE_SELF | ReadFlags::UNMOUNT | ReadFlags::IGNORED;
    let block = || Arc::clone(block);
    if what.intersects(itself) {
        return Some(Notice::Elsewhere(block()));
    }
    let name = name?;
    match role {
        Role::Above(missing) => {
            (missing.as_deref() == Some(name)).then(|| Notice::Elsewhere(block()))
        }
        Role::Home(file) => {
            let gone = what.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM);
            (gone && **file == *name).then(|| Notice::Missing(block()))
        }
        Role::Parent if !what.contains(ReadFlags::ISDIR) => None,
        Role::Parent => {
            let Some(name) = name.to_str() else {
                return what
                    .intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO)
                    .then(|| Notice::Unreadable(block()));
            };
            let gone = what.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM);
            let kind = if gone {
                Notice::Vanished
            } else if what.contains(ReadFlags::CREATE) {
                Notice::Appeared
            } else {
                Notice::Changed
            };
            Some(kind(block(), name.to_owned()))
        }
    }
}

impl Survey {
    /// Sets the watches of a block and looks at what is there. Touches directories of others: not
    /// for a thread that others wait for.
    pub fn make(inotify: Option<&OwnedFd>, spec: &TokenFileSpec, names: &Names) -> Self {
        let mut survey = Self {
            block: spec.path.as_path().into(),
            found: Ok(Vec::new()),
            lacks_file: false,
            watches: Vec::new(),
        };
        for _ in 0..TRIES {
            survey.watches.clear();
            survey.found = survey.look(inotify, spec, names);
            match &survey.found {
                Err(MirrorError::Directory(error)) if error.is_missing() => {
                    // It may have come while we looked for it.
                    if open(spec, names).is_err() {
                        break;
                    }
                }
                _ => break,
            }
        }
        survey
    }

    fn look(
        &mut self,
        inotify: Option<&OwnedFd>,
        spec: &TokenFileSpec,
        names: &Names,
    ) -> Result<Vec<String>, MirrorError> {
        if let Some(inotify) = inotify {
            self.watch_way(inotify, spec)?;
        }
        let Some(dir) = open(spec, names)? else {
            self.lacks_file = std::fs::symlink_metadata(&spec.path).is_err();
            return Ok(Vec::new());
        };
        if let Some(inotify) = inotify {
            let itself = format!("/proc/self/fd/{}", dir.as_fd().as_fd().as_raw_fd());
            // The link to the directory is to be followed here, and leads to it alone.
            let flags = OF_PARENT.difference(WatchFlags::DONT_FOLLOW);
            let watch = add_watch(inotify, itself.as_str(), flags).map_err(cannot_watch)?;
            self.watches.push((watch, Role::Parent));
        }
        dir.directories().map_err(MirrorError::Write)
    }

    /// Watches the way to the place of a block, up to the first component that is not there.
    fn watch_way(&mut self, inotify: &OwnedFd, spec: &TokenFileSpec) -> Result<(), MirrorError> {
        let (place, file) = (place(spec), spec.path.file_name());
        let home = file.filter(|_| spec.parameter.is_none());
        let mut at = PathBuf::new();
        let mut components = place.components().peekable();
        while let Some(component) = components.next() {
            at.push(component);
            let next = components.peek().map(|next| next.as_os_str());
            let missing = next.filter(|next| std::fs::symlink_metadata(at.join(next)).is_err());
            let (flags, role) = match (missing, home) {
                (Some(next), _) => (OF_GAP, Role::Above(Some(next.to_owned()))),
                (None, Some(file)) if next.is_none() => (OF_HOME, Role::Home(file.to_owned())),
                (None, _) => (OF_PLACE, Role::Above(None)),
            };
            match add_watch(inotify, at.as_path(), flags) {
                Ok(watch) => self.watches.push((watch, role)),
                // What stands in the way, the way itself tells better.
                Err(Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::NOENT) => break,
                Err(errno) => return Err(cannot_watch(errno)),
            }
            if missing.is_some() {
                break;
            }
        }
        Ok(())
    }
}

/// The directory that a block waits for: that of the directories, or that of its file.
fn place(spec: &TokenFileSpec) -> &Path {
    match &spec.parameter {
        Some(parameter) => &parameter.parent,
        None => spec.path.parent().unwrap_or(Path::new("/")),
    }
}

/// The directory in which directories appear; for a block without a parameter, only whether its own
/// is there: whose that is, matters when it is written.
fn open(spec: &TokenFileSpec, names: &Names) -> Result<Option<Dir>, MirrorError> {
    match &spec.parameter {
        Some(parameter) => parent(spec, parameter, names).map(Some),
        None => match Dir::open(place(spec)) {
            Err(error) if error.is_missing() => Err(error.into()),
            _ => Ok(None),
        },
    }
}

#[expect(deprecated, reason = "what replaces it needs unsafe")]
fn register(inotify: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    AsyncFd::with_interest(inotify, Interest::READABLE)
}

fn cannot_watch(errno: Errno) -> MirrorError {
    MirrorError::Watch(errno.into())
}
