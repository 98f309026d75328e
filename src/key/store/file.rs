//! The state file: JSON with a version and a checksum.

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{BundleMark, State};
use crate::jose::encode_base64url;
use crate::jose::jwk::JwkError;
use crate::key::record::{KeyRecord, Stamp, StoredRecord};

/// The format that is written. Version 1 lacks what only rotation needs.
pub const VERSION: u32 = 2;

/// Why a file holds no state.
#[derive(Debug)]
pub enum Problem {
    /// It was written by a later agent.
    Newer(u32),
    /// It is torn or was changed.
    Damaged(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    version: u32,
    body: Body,
    /// SHA-256 of the body as it is written, base64url.
    sha256: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    /// Grows by one with each write.
    generation: u64,
    written: Stamp,
    keys: Vec<StoredRecord>,
    #[serde(default, skip_serializing_if = "is_unset")]
    bundle: BundleMark,
}

fn is_unset(mark: &BundleMark) -> bool {
    *mark == BundleMark::default()
}

/// Reads a state, its generation and when it was written.
pub fn parse(bytes: &[u8]) -> Result<(State, u64, Stamp), Problem> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let damaged = |error: serde_json::Error| Problem::Damaged(error.to_string());
    let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version > VERSION {
        return Err(Problem::Newer(version));
    }
    let file: StateFile = serde_json::from_slice(bytes).map_err(damaged)?;
    if checksum(&file.body).map_err(damaged)? != file.sha256 {
        return Err(Problem::Damaged("its checksum is wrong".to_owned()));
    }
    let stored = file.body.keys.into_iter();
    let keys: Result<_, JwkError> = stored.map(KeyRecord::from_stored).collect();
    let state = State {
        keys: keys.map_err(|error| Problem::Damaged(error.to_string()))?,
        bundle: file.body.bundle,
    };
    Ok((state, file.body.generation, file.body.written))
}

/// Writes a state.
pub fn render(state: &State, generation: u64, written: Stamp) -> serde_json::Result<Vec<u8>> {
    let body = Body {
        generation,
        written,
        keys: state.keys.iter().map(KeyRecord::to_stored).collect(),
        bundle: state.bundle.clone(),
    };
    let file = StateFile {
        version: VERSION,
        sha256: checksum(&body)?,
        body,
    };
    let mut bytes = serde_json::to_vec_pretty(&file)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn checksum(body: &Body) -> serde_json::Result<String> {
    Ok(encode_base64url(digest(
        &SHA256,
        &serde_json::to_vec(body)?,
    )))
}
