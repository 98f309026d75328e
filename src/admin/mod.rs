//! The administration of an agent, on a socket of its own.
//!
//! The socket lies in a directory that only the agent's user can enter. Who connects must be root
//! or that user, and in the pid and user namespace of the agent: root of a container is neither.

pub mod client;
mod entries;
pub mod facts_http;
mod keys;
mod processes;
mod status;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::Status;

pub use self::entries::EntriesService;
pub use self::keys::KeysService;
pub use self::processes::ProcessesService;
pub use self::status::{AdministrationService, Facts, ReloadCall};
use crate::conn::accept::Incoming;
use crate::grpc::Server;
use crate::pb::admin::administration_server::AdministrationServer;
use crate::pb::admin::entries_server::EntriesServer;
use crate::pb::admin::keys_server::KeysServer;
use crate::pb::admin::processes_server::ProcessesServer;
use crate::peer::Peer;

/// The largest request, in bytes: a batch of entries.
const MAX_REQUEST_BYTES: usize = 16 << 20;

/// What calls that are under way get at the end.
const GRACE: Duration = Duration::from_secs(1);

/// Everything that is served.
pub struct Services {
    /// The state of the agent, and reload.
    pub administration: AdministrationService,
    /// Entries.
    pub entries: EntriesService,
    /// Signing keys.
    pub keys: KeysService,
    /// What processes would get.
    pub processes: ProcessesService,
}

/// Serves until `stop`.
pub async fn serve(incoming: Incoming, services: Services, stop: CancellationToken) {
    let entries = EntriesServer::new(services.entries).max_decoding_message_size(MAX_REQUEST_BYTES);
    Server::new(None)
        .with(AdministrationServer::new(services.administration))
        .with(entries)
        .with(KeysServer::new(services.keys))
        .with(ProcessesServer::new(services.processes))
        .serve(incoming, stop, GRACE)
        .await;
}

/// Lets operators pass.
fn operator<T>(request: &tonic::Request<T>) -> Result<Arc<Peer>, Status> {
    let peer = request.extensions().get::<Arc<Peer>>().cloned();
    let peer = peer.ok_or_else(|| Status::permission_denied("the caller cannot be told"))?;
    match check(&peer) {
        Ok(()) => Ok(peer),
        Err(reason) => {
            peer.refuse();
            tracing::warn!(
                pid = peer.pid(),
                uid = peer.uid(),
                reason,
                "admin call refused"
            );
            Err(Status::permission_denied(reason))
        }
    }
}

fn check(peer: &Peer) -> Result<(), &'static str> {
    if peer.uid() != 0 && peer.uid() != nix::unistd::geteuid().as_raw() {
        return Err("only root and the user of the agent administer it");
    }
    let seen = peer
        .verify(false)
        .map_err(|_| "the caller is not the process that connected")?;
    match seen.proc.shares_namespaces_with_us() {
        Ok(true) => Ok(()),
        Ok(false) => Err("the caller is in another pid or user namespace than the agent"),
        Err(_) => Err("the namespaces of the caller cannot be told"),
    }
}
