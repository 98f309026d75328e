//! Looks at programs. What the kernel does not have in memory is looked for beside the threads that
//! serve and for a limited time: the file system that a program lies on is its owner's choice, and
//! may never answer.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

use super::findings::Findings;
use super::hash::Hasher;
use super::unix::{Effort, Search, UnixSpec};
use crate::peer::{Peer, Seen, Wants};
use crate::priority::give_way;

/// Users whose turns are remembered before idle ones are forgotten.
const MAX_TURNS: usize = 1024;
/// Programs that are read at a time, all users together: reading takes a whole core.
const READERS: usize = 2;

/// Finds out where programs lie, and hashes them.
#[derive(Debug)]
pub struct Programs {
    hasher: Arc<Hasher>,
    /// Who looks at programs at the moment, by user: one at a time, however long it takes.
    turns: Mutex<HashMap<u32, Arc<Semaphore>>>,
    /// Programs that are read at the moment.
    readers: Semaphore,
    own_user_namespace: Option<Arc<OsStr>>,
}

impl Programs {
    /// With nothing remembered.
    pub fn new() -> Self {
        let own = libc::pid_t::try_from(std::process::id()).unwrap_or(0);
        let own_user_namespace = crate::proc::ProcDir::open(own)
            .ok()
            .and_then(|proc| proc.user_namespace().ok())
            .map(Arc::from);
        Self {
            hasher: Arc::default(),
            turns: Mutex::default(),
            readers: Semaphore::new(READERS),
            own_user_namespace,
        }
    }

    /// Finds what is wanted of the program. What takes too long is lost alone.
    pub async fn look(&self, peer: &Peer, seen: &Seen, wanted: Wants, spec: &UnixSpec) -> Findings {
        let mut findings = Findings::default();
        if !wanted.meets(Wants::PROGRAM) {
            return findings;
        }
        let deadline = Instant::now() + spec.timeout;
        let search = Arc::new(Search {
            proc: Arc::clone(&seen.proc),
            exe: seen.exe,
            size_limit: spec.size_limit,
            own_user_namespace: self.own_user_namespace.clone(),
            hasher: Arc::clone(&self.hasher),
        });
        for (fact, late) in [
            (
                Wants::PATH,
                "the file system of the program does not answer in time",
            ),
            (Wants::SHA256, "the program cannot be read in time"),
        ] {
            if !wanted.meets(fact) {
                continue;
            }
            if let Ok(found) = search.run(fact, Effort::Quick) {
                findings.absorb(found);
                continue;
            }
            let search = self.search(peer.uid(), fact, Arc::clone(&search));
            match timeout_at(deadline, search).await {
                Ok(Ok(found)) => findings.absorb(found),
                Ok(Err(error)) => findings.failed(fact, error.to_string()),
                Err(_) => findings.failed(fact, late),
            }
        }
        findings
    }

    /// Looks beside the threads that serve, with more effort where it is needed.
    async fn search(&self, uid: u32, fact: Wants, search: Arc<Search>) -> io::Result<Findings> {
        let closed = |_| io::Error::other("the agent is stopping");
        let turn = self.turn_of(uid).acquire_owned().await.map_err(closed)?;
        let looking = Arc::clone(&search);
        let look = move || (looking.run(fact, Effort::Look), turn);
        let turn = match tokio::task::spawn_blocking(look).await? {
            (Err(error), turn) if error.kind() == io::ErrorKind::WouldBlock => turn,
            (looked, _turn) => return looked,
        };
        // Given back when nobody waits for it any more: what hangs holds up no other user.
        let _reader = self.readers.acquire().await.map_err(closed)?;
        let (done, read) = oneshot::channel();
        let work = move || {
            give_way();
            // The turn is held for as long as it takes, even if nobody waits for it any more.
            let _turn = turn;
            let _ = done.send(search.run(fact, Effort::Read));
        };
        std::thread::Builder::new()
            .name("hash".into())
            .spawn(work)?;
        read.await.map_err(io::Error::other)?
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
