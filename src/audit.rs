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
use crate::selector::SelectorSet;
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
            selectors = ?self.shown(found),
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

    /// A caller with these selectors got nothing.
    pub fn refused(
        &self,
        peer: &Peer,
        found: &SelectorSet,
        reason: &'static str,
        audience: &[String],
        spiffe_id: &str,
    ) {
        if let Some(suppressed) = self.refusals.may_say((peer.uid(), reason)) {
            tracing::info!(
                target: TARGET,
                event = "refused",
                pid = peer.pid(),
                uid = peer.uid(),
                gid = peer.gid(),
                selectors = ?self.shown(found),
                reason,
                audience = ?audience,
                requested = ?spiffe_id,
                suppressed,
                "caller refused"
            );
        }
        self.metrics.refused(reason);
        self.remember(peer, Outcome::Refused(reason.into()));
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

    fn shown(&self, found: &SelectorSet) -> Vec<String> {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        if shown.is_empty() {
            return Vec::new();
        }
        let may = |text: &String| shown.iter().any(|beginning| text.starts_with(beginning));
        found.iter().map(ToString::to_string).filter(may).collect()
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
        assert!(audit.shown(&found).is_empty());
        audit.show_selectors(vec!["unix:u".to_owned()]);
        assert_eq!(audit.shown(&found), ["unix:uid:1", "unix:user:a"]);
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
