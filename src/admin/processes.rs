//! What processes would get, over the admin socket.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::operator;
use crate::attest::WorkloadAttestor;
use crate::attest::examine::Origin;
use crate::entry::Audience;
use crate::explain::{Question, explain};
use crate::pb::admin::ExplainProcessRequest;
use crate::pb::admin::processes_server::Processes;
use crate::pb::explain::v1::Explanation;
use crate::peer::{Namespaces, Peer, PeerError};
use crate::registry::Snapshot;
use crate::workload_api::{patience, show_explanation};

/// How many entries that do not match are told.
const NEAREST: usize = 3;

/// The service.
pub struct ProcessesService {
    /// Tells processes, as it does callers.
    pub attestor: Arc<WorkloadAttestor>,
    /// Entries and what goes with them.
    pub registry: watch::Receiver<Arc<Snapshot>>,
}

#[tonic::async_trait]
impl Processes for ProcessesService {
    async fn explain_process(
        &self,
        request: Request<ExplainProcessRequest>,
    ) -> Result<Response<Explanation>, Status> {
        operator(&request)?;
        let patience = patience(&request);
        let request = request.into_inner();
        let question = Question {
            patience,
            ..question(&request)?
        };
        let peer = match Peer::of_process(request.pid, Namespaces::of_self(false)) {
            Ok(peer) => peer,
            Err(error) => return Ok(Response::new(unattested(request.pid, &error))),
        };
        let now = Arc::clone(&self.registry.borrow());
        let explained = explain(&self.attestor, &peer, Origin::Number, &now, question).await;
        let reply = explained.map_or_else(
            |error| Explanation {
                uid: peer.uid(),
                gid: peer.gid(),
                ..unattested(request.pid, &error)
            },
            |explained| show_explanation(&peer, explained),
        );
        Ok(Response::new(reply))
    }
}

fn question(request: &ExplainProcessRequest) -> Result<Question, Status> {
    let wrong = |reason: String| Status::invalid_argument(reason);
    let audiences = request.audience.iter().map(|text| {
        let parsed = text.parse::<Audience>();
        parsed.map_err(|why| wrong(format!("audience {text:?}: {why}")))
    });
    let id = Some(request.spiffe_id.as_str()).filter(|id| !id.is_empty());
    let only = id.map(str::parse).transpose();
    Ok(Question {
        audiences: audiences.collect::<Result<_, _>>()?,
        only: only.map_err(|why| wrong(format!("invalid SPIFFE ID: {why}")))?,
        nearest: NEAREST,
        ..Question::default()
    })
}

/// What there is to say of a process that gets nothing.
fn unattested(pid: i32, why: &PeerError) -> Explanation {
    Explanation {
        pid,
        unattested: match why {
            PeerError::Gone => "there is no such process, or not any more".to_owned(),
            PeerError::ChangedIds => "its user or group ids are not all the same, as those of a \
                                      program are that changes users"
                .to_owned(),
            why => why.to_string(),
        },
        ..Explanation::default()
    }
}
