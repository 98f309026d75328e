//! What a service manager is told, where there is one.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
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

/// Sends a message and waits for nothing: a service manager that does not read must not hold up the
/// agent.
fn tell(states: &[NotifyState<'_>]) {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let message: String = states.iter().map(|state| format!("{state}\n")).collect();
    let sent = send(&address, message.as_bytes());
    if let Err(error) = sent {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

fn send(address: &OsStr, message: &[u8]) -> io::Result<()> {
    let bytes = address.as_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    socket.send(message).map(drop)
}
