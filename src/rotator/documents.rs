//! The documents of the issuers, as the records want them, and the snapshot that others see.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use super::hand::{Hand, Tools};
use super::{IssuerSpec, RotationError};
use crate::authority::IssuerKeys;
use crate::bundle::Bundle;
use crate::jose::encode_base64url;
use crate::jose::jwk::Jwk;
use crate::key::plan::ChainSpec;
use crate::key::record::{KeyRecord, KeyState};
use crate::key::store::{BundleMark, State};

impl Hand {
    /// Makes sure that the documents of an issuer are as they should be. Whatever else changed them
    /// is told and undone, and a key that they lacked waits anew.
    ///
    /// # Errors
    ///
    /// They cannot be written.
    pub fn inspect(&mut self, issuer: &IssuerSpec, tools: &Tools<'_>) -> Result<(), RotationError> {
        let there = issuer.webroot.kids_on_disk();
        let were_whole = self.written.contains_key(&issuer.name);
        let mut state = self.state.clone();
        let repaired = self.write_documents(&issuer.name, &mut state, tools)?;
        if were_whole {
            for path in &repaired {
                let path = path.display();
                tracing::warn!(%path, "somebody else changed this document: written anew");
            }
        }
        if !repaired.is_empty() {
            let now = self.now(tools).stamp;
            let lacked = |key: &&mut KeyRecord| {
                key.chain.issuer == issuer.name
                    && key.state() == KeyState::Published
                    && there.iter().all(|kid| kid != key.jwk.kid())
            };
            for key in state.keys.iter_mut().filter(lacked) {
                key.published = Some(now.clone());
            }
            if state != self.state {
                self.save(state, tools)?;
            }
        }
        self.bring_up(issuer, tools);
        Ok(())
    }

    /// Lets an issuer sign whose documents are out.
    pub fn bring_up(&mut self, issuer: &IssuerSpec, tools: &Tools<'_>) {
        if self.up.insert(Arc::clone(&issuer.name)) {
            tracing::info!(issuer = %issuer.name, url = %issuer.webroot.url, "issuer published");
        }
        self.show(tools);
    }

    /// Writes the documents for `state`, and the trust bundle, whose number is made durable before
    /// anybody can see it. Tells what was written although nothing of ours had changed.
    pub fn write_documents(
        &mut self,
        issuer: &Arc<str>,
        state: &mut State,
        tools: &Tools<'_>,
    ) -> Result<Vec<PathBuf>, RotationError> {
        let bundle = self.number_bundle(state, tools)?;
        let mut foreign = Vec::new();
        let of_bundle = tools.issuers.iter().find(|issuer| issuer.bundle);
        let own = tools.issuer(issuer);
        let other = of_bundle.filter(|other| own.is_none_or(|own| own.name != other.name));
        for issuer in other.into_iter().chain(own) {
            let keys = public(&state.keys, |key| key.chain.issuer == issuer.name);
            let bundle = issuer.bundle.then(|| bundle.clone());
            let documents = issuer.webroot.documents(&keys, bundle);
            // After a failure, what is there may be a part of ours.
            let former = self.written.remove(&issuer.name);
            let published = issuer.webroot.publish(&documents, tools.names)?;
            self.tell_kept(issuer, published.kept);
            self.written
                .insert(Arc::clone(&issuer.name), documents.clone());
            if former.is_none_or(|former| former == documents) {
                foreign.extend(published.written);
            }
        }
        Ok(foreign)
    }

    /// Tells once, and again after it has worked, that documents could not be given away.
    fn tell_kept(&mut self, issuer: &IssuerSpec, why: Option<String>) {
        let Some(why) = why else {
            self.kept.remove(&issuer.name);
            return;
        };
        if self.kept.insert(Arc::clone(&issuer.name)) {
            tracing::warn!(
                issuer = %issuer.name, error = %why,
                "webroot_owner and webroot_group need root, or CAP_CHOWN and CAP_FOWNER: its documents belong to the agent's user"
            );
        }
    }

    fn number_bundle(
        &mut self,
        state: &mut State,
        tools: &Tools<'_>,
    ) -> Result<String, RotationError> {
        let keys = public(&state.keys, |_| true);
        let bundle = Bundle::new(tools.authority.trust_domain().clone(), keys);
        let margins = tools
            .issuers
            .iter()
            .flat_map(|issuer| issuer.chains.values());
        let hint = refresh_hint(margins);
        let content = format!("{hint} {}", bundle.workload_jwks());
        let content = encode_base64url(digest(&SHA256, content.as_bytes()));
        if state.bundle.content != content {
            let mark = BundleMark {
                sequence: self.state.bundle.sequence + 1,
                content,
            };
            let mut numbered = self.state.clone();
            numbered.bundle = mark.clone();
            self.save(numbered, tools)?;
            state.bundle = mark;
        }
        Ok(bundle.document(state.bundle.sequence, hint))
    }

    /// Shows others which keys sign and which are to be believed.
    pub fn show(&self, tools: &Tools<'_>) {
        let mut issuers = BTreeMap::new();
        for issuer in tools
            .issuers
            .iter()
            .filter(|issuer| self.up.contains(&issuer.name))
        {
            let own = |key: &&KeyRecord| key.chain.issuer == issuer.name;
            let signing = self.state.keys.iter().filter(own);
            let active = signing
                .filter(|key| key.state() == KeyState::Active)
                .filter_map(|key| {
                    let secret = self.secrets.get(key.jwk.kid())?;
                    Some((Arc::clone(&key.chain.key), Arc::clone(secret)))
                });
            let keys = IssuerKeys {
                url: issuer.webroot.url.clone(),
                active: active.collect(),
                public: public(&self.state.keys, |key| key.chain.issuer == issuer.name),
            };
            issuers.insert(Arc::clone(&issuer.name), keys);
        }
        let former = public(&self.state.keys, |key| {
            tools.issuer(&key.chain.issuer).is_none()
        });
        tools.authority.show(issuers, former);
    }
}

/// The keys that documents hold.
fn public(keys: &[KeyRecord], which: impl Fn(&KeyRecord) -> bool) -> Vec<Jwk> {
    let out = |key: &&KeyRecord| key.published.is_some() && key.tainted.is_none();
    let keys = keys.iter().filter(out).filter(|key| which(key));
    keys.map(|key| key.jwk.clone()).collect()
}

/// Seconds after which readers of the bundle should look again: often enough to know a key well
/// before it signs.
fn refresh_hint<'a>(chains: impl Iterator<Item = &'a ChainSpec>) -> u64 {
    let shortest = chains
        .map(|chain| chain.policy.publish_margin.as_secs())
        .min();
    (shortest.unwrap_or(0) / 5).clamp(1, 300)
}
