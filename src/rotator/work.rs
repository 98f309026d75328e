//! The rotator at work: what the plan says, step by step, until there is nothing left to do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::status::Trouble;
use super::{IssuerSpec, RotationError, Rotator};
use crate::entry::KeyRef;
use crate::key::plan::{LONGEST_SLEEP, Step};
use crate::key::signing::SigningKey;

/// No issuer needs more steps than this before it can rest.
const MAX_STEPS: usize = 256;
/// The first pause after a failure; it doubles up to the probe interval.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// How far to go at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Each chain has a key that signs.
    Signing,
    /// Nothing is left to do now.
    Rest,
}

impl Rotator {
    /// Looks after the keys until told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut steps = self.parts.steps.clone();
        loop {
            let rotator = Arc::clone(&self);
            let round = tokio::task::spawn_blocking(move || rotator.round()).await;
            // A round that panicked is tried again like one that failed.
            let pause = round.unwrap_or(self.parts.probe_interval);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified() => {}
                Ok(()) = steps.changed() => {}
            }
        }
    }

    /// Does what is due for every issuer; how long until something may be again. Blocks on the disk
    /// and on the making of keys.
    pub fn round(&self) -> Duration {
        let issuers = self.issuers();
        let keys: Vec<_> = self
            .hand()
            .keys()
            .iter()
            .map(|key| key.chain.clone())
            .collect();
        let mut names: Vec<_> = issuers
            .iter()
            .map(|issuer| Arc::clone(&issuer.name))
            .collect();
        // Issuers that are gone have keys that are still believed.
        names.extend(keys.iter().map(|chain| Arc::clone(&chain.issuer)));
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(Arc::clone(name)));
        let mut sleep = LONGEST_SLEEP;
        for name in names {
            let configured = issuers.iter().find(|issuer| issuer.name == name);
            let mut chains = configured.map_or_else(Vec::new, IssuerSpec::chain_names);
            chains.extend(keys.iter().filter(|chain| chain.issuer == name).cloned());
            chains.sort();
            chains.dedup();
            let pause = match self.work_on(&name, &chains, Until::Rest) {
                Ok(pause) => {
                    self.recovered(&name);
                    pause
                }
                Err(error) => self.failed(&name, &error),
            };
            sleep = sleep.min(pause);
        }
        sleep
    }

    /// Does what is due for chains of one issuer; how long until something may be again.
    pub(super) fn work_on(
        &self,
        name: &Arc<str>,
        chains: &[KeyRef],
        until: Until,
    ) -> Result<Duration, RotationError> {
        let issuer = self.issuers().into_iter().find(|i| i.name == *name);
        // A file that cannot be removed keeps nothing from being done.
        let cleared = self.with_tools(|tools| self.hand().clear(tools));
        if let Some(issuer) = &issuer
            && self.hand().up.contains(name)
        {
            self.with_tools(|tools| self.hand().inspect(issuer, tools))?;
        }
        for _ in 0..MAX_STEPS {
            let mut hand = self.hand();
            let next = self.with_tools(|tools| hand.next(chains, tools));
            let next = next.and_then(|next| match (&next.1, until) {
                (Step::Prepare { successor: true }, Until::Signing) => Err(Duration::ZERO),
                _ => Ok(next),
            });
            let (chain, step) = match next {
                Ok(next) => next,
                Err(sleep) => {
                    if let Some(issuer) = &issuer
                        && !hand.up.contains(name)
                    {
                        self.with_tools(|tools| hand.inspect(issuer, tools))?;
                    }
                    self.note(&hand);
                    return cleared.map(|()| sleep);
                }
            };
            if let Step::Prepare { .. } = step {
                drop(hand);
                self.make(chain)?;
                continue;
            }
            let taken = self.with_tools(|tools| hand.take(&chain, &step, tools));
            self.note(&hand);
            taken?;
        }
        Err(RotationError::Restless(Arc::clone(name)))
    }

    /// Makes a key, which takes its time, while others may use the hand.
    fn make(&self, chain: KeyRef) -> Result<(), RotationError> {
        let issuers = self.issuers();
        let issuer = issuers.iter().find(|issuer| issuer.name == chain.issuer);
        let Some(spec) = issuer.and_then(|issuer| issuer.chains.get(&chain.key)) else {
            return Ok(());
        };
        tracing::info!(key = %chain, algorithm = %spec.key.algorithm, "making a signing key");
        let key = SigningKey::generate(&spec.key).map_err(|source| RotationError::Key {
            issuer: Arc::clone(&chain.issuer),
            source,
        })?;
        let mut hand = self.hand();
        self.with_tools(|tools| {
            // Somebody else may have been quicker.
            match hand.next(std::slice::from_ref(&chain), tools) {
                Ok((_, Step::Prepare { .. })) => hand.prepare(chain, key, tools),
                _ => Ok(()),
            }
        })
    }

    /// How long to wait before what failed is tried again.
    pub(super) fn failed(&self, issuer: &Arc<str>, error: &RotationError) -> Duration {
        let now = self.parts.clock.since_boot();
        let mut tries = 0;
        self.change_shown(|shown| {
            let trouble = shown.troubles.entry(Arc::clone(issuer));
            let trouble = trouble.or_insert_with(|| Trouble {
                since: now,
                tries: 0,
                reason: String::new(),
            });
            tries = trouble.tries;
            trouble.tries = tries.saturating_add(1);
            trouble.reason = error.to_string();
        });
        if tries == 0 {
            tracing::error!(%issuer, %error, "its keys cannot be turned over; what signs goes on, and it is tried again");
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << tries.min(16));
        pause.min(self.parts.probe_interval)
    }

    fn recovered(&self, issuer: &Arc<str>) {
        let mut was = None;
        self.change_shown(|shown| was = shown.troubles.remove(issuer));
        if was.is_some() {
            tracing::info!(%issuer, "its keys are turned over again");
        }
    }
}
