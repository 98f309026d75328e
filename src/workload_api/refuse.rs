//! What becomes of a caller that has no identity: he is told so and nothing more, the log which entry he
//! missed by the least.

use std::slice;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::Refusal;
use super::service::Parts;
use crate::attest::examine::is_replaced;
use crate::audit::{Nearest, Refused};
use crate::entry::{Audience, Known, NearMiss};
use crate::peer::Peer;
use crate::registry::Snapshot;
use crate::selector::SelectorSet;
use crate::spiffe_id::SpiffeId;

/// Entries are looked through for one refusal at a time: there may be many, of both.
static LOOKING: Semaphore = Semaphore::const_new(1);

/// What a caller has asked for, as it was understood.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// For whom.
    pub audiences: Vec<Audience>,
    /// The only identity that he wants.
    pub only: Option<SpiffeId>,
}

impl Parts {
    /// Refuses a caller with these selectors, and records it.
    pub(super) async fn refuse(
        &self,
        peer: &Peer,
        now: &Snapshot,
        found: SelectorSet,
        wish: Wish,
    ) -> Refusal {
        let matching = now.entries.matching(&found);
        let reason = if matching.is_empty() {
            "no entry matches the caller"
        } else {
            "no matching entry has this identity and allows these audiences"
        };
        let Some(suppressed) = self.audit.refused(peer, reason) else {
            return Refusal::NoIdentity;
        };
        let is_wanted = |id: &SpiffeId| wish.only.as_ref().is_none_or(|only| only == id);
        let mut wanted = matching
            .iter()
            .filter(|one| is_wanted(&one.identity.spiffe_id));
        let nearest = match wanted.next() {
            Some(granted) => {
                let mut audiences = wish.audiences.iter();
                let refused = audiences.find(|one| !granted.entry.allows(slice::from_ref(one)));
                let note = refused.map(|one| format!("it does not allow {:?}", one.as_str()));
                Some(Nearest {
                    entry: Arc::clone(&granted.entry.id),
                    lacks: Vec::new(),
                    note,
                })
            }
            None => nearest(now, &found, wish.only.clone())
                .await
                .map(|miss| told(miss, peer)),
        };
        let audience: Vec<_> = wish
            .audiences
            .iter()
            .map(|one| one.as_str().to_owned())
            .collect();
        let refused = Refused {
            reason,
            audience: &audience,
            spiffe_id: wish.only.as_ref().map_or("", SpiffeId::as_str),
            nearest,
            suppressed,
        };
        self.audit.tell_refused(peer, &found, &refused);
        Refusal::NoIdentity
    }
}

/// The entry that a caller misses by the least, unless that is being found out for another one.
async fn nearest(now: &Snapshot, found: &SelectorSet, only: Option<SpiffeId>) -> Option<NearMiss> {
    let turn = LOOKING.try_acquire().ok()?;
    let (entries, found) = (now.entries.clone(), found.clone());
    let look = move || {
        let _turn = turn;
        entries.nearest(&found, Known::AsNeeded, only.as_ref(), 1)
    };
    let looked = tokio::task::spawn_blocking(look).await;
    looked.ok()?.into_iter().next()
}

fn told(miss: NearMiss, peer: &Peer) -> Nearest {
    let lacks_path = miss.lacks.iter().any(|one| one.name() == "unix:path");
    let note = if miss.incomplete.is_some() {
        Some("the caller cannot complete its identity: ask agent explain".to_owned())
    } else if lacks_path && is_replaced(peer) {
        Some("the program was replaced or deleted since it started: restart it".to_owned())
    } else {
        None
    };
    Nearest {
        entry: Arc::clone(&miss.entry.id),
        lacks: miss.lacks,
        note,
    }
}
