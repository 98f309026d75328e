//! A webroot as it lies on the disk: what a web server can read of it, and what verifiers would
//! make of that.

use std::collections::BTreeSet;
use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::check::{Documents, Notes, Places, Verdict, check};
use super::webroot::WebrootSpec;
use crate::durable::is_temporary;

/// More than any verifier reads.
const MAX_DOCUMENT: u64 = 1 << 20;

/// Says what a relying party would reject of a webroot, and what in it a web server that runs as
/// another user could not read. Changes nothing.
pub fn examine(spec: &WebrootSpec) -> Verdict {
    let mut found = Verdict::default();
    let directory = match spec.directory.canonicalize() {
        Ok(directory) => directory,
        Err(error) => {
            let help = match (error.kind(), spec.create) {
                (ErrorKind::NotFound, true) => "start the agent, which makes it",
                (ErrorKind::NotFound, false) => {
                    "make it, owned by the user of the agent, and start the agent"
                }
                _ => PRIVILEGE,
            };
            let message = format!("the webroot cannot be entered: {error}");
            found.about(&spec.directory).error(message, help);
            return found;
        }
    };
    let spec = WebrootSpec {
        directory,
        ..spec.clone()
    };
    let places = Places::of(&spec);
    directories(&spec, &places, &mut found);
    let mut read = |path: &Path, required| document(path, required, &mut found.about(path));
    // In the order of their writing: a change between the two looks like an algorithm without a
    // key, never like a key without its algorithm.
    let jwks = read(&places.jwks, true);
    let discovery = read(&places.discovery, true);
    // Where the JWKS has that name, there is no bundle.
    let bundle = (places.bundle != places.jwks)
        .then(|| read(&places.bundle, false))
        .flatten();
    let documents = Documents {
        discovery,
        jwks,
        bundle,
    };
    let mut verdict = check(&spec, &documents);
    verdict.findings.splice(..0, found.findings);
    verdict
}

const PRIVILEGE: &str = "run this as root or as the user of the agent";

/// Looks at the directories that hold documents, and at those above them.
fn directories(spec: &WebrootSpec, places: &Places, found: &mut Verdict) {
    let documents = [&places.discovery, &places.jwks, &places.bundle];
    let ways: BTreeSet<_> = documents
        .iter()
        .flat_map(|path| path.ancestors().skip(1))
        .collect();
    for directory in ways {
        if let Ok(metadata) = fs::metadata(directory) {
            Access::Enter.check(&metadata, &mut found.about(directory));
        }
        if !directory.starts_with(&spec.directory) {
            continue;
        }
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        for entry in entries {
            if entry.file_name().to_str().is_some_and(is_temporary) {
                found.about(&entry.path()).warning(
                    "an agent that was killed while it wrote has left it behind",
                    "remove it",
                );
            }
        }
    }
}

/// The bytes of a document, if it can be read and verifiers would read it.
fn document(path: &Path, required: bool, notes: &mut Notes<'_>) -> Option<Vec<u8>> {
    match read(path) {
        Ok((bytes, metadata)) => {
            Access::Read.check(&metadata, notes);
            Some(bytes)
        }
        Err(error) => {
            let help = match error.kind() {
                ErrorKind::NotFound if !required => return None,
                ErrorKind::NotFound => "start the agent, which writes it before it signs anything",
                ErrorKind::PermissionDenied => PRIVILEGE,
                _ => "remove it and restart the agent, which writes it again",
            };
            notes.error(format!("it cannot be read: {error}"), help);
            None
        }
    }
}

/// Reads a regular file of a size that verifiers read; waits for nothing.
fn read(path: &Path) -> io::Result<(Vec<u8>, Metadata)> {
    let unusable = |why: &str| io::Error::new(ErrorKind::InvalidData, why);
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(unusable("not a regular file"));
    }
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let metadata = file.metadata()?;
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_DOCUMENT {
        return Err(unusable("larger than 1 MiB"));
    }
    Ok((bytes, metadata))
}

/// What a web server must be able to do.
#[derive(Debug, Clone, Copy)]
enum Access {
    Enter,
    Read,
}

impl Access {
    /// Warns if only the owner and the group have it.
    fn check(self, metadata: &Metadata, notes: &mut Notes<'_>) {
        let (bit, verb, letter) = match self {
            Self::Enter => (0o1, "enter", 'x'),
            Self::Read => (0o4, "read", 'r'),
        };
        let mode = metadata.mode();
        if mode & bit != 0 {
            return;
        }
        let chmod = format!("run chmod o+{letter} on it");
        if mode & (bit << 3) == 0 {
            notes.warning(format!("only its owner can {verb} it"), chmod);
        } else if metadata.gid() == 0 {
            notes.warning(format!("only its owner and root can {verb} it"), chmod);
        } else {
            notes.warning(
                format!("only its owner and group {} can {verb} it", metadata.gid()),
                format!("{chmod}, or add the web server to that group"),
            );
        }
    }
}
