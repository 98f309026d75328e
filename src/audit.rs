//! What was given to whom: an event in the log, of its own target, for each token issued and each
//! caller refused, and the last few for whoever asks. Tokens are named by a part of their hash.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use crate::clock::Clock;
use crate::entry::{Audience, Entry};
use crate::metrics::Metrics;
use crate::peer::{Peer, PeerError};
use crate::quiet::Quiet;
use crate::selector::{Selector, SelectorSet};
use crate::svid::{AudienceClaim, JwtSvid, Sub};

/// The target of the events.
pub const TARGET: &str = "audit";
/// How many callers are remembered.
const MAX_RECENT: usize = 10;
/// One call that came to an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// When.
    pub at: SystemTime,
    /// The process.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// What it got, or why it got nothing.
    pub outcome: String,
}

/// As [`Seen`], put into words only when somebody asks.
#[derive(Debug)]
struct Call {
    at: SystemTime,
    pid: i32,
    uid: u32,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Issued(Sub),
    Refused(Cow<'static, str>),
}

impl Call {
    fn tell(&self) -> Seen {
        Seen {
            at: self.at,
            pid: self.pid,
            uid: self.uid,
            outcome: match &self.outcome {
                Outcome::Issued(id) => id.to_string(),
                Outcome::Refused(reason) => format!("refused: {reason}"),
            },
        }
    }
}

/// A refusal that is told in the log.
#[derive(Debug)]
pub struct Refused<'a> {
    /// Why.
    pub reason: &'static str,
    /// The audiences that were asked for.
    pub audience: &'a [String],
    /// The identity that was asked for; may be empty.
    pub spiffe_id: &'a str,
    /// The entry that the caller missed by the least, if that was found out.
    pub nearest: Option<Nearest>,
    /// How many times the like was not told before.
    pub suppressed: u64,
}

/// An entry that a caller missed.
#[derive(Debug)]
pub struct Nearest {
    /// Its id.
    pub entry: Arc<str>,
    /// The selectors that the caller lacks.
    pub lacks: Vec<Selector>,
    /// What else there is to say, without a selector.
    pub note: Option<String>,
}

/// Keeps the record.
#[derive(Debug)]
pub struct Audit {
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    /// Beginnings of selectors that may be told.
    shown: RwLock<Vec<String>>,
    recent: Mutex<VecDeque<Call>>,
    /// Refusals by user and reason.
    refusals: Quiet<(u32, &'static str)>,
}

impl Audit {
    /// An empty record.
    pub fn new(metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        Self {
            metrics,
            clock,
            shown: RwLock::default(),
            recent: Mutex::default(),
            refusals: Quiet::default(),
        }
    }

    /// Lets selectors with these beginnings be told; none where the list is empty.
    pub fn show_selectors(&self, beginnings: Vec<String>) {
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = beginnings;
    }

    /// A token was given to a caller with these selectors.
    pub fn issued(
        &self,
        peer: &Peer,
        found: &SelectorSet,
        entry: &Entry,
        audience: &[Audience],
        svid: &JwtSvid,
    ) {
        tracing::info!(
            target: TARGET,
            event = "issued",
            pid = peer.pid(),
            uid = peer.uid(),
            gid = peer.gid(),
            selectors = ?self.shown(found.iter()),
            entry = %entry.id,
            spiffe_id = %svid.sub,
            audience = ?texts(audience),
            kid = &*svid.kid,
            token = svid.token.fingerprint(),
            jti = svid.jti,
            "token issued"
        );
        self.metrics.issued(&entry.id);
        self.remember(peer, Outcome::Issued(svid.sub.clone()));
    }

    /// A token was written to a file, on behalf of an entry or of the file's own block.
    pub fn written(
        &self,
        path: &Path,
        entry: Option<&str>,
        audience: &AudienceClaim,
        svid: &JwtSvid,
    ) {
        tracing::info!(
            target: TARGET,
            event = "written",
            path = ?path,
            entry,
            spiffe_id = %svid.sub,
            audience = ?texts(audience.as_slice()),
            kid = &*svid.kid,
            token = svid.token.fingerprint(),
            jti = svid.jti,
            "token written"
        );
    }

