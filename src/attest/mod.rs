//! What is known of a caller: the selectors that the kernel vouches for.
//!
//! Cheap facts are found for every call. What costs more (where the program lies, its hash, the
//! container) is found only when some entry would match if it held, and kept as long as program and
//! cgroup stay untouched. Around everything stands [`Peer::verify`]: all facts are of one process
//! that ran one program from the first fact to the last. An attestor that fails, or takes too long,
//! loses its own selectors and no others.

mod accounts;
mod cgroup;
pub mod engine;
pub mod examine;
pub mod facts;
mod findings;
mod hash;
pub mod manager;
pub mod names;
mod place;
mod program;
pub mod sight;
pub mod unix;

use std::sync::Arc;

use tokio::sync::watch;

use self::accounts::{Accounts, Number};
use self::cgroup::Hierarchies;
use self::engine::EngineSpecs;
use self::facts::AttestorSpecs;
use self::findings::{Findings, Silence};
use self::manager::{Manager, SystemdSpec};
use self::names::Names;
use self::program::Programs;
use crate::entry::EntrySet;
use crate::peer::{Peer, PeerError, Seen, Wants};
use crate::quiet::Quiet;
use crate::selector::{Selector, SelectorSet};

#[cfg(any(test, fuzzing))]
pub use self::cgroup::fuzz;

/// Finds the selectors of callers.
#[derive(Debug)]
pub struct WorkloadAttestor {
    programs: Programs,
    manager: Manager,
    hierarchies: Hierarchies,
    names: watch::Receiver<Arc<Names>>,
    accounts: Accounts,
    /// What did not work, by user.
    failures: Quiet<(u32, Wants)>,
}

/// What is to be found out.
#[derive(Debug, Clone, Copy)]
enum Ask<'a> {
    /// That by which one of these entries could match.
    For(&'a EntrySet),
    /// Everything, and why the rest is not found: what is kept does not tell that.
    Everything,
}

impl Ask<'_> {
    /// What is wanted next, once this much is known.
    fn wants(self, found: &SelectorSet) -> Wants {
        match self {
            Self::For(entries) => entries.asked(found).fold(Wants::NONE, |wants, name| {
                wants.or(facts::wants_by_name(name))
            }),
            Self::Everything => Wants::ALL,
        }
    }
}

impl WorkloadAttestor {
    /// With nothing known yet.
    pub fn new(names: watch::Receiver<Arc<Names>>) -> Self {
        Self {
            programs: Programs::new(),
            manager: Manager::default(),
            hierarchies: Hierarchies::of_self(),
            names,
            accounts: Accounts::default(),
            failures: Quiet::default(),
        }
    }

    /// The selectors of a caller, as many as `entries` can need.
    ///
    /// # Errors
    ///
    /// The process is not, or is no longer, the one that connected. The connection must not be
    /// used again.
    pub async fn attest(
        &self,
        peer: &Peer,
        entries: &EntrySet,
        specs: &AttestorSpecs,
    ) -> Result<SelectorSet, PeerError> {
        let (found, silent) = self.attest_for(peer, Ask::For(entries), specs).await?;
        self.complain(peer, &silent);
        Ok(found)
    }

    /// What is found of a caller, and what was looked for in vain.
    async fn attest_for(
        &self,
        peer: &Peer,
        ask: Ask<'_>,
        specs: &AttestorSpecs,
    ) -> Result<(SelectorSet, Vec<Silence>), PeerError> {
        let result = match self.observe(peer, ask, specs).await {
            // Another call on this connection may have found a contradiction meanwhile.
            Ok(_) if peer.is_refused() => Err(PeerError::Refused),
            result => result,
        };
        if result.is_err() {
            peer.refuse();
        }
        result
    }

    async fn observe(
        &self,
        peer: &Peer,
        ask: Ask<'_>,
        specs: &AttestorSpecs,
    ) -> Result<(SelectorSet, Vec<Silence>), PeerError> {
        if peer.is_refused() {
            return Err(PeerError::Refused);
        }
        let told = unix::cheap(peer, &self.names.borrow());
        let told: SelectorSet = told.into_iter().collect();
        let mut wanted = ask.wants(&told).and(specs.gives());
        // Names belong to numbers and not to the process, which is looked at after them.
        let mut found = told.with(self.names_of(peer, wanted).await);
        let seen = peer.verify(wanted.meets(Wants::OF_CGROUP))?;
        if wanted.without(Wants::NAMES).is_empty() {
            return Ok((found, Vec::new()));
        }
        // What is kept was found of the very program and cgroup that were verified just now.
        let (known, kept) = match ask {
            Ask::For(_) => peer.kept(),
            Ask::Everything => Default::default(),
        };
        let known = known.or(Wants::NAMES);
        let (mut looked, mut fresh) = (known, Findings::default());
        loop {
            let findings = self.look(peer, &seen, wanted.without(looked), specs).await;
            looked = looked.or(wanted);
            let kept = kept.iter().filter(|one| facts::wants(one).meets(wanted));
            found = found.with(findings.selectors.iter().chain(kept).cloned());
            fresh.absorb(findings);
            // Where a caller is decides whether more is worth its price.
            let more = ask.wants(&found).and(specs.gives()).without(wanted);
            if more.is_empty() {
                break;
            }
            wanted = wanted.or(more);
        }
        if looked != known {
            peer.verify_again(&seen)?;
            peer.keep(&seen, fresh.settled, &fresh.selectors);
        }
        Ok((found, fresh.silent))
    }

