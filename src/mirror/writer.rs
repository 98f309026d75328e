//! Writing and removing files in directories, whosever they are.
//!
//! A directory of root or of the agent's user is worked in as ourselves, one of somebody else as that
//! user. Each file is on the list of ours ([`Manifest`]) before anybody can see it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::error::MirrorError;
use super::manifest::{Lying, Manifest};
use super::parameter::Parameter;
use super::spec::TokenFileSpec;
use super::user::Users;
use crate::attest::names::Names;
use crate::durable::{Attributes, Dir, DirError, FileId, Persistence, Trust};

/// Writes and removes files.
#[derive(Debug, Clone)]
pub struct Writers {
    /// Does what must be done as somebody else.
    pub users: Users,
    manifest: Arc<Manifest>,
}

/// What is to be in a file.
pub struct Letter {
    /// Which of the files of its block it is.
    pub value: Arc<str>,
    /// The bytes.
    pub content: Zeroizing<String>,
    /// Whether a killed agent may have left something beside it.
    pub sweep: bool,
    /// Whether it is the first of its file.
    pub first: bool,
}

/// A file that was written.
#[derive(Debug, Clone, Copy)]
pub struct Laid {
    /// Which it is.
    pub file: FileId,
    /// Whether its bytes reach a disk; told only of the first ones.
    pub on_disk: bool,
    /// Whether nothing half-written is left beside it, as far as it was swept there.
    pub is_clean: bool,
}

impl Writers {
    /// Writers that keep this list.
    pub fn new(manifest: Arc<Manifest>) -> Self {
        let users = Users::default();
        Self { users, manifest }
    }

    /// That of the list.
    pub fn generation(&self) -> u64 {
        self.manifest.generation()
    }

    /// Writes files of one block, in order.
    ///
    /// # Errors
    ///
    /// For each why it is as it was.
    pub fn put_all(
        &self,
        spec: &Arc<TokenFileSpec>,
        names: &Arc<Names>,
        letters: Vec<Letter>,
    ) -> Vec<Result<Laid, MirrorError>> {
        // Found once for all of them; what is wrong with it, each finds by itself.
        let parameter = spec.parameter.as_ref();
        let parent = parameter.and_then(|parameter| parent(spec, parameter, names).ok());
        letters
            .into_iter()
            .map(|letter| self.put(spec, names, letter, parent.as_ref()))
            .collect()
    }

    fn put(
        &self,
        spec: &Arc<TokenFileSpec>,
        names: &Arc<Names>,
        letter: Letter,
        parent: Option<&Dir>,
    ) -> Result<Laid, MirrorError> {
        let uid = match directory(spec, names, &letter.value, None, parent) {
            Ok(dir) => return self.put_as_ourselves(&dir, spec, names, &letter),
            Err(MirrorError::Directory(DirError::Owner { uid, .. })) => uid,
            Err(error) => return Err(error),
        };
        if let Some(owner) = &spec.owner
            && owner.uid(names)? != uid
        {
            return Err(MirrorError::OtherOwner(uid));
        }
        let group = spec.group.as_ref().map(|group| group.gid(names));
        let group = group.transpose()?;
        let path = spec.path_of(&letter.value).into_owned();
        let (spec, names, writers) = (Arc::clone(spec), Arc::clone(names), self.clone());
        self.users.work_as(uid, path, move |user| {
            if let Some(group) = group
                && !user.groups.contains(&group)
            {
                return Err(MirrorError::OtherGroup(uid, group));
            }
            let dir = directory(&spec, &names, &letter.value, Some(uid), None)?;
            let attributes = Attributes {
                mode: spec.mode,
                owner: None,
                group,
            };
            writers.write(&dir, &spec, &letter, attributes)
        })
    }

    fn put_as_ourselves(
        &self,
        dir: &Dir,
        spec: &TokenFileSpec,
        names: &Names,
        letter: &Letter,
    ) -> Result<Laid, MirrorError> {
        let (owner, group) = dir.owner().map_err(MirrorError::Write)?;
        let owner = match &spec.owner {
            Some(account) => account.uid(names)?,
            None => owner,
        };
        let group = match &spec.group {
            Some(account) => account.gid(names)?,
            None => group,
        };
        let attributes = Attributes {
            mode: spec.mode,
            owner: Some(owner),
            group: Some(group),
        };
        self.write(dir, spec, letter, attributes)
    }

