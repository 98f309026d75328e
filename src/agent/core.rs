//! What an agent is without its sockets: keys, documents, entries, names and token files.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::AgentError;
use crate::attest::names::NameKeeper;
use crate::audit::Audit;
use crate::authority::Authority;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::issue::Minter;
use crate::key::store::KeyStore;
use crate::metrics::Metrics;
use crate::mirror::{FileStatus, Manifest, Mirror, Sources};
use crate::registry::Registry;
use crate::reload::{Live, Reloader};
use crate::rotator::{self, IssuerSpec, Rotator};
use crate::steps::ClockSteps;

/// An agent whose existing keys are published.
#[derive(Debug)]
pub struct Core {
    pub reloader: Reloader,
    pub clock: Arc<dyn Clock>,
    pub authority: Arc<Authority>,
    /// Issuers whose keys are yet to be made.
    pub lacking: Vec<IssuerSpec>,
    pub names: NameKeeper,
    pub steps: ClockSteps,
    /// The directory that is closed to others.
    private: PathBuf,
}

impl Core {
    /// Goes from the configuration to keys, documents, entries and names.
    ///
    /// # Errors
    ///
    /// The first part that cannot be had.
    pub async fn build(config: Config, file: Option<PathBuf>) -> Result<Self, AgentError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (store, state, found) = KeyStore::open(&config.data_dir, &*clock)?;
        let private = store.private().to_owned();
        let registry = Arc::new(Registry::open(
            &private,
            config.rules.clone(),
            config.entries.clone(),
            config.names.clone(),
            Arc::clone(&clock),
        )?);
        let authority = Arc::new(Authority::new(config.trust_domain.clone()));
        let names = NameKeeper::start(registry.names()).await;
        let metrics = Arc::new(Metrics::new());
        let steps = ClockSteps::watch()?;
        let parts = rotator::Parts {
            authority: Arc::clone(&authority),
            clock: Arc::clone(&clock),
            names: names.subscribe(),
            metrics: Arc::clone(&metrics),
            steps: steps.subscribe(),
            probe_interval: config.probe_interval,
        };
        let issuers = config.issuers.clone();
        let rotator = Arc::new(Rotator::new(issuers, parts, store, state, found)?);
        let lacking = rotator.start_existing()?;
        let audit = Arc::new(Audit::new(Arc::clone(&metrics), Arc::clone(&clock)));
        audit.show_selectors(config.log_selectors.clone());
        let live = Live {
            registry,
            rotator,
            policy: watch::Sender::new(config.policy),
            limits: watch::Sender::new(config.limits),
            files: watch::Sender::new(Arc::new(config.token_files.clone())),
            metrics,
            audit,
        };
        Ok(Self {
            reloader: Reloader { file, config, live },
            clock,
            authority,
            lacking,
            names,
            steps,
            private,
        })
    }

    /// What signs.
    ///
    /// # Errors
    ///
    /// Its threads cannot be started.
    pub fn minter(&self) -> Result<Arc<Minter>, AgentError> {
        let live = &self.reloader.live;
        Ok(Arc::new(Minter::new(
            Arc::clone(&self.authority),
            Arc::clone(&live.metrics),
            Arc::clone(&self.clock),
            live.limits.subscribe(),
        )?))
    }

    /// What keeps the token files.
    pub fn mirror(&self, minter: &Arc<Minter>) -> Mirror {
        let live = &self.reloader.live;
        let sources = Sources {
            files: live.files.subscribe(),
            registry: live.registry.subscribe(),
            names: self.names.subscribe(),
            authority: Arc::clone(&self.authority),
            audit: Arc::clone(&live.audit),
            steps: self.steps.subscribe(),
        };
        let list = Manifest::open(&self.private);
        Mirror::new(sources, Arc::clone(minter), Arc::clone(&self.clock), list)
    }
}

/// Does what is due for the keys, writes the documents and every token file, and serves nobody. Gives
/// what could not be done.
///
/// # Errors
///
/// Keys or documents cannot be had.
pub async fn write_once(config: Config) -> Result<Vec<String>, AgentError> {
    let core = Core::build(config, None).await?;
    let rotator = Arc::clone(&core.reloader.live.rotator);
    let lacking = core.lacking.clone();
    let work = move || {
        for issuer in &lacking {
            rotator.start_new(issuer)?;
        }
        rotator.round();
        Ok::<_, AgentError>(())
    };
    let worked = tokio::task::spawn_blocking(work).await;
    worked.map_err(|_| AgentError::Fault("rotator"))??;
    let minter = core.minter()?;
    let failed = core.mirror(&minter).run_once().await;
    let troubles = core.reloader.live.rotator.status().into_iter();
    let troubles = troubles.filter_map(|issuer| {
        let (reason, _) = issuer.trouble?;
        Some(format!("issuer {}: {reason}", issuer.name))
    });
    let file = |file: FileStatus| format!("token file {}: {}", file.path.display(), file.error);
    Ok(troubles.chain(failed.into_iter().map(file)).collect())
}
