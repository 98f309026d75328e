//! Looks at programs. What the kernel does not have in memory is looked for beside the threads that
//! serve and for a limited time: the file system that a program lies on is its owner's choice, and
//! may never answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::findings::Findings;
use super::hash::Hasher;
use super::unix::{Effort, Search, UnixSpec};
use crate::peer::{Peer, Seen, Wants};

/// Users whose turns are remembered before idle ones are forgotten.
const MAX_TURNS: usize = 1024;

/// Finds out where programs lie, and hashes them.
#[derive(Debug)]
pub struct Programs {
    hasher: Arc<Hasher>,
    /// Who looks at programs at the moment, by user: one at a time, however long it takes.
    turns: Mutex<HashMap<u32, Arc<Semaphore>>>,
    own_user_namespace: Option<(u64, u64)>,
}

impl Programs {
    /// With nothing remembered.
    pub fn new() -> Self {
        let own = libc::pid_t::try_from(std::process::id()).unwrap_or(0);
        let own_user_namespace = crate::proc::ProcDir::open(own)
            .ok()
            .and_then(|proc| proc.user_namespace().ok());
        Self {
            hasher: Arc::default(),
            turns: Mutex::default(),
            own_user_namespace,
        }
    }

    /// Finds what is wanted of the program.
    pub async fn look(&self, peer: &Peer, seen: &Seen, wanted: Wants, spec: &UnixSpec) -> Findings {
        let wanted = wanted.and(Wants::PROGRAM);
        if wanted.is_empty() {
            return Findings::default();
        }
        let search = Search {
            proc: Arc::clone(&seen.proc),
            exe: seen.exe,
            wanted,
            size_limit: spec.size_limit,
            own_user_namespace: self.own_user_namespace,
            hasher: Arc::clone(&self.hasher),
        };
        if let Ok(found) = search.run(Effort::Quick) {
            return found;
        }
        let turn = self.turn_of(peer.uid());
        let looked = async {
            let turn = turn.acquire_owned().await;
            let work = move || {
                let _turn = turn;
                search.run(Effort::Full)
            };
            tokio::task::spawn_blocking(work).await
        };
        let mut findings = Findings::default();
        match tokio::time::timeout(spec.timeout, looked).await {
            Ok(Ok(Ok(found))) => findings = found,
            Ok(Ok(Err(error))) => findings.failed(wanted, error.to_string()),
            _ => findings.failed(wanted, "the program cannot be read in time"),
        }
        findings
    }

    fn turn_of(&self, uid: u32) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.len() >= MAX_TURNS {
            turns.retain(|_, turn| turn.available_permits() == 0);
        }
        let turn = turns
            .entry(uid)
            .or_insert_with(|| Arc::new(Semaphore::new(1)));
        Arc::clone(turn)
    }
}
