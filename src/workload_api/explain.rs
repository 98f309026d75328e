//! What a caller is told of itself, beside the Workload API.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::Refusal;
use super::service::{Parts, WorkloadApi, parse_audiences, parse_requested_id, peer_of};
use crate::attest::examine::Origin;
use crate::entry::NearMiss;
use crate::explain::{self, Question, explain};
use crate::grpc::time_given;
use crate::metrics::Rpc;
use crate::pb::explain::v1::explain_server::Explain;
use crate::pb::explain::v1::{
    ExplainCallerRequest, Explanation, Fact, Identity, Missing, NearMiss as ShownMiss, Unknown,
    Withheld,
};
use crate::peer::Peer;
use crate::selector::{Selector, SelectorSet};

#[tonic::async_trait]
impl Explain for WorkloadApi {
    async fn explain_caller(
        &self,
        request: Request<ExplainCallerRequest>,
    ) -> Result<Response<Explanation>, Status> {
        let peer = peer_of(&request)?;
        let patience = patience(&request);
        let parts = self.parts();
        let call = parts.explain(&peer, request.into_inner(), patience);
        let reply = parts.counted(Rpc::ExplainCaller, call).await?;
        Ok(Response::new(reply))
    }
}

impl Parts {
    async fn explain(
        &self,
        peer: &Peer,
        request: ExplainCallerRequest,
        patience: Duration,
    ) -> Result<Explanation, Refusal> {
        let limits = *self.limits.borrow();
        let audiences = match request.audience.as_slice() {
            [] => Vec::new(),
            texts => parse_audiences(texts, &limits)?,
        };
        let question = Question {
            audiences,
            only: parse_requested_id(&request.spiffe_id)?,
            nearest: 0,
            patience,
        };
        let now = Arc::clone(&self.registry.borrow());
        let explained = explain(&self.attestor, peer, Origin::Connection, &now, question).await;
        let explained = explained.map_err(|error| {
            self.audit.unattested(peer, &error);
            Refusal::Attestation
        })?;
        self.count_call(peer, Rpc::ExplainCaller)?;
        Ok(show(peer, explained))
    }
}

/// Nobody is waited for longer.
const MAX_PATIENCE: Duration = Duration::from_secs(30);

/// How long whoever sent a request would rather wait than hear that something took too long: most of
/// the time that the request gives (`grpc-timeout`), so that the answer comes in time.
pub fn patience<T>(request: &Request<T>) -> Duration {
    let given = time_given(request.metadata().as_ref());
    given.unwrap_or_default().min(MAX_PATIENCE) * 4 / 5
}

/// An explanation as it goes over a socket.
pub fn show(peer: &Peer, explained: explain::Explanation) -> Explanation {
    let found: SelectorSet = explained
        .selectors
        .iter()
        .map(|(one, _)| one.clone())
        .collect();
    let facts = explained.selectors.iter().map(|(selector, source)| Fact {
        selector: if may_be_told(selector, &explained) {
            selector.to_string()
        } else {
            selector.subject().to_owned()
        },
        source: (*source).to_owned(),
    });
    let facts = facts.collect();
    let unknown = explained.unknown.into_iter().map(|doubt| Unknown {
        name: doubt.name.to_owned(),
        reason: doubt.reason,
    });
    let identities = explained.identities.into_iter().map(|(granted, withheld)| {
        let audiences = granted.entry.audiences.iter().flatten();
        Identity {
            entry: granted.entry.id.to_string(),
            spiffe_id: granted.identity.spiffe_id.to_string(),
            hint: granted.entry.hint.clone(),
            limit_audiences: granted.entry.audiences.is_some(),
            audiences: audiences.map(|one| one.as_str().to_owned()).collect(),
            reason: withheld
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            withheld: match withheld {
                None => Withheld::Not,
                Some(explain::Withheld::Identity) => Withheld::Identity,
                Some(explain::Withheld::Audience(_)) => Withheld::Audience,
                Some(explain::Withheld::Repeated(_)) => Withheld::Repeated,
            }
            .into(),
        }
    });
    Explanation {
        pid: peer.pid(),
        uid: peer.uid(),
        gid: peer.gid(),
        program: explained.program.unwrap_or_default(),
        unattested: String::new(),
        selectors: facts,
        unknown: unknown.collect(),
        identities: identities.collect(),
        nearest: explained
            .nearest
            .iter()
            .map(|miss| show_miss(miss, &found))
            .collect(),
    }
}

/// Variables of a container may hold secrets: the value is told of those that these entries speak of.
fn may_be_told(selector: &Selector, explained: &explain::Explanation) -> bool {
    let mut granted = explained.identities.iter().map(|(granted, _)| granted);
    let mut missed = explained.nearest.iter();
    selector.name() != "docker:env"
        || granted.any(|granted| granted.entry.selectors.contains(selector))
        || missed.any(|miss| miss.has.contains(selector))
}

fn show_miss(miss: &NearMiss, found: &SelectorSet) -> ShownMiss {
    let lacks = miss.lacks.iter().map(|selector| {
        let about = selector.subject();
        let same = found.iter().filter(|had| had.subject() == about);
        Missing {
            selector: selector.to_string(),
            instead: same.map(Selector::to_string).collect(),
        }
    });
    ShownMiss {
        entry: miss.entry.id.to_string(),
        spiffe_id: miss.entry.grants.written_id().to_string(),
        has: miss.has.iter().map(Selector::to_string).collect(),
        lacks: lacks.collect(),
        incomplete: miss
            .incomplete
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_gives_time_is_waited_for_most_of_it_and_not_for_ever() {
        let patient = |timeout: Option<&'static str>| {
            let mut request = Request::new(());
            if let Some(timeout) = timeout {
                let value = tonic::metadata::MetadataValue::from_static(timeout);
                request.metadata_mut().insert("grpc-timeout", value);
            }
            patience(&request)
        };
        assert_eq!(patient(Some("5S")), Duration::from_secs(4));
        assert_eq!(patient(Some("5000m")), Duration::from_secs(4));
        assert_eq!(patient(Some("500000u")), Duration::from_millis(400));
        assert_eq!(patient(Some("50n")), Duration::from_nanos(40));
        for long in ["31S", "1M", "1H", "99999999H"] {
            assert_eq!(patient(Some(long)), MAX_PATIENCE * 4 / 5, "{long}");
        }
        for wrong in ["", "S", "5", "5s", "-5S", "+5S", "100000000S", "5 S", "5SS"] {
            assert_eq!(patient(Some(wrong)), Duration::ZERO, "{wrong}");
        }
        assert_eq!(patient(None), Duration::ZERO);
    }
}
