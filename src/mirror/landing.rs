//! What follows from how the writing of a file went.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Mirror;
use super::error::MirrorError;
use super::flight::{Landed, Launch, Outcome};
use super::manifest::Lying;
use super::pace::{refresh_after, retry_after};
use super::table::{Block, Plan, TokenFile, Trouble, Written};
use crate::quiet::Quiet;
use crate::svid::Validity;

/// Tells of failures: of each file once, and of the many files of a block once a second.
#[derive(Debug, Default)]
pub struct Complaints(Quiet<Arc<Path>>);

impl Mirror {
    /// Takes over how a flight went.
    pub(super) fn land(&mut self, landed: Landed) {
        // What was noted on a list that was written anew meanwhile is not on it.
        let lost = landed.generation != self.manifest.generation();
        self.files.lock().flight_ended(&landed.plan);
        self.unsettled += landed.outcomes.len();
        for outcome in landed.outcomes {
            if let (true, Ok(done)) = (lost, &outcome.result) {
                let path = landed.plan.spec.path_of(&outcome.value);
                self.manifest.note(&path, done.laid.file);
            }
            self.note(&landed.plan, landed.launched, outcome);
        }
    }

    /// Notes how the writing of a file went. What it was written for may be gone by now.
    fn note(&mut self, plan: &Arc<Plan>, launched: Launch, outcome: Outcome) {
        let Outcome {
            number,
            value,
            result,
        } = outcome;
        let path = plan.spec.path_of(&value);
        let now = self.clock.since_boot();
        let files = self.files.clone();
        let mut table = files.lock();
        let file = table.file_mut(number);
        let Some(file) = file.filter(|file| file.plan.order.is_ok()) else {
            // Nobody is to have it any more.
            let written = result.ok();
            self.removals
                .add(written.map(|done| Lying::of(path.into_owned(), done.laid.file)));
            return;
        };
        let due = match result {
            Ok(done) => {
                let trouble = file.trouble.take();
                if trouble.is_some_and(|trouble| trouble.complained) {
                    tracing::info!(path = %path.display(), "the token file is written again");
                }
                // A key may have been tainted while the file was written.
                let good = self.sources.authority.believes(&done.kid);
                let due = renewal(launched, done.validity, &path, plan.spec.refresh_at);
                if !done.untold.is_empty() {
                    file.trouble = Some(Box::new(Trouble {
                        error: done.untold,
                        ..Trouble::default()
                    }));
                }
                let on_disk = done.laid.on_disk;
                file.sweeps = !done.laid.is_clean;
                let written = Written::new(done.laid.file, done.kid, done.validity);
                file.written = Some(written);
                if on_disk {
                    warn_of_disk(table.block_mut(&plan.spec.path));
                }
                if good { due } else { Duration::ZERO }
            }
            Err(_) if plan.is_superseded() => Duration::ZERO,
            Err(error) if is_gone(&error, plan, &value) => {
                let gone = table.vanish(&plan.spec.path, &value);
                drop(table);
                self.forget(gone.into_iter().collect());
                self.places.doubt(&plan.spec.path);
                return;
            }
            Err(error) => {
                if plan.spec.parameter.is_none() {
                    self.places.miss(&error, &plan.spec);
                }
                now + self.complaints.note(file, &error, &path)
            }
        };
        table.landed(number, due, now);
    }
}

impl Complaints {
    /// Notes a failure; how long to wait after it.
    fn note(&self, file: &mut TokenFile, error: &MirrorError, path: &Path) -> Duration {
        let spec = &file.plan.spec;
        let trouble = file.trouble.get_or_insert_default();
        let wait = retry_after(spec.ttl, trouble.failures);
        let may_tell = || match &spec.parameter {
            Some(_) => self.0.may_say(spec.path.as_path().into()).is_some(),
            None => true,
        };
        if !trouble.complained && may_tell() {
            trouble.complained = error.complain(path);
        } else {
            tracing::debug!(path = %path.display(), %error, "the token file cannot be written yet");
        }
        trouble.error = error.to_string();
        trouble.failures = trouble.failures.saturating_add(1);
        wait
    }
}

/// When a token is to be replaced, after a share of the life that it had when its flight began.
fn renewal(launched: Launch, validity: Validity, path: &Path, share: f64) -> Duration {
    let life = validity.expires_at.duration_since(launched.wall);
    // A wall clock that was set back meanwhile makes no life longer.
    let life = life.unwrap_or_default().min(validity.life());
    launched.boot + refresh_after(path, share, life)
}

/// Whether a file could not be written because its directory went.
fn is_gone(error: &MirrorError, plan: &Plan, value: &str) -> bool {
    let parameter = plan.spec.parameter.as_ref();
    parameter.is_some_and(|parameter| error.misses(&parameter.parent.join(value)))
}

fn warn_of_disk(block: Option<&mut Block>) {
    if let Some(block) = block
        && !std::mem::replace(&mut block.told_of_disk, true)
    {
        let path = block.plan.spec.path.display();
        tracing::warn!(%path, "the token file lies on a disk, where its bytes outlive it: a directory on a tmpfs, such as /run, keeps them in memory");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::from_unix_seconds;

    #[test]
    fn a_token_is_replaced_while_it_holds_however_late_in_its_second_it_was_signed() {
        let second = from_unix_seconds(1_800_000_000);
        let boot = Duration::from_secs(3600);
        for late in [0, 500, 999] {
            let wall = second + Duration::from_millis(late);
            let validity = Validity::starting(wall, Duration::from_secs(2), Duration::ZERO);
            let left = Duration::from_secs(2) - Duration::from_millis(late);
            let due = renewal(Launch { wall, boot }, validity, Path::new("/t"), 0.45) - boot;
            assert!(
                due < left.mul_f64(0.5) && due > left.mul_f64(0.4),
                "{due:?}"
            );
        }
    }

    #[test]
    fn a_wall_clock_that_is_set_meanwhile_neither_ages_a_token_nor_keeps_it_young() {
        let (wall, boot) = (from_unix_seconds(1_800_000_000), Duration::from_secs(3600));
        let signed_at = |moved: i64| {
            let now = from_unix_seconds(1_800_000_000_u64.saturating_add_signed(moved));
            let validity = Validity::starting(now, Duration::from_secs(100), Duration::ZERO);
            renewal(Launch { wall, boot }, validity, Path::new("/t"), 0.45) - boot
        };
        assert_eq!(signed_at(1_000_000), signed_at(0));
        assert_eq!(signed_at(-1_000_000), Duration::ZERO);
    }
}
