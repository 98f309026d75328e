//! Registration entries: which callers get which identity, and what its tokens say.

mod identity;
mod nearest;
mod set;
mod shared;
mod template;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};
use thiserror::Error;

pub use self::identity::{Granted, Grants, Identity, IdentityTemplate};
pub use self::nearest::{Known, NearMiss};
pub use self::set::{EntrySet, Place};
pub use self::template::{ClaimTemplate, Field, IdTemplate, NoValue};
use crate::selector::{Cost, Selector, SelectorSet};
use crate::spiffe_id::SpiffeId;

/// The claims that only the agent sets; configured claims may not bear these names.
pub const RESERVED_CLAIMS: [&str; 7] = ["iss", "sub", "aud", "iat", "exp", "nbf", "jti"];

/// One audience, as it stands in `aud`: not empty, without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Audience(Arc<str>);

impl Audience {
    /// The text, byte by byte as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no audience.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AudienceError {
    /// It is empty.
    #[error("an audience must not be empty")]
    Empty,
    /// It holds a control character.
    #[error("an audience may not hold control characters")]
    Control,
}

impl FromStr for Audience {
    type Err = AudienceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(AudienceError::Empty);
        }
        if text.chars().any(char::is_control) {
            return Err(AudienceError::Control);
        }
        Ok(Self(text.into()))
    }
}

/// Configured claims; none of [`RESERVED_CLAIMS`]. Cheap to copy and to compare.
#[derive(Debug, Clone)]
pub struct Claims {
    members: Arc<Map<String, Value>>,
    /// All of them as text, whose order depends on nothing but the claims.
    text: Arc<str>,
}

impl Claims {
    /// Takes the claims of a configuration.
    ///
    /// # Errors
    ///
    /// The first name that only the agent may set.
    pub fn new(claims: Map<String, Value>) -> Result<Self, ReservedClaim> {
        let mut names = claims.keys();
        match names.find(|name| RESERVED_CLAIMS.contains(&name.as_str())) {
            Some(name) => Err(ReservedClaim(name.clone())),
            None => Ok(Self::unchecked(claims)),
        }
    }

    fn unchecked(members: Map<String, Value>) -> Self {
        let text = Value::Object(members.clone()).to_string();
        Self {
            members: Arc::new(members),
            text: text.into(),
        }
    }

    /// These claims with those of `later` laid over them.
    pub fn merged_with(&self, later: &Self) -> Self {
        let mut all = Map::clone(&self.members);
        all.extend(Map::clone(&later.members));
        Self::unchecked(all)
    }

    /// These claims with each text in them, at any depth, replaced by what `change` makes of it;
    /// names stay.
    pub fn map_texts(&self, change: impl Fn(&str) -> String) -> Self {
        fn changed(value: &Value, change: &impl Fn(&str) -> String) -> Value {
            match value {
                Value::String(text) => change(text).into(),
                Value::Array(items) => items.iter().map(|item| changed(item, change)).collect(),
                Value::Object(members) => members
                    .iter()
                    .map(|(name, member)| (name.clone(), changed(member, change)))
                    .collect(),
                other => other.clone(),
            }
        }
        let members = self.members.iter();
        Self::unchecked(
            members
                .map(|(name, member)| (name.clone(), changed(member, &change)))
                .collect(),
        )
    }

    /// The claims by name.
    pub fn as_map(&self) -> &Map<String, Value> {
        &self.members
    }
}

impl Default for Claims {
    fn default() -> Self {
        Self::unchecked(Map::new())
    }
}

impl PartialEq for Claims {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Claims {}

impl Hash for Claims {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// A claim that only the agent may set.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the claim {0} cannot be configured")]
pub struct ReservedClaim(String);

impl ReservedClaim {
    /// What to do about it.
    pub const HELP: &str = "iss, sub, aud, iat, exp, nbf and jti are set by the agent alone";
}

/// Names a chain of signing keys: the `key` block of an `issuer` block.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyRef {
    /// Label of the issuer.
    pub issuer: Arc<str>,
    /// Label of the key within it.
    pub key: Arc<str>,
}

impl fmt::Display for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.issuer, self.key)
    }
}

/// A registration entry: whoever has all the selectors gets the identity.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name, unique among entries.
    pub id: Arc<str>,
    /// The identity it grants.
    pub grants: Grants,
    /// What a caller must have, all of it; never empty.
    pub selectors: SelectorSet,
    /// The only audiences that may be asked for; `None` allows any.
    pub audiences: Option<Vec<Audience>>,
    /// Life of a token fetched over the Workload API; at least a second.
    pub ttl: Duration,
    /// Tells a caller with several identities which one this is; may be empty.
    pub hint: String,
    /// The keys that sign for it.
    pub key: KeyRef,
    /// Whether each token carries a random `jti`.
    pub jti: bool,
    /// When it ceases to match; `None` never.
    pub expires_at: Option<SystemTime>,
}

impl Entry {
    /// Whether a token may name all of `audiences`.
    pub fn allows(&self, audiences: &[Audience]) -> bool {
        self.audiences
            .as_ref()
            .is_none_or(|allowed| audiences.iter().all(|wanted| allowed.contains(wanted)))
    }

