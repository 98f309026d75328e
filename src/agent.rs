//! Puts the parts together: from a configuration to an agent that serves.

mod core;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::core::Core;
pub use self::core::write_once;
use crate::admin::facts_http::{self, FactsAddress, FactsListener};
use crate::admin::{
    self, AdministrationService, EntriesService, Facts, KeysService, ProcessesService, ReloadCall,
    Services,
};
use crate::attest::WorkloadAttestor;
use crate::attest::names::NameKeeper;
use crate::attest::sight::Sight;
use crate::config::{Config, Means};
use crate::conn::PeerCheck;
use crate::conn::accept::Incoming;
use crate::conn::slots::Slots;
use crate::issue::quota::Quota;
use crate::key::store::StoreError;
use crate::peer::Namespaces;
use crate::registry::store::EntryStoreError;
use crate::reload::{self, Live};
use crate::rotator::{IssuerSpec, RotationError, Rotator};
use crate::shutdown::{Ended, Supervisor};
use crate::socket::{BoundSocket, SocketError};
use crate::systemd;
use crate::workload_api::{self, OpenStreams, Parts, WorkloadApi};

/// The version and the commit of this build.
pub const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("SVID_AGENT_COMMIT"),
    ")"
);

/// Why the agent could not start, or could not go on.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Keys cannot be read or kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Keys cannot be made or published.
    #[error(transparent)]
    Rotation(#[from] RotationError),
    /// Entries cannot be read or kept.
    #[error(transparent)]
    Entries(#[from] EntryStoreError),
    /// The address for metrics cannot be had.
    #[error("metrics: {0}: {1}")]
    Metrics(SocketAddr, #[source] std::io::Error),
    /// The kernel does not give what every Linux gives: signals, credentials of senders.
    #[error("the kernel refuses what the agent needs: {0}")]
    Kernel(#[from] std::io::Error),
    /// The socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// What reflection shows cannot be read.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// A part ended by itself or panicked: a fault of the agent.
    #[error("internal fault: {0} ended unexpectedly")]
    Fault(&'static str),
}

/// An agent whose socket is bound and whose existing keys are published.
#[derive(Debug)]
pub struct Bound {
    core: Core,
    socket: BoundSocket,
    listener: UnixListener,
    admin_socket: BoundSocket,
    admin_listener: UnixListener,
    facts_socket: Option<BoundSocket>,
    facts_listener: Option<FactsListener>,
}

impl Bound {
    /// Goes from the configuration to the socket: keys, documents, entries, names, socket. `file` is
    /// what a reload reads.
    ///
    /// # Errors
    ///
    /// The first part that cannot be had.
    pub async fn build(config: Config, file: Option<PathBuf>) -> Result<Self, AgentError> {
        let core = Core::build(config, file).await?;
        let config = &core.reloader.config;
        let (socket, listener) =
            BoundSocket::bind(&config.socket_path, config.socket_mode, 0o755).await?;
        let (admin_socket, admin_listener) =
            BoundSocket::bind(&config.admin_socket_path, 0o600, 0o700).await?;
        let (facts_socket, facts_listener) = listen_for_facts(config.metrics.as_ref()).await?;
        Ok(Self {
            core,
            socket,
            listener,
            admin_socket,
            admin_listener,
            facts_socket,
            facts_listener,
        })
    }

    /// Serves until `stop`. `ready` is told when the socket serves and every issuer is published.
    ///
    /// # Errors
    ///
    /// What kept the agent from going on.
    pub async fn run(
        self,
        stop: CancellationToken,
        ready: oneshot::Sender<()>,
    ) -> Result<(), AgentError> {
        let mut tasks: Supervisor<AgentError> = Supervisor::new(stop.clone());
        let minter = self.core.minter()?;
        let mirror = self.core.mirror(&minter);
        let Core {
            reloader,
            clock,
            authority,
            lacking,
            names,
            steps,
            ..
        } = self.core;
        let Live {
            registry,
            rotator,
            policy,
            limits,
            ..
        } = &reloader.live;
        let (registry, rotator) = (Arc::clone(registry), Arc::clone(rotator));
        let metrics = Arc::clone(&reloader.live.metrics);
        let audit = Arc::clone(&reloader.live.audit);
        let attestor = Arc::new(WorkloadAttestor::new(names.subscribe()));
        let api = WorkloadApi::new(Parts {
            attestor: Arc::clone(&attestor),
            registry: registry.subscribe(),
            authority: Arc::clone(&authority),
            minter,
            audit: Arc::clone(&audit),
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock),
            policy: policy.subscribe(),
            limits: limits.subscribe(),
            calls: Quota::default(),
            streams: OpenStreams::default(),
            stop: stop.clone(),
        });
        let sight = Sight::probe();
        sight.tell(&registry.subscribe().borrow().entries);
        tell_losses(&reloader.config, &names);
        let namespaces = Namespaces::of_self(reloader.config.require_peerpidfd);
        let check = reloader.config.peer_check;
        let slots = Slots::default();
        let incoming = Incoming::new(
            self.listener,
            namespaces,
            check,
            limits.subscribe(),
            slots.clone(),
        )?;
        let memory = slots.clone().tidy(stop.clone());
        let grace = reloader.config.shutdown_grace;
        let fixed = *limits.borrow();
        let (minting, can_mint) = watch::channel(false);
        let is_ready = can_mint.clone();
        let until = stop.clone();
        tasks.spawn("workload API", async move {
            Ok(workload_api::serve(incoming, api, fixed, can_mint, until, grace).await?)
        });
        let config = &reloader.config;
        let facts = Arc::new(Facts {
            version: VERSION,
            trust_domain: config.trust_domain.clone(),
            socket_path: config.socket_path.clone(),
            started_at: clock.now(),
            rotator: Arc::clone(&rotator),
            registry: Arc::clone(&registry),
            files: mirror.files(),
            audit,
            sight,
            connections: slots,
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock),
        });
        let (requests, reloads) = mpsc::channel(1);
        if let Some(listener) = self.facts_listener {
            let (facts, until) = (Arc::clone(&facts), stop.clone());
            tasks.spawn("metrics", async move {
                Ok(facts_http::serve(listener, facts, until).await?)
            });
        }
        let services = Services {
            administration: AdministrationService {
                facts,
                reload: ask_for_reload(requests),
            },
            entries: EntriesService {
                registry: Arc::clone(&registry),
                metrics: Arc::clone(&metrics),
            },
            keys: KeysService {
                rotator: Arc::clone(&rotator),
            },
            processes: ProcessesService {
                attestor,
                registry: registry.subscribe(),
            },
        };
        let until = stop.clone();
        let incoming = Incoming::new(
            self.admin_listener,
            Namespaces::of_self(false),
            PeerCheck::Sender,
            limits.subscribe(),
            Slots::default(),
        )?;
        tasks.spawn("administration", async move {
            admin::serve(incoming, services, until).await;
            Ok(())
        });
        let until = stop.clone();
        tasks.spawn(
            "rotator",
            keys(Arc::clone(&rotator), lacking, until, minting, ready),
        );
        tasks.spawn("memory", async move {
            memory.await;
            Ok(())
        });
        let until = stop.clone();
        let mirroring = async move {
            mirror.run(until).await;
            Ok(())
        };
        tasks.spawn_apart("token files", mirroring)?;
        let until = stop.clone();
        tasks.spawn("names", async move {
            names.run(until).await;
            Ok(())
        });
        let until = stop.clone();
        tasks.spawn("clock", async move { Ok(steps.run(until).await?) });
        let until = stop.clone();
        tasks.spawn("entries", async move {
            registry.run(until).await;
            Ok(())
        });
        let until = stop.clone();
        tasks.spawn("watchdog", async move {
            systemd::watchdog(until).await;
            Ok(())
        });
        tasks.spawn("reload", async move {
            Ok(reloader.run(reloads, is_ready, stop).await?)
        });
        let ended = tasks.run().await;
        // The lock on the data directory is held until the sockets are gone.
        drop((self.socket, self.admin_socket, self.facts_socket));
        drop(rotator);
        match ended {
            None => Ok(()),
            Some(Ended::Task {
                error: Some(error), ..
            }) => Err(error),
            Some(Ended::Task { name, error: None } | Ended::Panic(name)) => {
                Err(AgentError::Fault(name))
            }
        }
    }
}

/// Tells the log what the configuration asks for and this process may not do. The directories that it
/// looks at may not answer, and nobody waits for that.
fn tell_losses(config: &Config, names: &NameKeeper) {
    let (config, means) = (config.clone(), Means::own());
    let names = Arc::clone(&names.subscribe().borrow());
    tokio::task::spawn_blocking(move || {
        for loss in config.losses(&names, &means) {
            tracing::warn!("{loss}");
        }
    });
}

/// Where metrics are to be served, if anywhere. The socket is open to all: what it tells is no
/// secret, and who may enter its directory is for the operator to say.
async fn listen_for_facts(
    address: Option<&FactsAddress>,
) -> Result<(Option<BoundSocket>, Option<FactsListener>), AgentError> {
    Ok(match address {
        None => (None, None),
        Some(FactsAddress::Socket(path)) => {
            let (socket, listener) = BoundSocket::bind(path, 0o666, 0o755).await?;
            (Some(socket), Some(FactsListener::Unix(listener)))
        }
        Some(FactsAddress::Loopback(address)) => {
            let listener = TcpListener::bind(address).await;
            let listener = listener.map_err(|error| AgentError::Metrics(*address, error))?;
            (None, Some(FactsListener::Tcp(listener)))
        }
    })
}

/// A way to ask the reloader and to hear what it did, in words.
fn ask_for_reload(requests: mpsc::Sender<reload::Request>) -> ReloadCall {
    Box::new(move || {
        let requests = requests.clone();
        Box::pin(async move {
            let stopping = || "the agent is stopping".to_owned();
            let (answer, outcome) = oneshot::channel();
            requests.send(answer).await.map_err(|_| stopping())?;
            let outcome = outcome.await.map_err(|_| stopping())?;
            outcome.map_err(|error| error.to_string())
        })
    })
}

/// Makes the keys that are lacking, all issuers at a time, and then looks after all keys.
async fn keys(
    rotator: Arc<Rotator>,
    lacking: Vec<IssuerSpec>,
    stop: CancellationToken,
    minting: watch::Sender<bool>,
    ready: oneshot::Sender<()>,
) -> Result<(), AgentError> {
    let mut making = tokio::task::JoinSet::new();
    for issuer in lacking {
        let rotator = Arc::clone(&rotator);
        making.spawn_blocking(move || rotator.start_new(&issuer));
    }
    loop {
        let made = tokio::select! {
            made = making.join_next() => made,
            () = stop.cancelled() => return Ok(()),
        };
        match made {
            None => break,
            Some(made) => made.map_err(|_| AgentError::Fault("rotator"))??,
        }
    }
    minting.send_replace(true);
    // Nobody may be waiting for it any more.
    let _ = ready.send(());
    rotator.run(stop).await;
    Ok(())
}
