//! Names of the users and groups of callers, for entries whose identities bear them.
//!
//! Which names there will be is not known beforehand, so they are looked up when such a caller comes:
//! beside the threads that serve, a few at a time and for a limited time. He waits for his own name;
//! nobody else does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Group, Uid, User};
use tokio::sync::Semaphore;

/// How long an answer is taken without asking again.
const FRESH: Duration = Duration::from_secs(60);
/// How long an answer stands after look-ups began to fail.
const STANDS: Duration = Duration::from_secs(600);
/// How long it is not tried again after a failure.
const PAUSE: Duration = Duration::from_secs(10);
/// How long a caller waits.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Look-ups at a time; those that hang count until they end.
const MAX_AT_A_TIME: usize = 4;
/// How many answers are remembered; beyond that all are forgotten, which costs time alone.
const MAX_REMEMBERED: usize = 4096;

/// A user or a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Number {
    /// A user.
    User(u32),
    /// A group.
    Group(u32),
}

type LookUp = fn(Number) -> Result<Option<String>, String>;

/// Names by number.
#[derive(Debug)]
pub struct Accounts {
    known: Arc<Mutex<HashMap<Number, Known>>>,
    turns: Arc<Semaphore>,
    look_up: LookUp,
    timeout: Duration,
}

/// What is known of a number.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The last answer, and when it came.
    answer: Option<(Option<Arc<str>>, Instant)>,
    /// When it was last tried in vain.
    failed: Option<Instant>,
}

impl Known {
    /// What may be said without asking; the inner `None` is that there is no name.
    #[expect(
        clippy::option_option,
        reason = "no answer, or the answer that there is none"
    )]
    fn answer(&self, now: Instant) -> Option<Option<Arc<str>>> {
        let rests = self.failed.is_some_and(|at| now.duration_since(at) < PAUSE);
        let stands = if rests { STANDS } else { FRESH };
        match &self.answer {
            Some((name, at)) if now.duration_since(*at) < stands => Some(name.clone()),
            _ if rests => Some(None),
            _ => None,
        }
    }
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            known: Arc::default(),
            turns: Arc::new(Semaphore::new(MAX_AT_A_TIME)),
            look_up,
            timeout: TIMEOUT,
        }
    }
}

impl Accounts {
    /// The name of a user or a group; `None` where there is none, or none can be told in time.
    pub async fn name(&self, number: Number) -> Option<Arc<str>> {
        if let Some(answer) = known(&self.known, number) {
            return answer;
        }
        let (turns, all, look_up) = (
            Arc::clone(&self.turns),
            Arc::clone(&self.known),
            self.look_up,
        );
        let looked = async move {
            let turn = turns.acquire_owned().await;
            // Another call of the same user may have asked meanwhile.
            if let Some(answer) = known(&all, number) {
                return Ok(answer);
            }
            let work = move || {
                let _turn = turn;
                let looked = look_up(number);
                let name = looked.map(|name| name.map(Into::<Arc<str>>::into))?;
                remember(&all, number, |known| {
                    known.answer = Some((name.clone(), Instant::now()));
                    known.failed = None;
                });
                Ok(name)
            };
            let done = tokio::task::spawn_blocking(work).await;
            done.map_err(|error| error.to_string())?
        };
        let late = |_| format!("no answer within {:?}", self.timeout);
        let looked = tokio::time::timeout(self.timeout, looked).await;
        match looked.map_err(late).and_then(|looked| looked) {
            Ok(name) => name,
            Err(reason) => {
                tracing::warn!(?number, reason, "a name cannot be looked up");
                remember(&self.known, number, |known| {
                    known.failed = Some(Instant::now());
                });
                known(&self.known, number).flatten()
            }
        }
    }
}

type All = Mutex<HashMap<Number, Known>>;

fn lock(all: &All) -> MutexGuard<'_, HashMap<Number, Known>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(
    clippy::option_option,
    reason = "no answer, or the answer that there is none"
)]
fn known(all: &All, number: Number) -> Option<Option<Arc<str>>> {
    lock(all).get(&number)?.answer(Instant::now())
}

