//! The seven calls. Each checks in one order: whether the agent serves at all, the request, the
//! caller, how much he asks for, what he may have.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::Refusal;
use super::refuse::Wish;
use super::streams::{BundleStream, OpenStreams, Replies};
use crate::attest::WorkloadAttestor;
use crate::audit::Audit;
use crate::authority::{Authority, Trusted};
use crate::clock::Clock;
use crate::entry::{Audience, Entry, EntrySet, Granted, Identity, identities};
use crate::issue::quota::Quota;
use crate::issue::{IssueError, Minter, Order};
use crate::limits::Limits;
use crate::metrics::{Metrics, Rpc};
use crate::pb::spiffe_workload_api_server::SpiffeWorkloadApi;
use crate::pb::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse,
    ValidateJwtsvidRequest, ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse,
    WitsvidRequest, WitsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest,
    X509svidResponse,
};
use crate::peer::Peer;
use crate::proto_json;
use crate::registry::Snapshot;
use crate::selector::SelectorSet;
use crate::spiffe_id::SpiffeId;
use crate::svid::{AudienceClaim, Sub, validate};

/// How long the answer takes to a caller who asks for too much: one who asks again at once would
/// otherwise cost others more than what he is refused.
const TOO_MANY_PAUSE: Duration = Duration::from_millis(20);

/// What the operator decides about the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How far the clocks of signer and verifier may be apart.
    pub leeway: Duration,
    /// How far `nbf` lies before `iat`.
    pub nbf_margin: Duration,
    /// Whether callers without identity may have the bundle.
    pub allow_unauthenticated_verifiers: bool,
}

/// What the service works with.
pub struct Parts {
    /// Tells callers.
    pub attestor: Arc<WorkloadAttestor>,
    /// Entries and what goes with them.
    pub registry: watch::Receiver<Arc<Snapshot>>,
    /// Published keys.
    pub authority: Arc<Authority>,
    /// Makes tokens.
    pub minter: Arc<Minter>,
    /// Keeps the record.
    pub audit: Arc<Audit>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What the operator decides.
    pub policy: watch::Receiver<Policy>,
    /// What callers may take.
    pub limits: watch::Receiver<Limits>,
    /// Calls that users have made.
    pub calls: Quota,
    /// Streams that are open.
    pub streams: OpenStreams,
    /// Ends streams.
    pub stop: CancellationToken,
}

/// The service.
#[derive(Clone)]
pub struct WorkloadApi(Arc<Parts>);

impl WorkloadApi {
    /// A service of these parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// What it works with.
    pub(super) fn parts(&self) -> &Parts {
        &self.0
    }
}

