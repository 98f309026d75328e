//! A new configuration while the agent runs: all of it comes into force, or nothing changes.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::config::Config;
use crate::config::diagnostic::Diagnostics;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::mirror::TokenFileSpec;
use crate::registry::Registry;
use crate::rotator::{RotationError, Rotator};
use crate::systemd;
use crate::telemetry;
use crate::workload_api::Policy;

/// The least time from one SIGHUP that is followed to the next: a storm of them costs nothing, and
/// the newest file is in force within this time and that of reading it.
const PAUSE: Duration = Duration::from_millis(250);

/// Why everything is as it was.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// The new configuration is wrong.
    #[error("{0}")]
    Config(Diagnostics),
    /// It changes what cannot change.
    #[error("{} cannot change while the agent runs: restart it", .0.join(", "))]
    Fixed(Vec<&'static str>),
    /// Its issuers cannot be published.
    #[error(transparent)]
    Rotation(#[from] RotationError),
    /// The agent stops.
    #[error("the agent is stopping")]
    Stopping,
    /// There is no file to read.
    #[error("this agent has no configuration file")]
    NoFile,
}

/// What a reload did, or why it did nothing.
pub type Outcome = Result<Vec<String>, ReloadError>;

/// Asks for a reload and waits for its outcome.
pub type Request = oneshot::Sender<Outcome>;

/// The parts that take another configuration.
#[derive(Debug)]
pub struct Live {
    /// Entries.
    pub registry: Arc<Registry>,
    /// Issuers and keys.
    pub rotator: Arc<Rotator>,
    /// What the Workload API allows.
    pub policy: watch::Sender<Policy>,
    /// What callers may take.
    pub limits: watch::Sender<Limits>,
    /// Token files.
    pub files: watch::Sender<Arc<Vec<TokenFileSpec>>>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The record of callers.
    pub audit: Arc<Audit>,
}

/// Reads the configuration again when asked to.
#[derive(Debug)]
pub struct Reloader {
    /// The file; none where the agent runs without one.
    pub file: Option<PathBuf>,
    /// What is in force.
    pub config: Config,
    /// Where it is in force.
    pub live: Live,
}

impl Reloader {
    /// Serves requests and SIGHUP from when the agent is `ready` until told to stop.
    ///
    /// # Errors
    ///
    /// The signal cannot be caught.
    pub async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut ready: watch::Receiver<bool>,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ready.wait_for(|ready| *ready) => {}
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(request) = requests.recv() => {
                    let outcome = self.reload().await;
                    // Whoever asked may have gone.
                    let _ = request.send(outcome);
                }
                Some(()) = hangup.recv(), if self.file.is_some() => {
                    let _ = self.reload().await;
                    tokio::select! {
                        () = stop.cancelled() => return Ok(()),
                        () = tokio::time::sleep(PAUSE) => {}
                    }
                }
            }
        }
    }

    async fn reload(&mut self) -> Outcome {
        systemd::reloading();
        let outcome = self.try_reload().await;
        match &outcome {
            Ok(changes) if changes.is_empty() => tracing::info!("reloaded: nothing has changed"),
            Ok(changes) => tracing::info!(changes = changes.join(", "), "reloaded"),
            Err(error) => {
                tracing::error!(%error, "not reloaded: the former configuration stays in force");
            }
        }
        self.live
            .metrics
            .reloaded(if outcome.is_ok() { "done" } else { "refused" });
        systemd::ready(match &outcome {
            Ok(_) => "serving",
            Err(_) => "serving; the last reload was refused",
        });
        outcome
    }

    async fn try_reload(&mut self) -> Outcome {
        let file = self.file.clone().ok_or(ReloadError::NoFile)?;
        let loaded = tokio::task::spawn_blocking(move || Config::load(&file)).await;
        let (new, warnings) = loaded
            .map_err(|_| ReloadError::Stopping)?
            .map_err(ReloadError::Config)?;
        let fixed = self.config.fixed_differences(&new);
        if !fixed.is_empty() {
            return Err(ReloadError::Fixed(fixed));
        }
        // Keys and documents first, for the old entries and the new ones; then everything that cannot
        // fail; then what only the old ones needed goes.
        let rotator = Arc::clone(&self.live.rotator);
        let prepared = if new.issuers == self.config.issuers {
            None
        } else {
            let issuers = new.issuers.clone();
            let work = move || rotator.prepare(issuers);
            let prepared = tokio::task::spawn_blocking(work).await;
            Some(prepared.map_err(|_| ReloadError::Stopping)??)
        };
        for warning in warnings.iter() {
            let help = warning.help.as_deref().unwrap_or_default();
            tracing::warn!(place = %warning.place, help, "{}", warning.message);
        }
        let changes = differences(&self.config, &new);
        telemetry::set_level(new.log.level);
        self.live.audit.show_selectors(new.log_selectors.clone());
        self.live.policy.send_replace(new.policy);
        self.live.limits.send_replace(new.limits);
        let entries = new.entries.clone();
        self.live
            .registry
            .configure(new.rules.clone(), entries, new.names.clone());
        self.live
            .files
            .send_replace(Arc::new(new.token_files.clone()));
        if let Some(prepared) = prepared {
            let rotator = Arc::clone(&self.live.rotator);
            let settled = tokio::task::spawn_blocking(move || rotator.settle(prepared)).await;
            settled.map_err(|_| ReloadError::Stopping)?;
        }
        self.config = new;
        Ok(changes)
    }
}

/// What is different, in words.
fn differences(old: &Config, new: &Config) -> Vec<String> {
    let mut changes = Vec::new();
    let entries = |config: &Config| {
        let all = config.entries.iter();
        all.map(|entry| (entry.id.to_string(), format!("{entry:?}")))
            .collect()
    };
    let files = |config: &Config| {
        let all = config.token_files.iter();
        all.map(|file| (file.path.display().to_string(), format!("{file:?}")))
            .collect()
    };
    let issuers = |config: &Config| {
        let all = config.issuers.iter();
        all.map(|issuer| (issuer.name.to_string(), format!("{issuer:?}")))
            .collect()
    };
    compare("issuer", &issuers(old), &issuers(new), &mut changes);
    compare("entry", &entries(old), &entries(new), &mut changes);
    let order =
        |config: &Config| -> Vec<_> { config.entries.iter().map(|e| e.id.clone()).collect() };
    let (before, after) = (order(old), order(new));
    let kept = |ids: &[Arc<str>], other: &[Arc<str>]| -> Vec<_> {
        let other: HashSet<_> = other.iter().collect();
        ids.iter()
            .filter(|id| other.contains(id))
            .cloned()
            .collect()
    };
    if kept(&before, &after) != kept(&after, &before) {
        changes.push("the order of entries changed".to_owned());
    }
    compare("token file", &files(old), &files(new), &mut changes);
    let options = |config: &Config| {
        let rules = &config.rules;
        let log = (config.log, config.log_selectors.clone());
        (
            rules.default_ttl,
            rules.max_ttl,
            Arc::clone(&rules.attestors),
            config.policy,
            config.limits,
            log,
        )
    };
    if options(old) != options(new) {
        changes.push("options changed".to_owned());
    }
    changes
}

fn compare(
    what: &str,
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
    changes: &mut Vec<String>,
) {
    for (name, value) in new {
        match old.get(name) {
            None => changes.push(format!("{what} {name} added")),
            Some(former) if former != value => changes.push(format!("{what} {name} changed")),
            Some(_) => {}
        }
    }
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    changes.extend(gone.map(|name| format!("{what} {name} removed")));
}
