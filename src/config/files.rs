//! The files of a configuration: the one that is named, and those that it includes.

use std::io::{self, ErrorKind};
use std::path::Path;

use super::diagnostic::{Diagnostics, Place};
use super::hcl::{self, Block, check_repetition};
use crate::durable::{Dir, DirError};

/// Reads a file and those it includes, checked block by block; `None` where it cannot be parsed.
pub fn load(path: &Path, report: &mut Diagnostics) -> Option<Block> {
    let text = read(path, report)?;
    parse(path, &text, report)
}

/// As [`load`], of a text that is in memory.
pub fn parse(path: &Path, text: &str, report: &mut Diagnostics) -> Option<Block> {
    let mut root = hcl::parse(path, text, report)?;
    for (pattern, place) in root
        .texts("include")
        .map(|(items, _)| items)
        .unwrap_or_default()
    {
        include(&mut root, &pattern, &place, report);
    }
    check_repetition(&root.blocks, report);
    Some(root)
}

fn include(root: &mut Block, pattern: &str, place: &Place, report: &mut Diagnostics) {
    if !pattern.starts_with('/') {
        report.error(place, format!("{pattern:?} is not an absolute path"), "");
        return;
    }
    let paths = match glob::glob(pattern) {
        Ok(paths) => paths,
        Err(error) => {
            report.error(place, format!("{pattern:?} is no pattern: {error}"), "");
            return;
        }
    };
    for path in paths {
        let path = match path {
            Ok(path) => path,
            Err(error) => {
                report.error(place, format!("cannot look into {error}"), "");
                continue;
            }
        };
        let Some(text) = read(&path, report) else {
            continue;
        };
        let included = hcl::parse(&path, &text, report);
        for block in included.into_iter().flat_map(|included| included.blocks) {
            if matches!(block.spec.name, "issuer" | "entry" | "token_file") {
                root.blocks.push(block);
            } else {
                let message = format!("{} stands in an included file", block.spec.name);
                let help = "included files hold issuer, entry and token_file blocks";
                report.error(&block.place, message, help);
            }
        }
    }
}

/// The text of a file that nobody but root and our user can change: whoever can write it decides
/// who gets which identity.
fn read(path: &Path, report: &mut Diagnostics) -> Option<String> {
    let start = Place {
        file: path.into(),
        line: 1,
        column: 1,
    };
    let (reason, help) = match read_trusted(path) {
        Ok(text) => return Some(text),
        Err(DirError::Io { source, .. }) => {
            let help = match source.kind() {
                ErrorKind::NotFound => {
                    "name another file with --config, or start without one: agent dev"
                }
                ErrorKind::PermissionDenied => "run as a user who may read it",
                ErrorKind::InvalidInput => "name a file",
                ErrorKind::InvalidData => "save it as UTF-8 text",
                _ => "",
            };
            (format!("cannot read it: {source}"), help)
        }
        Err(error) => {
            let help = "whoever can change it decides who gets which identity";
            (error.to_string(), help)
        }
    };
    report.error(&start, reason, help);
    None
}

fn read_trusted(path: &Path) -> Result<String, DirError> {
    let problem = |source: io::Error| DirError::Io {
        path: path.to_owned(),
        source,
    };
    let whole = path.canonicalize().map_err(problem)?;
    let name = whole.file_name().and_then(|name| name.to_str());
    let (Some(parent), Some(name)) = (whole.parent(), name) else {
        return Err(problem(ErrorKind::InvalidInput.into()));
    };
    let bytes = Dir::open_shared(parent)?.read_trusted(name)?;
    String::from_utf8(bytes).map_err(|error| problem(io::Error::new(ErrorKind::InvalidData, error)))
}