    /// A caller got nothing for this reason. It is told in the log once a second for each user: if now,
    /// by [`Audit::tell_refused`] with how many times it was not told before.
    pub fn refused(&self, peer: &Peer, reason: &'static str) -> Option<u64> {
        self.metrics.refused(reason);
        self.remember(peer, Outcome::Refused(reason.into()));
        self.refusals.may_say((peer.uid(), reason))
    }

    /// Tells of a refusal in the log, and which entry would have been the nearest.
    pub fn tell_refused(&self, peer: &Peer, found: &SelectorSet, refused: &Refused<'_>) {
        let nearest = refused.nearest.as_ref();
        let lacks = nearest.map(|near| self.shown(near.lacks.iter()));
        let all = nearest.map_or(0, |near| near.lacks.len());
        let hidden = lacks.as_ref().map(|shown| all - shown.len());
        tracing::info!(
            target: TARGET,
            event = "refused",
            pid = peer.pid(),
            uid = peer.uid(),
            gid = peer.gid(),
            selectors = ?self.shown(found.iter()),
            reason = refused.reason,
            audience = ?refused.audience,
            requested = ?refused.spiffe_id,
            nearest = nearest.map(|near| &*near.entry),
            lacks = lacks.map(tracing::field::debug),
            hidden,
            note = nearest.and_then(|near| near.note.as_deref()),
            suppressed = refused.suppressed,
            "caller refused"
        );
    }

    /// A caller could not be told, or is no longer the process that connected.
    pub fn unattested(&self, peer: &Peer, error: &PeerError) {
        const REASON: &str = "workload attestation failed";
        if let Some(suppressed) = self.refusals.may_say((peer.uid(), REASON)) {
            tracing::warn!(
                target: TARGET,
                event = "unattested",
                pid = peer.pid(),
                uid = peer.uid(),
                gid = peer.gid(),
                reason = %error,
                suppressed,
                "{REASON}"
            );
        }
        self.metrics.attestation_failed();
        self.remember(peer, Outcome::Refused(error.to_string().into()));
    }

    /// Of some selectors those that may be told.
    fn shown<'a>(&self, selectors: impl Iterator<Item = &'a Selector>) -> Vec<String> {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        if shown.is_empty() {
            return Vec::new();
        }
        let may = |text: &String| shown.iter().any(|beginning| text.starts_with(beginning));
        selectors.map(ToString::to_string).filter(may).collect()
    }

    /// The last callers, the newest first.
    pub fn recent(&self) -> Vec<Seen> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().rev().map(Call::tell).collect()
    }

    fn remember(&self, peer: &Peer, outcome: Outcome) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == MAX_RECENT {
            recent.pop_front();
        }
        recent.push_back(Call {
            at: self.clock.now(),
            pid: peer.pid(),
            uid: peer.uid(),
            outcome,
        });
    }
}

fn texts(audiences: &[Audience]) -> Vec<&str> {
    audiences.iter().map(Audience::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::fake::FakeClock;
    use crate::peer::tests::this_process;

    #[test]
    fn only_selectors_of_the_policy_are_told() {
        let audit = Audit::new(Arc::new(Metrics::new()), Arc::new(FakeClock::at(1)));
        let texts = ["unix:uid:1", "unix:user:a", "unix:path:/x"];
        let found: SelectorSet = texts.iter().map(|text| text.parse().unwrap()).collect();
        assert!(audit.shown(found.iter()).is_empty());
        audit.show_selectors(vec!["unix:u".to_owned()]);
        assert_eq!(audit.shown(found.iter()), ["unix:uid:1", "unix:user:a"]);
    }

    #[test]
    fn the_last_callers_are_remembered_and_no_more() {
        let audit = Audit::new(Arc::new(Metrics::new()), Arc::new(FakeClock::at(1)));
        let peer = this_process();
        for number in 0..20 {
            audit.remember(&peer, Outcome::Refused(number.to_string().into()));
        }
        let recent = audit.recent();
        assert_eq!(recent.len(), MAX_RECENT);
        assert_eq!(recent[0].outcome, "refused: 19");
    }
}