fn remember(all: &All, number: Number, change: impl FnOnce(&mut Known)) {
    let mut all = lock(all);
    if all.len() >= MAX_REMEMBERED && !all.contains_key(&number) {
        all.clear();
    }
    change(all.entry(number).or_default());
}

/// Asks the name services, which may take their time. A name that leads back to another number is no
/// name of this one.
fn look_up(number: Number) -> Result<Option<String>, String> {
    let failed = |errno: nix::errno::Errno| errno.to_string();
    Ok(match number {
        Number::User(uid) => {
            let user = User::from_uid(Uid::from_raw(uid)).map_err(failed)?;
            let name = user.map(|user| user.name);
            let again = name.as_deref().map(User::from_name).transpose();
            let back = again.map_err(failed)?.flatten();
            name.filter(|_| back.is_some_and(|user| user.uid.as_raw() == uid))
        }
        Number::Group(gid) => {
            let group = Group::from_gid(Gid::from_raw(gid)).map_err(failed)?;
            let name = group.map(|group| group.name);
            let again = name.as_deref().map(Group::from_name).transpose();
            let back = again.map_err(failed)?.flatten();
            name.filter(|_| back.is_some_and(|group| group.gid.as_raw() == gid))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn names_are_those_that_lead_back_to_the_number() {
        let accounts = Accounts::default();
        assert_eq!(
            accounts.name(Number::User(0)).await.as_deref(),
            Some("root")
        );
        assert_eq!(
            accounts.name(Number::Group(0)).await.as_deref(),
            Some("root")
        );
        assert_eq!(accounts.name(Number::User(3_999_999_999)).await, None);
    }

    #[tokio::test]
    async fn an_answer_is_not_asked_for_again_while_it_is_fresh() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let accounts = Arc::new(Accounts {
            look_up: |number| {
                ASKED.fetch_add(1, Ordering::Relaxed);
                Ok(Some(format!("{number:?}")))
            },
            ..Accounts::default()
        });
        let calls = (0..50).map(|_| {
            let accounts = Arc::clone(&accounts);
            tokio::spawn(async move { accounts.name(Number::User(7)).await })
        });
        for call in calls.collect::<Vec<_>>() {
            assert_eq!(call.await.unwrap().as_deref(), Some("User(7)"));
        }
        // Those that were under way at the same time, and none of the others.
        assert!(ASKED.load(Ordering::Relaxed) <= MAX_AT_A_TIME);
    }

    #[tokio::test]
    async fn a_name_service_that_hangs_costs_its_caller_the_name_and_nobody_else_anything() {
        static ANSWERS: AtomicBool = AtomicBool::new(false);
        let patient = Accounts {
            look_up: |number| match number {
                Number::User(1) => {
                    while !ANSWERS.load(Ordering::Relaxed) {
                        std::thread::yield_now();
                    }
                    Ok(Some("late".to_owned()))
                }
                other => Ok(Some(format!("{other:?}"))),
            },
            timeout: Duration::from_secs(30),
            ..Accounts::default()
        };
        let accounts = Accounts {
            known: Arc::clone(&patient.known),
            turns: Arc::clone(&patient.turns),
            look_up: patient.look_up,
            timeout: Duration::from_millis(20),
        };
        assert_eq!(accounts.name(Number::User(1)).await, None);
        assert_eq!(
            patient.name(Number::User(2)).await.as_deref(),
            Some("User(2)")
        );
        // It is not tried again at once, and what came late is taken then.
        assert_eq!(accounts.name(Number::User(1)).await, None);
        ANSWERS.store(true, Ordering::Relaxed);
        let start = Instant::now();
        while accounts.name(Number::User(1)).await.is_none() {
            assert!(start.elapsed() < Duration::from_secs(30));
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn after_failures_the_last_answer_stands_for_a_while() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let known = |failed: Option<u64>| Known {
            answer: Some((Some("a".into()), start)),
            failed: failed.map(after),
        };
        assert_eq!(known(None).answer(after(59)), Some(Some("a".into())));
        assert_eq!(known(None).answer(after(61)), None);
        assert_eq!(known(Some(62)).answer(after(65)), Some(Some("a".into())));
        assert_eq!(known(Some(62)).answer(after(75)), None, "it is tried again");
        assert_eq!(known(Some(601)).answer(after(602)), Some(None));
    }
}
