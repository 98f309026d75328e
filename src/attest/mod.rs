//! What is known of a caller: the selectors that the kernel vouches for.
//!
//! Cheap facts are found for every call. What costs more (where the program lies, its hash) is
//! found only when some entry would match if it held, and kept as long as the program is
//! untouched. Around everything stands [`Peer::verify`]: all facts are of one process that ran
//! one program from the first fact to the last.

mod accounts;
pub mod examine;
pub mod hash;
pub mod names;
pub mod unix;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use self::accounts::{Accounts, Number};
use self::hash::Hasher;
use self::names::Names;
use self::unix::{Effort, Search, UnixSpec};
use crate::entry::EntrySet;
use crate::peer::{Peer, PeerError, Wants};
use crate::proc::ProcDir;
use crate::selector::{Selector, SelectorSet};

/// How long the look at a program may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Users whose turns are remembered before idle ones are forgotten.
const MAX_TURNS: usize = 1024;

/// Finds the selectors of callers.
#[derive(Debug)]
pub struct WorkloadAttestor {
    hasher: Arc<Hasher>,
    /// Who looks at programs at the moment, by user.
    turns: Mutex<HashMap<u32, Arc<Semaphore>>>,
    names: watch::Receiver<Arc<Names>>,
    accounts: Accounts,
    own_user_namespace: Option<(u64, u64)>,
}

impl WorkloadAttestor {
    /// With the attestors that are configured.
    pub fn new(names: watch::Receiver<Arc<Names>>) -> Self {
        let own = libc::pid_t::try_from(std::process::id()).unwrap_or(0);
        let own_user_namespace = crate::proc::ProcDir::open(own)
            .ok()
            .and_then(|proc| proc.user_namespace().ok());
        Self {
            hasher: Arc::default(),
            turns: Mutex::default(),
            names,
            accounts: Accounts::default(),
            own_user_namespace,
        }
    }

    /// The selectors of a caller that `unix` may find, as many as `entries` can need.
    ///
    /// # Errors
    ///
    /// The process is not, or is no longer, the one that connected. The connection must not be
    /// used again.
    pub async fn attest(
        &self,
        peer: &Peer,
        entries: &EntrySet,
        unix: UnixSpec,
    ) -> Result<SelectorSet, PeerError> {
        let ask = |told: &SelectorSet| Asked::of(entries.asked(told));
        self.attest_for(peer, unix, ask).await
    }

    /// As [`WorkloadAttestor::attest`], as much as is asked for after what the connection tells.
    async fn attest_for(
        &self,
        peer: &Peer,
        unix: UnixSpec,
        ask: impl FnOnce(&SelectorSet) -> Asked,
    ) -> Result<SelectorSet, PeerError> {
        let result = match self.observe(peer, unix, ask).await {
            // Another call on this connection may have found a contradiction meanwhile.
            Ok(_) if peer.is_refused() => Err(PeerError::Refused),
            result => result,
        };
        if result.is_err() {
            peer.refuse();
        }
        result
    }

    fn search(&self, peer: &Peer, proc: Arc<ProcDir>, wanted: Wants, spec: UnixSpec) -> Search {
        Search {
            proc,
            exe: peer.exe(),
            wanted,
            spec,
            own_user_namespace: self.own_user_namespace,
            hasher: Arc::clone(&self.hasher),
        }
    }

    /// Facts about the program, which are kept. What the kernel does not have in memory is looked
    /// for beside the threads that serve.
    async fn program(
        &self,
        peer: &Peer,
        proc: &Arc<ProcDir>,
        wanted: Wants,
        spec: UnixSpec,
    ) -> Vec<Selector> {
        let search = self.search(peer, Arc::clone(proc), wanted, spec);
        let exe = search.exe;
        if let Ok(found) = search.run(Effort::Quick) {
            peer.keep(exe, wanted, found.clone());
            return found;
        }
        let looked = self.in_turn(peer.uid(), move || search.run(Effort::Full));
        match looked.await {
            Some(Ok(found)) => {
                peer.keep(exe, wanted, found.clone());
                found
            }
            Some(Err(reason)) => {
                tracing::warn!(pid = peer.pid(), uid = peer.uid(), %reason, "the program cannot be told");
                Vec::new()
            }
            None => {
                let seconds = TIMEOUT.as_secs();
                tracing::warn!(
                    pid = peer.pid(),
                    uid = peer.uid(),
                    seconds,
                    "the program cannot be told in time"
                );
                Vec::new()
            }
        }
    }

