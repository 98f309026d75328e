//! Entries over the admin socket.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use tonic::{Request, Response, Status};

use super::operator;
use crate::clock::unix_seconds;
use crate::entry::Entry;
use crate::metrics::Metrics;
use crate::pb::admin::entries_server::Entries;
use crate::pb::admin::{
    self as pb, CreateEntriesRequest, CreateEntriesResponse, CreateResult, DeleteEntryRequest,
    DeleteEntryResponse, EntrySpec, ListEntriesRequest, Made, SelectorMatch, UpdateEntryRequest,
};
use crate::proto_json::{object, to_json};
use crate::registry::rules::EntryRequest;
use crate::registry::{self, Listed, Registry, RegistryError, Wish};

/// The service.
pub struct EntriesService {
    /// The entries.
    pub registry: Arc<Registry>,
    /// Counts, of which those of removed entries go.
    pub metrics: Arc<Metrics>,
}

impl EntriesService {
    /// Runs what waits for the disk beside the threads that serve.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Registry) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let registry = Arc::clone(&self.registry);
        let done = tokio::task::spawn_blocking(move || work(&registry)).await;
        done.map_err(|error| Status::internal(error.to_string()))
    }
}

#[tonic::async_trait]
impl Entries for EntriesService {
    type ListEntriesStream = Pin<Box<dyn Stream<Item = Result<pb::Entry, Status>> + Send>>;

    async fn list_entries(
        &self,
        request: Request<ListEntriesRequest>,
    ) -> Result<Response<Self::ListEntriesStream>, Status> {
        operator(&request)?;
        let filter = request.into_inner();
        let all = self.blocking(Registry::list).await?;
        let shown = all
            .into_iter()
            .map(show)
            .filter(move |entry| fits(entry, &filter));
        let replies = futures_util::stream::iter(shown.map(Ok));
        Ok(Response::new(Box::pin(replies)))
    }

    async fn create_entries(
        &self,
        request: Request<CreateEntriesRequest>,
    ) -> Result<Response<CreateEntriesResponse>, Status> {
        let peer = operator(&request)?;
        let wishes: Vec<_> = request
            .into_inner()
            .entries
            .into_iter()
            .map(to_wish)
            .collect();
        let results = self.blocking(|registry| registry.create(wishes)).await?;
        for made in results.iter().flatten() {
            tracing::info!(pid = peer.pid(), uid = peer.uid(), entry = %made.id, "entry created");
        }
        let results = results.into_iter().map(|result| match result {
            Ok(made) => CreateResult {
                made: Some(show_made(made)),
                error: String::new(),
            },
            Err(error) => CreateResult {
                made: None,
                error: error.to_string(),
            },
        });
        Ok(Response::new(CreateEntriesResponse {
            results: results.collect(),
        }))
    }

    async fn update_entry(
        &self,
        request: Request<UpdateEntryRequest>,
    ) -> Result<Response<Made>, Status> {
        let peer = operator(&request)?;
        let UpdateEntryRequest { id, spec } = request.into_inner();
        let wanted = to_request(spec.unwrap_or_default());
        let made = self
            .blocking(move |registry| registry.update(&id, wanted))
            .await?;
        let made = made.map_err(to_status)?;
        tracing::info!(pid = peer.pid(), uid = peer.uid(), entry = %made.id, "entry updated");
        Ok(Response::new(show_made(made)))
    }

    async fn delete_entry(
        &self,
        request: Request<DeleteEntryRequest>,
    ) -> Result<Response<DeleteEntryResponse>, Status> {
        let peer = operator(&request)?;
        let id = request.into_inner().id;
        let entry = id.clone();
        let deleted = self.blocking(move |registry| registry.delete(&id)).await?;
        deleted.map_err(to_status)?;
        self.metrics.forget(&entry);
        tracing::info!(pid = peer.pid(), uid = peer.uid(), entry, "entry deleted");
        Ok(Response::new(DeleteEntryResponse {}))
    }
}

fn to_status(error: RegistryError) -> Status {
    let text = error.to_string();
    match error {
        RegistryError::Invalid(_) => Status::invalid_argument(text),
        RegistryError::Exists(_) => Status::already_exists(text),
        RegistryError::Missing(_) => Status::not_found(text),
        RegistryError::Configured(_) => Status::failed_precondition(text),
        RegistryError::Store(_) | RegistryError::NotKept(_) => Status::internal(text),
    }
}

