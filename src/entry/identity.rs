//! What an entry grants: the same identity to everybody whom it matches, or one that each caller's own
//! selectors complete.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{ClaimTemplate, Claims, Entry, Field, IdTemplate, NoValue};
use crate::selector::SelectorSet;
use crate::spiffe_id::SpiffeId;

/// What the tokens of a caller say of him.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// Of the own trust domain, with a path.
    pub spiffe_id: SpiffeId,
    /// Claims of the issuer with those of the entry over them.
    pub claims: Claims,
    /// Those of the entry alone.
    pub own_claims: Claims,
}

/// What an entry grants.
#[derive(Debug, Clone, PartialEq)]
pub enum Grants {
    /// To everybody the same.
    Fixed(Identity),
    /// To each his own.
    Template(Box<IdentityTemplate>),
}

/// An identity with fields.
#[derive(Debug, Clone, PartialEq)]
pub struct IdentityTemplate {
    /// The SPIFFE ID; it may have no fields if the claims have some.
    pub spiffe_id: IdTemplate,
    /// Claims of the issuer.
    pub issuer_claims: Claims,
    /// Claims of the entry over them, by name: none that only the agent may set.
    pub claims: BTreeMap<String, ClaimTemplate>,
    /// The claims as they were written.
    pub written_claims: Claims,
}

/// An identity that a caller has, and the entry that grants it.
#[derive(Debug, Clone)]
pub struct Granted {
    /// The entry.
    pub entry: Arc<Entry>,
    /// The identity.
    pub identity: Identity,
}

impl Grants {
    /// The identity of a caller whom the entry matches.
    ///
    /// # Errors
    ///
    /// Why he has none.
    pub fn identity(&self, found: &SelectorSet) -> Result<Identity, NoValue> {
        match self {
            Self::Fixed(identity) => Ok(identity.clone()),
            Self::Template(template) => template.render(found),
        }
    }

    /// The identity, if it is the same for everybody.
    pub fn fixed(&self) -> Option<&Identity> {
        match self {
            Self::Fixed(identity) => Some(identity),
            Self::Template(_) => None,
        }
    }

    /// Whether the SPIFFE ID is another one for other callers.
    pub fn is_open(&self) -> bool {
        match self {
            Self::Fixed(_) => false,
            Self::Template(template) => template.spiffe_id.fields().next().is_some(),
        }
    }

    /// The fields that a caller must have.
    pub fn fields(&self) -> Vec<&Field> {
        match self {
            Self::Fixed(_) => Vec::new(),
            Self::Template(template) => template.fields(),
        }
    }

    /// Whether some caller could have this SPIFFE ID by it.
    pub fn may_be(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Fixed(identity) => identity.spiffe_id == *id,
            Self::Template(template) => template.spiffe_id.may_be(id),
        }
    }

    /// The SPIFFE ID as it was written.
    pub fn written_id(&self) -> &dyn fmt::Display {
        match self {
            Self::Fixed(identity) => &identity.spiffe_id,
            Self::Template(template) => &template.spiffe_id,
        }
    }

    /// The claims, with those of the issuer, as they were written.
    pub fn written_claims(&self) -> Claims {
        match self {
            Self::Fixed(identity) => identity.claims.clone(),
            Self::Template(template) => {
                let issuer = &template.issuer_claims;
                issuer.merged_with(&template.written_claims)
            }
        }
    }
}

impl IdentityTemplate {
    /// The fields that a caller must have.
    pub fn fields(&self) -> Vec<&Field> {
        let claims = self.claims.values().flat_map(ClaimTemplate::fields);
        self.spiffe_id.fields().chain(claims).collect()
    }

    /// The identity of a caller.
    ///
    /// # Errors
    ///
    /// Why he has none.
    pub fn render(&self, found: &SelectorSet) -> Result<Identity, NoValue> {
        let spiffe_id = self.spiffe_id.render(found)?;
        let own_claims = ClaimTemplate::render_all(&self.claims, found)?;
        let own_claims = Claims::unchecked(own_claims);
        Ok(Identity {
            spiffe_id,
            claims: self.issuer_claims.merged_with(&own_claims),
            own_claims,
        })
    }
}

#[cfg(test)]
impl Identity {
    /// One without claims.
    pub fn new(spiffe_id: SpiffeId) -> Self {
        Self {
            spiffe_id,
            claims: Claims::default(),
            own_claims: Claims::default(),
        }
    }
}