    /// Does something beside the threads that serve, for a limited time, and one thing at a time for
    /// each user: the file system that a program lies on is its owner's choice, and may never answer.
    async fn in_turn<T: Send + 'static>(
        &self,
        uid: u32,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let turn = self.turn_of(uid);
        let done = async {
            let turn = turn.acquire_owned().await;
            tokio::task::spawn_blocking(move || {
                let _turn = turn;
                work()
            })
            .await
        };
        tokio::time::timeout(TIMEOUT, done).await.ok()?.ok()
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

    async fn observe(
        &self,
        peer: &Peer,
        spec: UnixSpec,
        ask: impl FnOnce(&SelectorSet) -> Asked,
    ) -> Result<SelectorSet, PeerError> {
        if peer.is_refused() {
            return Err(PeerError::Refused);
        }
        let told: SelectorSet = unix::cheap(peer, &self.names.borrow())
            .into_iter()
            .collect();
        let asked = ask(&told);
        let mut found = told.with(self.names_of(peer, asked).await);
        let proc = peer.verify()?;
        if asked.program.is_something() && spec.discover_path {
            // What is kept was found of the very program that was verified just now.
            let kept = peer.kept(asked.program);
            if let Some(kept) = kept {
                found = found.with(kept);
            } else {
                let proc = Arc::new(proc);
                found = found.with(self.program(peer, &proc, asked.program, spec).await);
                peer.verify_again(&proc)?;
            }
        }
        Ok(found)
    }

    /// The names of the user and the group, as far as they are asked for.
    async fn names_of(&self, peer: &Peer, asked: Asked) -> Vec<Selector> {
        let mut found = Vec::new();
        if asked.user
            && let Some(name) = self.accounts.name(Number::User(peer.uid())).await
        {
            found.extend(Selector::from_parts("unix:user", name));
        }
        if asked.group
            && let Some(name) = self.accounts.name(Number::Group(peer.gid())).await
        {
            found.extend(Selector::from_parts("unix:group", name));
        }
        found
    }
}

/// What some entry asks for that the connection does not tell.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    /// Facts about the program.
    program: Wants,
    /// The name of the user, whatever it is.
    user: bool,
    /// The name of the group.
    group: bool,
}

impl Asked {
    fn of<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut asked = Self::default();
        for name in names {
            asked.program = asked.program.or(unix::wants_by_name(name));
            asked.user |= name == "unix:user";
            asked.group |= name == "unix:group";
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::entry;
    use crate::peer::tests::this_process;

    const PATH: Wants = Wants {
        path: true,
        sha256: false,
    };

    fn attestor() -> WorkloadAttestor {
        let (_, names) = watch::channel(Arc::default());
        WorkloadAttestor::new(names)
    }

    fn spec(discover_path: bool) -> UnixSpec {
        UnixSpec {
            discover_path,
            size_limit: None,
            hash: true,
        }
    }

    fn texts(set: &SelectorSet) -> Vec<String> {
        set.iter().map(Selector::to_string).collect()
    }

    #[tokio::test]
    async fn the_program_is_looked_at_only_when_an_entry_could_match_by_it() {
        let uid = nix::unistd::geteuid().as_raw();
        let own = format!("unix:uid:{uid}");
        let other = format!("unix:uid:{}", uid + 1);
        let path = std::env::current_exe().unwrap().canonicalize().unwrap();
        let path = format!("unix:path:{}", path.display());
        let peer = this_process();
        let attest = async |uid: &str, discover| {
            let entries = [entry("e", "spiffe://td/e", &[uid, "unix:path:/bin/x"])];
            let entries: EntrySet = entries.into_iter().collect();
            attestor()
                .attest(&peer, &entries, spec(discover))
                .await
                .unwrap()
        };
        assert!(!texts(&attest(&other, true).await).contains(&path));
        assert!(peer.kept(PATH).is_none());
        assert!(!texts(&attest(&own, false).await).contains(&path));
        assert!(texts(&attest(&own, true).await).contains(&path));
        assert!(peer.kept(PATH).is_some());
    }

    #[tokio::test]
    async fn a_connection_that_was_refused_stays_refused() {
        let peer = this_process();
        let entries = EntrySet::default();
        assert!(attestor().attest(&peer, &entries, spec(true)).await.is_ok());
        peer.refuse();
        let refused = attestor().attest(&peer, &entries, spec(true)).await;
        assert!(matches!(refused, Err(PeerError::Refused)));
    }
}
