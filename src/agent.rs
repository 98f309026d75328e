//! Puts the parts together: from a configuration to an agent that serves.

use std::sync::Arc;

use thiserror::Error;
use tokio::net::UnixListener;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::attest::WorkloadAttestor;
use crate::attest::names::NameKeeper;
use crate::authority::Authority;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::conn::accept::Incoming;
use crate::entry::EntrySet;
use crate::issue::Minter;
use crate::key::store::{KeyStore, StoreError};
use crate::mirror::Mirror;
use crate::peer::Namespaces;
use crate::rotator::{IssuerSpec, RotationError, Rotator};
use crate::shutdown::{Ended, Supervisor};
use crate::workload_api::socket::{BoundSocket, SocketError};
use crate::workload_api::{self, WorkloadApi};

/// Why the agent could not start, or could not go on.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Keys cannot be read or kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Keys cannot be made or published.
    #[error(transparent)]
    Rotation(#[from] RotationError),
    /// The socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The server broke.
    #[error("the Workload API server failed: {0}")]
    Server(#[from] tonic::transport::Error),
    /// A part ended by itself or panicked: a fault of the agent.
    #[error("internal fault: {0} ended unexpectedly")]
    Fault(&'static str),
}

/// An agent whose socket is bound and whose existing keys are published.
#[derive(Debug)]
pub struct Bound {
    config: Config,
    clock: Arc<dyn Clock>,
    authority: Arc<Authority>,
    rotator: Arc<Rotator>,
    /// Issuers whose keys are yet to be made.
    lacking: Vec<IssuerSpec>,
    names: NameKeeper,
    socket: BoundSocket,
    listener: UnixListener,
}

impl Bound {
    /// Goes from the configuration to the socket: keys, documents, names, socket.
    ///
    /// # Errors
    ///
    /// The first part that cannot be had.
    pub async fn build(config: Config) -> Result<Self, AgentError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (store, records) = KeyStore::open(&config.data_dir, &*clock)?;
        let authority = Arc::new(Authority::new(config.trust_domain.clone()));
        let rotator = Arc::new(Rotator::new(
            config.issuers.clone(),
            Arc::clone(&authority),
            Arc::clone(&clock),
            store,
            records,
        ));
        let lacking = rotator.start_existing()?;
        let (socket, listener) = BoundSocket::bind(&config.socket_path, config.socket_mode).await?;
        Ok(Self {
            names: NameKeeper::start(config.names.clone()).await,
            config,
            clock,
            authority,
            rotator,
            lacking,
            socket,
            listener,
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
        let minter = Arc::new(Minter::new(
            Arc::clone(&self.authority),
            Arc::clone(&self.clock),
        ));
        let mirror = Mirror::new(
            self.config.token_files.clone(),
            Arc::clone(&minter),
            Arc::clone(&self.authority),
            self.names.subscribe(),
            Arc::clone(&self.clock),
        );
        let entries: EntrySet = self.config.entries.iter().cloned().collect();
        let api = WorkloadApi::new(
            WorkloadAttestor::new(self.config.rules.unix, self.names.subscribe()),
            watch::Sender::new(Arc::new(entries)).subscribe(),
            Arc::clone(&self.authority),
            minter,
            Arc::clone(&self.clock),
            self.config.policy,
            stop.clone(),
        );
        let namespaces = Namespaces::of_self(self.config.require_peerpidfd);
        let incoming = Incoming::new(self.listener, namespaces);
        let grace = self.config.shutdown_grace;
        let until = stop.clone();
        tasks.spawn("workload API", async move {
            Ok(workload_api::serve(incoming, api, until, grace).await?)
        });
        let rotator = Arc::clone(&self.rotator);
        tasks.spawn(
            "rotator",
            keys(self.rotator, self.lacking, stop.clone(), ready),
        );
        let until = stop.clone();
        tasks.spawn("token files", async move {
            mirror.run(until).await;
            Ok(())
        });
        tasks.spawn("names", async move {
            self.names.run(stop).await;
            Ok(())
        });
        let ended = tasks.run().await;
        // The lock on the data directory is held until the socket is gone.
        drop(self.socket);
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

/// Makes the keys that are lacking, all issuers at a time, and then looks after all keys.
async fn keys(
    rotator: Arc<Rotator>,
    lacking: Vec<IssuerSpec>,
    stop: CancellationToken,
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
    // Nobody may be waiting for it any more.
    let _ = ready.send(());
    rotator.run(stop).await;
    Ok(())
}
