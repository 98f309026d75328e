//! The state of the agent, and reload, over the admin socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use tonic::{Request, Response, Status};

use super::operator;
use crate::attest::sight::Sight;
use crate::audit::Audit;
use crate::clock::{Clock, unix_seconds};
use crate::conn::slots::Slots;
use crate::key::record::KeyState;
use crate::metrics::Metrics;
use crate::mirror::{FileStatus, Files};
use crate::pb::admin::administration_server::Administration;
use crate::pb::admin::{
    Caller, GetStatusRequest, GetStatusResponse, Issuer, Key, ReloadRequest, ReloadResponse,
    TokenFile,
};
use crate::registry::Registry;
use crate::rotator::{KeyStatus, Rotator};
use crate::spiffe_id::TrustDomain;
use crate::svid::Sub;

/// Reads the configuration again; what changed, or why nothing did.
pub type ReloadCall =
    Box<dyn Fn() -> BoxFuture<'static, Result<Vec<String>, String>> + Send + Sync>;

/// So many token files are named where something is wrong with them.
const MAX_FILES_TOLD: usize = 10;

/// Where the state of the agent is read from.
pub struct Facts {
    /// Of this build.
    pub version: &'static str,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// The Workload API socket.
    pub socket_path: PathBuf,
    /// When the agent started.
    pub started_at: SystemTime,
    /// Issuers and keys.
    pub rotator: Arc<Rotator>,
    /// Entries.
    pub registry: Arc<Registry>,
    /// Token files.
    pub files: Files,
    /// Callers.
    pub audit: Arc<Audit>,
    /// What the agent can see of callers.
    pub sight: Sight,
    /// Connections to the workload socket.
    pub connections: Slots,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl Facts {
    /// What is wrong at this moment, and whether tokens can be minted all the same.
    pub fn health(&self) -> (bool, Vec<String>) {
        let keys = self.rotator.status();
        let mut problems = Vec::new();
        let mut ready = true;
        for issuer in keys.iter().filter(|issuer| !issuer.published) {
            ready = false;
            problems.push(format!("issuer {} is not published yet", issuer.name));
        }
        for issuer in &keys {
            if let Some((reason, _)) = &issuer.trouble {
                problems.push(format!("issuer {}: {reason}", issuer.name));
            }
            for key in issuer.keys.iter().filter(|key| key.overdue().is_some()) {
                problems.push(format!("key {} is past its lifespan", key.kid));
            }
        }
        if self.rotator.suspects_clock() {
            problems.push(
                "the wall clock lies before a time that is known to have been: set it".to_owned(),
            );
        }
        let trouble = self.registry.trouble();
        if !trouble.is_empty() {
            problems.push(format!("entries cannot be kept: {trouble}"));
        }
        let entries = self.registry.subscribe();
        problems.extend(self.sight.problems(&entries.borrow().entries));
        let now = self.clock.now();
        let (wrong, others) = self.files.problems(now, MAX_FILES_TOLD);
        problems.extend(wrong);
        if others > 0 {
            problems.push(format!("{others} more token files: agent files lists them"));
        }
        (ready, problems)
    }

    /// All metrics as text.
    pub fn metrics_text(&self) -> String {
        let now = self.clock.now();
        let (ready, problems) = self.health();
        let (configured, created) = self.registry.counts();
        let up = now.duration_since(self.started_at).unwrap_or_default();
        let label = |name: &'static str, value: &str| (name, value.to_owned());
        let started = vec![
            label("version", self.version),
            label("trust_domain_id", self.trust_domain.as_str()),
        ];
        let mut levels = vec![
            ("started", started, 1.0),
            ("uptime_in_ms", Vec::new(), up.as_secs_f64() * 1000.0),
            ("ready", Vec::new(), f64::from(u8::from(ready))),
            ("problems", Vec::new(), count(problems.len())),
            ("connections", Vec::new(), count(self.connections.len())),
            (
                "entries",
                vec![label("source", "configuration")],
                seconds(configured),
            ),
            (
                "entries",
                vec![label("source", "created")],
                seconds(created),
            ),
        ];
        for (what, there) in self.sight.kernel() {
            let lacking = f64::from(u8::from(!there));
            levels.push(("attestation_degraded", vec![label("lacks", what)], lacking));
        }
        for issuer in self.rotator.status() {
            for key in issuer
                .keys
                .iter()
                .filter(|key| key.state == KeyState::Active)
            {
                let left = key.lifespan.as_secs_f64() - key.age.as_secs_f64();
                let over = key.overdue().unwrap_or_default().as_secs_f64();
                let labels = || vec![label("issuer", &issuer.name), label("key", &key.name)];
                levels.push(("seconds_to_next_key", labels(), left));
                levels.push(("rotation_overdue_seconds", labels(), over));
            }
            let failing = issuer.trouble.map_or(0.0, |(_, since)| since.as_secs_f64());
            let labels = vec![label("issuer", &issuer.name)];
            levels.push(("rotation_failing_seconds", labels, failing));
        }
        let boot = self.clock.since_boot();
        for files in self.files.blocks() {
            let labels = || vec![label("block", &files.block.to_string_lossy())];
            levels.push(("token_files", labels(), count(files.held)));
            levels.push(("token_files_failing", labels(), count(files.failing)));
            let at = |time: SystemTime| seconds(unix_seconds(time));
            let times = [
                ("token_file_soonest_expiry", files.soonest_expiry.map(at)),
                ("token_file_oldest_issue", files.oldest_issue.map(at)),
                (
                    "token_file_next_refresh_in_seconds",
                    files
                        .next_due
                        .map(|due| due.saturating_sub(boot).as_secs_f64()),
                ),
            ];
            let known = times.into_iter();
            levels.extend(known.filter_map(|(name, value)| Some((name, labels(), value?))));
        }
        self.metrics.render(levels)
    }

    fn status(&self) -> GetStatusResponse {
        let (ready, problems) = self.health();
        let (configured, created) = self.registry.counts();
        let boot = self.clock.since_boot();
        let file = |file: &FileStatus| TokenFile {
            path: file.path.display().to_string(),
            entry: file.entry.as_deref().unwrap_or_default().to_owned(),
            sub: file.sub.as_ref().map_or_else(String::new, Sub::to_string),
            audience: file
                .audience
                .as_slice()
                .iter()
                .map(|audience| audience.as_str().to_owned())
                .collect(),
            expires_at: file.times.map_or(0, |(_, ends)| unix_seconds(ends)),
            error: file.error.clone(),
            issued_at: file.times.map_or(0, |(made, _)| unix_seconds(made)),
            next_refresh_in: file.due.map_or(0, |due| due.saturating_sub(boot).as_secs()),
        };
        let recent = self.audit.recent().into_iter().map(|seen| Caller {
            at: unix_seconds(seen.at),
            pid: seen.pid,
            uid: seen.uid,
            outcome: seen.outcome,
        });
        let issuers = self.rotator.status().into_iter().map(|issuer| Issuer {
            name: issuer.name.to_string(),
            url: issuer.url.to_string(),
            webroot: issuer.webroot.display().to_string(),
            keys: issuer.keys.into_iter().map(show_key).collect(),
        });
        GetStatusResponse {
            version: self.version.to_owned(),
            trust_domain: self.trust_domain.to_string(),
            started_at: unix_seconds(self.started_at),
            ready,
            problems,
            issuers: issuers.collect(),
            entries_configured: configured,
            entries_created: created,
            token_files: self.files.all().iter().map(file).collect(),
            recent_callers: recent.collect(),
            socket_path: self.socket_path.display().to_string(),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "no count and no time comes near 2^53"
)]
fn seconds(number: u64) -> f64 {
    number as f64
}

fn count(number: usize) -> f64 {
    seconds(u64::try_from(number).unwrap_or(u64::MAX))
}

fn show_key(key: KeyStatus) -> Key {
    Key {
        name: key.name.to_string(),
        kid: key.kid,
        algorithm: key.algorithm.name().to_owned(),
        state: key.state.name().to_owned(),
        age: key.age.as_secs(),
        lifespan: key.lifespan.as_secs(),
        next_in: key.next_in.map(|left| left.as_secs()),
    }
}

/// The service.
pub struct AdministrationService {
    /// What there is to tell.
    pub facts: Arc<Facts>,
    /// How to reload.
    pub reload: ReloadCall,
}

#[tonic::async_trait]
impl Administration for AdministrationService {
    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusResponse>, Status> {
        operator(&request)?;
        Ok(Response::new(self.facts.status()))
    }

    async fn reload(
        &self,
        request: Request<ReloadRequest>,
    ) -> Result<Response<ReloadResponse>, Status> {
        operator(&request)?;
        // In the body, since a report may be longer than a header can be.
        let (changes, refused) = match (self.reload)().await {
            Ok(changes) => (changes, String::new()),
            Err(report) => (Vec::new(), report),
        };
        Ok(Response::new(ReloadResponse { changes, refused }))
    }
}