    /// Looks at a process for what is wanted, at everything together.
    async fn look(
        &self,
        peer: &Peer,
        seen: &Seen,
        wanted: Wants,
        specs: &AttestorSpecs,
    ) -> Findings {
        let mut all = place::look(seen, wanted.and(Wants::PLACE), &self.hierarchies);
        let (program, container, unit) = tokio::join!(
            self.programs.look(peer, seen, wanted, &specs.unix),
            self.container(seen, wanted, &specs.engines),
            self.unit(peer, seen, wanted, specs.systemd),
        );
        for findings in [program, container, unit] {
            all.absorb(findings);
        }
        all
    }

    /// The names of the user and the group, as far as they are wanted.
    async fn names_of(&self, peer: &Peer, wanted: Wants) -> Vec<Selector> {
        let mut found = Vec::new();
        if wanted.meets(Wants::USER)
            && let Some(name) = self.accounts.name(Number::User(peer.uid())).await
        {
            found.extend(Selector::from_parts("unix:user", name));
        }
        if wanted.meets(Wants::GROUP)
            && let Some(name) = self.accounts.name(Number::Group(peer.gid())).await
        {
            found.extend(Selector::from_parts("unix:group", name));
        }
        found
    }

    /// What the engine knows of the container.
    async fn container(&self, seen: &Seen, wanted: Wants, specs: &EngineSpecs) -> Findings {
        let mut findings = Findings::default();
        if !wanted.meets(Wants::ENGINE) {
            return findings;
        }
        let Some(cgroups) = place::cgroups(seen) else {
            findings.failed(Wants::ENGINE, place::UNREADABLE);
            return findings;
        };
        match place::container(&cgroups, &self.hierarchies) {
            Ok((named, engine)) => engine::look(engine, named.name, specs).await,
            Err(why) => {
                findings.none(Wants::ENGINE, why);
                findings
            }
        }
    }

    /// What systemd knows of the unit.
    async fn unit(
        &self,
        peer: &Peer,
        seen: &Seen,
        wanted: Wants,
        spec: Option<SystemdSpec>,
    ) -> Findings {
        let mut findings = Findings::default();
        let (true, Some(spec)) = (wanted.meets(Wants::MANAGER), spec) else {
            return findings;
        };
        let Some(cgroups) = place::cgroups(seen) else {
            findings.failed(Wants::MANAGER, place::UNREADABLE);
            return findings;
        };
        match place::unit(&cgroups, &self.hierarchies) {
            Ok(named) => self.manager.look(peer, named.name, spec).await,
            Err(why) => {
                findings.none(Wants::MANAGER, why);
                findings
            }
        }
    }

    /// Tells what did not work, which is the operator's to mend.
    fn complain(&self, peer: &Peer, silent: &[Silence]) {
        for silence in silent.iter().filter(|silence| silence.failed) {
            if let Some(suppressed) = self.failures.may_say((peer.uid(), silence.fact)) {
                tracing::warn!(
                    pid = peer.pid(),
                    uid = peer.uid(),
                    facts = silence.fact.names(),
                    reason = %silence.why,
                    suppressed,
                    "something about a caller cannot be told"
                );
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use super::unix::UnixSpec;
    use super::*;
    use crate::entry::tests::entry;
    use crate::peer::tests::this_process;

    /// What attestors may do in tests.
    pub fn specs(discover_path: bool) -> AttestorSpecs {
        AttestorSpecs {
            unix: UnixSpec {
                discover_path,
                size_limit: None,
                hash: true,
                timeout: Duration::from_secs(2),
            },
            systemd: None,
            engines: EngineSpecs::default(),
        }
    }

    /// One that knows nothing yet.
    pub fn attestor() -> WorkloadAttestor {
        let (_, names) = watch::channel(Arc::default());
        WorkloadAttestor::new(names)
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
                .attest(&peer, &entries, &specs(discover))
                .await
                .unwrap()
        };
        assert!(!texts(&attest(&other, true).await).contains(&path));
        assert!(!peer.kept().0.meets(Wants::PATH));
        assert!(!texts(&attest(&own, false).await).contains(&path));
        assert!(texts(&attest(&own, true).await).contains(&path));
        assert!(peer.kept().0.meets(Wants::PATH));
    }

    #[tokio::test]
    async fn who_is_in_the_wrong_place_needs_no_further_look() {
        let uid = format!("unix:uid:{}", nix::unistd::geteuid());
        let elsewhere = format!("container:id:{}", "e".repeat(64));
        for (place, looked) in [(elsewhere.as_str(), false), ("ns:host", true)] {
            let peer = this_process();
            let selectors = [uid.as_str(), place, "unix:path:/bin/x"];
            let entries: EntrySet = [entry("e", "spiffe://td/e", &selectors)]
                .into_iter()
                .collect();
            let attestor = attestor();
            let found = attestor.attest(&peer, &entries, &specs(true)).await;
            let is_here = found.unwrap().contains(&place.parse().unwrap());
            assert_eq!(peer.kept().0.meets(Wants::PATH), looked && is_here);
        }
    }

    #[tokio::test]
    async fn a_connection_that_was_refused_stays_refused() {
        let peer = this_process();
        let entries = EntrySet::default();
        let specs = specs(true);
        assert!(attestor().attest(&peer, &entries, &specs).await.is_ok());
        peer.refuse();
        let refused = attestor().attest(&peer, &entries, &specs).await;
        assert!(matches!(refused, Err(PeerError::Refused)));
    }
}
