//! What makes a registration entry: the same rules for the configuration and for entries that are
//! made while the agent runs.

mod beside;
mod faults;
mod identity;
mod lints;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::beside::beside;
pub use self::faults::Fault;
use self::faults::Faults;
use crate::attest::facts::{self, AttestorSpecs, Wanted};
use crate::attest::names::WantedNames;
use crate::attest::unix;
use crate::clock::from_unix_seconds;
use crate::duration::show_duration;
use crate::entry::{Audience, Claims, Entry, KeyRef};
use crate::jose::Algorithm;
use crate::selector::{Selector, SelectorSet};
use crate::spiffe_id::TrustDomain;

/// SPIFFE Workload API, section 8: longer hints are not to be supported, in bytes.
const MAX_HINT_BYTES: usize = 1024;

/// An entry as somebody asks for it. Field names are those of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EntryRequest {
    /// The identity.
    pub spiffe_id: String,
    /// What a caller must have.
    pub selectors: Vec<String>,
    /// The only audiences; `None` allows any.
    pub audiences: Option<Vec<String>>,
    /// Life of tokens in seconds; `None` is the default.
    pub jwt_svid_ttl: Option<u64>,
    /// Tells identities of one caller apart.
    pub hint: String,
    /// Claims over those of the issuer.
    pub claims: Map<String, Value>,
    /// Which issuer; `None` is the only one.
    pub issuer: Option<String>,
    /// Which of its keys; `None` is the only one.
    pub key: Option<String>,
    /// Whether tokens carry a `jti`.
    pub jti: bool,
    /// Whether selectors may speak of the program alone.
    pub allow_path_only: bool,
    /// When the entry ends, in seconds since 1970.
    pub expires_at: Option<u64>,
}

/// An issuer as entries see it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IssuerRules {
    /// Its key chains by name.
    pub keys: BTreeMap<Arc<str>, Algorithm>,
    /// Claims of all its tokens.
    pub claims: Claims,
}

/// What entries must keep to.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// The trust domain; `None` where it is not known, so that the rest can be checked.
    pub trust_domain: Option<TrustDomain>,
    /// Life of tokens where nothing is said.
    pub default_ttl: Duration,
    /// No token lives longer.
    pub max_ttl: Duration,
    /// What attestors may find.
    pub attestors: Arc<AttestorSpecs>,
    /// The issuers by name.
    pub issuers: BTreeMap<Arc<str>, IssuerRules>,
}

impl Rules {
    /// Makes an entry of a request; `None` where a fault is fatal. All faults are told at once.
    pub fn check(&self, id: Arc<str>, request: &EntryRequest) -> (Option<Entry>, Vec<Fault>) {
        let mut faults = Faults::default();
        let written = self.written(request, &mut faults);
        let selectors = self.selectors(request, &mut faults);
        let audiences = audiences(request, &mut faults);
        check_hint(&request.hint, &mut faults);
        let ttl = self.ttl(request, &mut faults);
        let signer = self.signer(request, &mut faults);
        let fatal = faults.0.iter().any(|fault| fault.fatal);
        let entry = match (written, signer) {
            (Some(written), Some((key, issuer))) if !fatal => Some(Entry {
                id,
                grants: written.granted_by(&issuer.claims),
                selectors,
                audiences,
                ttl,
                hint: request.hint.clone(),
                key,
                jti: request.jti,
                expires_at: request.expires_at.map(from_unix_seconds),
            }),
            _ => None,
        };
        (entry, faults.0)
    }

    fn selectors(&self, request: &EntryRequest, faults: &mut Faults) -> SelectorSet {
        let field = "selectors";
        let mut selectors = Vec::with_capacity(request.selectors.len());
        for (item, text) in request.selectors.iter().enumerate() {
            let selector: Selector = match text.parse() {
                Ok(selector) => selector,
                Err(why) => {
                    faults.item(field, Some(item), format!("selector {text:?}: {why}"), "");
                    continue;
                }
            };
            if let Err(why) = facts::check(&selector) {
                faults.item(field, Some(item), format!("selector {text:?}"), why);
            }
            selectors.push((item, selector));
        }
        if request.selectors.is_empty() {
            let help = "an entry without selectors would match everybody";
            faults.add(field, "selectors is empty", help);
        }
        lints::lint(&selectors, &self.attestors, faults);
        let set: SelectorSet = selectors.into_iter().map(|(_, one)| one).collect();
        let narrowing = |selector| facts::wants(selector).meets(facts::NARROWING);
        let path_only = !set.is_empty() && set.iter().all(narrowing);
        if path_only && !request.allow_path_only {
            let help = "any user can have them: add unix:uid or unix:user, or allow_path_only = true if every user is meant";
            faults.add(field, "the selectors tell no user from another", help);
        }
        set
    }

