//! The list of the files that were written, over restarts: what lies where a file of ours lay, and is
//! not on the list, is not ours, and stays.
//!
//! It is a log. A line is added before a file can be seen, one for each time it is written, and when
//! it is forgotten; from time to time the list is written anew. Nothing waits for the disk: what is
//! lost in a power cut leaves at most a file behind whose token ends.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::durable::{Attributes, Dir, DirError, FileId, Persistence};

const NAME: &str = "manifest";
/// So many lines more than files are kept before the list is written anew.
const SLACK: usize = 4096;

/// A file that was written, as one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lying {
    /// Where.
    pub path: PathBuf,
    /// Which it may be.
    pub ids: Vec<FileId>,
}

impl Lying {
    /// A file that is this one.
    pub fn of(path: PathBuf, id: FileId) -> Self {
        let ids = vec![id];
        Self { path, ids }
    }
}

/// The files of earlier agents, by path.
pub type Former = BTreeMap<PathBuf, Vec<FileId>>;

/// The list.
#[derive(Debug)]
pub struct Manifest(Mutex<Log>);

#[derive(Debug)]
struct Log {
    private: PathBuf,
    /// None where it cannot be written: then it is written anew as soon as that can be done.
    file: Option<File>,
    lines: usize,
    /// How often it was written anew.
    generation: u64,
}

impl Manifest {
    /// The list in the directory `private`, and what earlier agents wrote. A list that cannot be read
    /// is an empty one: nothing in it is worth not starting for.
    pub fn open(private: &Path) -> (Self, Former) {
        let read = Dir::open(private)
            .map_err(io::Error::other)
            .and_then(|dir| dir.read(NAME));
        let former = match read {
            Ok(bytes) => parse(&String::from_utf8_lossy(&bytes)),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, "the list of token files cannot be read: files whose block is gone stay");
                }
                Former::new()
            }
        };
        let log = Log {
            private: private.to_owned(),
            file: None,
            lines: usize::MAX,
            generation: 0,
        };
        (Self(Mutex::new(log)), former)
    }

    /// Adds a file that is about to be seen.
    pub fn note(&self, path: &Path, id: FileId) {
        self.log().add(format_args!("+{id} {}\n", path.display()));
    }

    /// Takes a path off the list.
    pub fn forget(&self, path: &Path) {
        self.log().add(format_args!("-{}\n", path.display()));
    }

    /// How often it was written anew: what was noted before is on it only if it was known then.
    pub fn generation(&self) -> u64 {
        self.log().generation
    }

    /// Whether it is time to write it anew, when `files` files are on it.
    pub fn is_long(&self, files: usize) -> bool {
        self.log().lines > files.saturating_mul(2).saturating_add(SLACK)
    }

    /// Writes it anew.
    ///
    /// # Errors
    ///
    /// It cannot be written. What is noted meanwhile is lost, and it is long until it can.
    pub fn rewrite<'a>(
        &self,
        files: impl Iterator<Item = (&'a Path, &'a [FileId])>,
    ) -> Result<(), DirError> {
        let (mut text, mut lines) = (String::new(), 0);
        for (path, ids) in files {
            for id in ids {
                // Writing to a string does not fail.
                let _ = writeln!(text, "+{id} {}", path.display());
                lines += 1;
            }
        }
        self.log().begin(&text, lines)
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn begin(&mut self, text: &str, lines: usize) -> Result<(), DirError> {
        (self.file, self.lines) = (None, usize::MAX);
        self.generation += 1;
        let dir = Dir::open(&self.private)?;
        let io = |source| DirError::Io {
            path: self.private.join(NAME),
            source,
        };
        let own = Attributes::own(0o600);
        dir.replace(NAME, text.as_bytes(), own, Persistence::Volatile)
            .map_err(io)?;
        self.file = Some(dir.append(NAME).map_err(io)?);
        self.lines = lines;
        Ok(())
    }

    fn add(&mut self, line: std::fmt::Arguments<'_>) {
        let Some(file) = &mut self.file else {
            return;
        };
        // In one call, so that no part of a line is ever there alone while we live.
        match file.write_all(line.to_string().as_bytes()) {
            Ok(()) => self.lines = self.lines.saturating_add(1),
            Err(error) => {
                tracing::warn!(%error, "the list of token files cannot be written; trying again");
                (self.file, self.lines) = (None, usize::MAX);
            }
        }
    }
}

/// Reads a list; a line that makes no sense, as the last one of an agent that was killed, is passed
/// over.
fn parse(text: &str) -> Former {
    let mut former = Former::new();
    let whole = text
        .rfind('\n')
        .and_then(|end| text.get(..end))
        .unwrap_or_default();
    for line in whole.lines() {
        if let Some(path) = line.strip_prefix('-') {
            former.remove(Path::new(path));
        } else if let Some((id, path)) = line.strip_prefix('+').and_then(|row| row.split_once(' '))
            && let Ok(id) = id.parse()
        {
            let ids = former.entry(PathBuf::from(path)).or_default();
            ids.retain(|known| *known != id);
            ids.push(id);
        }
    }
    former
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> FileId {
        text.parse().unwrap()
    }

    fn listed(private: &Path) -> Vec<(PathBuf, Vec<FileId>)> {
        Manifest::open(private).1.into_iter().collect()
    }

    #[test]
    fn what_is_noted_is_found_again_and_what_is_forgotten_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let private = directory.path().canonicalize().unwrap();
        let (manifest, former) = Manifest::open(&private);
        assert!(former.is_empty() && manifest.is_long(0));
        let (one, two) = (Path::new("/run/a b/one"), Path::new("/run/two"));
        let ids = [id("1:a:5")];
        manifest.rewrite([(one, &ids[..])].into_iter()).unwrap();
        assert!(!manifest.is_long(0));
        manifest.note(two, id("1:b:5"));
        manifest.note(one, id("1:c:5"));
        manifest.forget(two);
        assert_eq!(
            listed(&private),
            [(one.into(), vec![id("1:a:5"), id("1:c:5")])]
        );
        for _ in 0..=SLACK {
            manifest.note(two, id("1:b:5"));
        }
        assert!(manifest.is_long(0) && !manifest.is_long(10));
    }

    #[test]
    fn a_line_that_was_cut_off_or_makes_no_sense_is_passed_over() {
        let text = "+1:a:5 /x\n+zz /y\n+1:a /z\nnonsense\n+1:b:5\n-/not/there\n+1:c:5 /cut";
        let former: Vec<_> = parse(text).into_iter().collect();
        assert_eq!(former, [("/x".into(), vec![id("1:a:5")])]);
        assert!(parse("+1:a:5 /x").is_empty() && parse("").is_empty());
    }

    #[test]
    fn a_list_that_cannot_be_written_stops_nobody_and_is_written_as_soon_as_it_can() {
        let directory = tempfile::tempdir().unwrap();
        let private = directory.path().canonicalize().unwrap().join("later");
        let (manifest, _) = Manifest::open(&private);
        assert!(manifest.rewrite(std::iter::empty()).is_err());
        manifest.note(Path::new("/x"), id("1:a:5"));
        assert!(manifest.is_long(usize::MAX / 4));
        std::fs::create_dir(&private).unwrap();
        manifest.rewrite(std::iter::empty()).unwrap();
        manifest.note(Path::new("/x"), id("1:a:5"));
        assert_eq!(listed(&private).len(), 1);
    }
}
