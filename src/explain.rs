//! Why a process has the identities that it has, and what it lacks for others.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::attest::WorkloadAttestor;
use crate::attest::examine::{Doubt, Origin, source};
use crate::entry::{Audience, Granted, Known, NearMiss, identities};
use crate::peer::{Peer, PeerError};
use crate::registry::Snapshot;
use crate::selector::Selector;
use crate::spiffe_id::SpiffeId;

/// What a process would ask for.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// Whom its token is to be for; nobody in particular where it is empty.
    pub audiences: Vec<Audience>,
    /// The only identity that it wants.
    pub only: Option<SpiffeId>,
    /// How many entries may be told that do not match: none to the process itself.
    pub nearest: usize,
    /// How long whoever asks waits for a program to be read; no less than callers wait.
    pub patience: Duration,
}

/// Why an identity that a process has is not given for what is asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Withheld {
    /// Another one is asked for.
    #[error("another identity is asked for")]
    Identity,
    /// Its entry does not allow this audience.
    #[error("its entry does not allow the audience {:?}", .0.as_str())]
    Audience(Audience),
    /// This entry comes first and gives it.
    #[error("entry {0} gives it already")]
    Repeated(Arc<str>),
}

/// The answer.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The path of its program as it has it itself.
    pub program: Option<String>,
    /// Its selectors, and where each was read.
    pub selectors: Vec<(Selector, &'static str)>,
    /// What could not be found.
    pub unknown: Vec<Doubt>,
    /// What it has, and why it does not get it for what was asked, where it does not.
    pub identities: Vec<(Granted, Option<Withheld>)>,
    /// Entries that do not match, the nearest first.
    pub nearest: Vec<NearMiss>,
}

/// Explains a process.
///
/// # Errors
///
/// Why it would get nothing, whatever entries say.
pub async fn explain(
    attestor: &WorkloadAttestor,
    peer: &Peer,
    origin: Origin,
    now: &Snapshot,
    question: Question,
) -> Result<Explanation, PeerError> {
    let patience = question.patience;
    let examined = attestor.examine(peer, &now.attestors, patience).await?;
    let found = examined.found;
    let sources = found.iter().map(|one| (one.clone(), source(one, origin)));
    let selectors = sources.collect();
    let matching = now.entries.matching(&found);
    let given = identities(&matching, &question.audiences, question.only.as_ref());
    let identities = matching.into_iter().map(|granted| {
        let withheld = withheld(&granted, &given, &question);
        (granted, withheld)
    });
    let identities = identities.collect();
    let nearest = if question.nearest > 0 {
        // It looks at every entry.
        let (count, only, entries) = (question.nearest, question.only, now.entries.clone());
        let look = move || entries.nearest(&found, Known::Everything, only.as_ref(), count);
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    } else {
        Vec::new()
    };
    Ok(Explanation {
        program: examined.program,
        selectors,
        unknown: examined.doubts,
        identities,
        nearest,
    })
}

fn withheld(granted: &Granted, given: &[Granted], question: &Question) -> Option<Withheld> {
    let id = &granted.identity.spiffe_id;
    if question.only.as_ref().is_some_and(|only| only != id) {
        return Some(Withheld::Identity);
    }
    let mut audiences = question.audiences.iter();
    if let Some(audience) = audiences.find(|one| !granted.entry.allows(std::slice::from_ref(one))) {
        return Some(Withheld::Audience(audience.clone()));
    }
    let first = given.iter().find(|given| given.identity.spiffe_id == *id)?;
    let other = first.entry.id != granted.entry.id;
    other.then(|| Withheld::Repeated(Arc::clone(&first.entry.id)))
}