    fn ttl(&self, request: &EntryRequest, faults: &mut Faults) -> Duration {
        let Some(seconds) = request.jwt_svid_ttl else {
            return self.default_ttl;
        };
        let ttl = Duration::from_secs(seconds);
        if ttl > self.max_ttl {
            let (ttl, max) = (show_duration(ttl), show_duration(self.max_ttl));
            let message = format!("jwt_svid_ttl {ttl} is above max_ttl {max}");
            faults.add(
                "jwt_svid_ttl",
                message,
                "lower it, or raise max_ttl in agent",
            );
        } else if ttl.is_zero() {
            faults.add(
                "jwt_svid_ttl",
                "jwt_svid_ttl is 0",
                "leave it out for the default",
            );
        }
        ttl
    }

    fn signer(
        &self,
        request: &EntryRequest,
        faults: &mut Faults,
    ) -> Option<(KeyRef, &IssuerRules)> {
        let issuers: Vec<_> = self.issuers.keys().cloned().collect();
        let issuer = choose("issuer", request.issuer.as_deref(), &issuers, faults)?;
        let rules = self.issuers.get(&issuer)?;
        let chains = rules.keys.iter();
        let usable = chains.filter(|(_, algorithm)| algorithm.is_for_jwt_svids());
        let usable: Vec<_> = usable.map(|(name, _)| Arc::clone(name)).collect();
        let named = request.key.as_deref();
        if let Some((name, algorithm)) = named.and_then(|name| rules.keys.get_key_value(name))
            && !algorithm.is_for_jwt_svids()
        {
            let message = format!("key {name:?} is {algorithm}, which JWT-SVIDs may not be");
            faults.add(
                "key",
                message,
                "a token_file can choose it, an entry cannot",
            );
            return None;
        }
        if usable.is_empty() && !rules.keys.is_empty() {
            let message =
                format!("issuer {issuer:?} has no key that a JWT-SVID may be signed with");
            faults.add("issuer", message, "add a key, such as RS256");
        }
        let key = choose("key", named, &usable, faults)?;
        Some((KeyRef { issuer, key }, rules))
    }
}

/// The one that is named, or the only one there is.
fn choose(
    field: &'static str,
    named: Option<&str>,
    there: &[Arc<str>],
    faults: &mut Faults,
) -> Option<Arc<str>> {
    let list = || {
        there
            .iter()
            .map(|name| &**name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    match (named, there) {
        // Why there is none has been told where it is missing.
        (_, []) => None,
        (Some(named), _) => {
            let found = there.iter().find(|name| ***name == *named);
            if found.is_none() {
                faults.add(
                    field,
                    format!("there is no {field} {named:?}"),
                    format!("there are {}", list()),
                );
            }
            found.cloned()
        }
        (None, [only]) => Some(Arc::clone(only)),
        (None, _) => {
            let message = format!("the entry does not say which {field}");
            faults.add(field, message, format!("add {field} = one of {}", list()));
            None
        }
    }
}

fn audiences(request: &EntryRequest, faults: &mut Faults) -> Option<Vec<Audience>> {
    let texts = request.audiences.as_ref()?;
    if texts.is_empty() {
        let help = "leave it out to allow any audience";
        faults.add(
            "audiences",
            "audiences is empty, which would allow none",
            help,
        );
    }
    let mut parsed = Vec::with_capacity(texts.len());
    for (item, text) in texts.iter().enumerate() {
        match text.parse() {
            Ok(audience) => parsed.push(audience),
            Err(why) => {
                faults.item(
                    "audiences",
                    Some(item),
                    format!("audience {text:?}: {why}"),
                    "",
                );
            }
        }
    }
    Some(parsed)
}

fn check_hint(hint: &str, faults: &mut Faults) {
    if hint.len() > MAX_HINT_BYTES || hint.chars().any(char::is_control) {
        faults.add(
            "hint",
            "the hint is longer than 1024 bytes or has control characters",
            "",
        );
    }
}

/// The user and group names that selectors ask for.
pub fn names<'a>(selectors: impl IntoIterator<Item = &'a Selector>) -> WantedNames {
    let mut wanted = WantedNames::default();
    for selector in selectors
        .into_iter()
        .filter(|selector| unix::is_by_name(selector))
    {
        match facts::check(selector) {
            Ok(Wanted::User(name)) => drop(wanted.users.insert(name)),
            Ok(Wanted::Group(name)) => drop(wanted.groups.insert(name)),
            _ => {}
        }
    }
    wanted
}