    /// What is lost in a power cut is made again at the next start, so nothing is waited for.
    fn write(
        &self,
        dir: &Dir,
        spec: &TokenFileSpec,
        letter: &Letter,
        attributes: Attributes,
    ) -> Result<Laid, MirrorError> {
        let path = spec.path_of(&letter.value);
        let (_, name) = place(&path)?;
        let is_clean = !letter.sweep || dir.sweep().map_err(MirrorError::Write)?;
        let note = |id| self.manifest.note(&path, id);
        let bytes = letter.content.as_bytes();
        let written = dir.replace_noted(name, bytes, attributes, Persistence::Volatile, note);
        let file = written.map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM) => MirrorError::Owner(error),
            Some(libc::EBUSY) => MirrorError::MountPoint,
            _ => MirrorError::Write(error),
        })?;
        let on_disk = letter.first && dir.is_in_memory().is_ok_and(|in_memory| !in_memory);
        Ok(Laid {
            file,
            on_disk,
            is_clean,
        })
    }

    /// Removes a file whose token nobody is to have any more, if it is still one that was written;
    /// whether nothing is left to do.
    pub fn remove(&self, file: &Lying) -> bool {
        let path = file.path.display();
        match self.remove_own(file) {
            // With its directory, the file is gone too.
            Err(MirrorError::Directory(error)) if error.is_missing() => {}
            Ok(true) => tracing::info!(%path, "the token file is removed"),
            Ok(false) => tracing::info!(%path, "the token file is no longer ours: left alone"),
            Err(error) => {
                tracing::warn!(%path, %error, "the token file cannot be removed; trying again");
                return false;
            }
        }
        self.manifest.forget(&file.path);
        true
    }

    fn remove_own(&self, file: &Lying) -> Result<bool, MirrorError> {
        let (directory, name) = place(&file.path)?;
        let uid = match Dir::open(directory) {
            Ok(dir) => return dir.remove_own(name, &file.ids).map_err(MirrorError::Write),
            Err(DirError::Owner { uid, .. }) => uid,
            Err(error) => return Err(error.into()),
        };
        let file = file.clone();
        self.users.work_as(uid, file.path.clone(), move |_| {
            let (directory, name) = place(&file.path)?;
            let dir = Dir::open_of(directory, uid)?;
            dir.remove_own(name, &file.ids).map_err(MirrorError::Write)
        })
    }
}

/// The directory in which the directories of a block with a parameter appear.
///
/// # Errors
///
/// It is not there, or somebody else could change what lies in it.
pub fn parent(
    spec: &TokenFileSpec,
    parameter: &Parameter,
    names: &Names,
) -> Result<Dir, MirrorError> {
    Ok(if spec.create_directory {
        Dir::create(&parameter.parent, 0o755)?
    } else {
        let trust = parameter.owner.trust_in_parent(names)?;
        Dir::open_trusting(&parameter.parent, trust)?
    })
}

/// The directory that a file is to lie in, which may also belong to the user `whose`.
fn directory(
    spec: &TokenFileSpec,
    names: &Names,
    value: &str,
    whose: Option<u32>,
    known: Option<&Dir>,
) -> Result<Dir, MirrorError> {
    let trust = Trust {
        also: whose,
        ..Trust::default()
    };
    let Some(parameter) = &spec.parameter else {
        let (directory, _) = place(&spec.path)?;
        return Ok(if spec.create_directory && whose.is_none() {
            Dir::create(directory, 0o755)?
        } else {
            Dir::open_trusting(directory, trust)?
        });
    };
    let found;
    let parent = match known {
        Some(dir) => dir,
        None => {
            found = parent(spec, parameter, names)?;
            &found
        }
    };
    let named = match parent.below(Path::new(value), trust) {
        Err(DirError::Owner { uid, .. }) if !parameter.owner.is(uid, names)? => {
            return Err(MirrorError::DirectoryOwner(uid));
        }
        named => named?,
    };
    let (uid, _) = named.owner().map_err(MirrorError::Write)?;
    if !parameter.owner.is(uid, names)? {
        return Err(MirrorError::DirectoryOwner(uid));
    }
    Ok(match parameter.below() {
        Some(below) => named.below(below, trust)?,
        None => named,
    })
}

/// Where a file lies: its directory, and its name there.
///
/// # Errors
///
/// It lies nowhere.
pub fn place(path: &Path) -> Result<(&Path, &str), MirrorError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let invalid = || MirrorError::Write(io::ErrorKind::InvalidFilename.into());
    path.parent().zip(name).ok_or_else(invalid)
}
