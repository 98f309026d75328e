//! The state of the agent, and reload, over the admin socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::operator;
use crate::audit::Audit;
use crate::clock::{Clock, unix_seconds};
use crate::mirror::FileStatus;
use crate::pb::admin::administration_server::Administration;
use crate::pb::admin::{
    Caller, GetStatusRequest, GetStatusResponse, Issuer, Key, ReloadRequest, ReloadResponse,
    TokenFile,
};
use crate::registry::Registry;
use crate::rotator::{KeyStatus, Rotator};
use crate::spiffe_id::TrustDomain;

/// Reads the configuration again; what changed, or why nothing did.
pub type ReloadCall =
    Box<dyn Fn() -> BoxFuture<'static, Result<Vec<String>, String>> + Send + Sync>;

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
    pub files: watch::Receiver<Arc<Vec<FileStatus>>>,
    /// Callers.
    pub audit: Arc<Audit>,
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
        for key in keys
            .iter()
            .flat_map(|issuer| &issuer.keys)
            .filter(|key| key.is_overdue())
        {
            problems.push(format!("key {} is past its lifespan", key.kid));
        }
        let now = self.clock.now();
        for file in self.files.borrow().iter() {
            if !file.error.is_empty() {
                problems.push(format!(
                    "token file {}: {}",
                    file.path.display(),
                    file.error
                ));
            } else if file.expires_at.is_some_and(|end| end <= now) {
                problems.push(format!("token file {} has expired", file.path.display()));
            }
        }
        (ready, problems)
    }

    fn status(&self) -> GetStatusResponse {
        let (ready, problems) = self.health();
        let (configured, created) = self.registry.counts();
        let file = |file: &FileStatus| TokenFile {
            path: file.path.display().to_string(),
            entry: file.entry.to_string(),
            expires_at: file.expires_at.map_or(0, unix_seconds),
            error: file.error.clone(),
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
            token_files: self.files.borrow().iter().map(file).collect(),
            recent_callers: recent.collect(),
            socket_path: self.socket_path.display().to_string(),
        }
    }
}

fn show_key(key: KeyStatus) -> Key {
    Key {
        name: key.name.to_string(),
        kid: key.kid,
        algorithm: key.algorithm.name().to_owned(),
        state: key.state.name().to_owned(),
        age: key.age.as_secs(),
        lifespan: key.lifespan.as_secs(),
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
        let changes = (self.reload)().await.map_err(Status::failed_precondition)?;
        Ok(Response::new(ReloadResponse { changes }))
    }
}
