//! Signing keys over the admin socket.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::operator;
use crate::entry::KeyRef;
use crate::key::record::KeyState;
use crate::pb::admin::keys_server::Keys;
use crate::pb::admin::{RotateKeyRequest, RotateKeyResponse, TaintKeyRequest, TaintKeyResponse};
use crate::rotator::{KeyStatus, Replaced, RotationError, Rotator};

/// The service.
pub struct KeysService {
    /// The keys.
    pub rotator: Arc<Rotator>,
}

impl KeysService {
    /// Runs what waits for the disk beside the threads that serve.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Rotator) -> Result<T, RotationError> + Send + 'static,
    ) -> Result<T, Status> {
        let rotator = Arc::clone(&self.rotator);
        let done = tokio::task::spawn_blocking(move || work(&rotator)).await;
        let done = done.map_err(|error| Status::internal(error.to_string()))?;
        done.map_err(|error| match error {
            RotationError::NoKey(reason) => Status::not_found(reason),
            error => Status::internal(error.to_string()),
        })
    }

    /// The one chain that fits what an operator has named of it.
    fn chain(&self, issuer: &str, key: &str) -> Result<KeyRef, Status> {
        let fits = |named: &str, name: &str| named.is_empty() || named == name;
        let mut chains: Vec<KeyRef> = Vec::new();
        for status in self.rotator.status() {
            // What has signed stays in the documents even where its block is gone.
            let over = |key: &KeyStatus| matches!(key.state, KeyState::Retired | KeyState::Tainted);
            for found in status.keys.into_iter().filter(|key| !over(key)) {
                let chain = KeyRef {
                    issuer: Arc::clone(&status.name),
                    key: found.name,
                };
                let known = chains.contains(&chain);
                if !known && fits(issuer, &chain.issuer) && fits(key, &chain.key) {
                    chains.push(chain);
                }
            }
        }
        match chains.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(Status::not_found("there is no such key block")),
            several => {
                let names: Vec<_> = several.iter().map(KeyRef::to_string).collect();
                let names = names.join(", ");
                Err(Status::invalid_argument(format!(
                    "there are several: {names}; choose with --issuer and --key"
                )))
            }
        }
    }
}

#[tonic::async_trait]
impl Keys for KeysService {
    async fn rotate_key(
        &self,
        request: Request<RotateKeyRequest>,
    ) -> Result<Response<RotateKeyResponse>, Status> {
        let peer = operator(&request)?;
        let request = request.into_inner();
        let chain = self.chain(&request.issuer, &request.key)?;
        tracing::info!(pid = peer.pid(), uid = peer.uid(), key = %chain, "rotation asked for");
        let asked = chain.clone();
        let replaced = self
            .blocking(move |rotator| rotator.replace(&asked))
            .await?;
        let (kid, ready_in) = match replaced {
            Replaced::By(kid) => (kid, 0),
            Replaced::In(time) => (String::new(), time.as_secs().max(1)),
        };
        Ok(Response::new(RotateKeyResponse {
            issuer: chain.issuer.to_string(),
            key: chain.key.to_string(),
            kid,
            ready_in,
        }))
    }

    async fn taint_key(
        &self,
        request: Request<TaintKeyRequest>,
    ) -> Result<Response<TaintKeyResponse>, Status> {
        let peer = operator(&request)?;
        let kid = request.into_inner().kid;
        tracing::warn!(pid = peer.pid(), uid = peer.uid(), kid, "taint asked for");
        let successor = self.blocking(move |rotator| rotator.taint(&kid)).await?;
        Ok(Response::new(TaintKeyResponse {
            successor: successor.unwrap_or_default(),
        }))
    }
}
