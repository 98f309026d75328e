//! What is known of a caller: the selectors that the kernel vouches for.
//!
//! Cheap facts are found for every call. What costs more (where the program lies, its hash) is
//! found only when some entry would match if it held, and kept as long as the program is
//! untouched. Around everything stands [`Peer::verify`]: all facts are of one process that ran
//! one program from the first fact to the last.

pub mod hash;
pub mod names;
pub mod unix;

use std::sync::Arc;

use tokio::sync::watch;

use self::hash::Hasher;
use self::names::Names;
use self::unix::UnixSpec;
use crate::entry::EntrySet;
use crate::peer::{Peer, PeerError};
use crate::selector::{Selector, SelectorSet};

/// Finds the selectors of callers.
#[derive(Debug)]
pub struct WorkloadAttestor {
    unix: UnixSpec,
    hasher: Hasher,
    names: watch::Receiver<Arc<Names>>,
    own_user_namespace: Option<(u64, u64)>,
}

impl WorkloadAttestor {
    /// With the attestors that are configured.
    pub fn new(unix: UnixSpec, names: watch::Receiver<Arc<Names>>) -> Self {
        let own = libc::pid_t::try_from(std::process::id()).unwrap_or(0);
        let own_user_namespace = crate::proc::ProcDir::open(own)
            .ok()
            .and_then(|proc| proc.user_namespace().ok());
        Self {
            unix,
            hasher: Hasher::new(),
            names,
            own_user_namespace,
        }
    }

    /// The selectors of a caller, as many as `entries` can need.
    ///
    /// # Errors
    ///
    /// The process is not, or is no longer, the one that connected. The connection must not be
    /// used again.
    pub async fn attest(&self, peer: &Peer, entries: &EntrySet) -> Result<SelectorSet, PeerError> {
        let result = self.observe(peer, entries).await;
        if result.is_err() {
            peer.refuse();
        }
        result
    }

    async fn observe(&self, peer: &Peer, entries: &EntrySet) -> Result<SelectorSet, PeerError> {
        let proc = peer.verify()?;
        let spec = self.unix;
        let mut found = unix::cheap(peer, &self.names.borrow());
        if spec.discover_path && needs_program(entries, &found) {
            let program = match peer.kept() {
                Some(kept) => kept,
                None => {
                    let exe = peer.exe();
                    let namespace = self.own_user_namespace;
                    let program = unix::program(&proc, &exe, spec, namespace, &self.hasher).await;
                    peer.keep(exe, program.clone());
                    program
                }
            };
            found.extend(program);
        }
        peer.verify_again(&proc)?;
        Ok(found.into_iter().collect())
    }
}

/// Whether some entry asks for facts about the program and for nothing else that is missing.
fn needs_program(entries: &EntrySet, found: &[Selector]) -> bool {
    entries.iter().any(|entry| {
        let mut about_program = false;
        entry.selectors.iter().all(|selector| {
            let about = unix::is_about_program(selector);
            about_program |= about;
            about || found.contains(selector)
        }) && about_program
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::entry;
    use crate::peer::tests::this_process;

    fn attestor(discover_path: bool) -> WorkloadAttestor {
        let spec = UnixSpec {
            discover_path,
            size_limit: None,
            hash: true,
        };
        let (_, names) = watch::channel(Arc::default());
        WorkloadAttestor::new(spec, names)
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
            attestor(discover).attest(&peer, &entries).await.unwrap()
        };
        assert!(!texts(&attest(&other, true).await).contains(&path));
        assert!(peer.kept().is_none());
        assert!(!texts(&attest(&own, false).await).contains(&path));
        assert!(texts(&attest(&own, true).await).contains(&path));
        assert!(peer.kept().is_some());
    }
}
