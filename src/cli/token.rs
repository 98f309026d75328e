//! What the commands that fetch tokens share: which one, what it says, and how one stays fresh.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::Value;
use tokio::time::sleep;

use super::{Exit, Failure, SocketArgs, advised, problem};
use crate::clock::{Clock, SystemClock, from_unix_seconds};
use crate::jose::jws::Unverified;
use crate::mirror::retry_after;
use crate::pb::Jwtsvid;
use crate::spiffe_id::SpiffeId;
use crate::workload_api::client::WorkloadClient;

/// The longest sleep: a clock that was set, or a machine that slept, is noticed within this time.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How far the clock may lie before the making of a token until that is no rounding any more.
const TOLERANCE: Duration = Duration::from_secs(5);

/// What is assumed of a token that does not say how long it lives.
const USUAL_LIFE: Duration = Duration::from_secs(300);

/// Which of the caller's identities.
#[derive(Debug, Args)]
pub(super) struct IdentityArgs {
    /// Fetch this identity only.
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,

    /// Fetch only the identity with this hint.
    #[arg(long, value_name = "HINT")]
    hint: Option<String>,

    #[command(flatten)]
    socket: SocketArgs,
}

impl IdentityArgs {
    /// What is asked for, again and again where it is to stay fresh.
    pub(super) fn request(&self, audience: Vec<String>) -> Request<'_> {
        Request {
            audience,
            identity: self,
            client: self.socket.client(),
        }
    }
}

/// Asks the agent for tokens.
pub(super) struct Request<'a> {
    audience: Vec<String>,
    identity: &'a IdentityArgs,
    client: WorkloadClient,
}

impl Request<'_> {
    /// At least one token, that of the default identity first.
    pub(super) async fn fetch(&self) -> Result<Vec<Jwtsvid>, Failure> {
        let spiffe_id = self.identity.spiffe_id.as_ref().map(SpiffeId::as_str);
        let mut svids = self.client.fetch_jwt(&self.audience, spiffe_id).await?;
        if let Some(hint) = &self.identity.hint {
            svids.retain(|svid| svid.hint == *hint);
            if svids.is_empty() {
                let reason = anyhow::anyhow!("no identity of this process has the hint {hint:?}");
                let reason = advised(reason, "agent explain tells the hints of its identities");
                return Err(Failure::new(Exit::NoIdentity, reason));
            }
        }
        Ok(svids)
    }

    /// As [`Request::fetch`], waiting for an agent that is not there yet. A refusal is an answer.
    pub(super) async fn fetch_patiently(&self) -> Result<Vec<Jwtsvid>, Failure> {
        let mut failures = 0;
        loop {
            match self.fetch().await {
                Err(failure) if failure.is_passing() => {
                    pause(&failure, USUAL_LIFE, &mut failures).await;
                }
                fetched => return fetched,
            }
        }
    }

    /// Fetches again whenever half of the life of a token is over, and delivers what is new; what
    /// fails is told and tried again. Ends only when nobody reads what is delivered.
    pub(super) async fn keep_fresh(
        &self,
        mut svids: Vec<Jwtsvid>,
        mut deliver: impl FnMut(&[Jwtsvid]) -> Result<(), Failure>,
    ) -> Failure {
        loop {
            let life = shortest_life(&svids);
            // Should the agent give out the same token once more, it is not asked all the time.
            sleep(retry_after(life, 0)).await;
            wait_until_due(&svids).await;
            let mut failures = 0;
            svids = loop {
                let renewed = self.fetch().await.and_then(|new| {
                    if new != svids {
                        deliver(&new)?;
                    }
                    Ok(new)
                });
                match renewed {
                    Ok(new) => break new,
                    Err(failure) if failure.is_closed_pipe() => return failure,
                    Err(failure) => pause(&failure, life, &mut failures).await,
                }
            };
        }
    }
}