fn to_wish(entry: pb::NewEntry) -> Wish {
    Wish {
        id: Some(entry.id).filter(|id| !id.is_empty()),
        request: to_request(entry.spec.unwrap_or_default()),
        kept: entry.kept.map(to_json).unwrap_or_default(),
    }
}

fn to_request(spec: EntrySpec) -> EntryRequest {
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    EntryRequest {
        spiffe_id: spec.spiffe_id,
        selectors: spec.selectors,
        audiences: spec.limit_audiences.then_some(spec.audiences),
        jwt_svid_ttl: Some(spec.jwt_svid_ttl).filter(|ttl| *ttl > 0),
        hint: spec.hint,
        claims: spec.claims.map(to_json).unwrap_or_default(),
        issuer: some(spec.issuer),
        key: some(spec.key),
        jti: spec.jti,
        allow_path_only: spec.allow_path_only,
        expires_at: Some(spec.expires_at).filter(|at| *at > 0),
    }
}

fn show_made(made: registry::Made) -> Made {
    Made {
        id: made.id.to_string(),
        warnings: made.warnings,
    }
}

fn show(listed: Listed) -> pb::Entry {
    match listed.record {
        Some(record) => {
            let request = record.request;
            pb::Entry {
                id: record.id,
                spec: Some(EntrySpec {
                    spiffe_id: request.spiffe_id,
                    selectors: request.selectors,
                    limit_audiences: request.audiences.is_some(),
                    audiences: request.audiences.unwrap_or_default(),
                    jwt_svid_ttl: request.jwt_svid_ttl.unwrap_or_default(),
                    hint: request.hint,
                    claims: Some(object(request.claims)),
                    issuer: request.issuer.unwrap_or_default(),
                    key: request.key.unwrap_or_default(),
                    jti: request.jti,
                    allow_path_only: request.allow_path_only,
                    expires_at: request.expires_at.unwrap_or_default(),
                }),
                configured: false,
                created_at: record.created_at,
                revision: record.revision,
                problem: listed.problem,
                kept: Some(object(record.kept)),
            }
        }
        None => listed
            .entry
            .map_or_else(pb::Entry::default, |entry| pb::Entry {
                id: entry.id.to_string(),
                spec: Some(spec_of(&entry)),
                configured: true,
                ..pb::Entry::default()
            }),
    }
}

fn spec_of(entry: &Entry) -> EntrySpec {
    let audiences = entry.audiences.iter().flatten();
    EntrySpec {
        spiffe_id: entry.grants.written_id().to_string(),
        selectors: entry.selectors.iter().map(ToString::to_string).collect(),
        limit_audiences: entry.audiences.is_some(),
        audiences: audiences
            .map(|audience| audience.as_str().to_owned())
            .collect(),
        jwt_svid_ttl: entry.ttl.as_secs(),
        hint: entry.hint.clone(),
        claims: Some(object(entry.grants.written_claims().as_map().clone())),
        issuer: entry.key.issuer.to_string(),
        key: entry.key.key.to_string(),
        jti: entry.jti,
        allow_path_only: false,
        expires_at: entry.expires_at.map_or(0, unix_seconds),
    }
}

fn fits(entry: &pb::Entry, filter: &ListEntriesRequest) -> bool {
    let Some(spec) = &entry.spec else {
        return false;
    };
    let same = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
    let wanted = &filter.selectors;
    let has = |selector: &String| spec.selectors.contains(selector);
    let asked = |selector: &String| wanted.contains(selector);
    let selectors = wanted.is_empty()
        || match filter.r#match() {
            SelectorMatch::Superset => wanted.iter().all(has),
            SelectorMatch::Subset => spec.selectors.iter().all(asked),
            SelectorMatch::Exact => wanted.iter().all(has) && spec.selectors.iter().all(asked),
            SelectorMatch::Any => wanted.iter().any(has),
        };
    same(&filter.id, &entry.id)
        && same(&filter.spiffe_id, &spec.spiffe_id)
        && same(&filter.hint, &spec.hint)
        && selectors
}
