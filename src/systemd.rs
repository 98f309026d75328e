//! What a service manager is told, where there is one.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// The agent serves, and every issuer is published; also the end of a reload.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "the monotonic clock cannot be read"),
    }
}

/// The agent stops.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells a watchdog, if there is one, twice as often as it wants that the agent still turns.
pub async fn watchdog(stop: CancellationToken) {
    let every = sd_notify::watchdog_enabled().map_or(Duration::MAX, |limit| limit / 2);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => tell(&[NotifyState::Watchdog]),
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
