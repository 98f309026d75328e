//! The program's own source, for tests of what is written in it.

use std::fs;
use std::path::{Path, PathBuf};

/// Every file below `src`, by its path there.
pub fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut pending = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else {
            let name = path.strip_prefix(&root).unwrap().to_owned();
            files.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(files.len() > 30);
    files
}

/// The part of a file before its tests; nothing of a file that is all tests.
pub fn code<'a>(path: &Path, text: &'a str) -> &'a str {
    if path.ends_with("tests.rs") {
        return "";
    }
    text.split("\n#[cfg(test)]").next().unwrap_or(text)
}
