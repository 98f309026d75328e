//! What an entry grants, as it is written.

use std::collections::BTreeMap;

use super::{EntryRequest, Fault, Faults, Rules};
use crate::attest::facts;
use crate::entry::{
    ClaimTemplate, Claims, Field, Grants, IdTemplate, Identity, IdentityTemplate, ReservedClaim,
};
use crate::selector::SelectorSet;
use crate::spiffe_id::{SpiffeId, TrustDomain};

/// An identity as it is written, before it is known who signs for it.
pub(super) struct Written {
    spiffe_id: IdTemplate,
    claims: BTreeMap<String, ClaimTemplate>,
    written_claims: Claims,
}

impl Written {
    /// With the claims of an issuer below its own.
    pub(super) fn granted_by(self, issuer: &Claims) -> Grants {
        let template = IdentityTemplate {
            spiffe_id: self.spiffe_id,
            issuer_claims: issuer.clone(),
            claims: self.claims,
            written_claims: self.written_claims,
        };
        let everybody = || template.render(&SelectorSet::default());
        let fixed: Option<Identity> = if template.fields().is_empty() {
            everybody().ok()
        } else {
            None
        };
        fixed.map_or_else(|| Grants::Template(Box::new(template)), Grants::Fixed)
    }
}

impl Rules {
    /// Checks an identity that is to be granted; all faults are told at once.
    pub fn check_spiffe_id(&self, text: &str) -> (Option<SpiffeId>, Vec<Fault>) {
        let mut faults = Faults::default();
        let id = self.spiffe_id(text, text, &mut faults);
        (id, faults.0)
    }

    /// What a request wants to be granted.
    pub(super) fn written(&self, request: &EntryRequest, faults: &mut Faults) -> Option<Written> {
        let spiffe_id = self.id_template(&request.spiffe_id, faults);
        let written_claims = Claims::new(request.claims.clone()).unwrap_or_else(|error| {
            faults.add("claims", error.to_string(), ReservedClaim::HELP);
            Claims::default()
        });
        let mut claims = BTreeMap::new();
        for (name, value) in written_claims.as_map() {
            match ClaimTemplate::parse(value) {
                Ok(claim) => drop(claims.insert(name.clone(), claim)),
                Err(why) => faults.add("claims", format!("claim {name:?}: {why}"), ""),
            }
        }
        for field in claims.values().flat_map(ClaimTemplate::fields) {
            self.check_field("claims", field, faults);
        }
        Some(Written {
            spiffe_id: spiffe_id?,
            claims,
            written_claims,
        })
    }

    fn id_template(&self, text: &str, faults: &mut Faults) -> Option<IdTemplate> {
        let (template, some) = match IdTemplate::parse(text) {
            Ok(parsed) => parsed,
            Err(why) => {
                let help = "write it as spiffe://TRUST_DOMAIN/user/{unix:user}";
                faults.add("spiffe_id", format!("spiffe_id {text:?}: {why}"), help);
                return None;
            }
        };
        for field in template.fields() {
            self.check_field("spiffe_id", field, faults);
            let unfit = match field.name() {
                "unix:path" | "systemd:fragment_path" => "begins with a slash",
                "docker:image_config_digest" => "has a colon",
                _ => continue,
            };
            let message = format!("{field} {unfit}, which no segment may hold");
            faults.add("spiffe_id", message, "it can stand in claims");
        }
        self.spiffe_id(text, &some, faults).map(|_| template)
    }

    /// Checks that a caller can have a value for a field.
    fn check_field(&self, option: &'static str, field: &Field, faults: &mut Faults) {
        if let Err(why) = facts::check_field(field) {
            faults.add(option, why, "");
        } else if let Some((why, help)) = self.attestors.lack(facts::wants_by_name(field.name())) {
            let message = format!("{why}, so nobody has {field} and gets this identity");
            faults.warn(option, None, message, help);
        }
    }

    /// Checks an identity: `text` as it was written, and `some` that it can come to.
    fn spiffe_id(&self, text: &str, some: &str, faults: &mut Faults) -> Option<SpiffeId> {
        let field = "spiffe_id";
        let domain = self.trust_domain.as_ref();
        let ours = domain.map_or("example.org", TrustDomain::as_str);
        let id: SpiffeId = match some.parse() {
            Ok(id) => id,
            Err(why) => {
                let help = format!("write it as spiffe://{ours}/name");
                faults.add(field, format!("spiffe_id {text:?}: {why}"), help);
                return None;
            }
        };
        if domain.is_some_and(|domain| domain != id.trust_domain()) {
            let path = text.splitn(4, '/').nth(3).unwrap_or_default();
            let message = format!("{text} is not of the trust domain {ours}");
            faults.add(
                field,
                message,
                format!("write it as spiffe://{ours}/{path}"),
            );
        } else if id.path().is_empty() {
            let message = format!("{text} names the trust domain and no workload");
            faults.add(field, message, format!("add a path, such as {text}/name"));
        } else if id.as_str().len() > 127 {
            let help = "GCP takes 127 bytes as google.subject, AWS and Snowflake 255";
            let message = format!("the identity has {} bytes", text.len());
            faults.warn(field, None, message, help);
        }
        Some(id)
    }
}