impl Parts {
    /// Sees a call to its end and counts how it went. A panic is the end of this call alone.
    pub(super) async fn counted<T>(
        &self,
        rpc: Rpc,
        call: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Status> {
        let result = AssertUnwindSafe(call).catch_unwind().await;
        let result = result.unwrap_or(Err(Refusal::Internal));
        if let Err(Refusal::TooMany(_)) = result {
            tokio::time::sleep(TOO_MANY_PAUSE).await;
        }
        let result = result.map_err(Status::from);
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        let name = if code == Code::Ok {
            "OK".to_owned()
        } else {
            format!("{code:?}")
        };
        self.metrics.rpc(rpc, &name);
        result
    }

    /// What is published, without which nothing is served.
    fn trusted(&self) -> Result<Trusted, Refusal> {
        self.authority.trusted().ok_or(Refusal::Starting)
    }

    /// Counts a call of a user whose process is known by now.
    pub(super) fn count_call(&self, peer: &Peer, rpc: Rpc) -> Result<(), Refusal> {
        let per_second = self.limits.borrow().calls_per_second_per_uid;
        let may = self.calls.take(peer.uid(), per_second);
        may.then_some(()).ok_or(Refusal::TooMany(rpc))
    }

    async fn attest(&self, peer: &Peer, now: &Snapshot) -> Result<SelectorSet, Refusal> {
        let found = self
            .attestor
            .attest(peer, &now.entries, &now.attestors)
            .await;
        found.map_err(|error| {
            self.audit.unattested(peer, &error);
            Refusal::Attestation
        })
    }

    async fn fetch(&self, peer: &Peer, request: JwtsvidRequest) -> Result<Vec<Jwtsvid>, Refusal> {
        self.trusted()?;
        let audiences = parse_audiences(&request.audience, &self.limits.borrow())?;
        let only = parse_requested_id(&request.spiffe_id)?;
        let now = Arc::clone(&self.registry.borrow());
        let found = self.attest(peer, &now).await?;
        self.count_call(peer, Rpc::FetchJwtsvid)?;
        let matching = now.entries.matching(&found);
        let granted = identities(&matching, &audiences, only.as_ref());
        if granted.is_empty() {
            let wish = Wish { audiences, only };
            return Err(self.refuse(peer, &now, found, wish).await);
        }
        let mut svids: Vec<Jwtsvid> = Vec::with_capacity(granted.len());
        for Granted { entry, identity } in granted {
            let order = self.order(&entry, &identity, &audiences);
            let svid = self.minter.fetch(peer.uid(), &entry, order).await;
            let svid = svid.map_err(|error| match error {
                IssueError::TooMany => Refusal::TooMany(Rpc::FetchJwtsvid),
                error => Refusal::Issue(error),
            })?;
            self.audit.issued(peer, &found, &entry, &audiences, &svid);
            // A hint tells one identity: a later one with the same hint goes without.
            let taken = svids.iter().any(|other| other.hint == entry.hint);
            svids.push(Jwtsvid {
                spiffe_id: svid.sub.to_string(),
                svid: svid.token.reveal().to_owned(),
                hint: if taken {
                    String::new()
                } else {
                    entry.hint.clone()
                },
            });
        }
        Ok(svids)
    }

    fn order(&self, entry: &Entry, identity: &Identity, audiences: &[Audience]) -> Order {
        Order {
            key: entry.key.clone(),
            sub: Sub::from(&identity.spiffe_id),
            audience: AudienceClaim::List(audiences.to_vec()),
            claims: identity.claims.clone(),
            ttl: entry.ttl,
            nbf_margin: self.policy.borrow().nbf_margin,
            jti: entry.jti,
        }
    }

    /// The bundles that a caller may have now.
    pub(super) async fn bundles(&self, peer: &Peer) -> Result<Trusted, Refusal> {
        let trusted = self.trusted()?;
        let now = Arc::clone(&self.registry.borrow());
        let found = self.attest(peer, &now).await?;
        let entitled = !now.entries.matching(&found).is_empty();
        if !entitled && !self.policy.borrow().allow_unauthenticated_verifiers {
            return Err(self.refuse(peer, &now, found, Wish::default()).await);
        }
        Ok(trusted)
    }

    async fn validate(
        &self,
        peer: &Peer,
        request: ValidateJwtsvidRequest,
    ) -> Result<ValidateJwtsvidResponse, Refusal> {
        let bundle = self.trusted()?.bundle;
        let required = |text: &str, name: &str| {
            let missing = || Refusal::Request(format!("{name} must be specified"));
            (!text.is_empty()).then_some(()).ok_or_else(missing)
        };
        required(&request.audience, "audience")?;
        required(&request.svid, "svid")?;
        let nobody = Snapshot {
            entries: EntrySet::default(),
            attestors: Arc::clone(&self.registry.borrow().attestors),
        };
        self.attest(peer, &nobody).await?;
        self.count_call(peer, Rpc::ValidateJwtsvid)?;
        let (now, leeway) = (self.clock.now(), self.policy.borrow().leeway);
        let (spiffe_id, claims) = validate(&request.svid, &bundle, &request.audience, now, leeway)
            .map_err(|error| Refusal::Request(error.to_string()))?;
        Ok(ValidateJwtsvidResponse {
            spiffe_id: spiffe_id.to_string(),
            claims: Some(proto_json::claims(claims)),
        })
    }
}

/// Empty strings are dropped, as some clients send one where the application gave none.
pub(super) fn parse_audiences(texts: &[String], limits: &Limits) -> Result<Vec<Audience>, Refusal> {
    let texts: Vec<_> = texts.iter().filter(|text| !text.is_empty()).collect();
    let refuse = |reason: String| Err(Refusal::Request(reason));
    let (most, longest) = (limits.audiences, limits.audience_bytes);
    if texts.is_empty() {
        return refuse("audience must be specified".to_owned());
    }
    if texts.len() > most {
        return refuse(format!("more than {most} audiences"));
    }
    if texts.iter().any(|text| text.len() > longest) {
        return refuse(format!("an audience is longer than {longest} bytes"));
    }
    let parsed: Result<_, _> = texts.iter().map(|text| text.parse()).collect();
    parsed.or_else(|error: crate::entry::AudienceError| refuse(error.to_string()))
}

/// For `crate::fuzz`: any bytes as each of the requests.
#[cfg(any(test, fuzzing))]
pub fn fuzz_request(bytes: &[u8]) {
    use prost::Message;

    let limits = Limits {
        audiences: 16,
        audience_bytes: 1024,
        ..crate::limits::NONE
    };
    if let Ok(request) = JwtsvidRequest::decode(bytes) {
        let _ = parse_requested_id(&request.spiffe_id);
        if let Ok(audiences) = parse_audiences(&request.audience, &limits) {
            assert!((1..=16).contains(&audiences.len()));
            let sound = |text: &str| (1..=1024).contains(&text.len());
            assert!(audiences.iter().all(|audience| sound(audience.as_str())));
        }
    }
    let _ = ValidateJwtsvidRequest::decode(bytes);
}

pub(super) fn parse_requested_id(text: &str) -> Result<Option<SpiffeId>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    let invalid = |why| Refusal::Request(format!("invalid requested SPIFFE ID: {why}"));
    text.parse().map(Some).map_err(invalid)
}

