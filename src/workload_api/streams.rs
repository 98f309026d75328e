//! Streams of bundles: the whole state at once, and again when it has changed.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::watch;
use tonic::Status;

use super::Refusal;
use super::service::Parts;
use crate::authority::Published;
use crate::metrics::Rpc;
use crate::pb::JwtBundlesResponse;
use crate::peer::Peer;
use crate::registry::Snapshot;

/// What a server sends on a stream.
pub type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Counts the open streams of each process.
#[derive(Debug, Clone, Default)]
pub struct OpenStreams(Arc<Mutex<HashMap<i32, usize>>>);

/// One open stream, until this is dropped.
#[derive(Debug)]
struct OpenStream {
    all: OpenStreams,
    pid: i32,
}

impl OpenStreams {
    fn open(&self, pid: i32, most: usize) -> Option<OpenStream> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.entry(pid).or_default();
        if *own >= most {
            return None;
        }
        *own += 1;
        Some(OpenStream {
            all: self.clone(),
            pid,
        })
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get_mut(&self.pid) {
            *own -= 1;
            if *own == 0 {
                all.remove(&self.pid);
            }
        }
    }
}

/// What one stream remembers.
pub struct BundleStream {
    parts: Arc<Parts>,
    peer: Arc<Peer>,
    published: watch::Receiver<Arc<Published>>,
    registry: watch::Receiver<Arc<Snapshot>>,
    /// The document that was sent last, shared with all who got it.
    sent: Option<Bytes>,
    _open: OpenStream,
}

impl BundleStream {
    /// A stream for a caller, if he has not too many of them.
    pub fn new(parts: &Arc<Parts>, peer: Arc<Peer>) -> Result<Self, Refusal> {
        let most = parts.limits.borrow().bundle_streams_per_pid;
        let open = parts.streams.open(peer.pid(), most);
        let mut published = parts.authority.changes();
        published.mark_unchanged();
        Ok(Self {
            parts: Arc::clone(parts),
            peer,
            published,
            registry: parts.registry.clone(),
            sent: None,
            _open: open.ok_or(Refusal::TooMany(Rpc::FetchJwtBundles))?,
        })
    }

    /// Whose stream it is.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The next message: at once the first time, then when the content has changed. The caller is
    /// looked at again before each.
    pub async fn next(&mut self) -> Result<JwtBundlesResponse, Refusal> {
        loop {
            if self.sent.is_some() {
                tokio::select! {
                    () = self.parts.stop.cancelled() => return Err(Refusal::Stopping),
                    changed = self.published.changed() => changed.map_err(|_| Refusal::Stopping)?,
                    // Another set of entries may leave the caller without any.
                    changed = self.registry.changed() => changed.map_err(|_| Refusal::Stopping)?,
                }
            }
            let trusted = self.parts.bundles(&self.peer).await?;
            if self.sent.as_ref() != Some(&trusted.document) {
                let document = trusted.document.to_vec();
                self.sent = Some(trusted.document);
                return Ok(JwtBundlesResponse {
                    bundles: [(trusted.bundle.trust_domain.id(), document)].into(),
                });
            }
        }
    }

    /// The stream itself, whose first message is there already. It ends with an error, never by
    /// itself: Java's client does not come back after a clean end.
    pub fn replies(self, first: JwtBundlesResponse) -> Replies<JwtBundlesResponse> {
        let state = (Some(Ok(first)), Some(self));
        let replies = futures_util::stream::unfold(state, |(ready, stream)| async move {
            let mut stream = stream?;
            let reply = match ready {
                Some(reply) => reply,
                None => stream.next().await,
            };
            let rest = reply.is_ok().then_some(stream);
            Some((reply.map_err(Status::from), (None, rest)))
        });
        Box::pin(replies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_have_so_many_streams_and_closing_one_makes_room() {
        let streams = OpenStreams::default();
        let first = streams.open(1, 2).unwrap();
        let _second = streams.open(1, 2).unwrap();
        assert!(streams.open(1, 2).is_none());
        assert!(streams.open(2, 2).is_some());
        drop(first);
        assert!(streams.open(1, 2).is_some());
    }
}