    /// The names of what must be looked for before it can be told whether the entry matches, and
    /// what it grants: the connection does not tell it.
    pub fn asks(&self) -> impl Iterator<Item = &str> {
        let selectors = self.selectors.iter().filter(|selector| !selector.is_told());
        let fields = self.grants.fields().into_iter().map(Field::name);
        selectors.map(Selector::name).chain(fields)
    }

    /// What it asks of a caller one after the other: what he must have before, and the names of what
    /// is asked for then. What is dear is asked for only of those who are in the right place.
    pub fn steps(&self) -> Vec<(SelectorSet, Vec<&str>)> {
        let up_to = |cost| {
            let all = self.selectors.iter().filter(|one| one.cost() <= cost);
            all.cloned().collect::<SelectorSet>()
        };
        let told = up_to(Cost::Told);
        let placed = self.selectors.iter().any(|one| one.cost() == Cost::Cheap);
        let (dear, cheap): (Vec<_>, Vec<_>) = self
            .asks()
            .partition(|name| placed && Cost::of(name) == Cost::Dear);
        let steps = [(told, cheap), (up_to(Cost::Cheap), dear)];
        let steps = steps.into_iter().filter(|(_, asked)| !asked.is_empty());
        steps.collect()
    }
}

/// The identities that a caller gets out of what matches: those whose entries allow every audience,
/// each SPIFFE ID once (from its first entry), and with `only` none but that one.
pub fn identities(
    matching: &[Granted],
    audiences: &[Audience],
    only: Option<&SpiffeId>,
) -> Vec<Granted> {
    let mut granted: Vec<Granted> = Vec::new();
    for grant in matching {
        let id = &grant.identity.spiffe_id;
        let wanted = only.is_none_or(|only| only == id);
        let known = granted.iter().any(|got| got.identity.spiffe_id == *id);
        if wanted && !known && grant.entry.allows(audiences) {
            granted.push(grant.clone());
        }
    }
    granted
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// An entry for tests; `selectors` in the order written.
    pub fn entry(id: &str, spiffe_id: &str, selectors: &[&str]) -> Entry {
        Entry {
            id: id.into(),
            grants: Grants::Fixed(Identity::new(spiffe_id.parse().unwrap())),
            selectors: selectors.iter().map(|s| s.parse().unwrap()).collect(),
            audiences: None,
            ttl: Duration::from_secs(300),
            hint: String::new(),
            key: KeyRef {
                issuer: "main".into(),
                key: "main".into(),
            },
            jti: false,
            expires_at: None,
        }
    }

    fn audiences(texts: &[&str]) -> Vec<Audience> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn matching_keeps_the_order_of_the_configuration() {
        let set: EntrySet = [
            entry("b", "spiffe://td/b", &["unix:uid:1"]),
            entry("other", "spiffe://td/o", &["unix:uid:2"]),
            entry("a", "spiffe://td/a", &["unix:uid:1", "unix:gid:1"]),
        ]
        .into_iter()
        .collect();
        let found = ["unix:uid:1", "unix:gid:1"]
            .iter()
            .map(|s| s.parse().unwrap())
            .collect();
        let matching = set.matching(&found);
        let ids: Vec<_> = matching.iter().map(|m| &*m.entry.id).collect();
        assert_eq!(ids, ["b", "a"]);
    }

    #[test]
    fn an_identity_needs_every_audience_and_appears_once() {
        let mut limited = entry("limited", "spiffe://td/a", &["unix:uid:1"]);
        limited.audiences = Some(audiences(&["vault"]));
        let open = entry("open", "spiffe://td/a", &["unix:uid:1"]);
        let other = entry("other", "spiffe://td/b", &["unix:uid:1"]);
        let all: EntrySet = [limited, open, other].into_iter().collect();
        let found = ["unix:uid:1".parse().unwrap()].into_iter().collect();
        let all = all.matching(&found);
        let ids = |wanted: &[&str], only: Option<&str>| -> Vec<String> {
            let only = only.map(|id| id.parse().unwrap());
            identities(&all, &audiences(wanted), only.as_ref())
                .iter()
                .map(|granted| granted.entry.id.to_string())
                .collect()
        };
        assert_eq!(ids(&["vault"], None), ["limited", "other"]);
        assert_eq!(ids(&["vault", "aws"], None), ["open", "other"]);
        assert_eq!(ids(&["vault"], Some("spiffe://td/b")), ["other"]);
        assert!(ids(&["vault"], Some("spiffe://td/c")).is_empty());
    }

    #[test]
    fn reserved_claims_are_refused_and_later_claims_win() {
        for name in RESERVED_CLAIMS {
            let claims = Map::from_iter([(name.to_owned(), json!(1))]);
            assert_eq!(Claims::new(claims), Err(ReservedClaim(name.to_owned())));
        }
        let make = |value: Value| Claims::new(value.as_object().unwrap().clone()).unwrap();
        let merged = make(json!({"a": 1, "b": 1})).merged_with(&make(json!({"b": 2})));
        assert_eq!(
            Value::from(merged.as_map().clone()),
            json!({"a": 1, "b": 2})
        );
    }

    #[test]
    fn audiences_are_never_empty_and_hold_no_control_characters() {
        assert_eq!("".parse::<Audience>(), Err(AudienceError::Empty));
        assert_eq!("a\n".parse::<Audience>(), Err(AudienceError::Control));
        assert!(
            "//iam.googleapis.com/projects/1 x"
                .parse::<Audience>()
                .is_ok()
        );
    }
}