/// Who made the connection that a request came over.
pub(super) fn peer_of<T>(request: &Request<T>) -> Result<Arc<Peer>, Status> {
    let peer = request.extensions().get::<Arc<Peer>>().cloned();
    peer.ok_or_else(|| Refusal::Attestation.into())
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Replies<X509svidResponse>;
    type FetchX509BundlesStream = Replies<X509BundlesResponse>;
    type FetchJWTBundlesStream = Replies<JwtBundlesResponse>;
    type FetchWITSVIDStream = Replies<WitsvidResponse>;
    type FetchWITBundlesStream = Replies<WitBundlesResponse>;

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let peer = peer_of(&request)?;
        let call = self.0.fetch(&peer, request.into_inner());
        let svids = self.0.counted(Rpc::FetchJwtsvid, call).await?;
        Ok(Response::new(JwtsvidResponse { svids }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let peer = peer_of(&request)?;
        let call = async {
            let mut stream = BundleStream::new(&self.0, peer)?;
            // A refusal is the answer to the call, not the first message of a stream.
            let first = stream.next().await?;
            self.0.count_call(stream.peer(), Rpc::FetchJwtBundles)?;
            Ok(stream.replies(first))
        };
        let replies = self.0.counted(Rpc::FetchJwtBundles, call).await?;
        Ok(Response::new(replies))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let peer = peer_of(&request)?;
        let call = self.0.validate(&peer, request.into_inner());
        let reply = self.0.counted(Rpc::ValidateJwtsvid, call).await?;
        Ok(Response::new(reply))
    }

    async fn fetch_x509svid(
        &self,
        _: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        Err(Status::unimplemented("FetchX509SVID is not implemented"))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("FetchX509Bundles is not implemented"))
    }

    async fn fetch_witsvid(
        &self,
        _: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(Status::unimplemented("FetchWITSVID is not implemented"))
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(Status::unimplemented("FetchWITBundles is not implemented"))
    }
}