async fn pause(failure: &Failure, life: Duration, failures: &mut u32) {
    problem::warning(format_args!("{}; trying again", failure.what()));
    sleep(retry_after(life, *failures)).await;
    *failures = failures.saturating_add(1);
}

/// Waits until one of the tokens is due, by a clock that somebody may set.
async fn wait_until_due(svids: &[Jwtsvid]) {
    let share = share(RandomState::new().build_hasher().finish());
    loop {
        let now = SystemClock.now();
        let left = svids.iter().map(|svid| until_due(svid, share, now)).min();
        match left {
            None | Some(Duration::ZERO) => return,
            Some(left) => sleep(left.min(LOOK_EVERY)).await,
        }
    }
}

/// The share of its life after which a token is replaced: a half, and up to a tenth more so that those
/// who started together do not ask together for ever. Before the half, the agent gives out the same.
fn share(random: u64) -> f64 {
    0.5 + 0.1 * f64::from(u32::try_from(random % 1001).unwrap_or(0)) / 1000.0
}

/// How long a token may stay in use; no time at all if it comes from the future.
fn until_due(svid: &Jwtsvid, share: f64, now: SystemTime) -> Duration {
    let Some(made) = time_claim(svid, "iat") else {
        return Duration::ZERO;
    };
    if now + TOLERANCE < made {
        return Duration::ZERO;
    }
    let due = made + life(svid).mul_f64(share);
    due.duration_since(now).unwrap_or_default()
}

fn shortest_life(svids: &[Jwtsvid]) -> Duration {
    svids.iter().map(life).min().unwrap_or(USUAL_LIFE)
}

fn life(svid: &Jwtsvid) -> Duration {
    let made = time_claim(svid, "iat");
    let life = made.and_then(|made| expiry(svid)?.duration_since(made).ok());
    life.unwrap_or(USUAL_LIFE)
}

/// A claim of a token that just came from the agent.
pub(super) fn claim(svid: &Jwtsvid, name: &str) -> Option<Value> {
    let token = Unverified::parse(&svid.svid).ok()?;
    token.untrusted_payload().get(name).cloned()
}

fn time_claim(svid: &Jwtsvid, name: &str) -> Option<SystemTime> {
    claim(svid, name)?.as_u64().map(from_unix_seconds)
}

/// When a token ends.
pub(super) fn expiry(svid: &Jwtsvid) -> Option<SystemTime> {
    time_claim(svid, "exp")
}

/// A time as RFC 3339 writes it, in UTC.
pub(super) fn show_time(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "unknown".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::encode_base64url;

    fn svid(iat: u64, exp: u64) -> Jwtsvid {
        let header = encode_base64url(br#"{"alg":"ES256","kid":"k"}"#);
        let payload = encode_base64url(format!(r#"{{"iat":{iat},"exp":{exp}}}"#));
        Jwtsvid {
            svid: format!("{header}.{payload}.c2ln"),
            ..Jwtsvid::default()
        }
    }

    #[test]
    fn a_token_is_replaced_after_half_of_its_life_and_not_much_later() {
        let svid = svid(1000, 1100);
        let left = |random, now| until_due(&svid, share(random), from_unix_seconds(now));
        assert_eq!(left(0, 1000), Duration::from_secs(50));
        assert_eq!(left(1000, 1000), Duration::from_secs(60));
        assert_eq!(left(0, 1049), Duration::from_secs(1));
        assert_eq!(left(u64::MAX, 1060), Duration::ZERO);
        assert_eq!(left(0, 5000), Duration::ZERO);
    }

    #[test]
    fn a_token_that_a_clock_set_back_puts_into_the_future_is_replaced_at_once() {
        let svid = svid(1000, 1100);
        let left = |now| until_due(&svid, share(0), from_unix_seconds(now));
        assert_eq!(left(999), Duration::from_secs(51), "a rounded second");
        assert_eq!(left(900), Duration::ZERO);
    }
}
