//! An entry, as it is printed.

use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::from_unix_seconds;
use crate::duration::show_duration;
use crate::pb::admin::Entry;
use crate::proto_json::to_json;

/// An entry for people.
pub fn entry_text(entry: &Entry) -> String {
    let spec = entry.spec.clone().unwrap_or_default();
    let ttl = match spec.jwt_svid_ttl {
        0 => "default".to_owned(),
        seconds => show_duration(Duration::from_secs(seconds)),
    };
    let audiences = if spec.limit_audiences {
        spec.audiences.join(", ")
    } else {
        "any".to_owned()
    };
    let source = if entry.configured {
        "configuration"
    } else {
        "created"
    };
    let mut rows = vec![
        ("Entry ID", entry.id.clone()),
        ("SPIFFE ID", spec.spiffe_id),
    ];
    rows.extend(
        spec.selectors
            .into_iter()
            .map(|selector| ("Selector", selector)),
    );
    rows.extend([
        ("Audiences", audiences),
        ("JWT-SVID TTL", ttl),
        ("Source", source.to_owned()),
    ]);
    if !spec.hint.is_empty() {
        rows.push(("Hint", spec.hint));
    }
    if spec.expires_at > 0 {
        let end = crate::cli::token::show_time(from_unix_seconds(spec.expires_at));
        rows.push(("Expires at", end));
    }
    if !entry.configured {
        rows.push(("Revision", entry.revision.to_string()));
    }
    if !entry.problem.is_empty() {
        rows.push(("Does not match", entry.problem.clone()));
    }
    rows.iter()
        .map(|(name, value)| format!("{name:<15}: {value}\n"))
        .collect()
}

/// An entry for programs.
pub fn entry_json(entry: &Entry) -> Value {
    let spec = entry.spec.clone().unwrap_or_default();
    json!({
        "id": entry.id,
        "spiffe_id": spec.spiffe_id,
        "selectors": spec.selectors,
        "audiences": spec.limit_audiences.then_some(spec.audiences),
        "jwt_svid_ttl": spec.jwt_svid_ttl,
        "hint": spec.hint,
        "claims": spec.claims.map(to_json).unwrap_or_default(),
        "issuer": spec.issuer,
        "key": spec.key,
        "jti": spec.jti,
        "expires_at": spec.expires_at,
        "configured": entry.configured,
        "created_at": entry.created_at,
        "revision": entry.revision,
        "problem": entry.problem,
        "kept": entry.kept.clone().map(to_json).unwrap_or_default(),
    })
}
