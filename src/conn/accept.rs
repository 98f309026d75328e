//! The accept loop. An error there is one of three: of a connection that is gone already, of a
//! machine that lacks something for the moment, or of a listener that is broken.

use std::collections::HashSet;
use std::future::Future;
use std::io;
use std::mem::Discriminant;
use std::os::fd::AsFd;
use std::os::unix::net;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use tokio::io::unix::AsyncFd;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

use super::slots::{Full, Slots};
use super::{Complaints, Conn, PeerCheck};
use crate::limits::Limits;
use crate::peer::{Namespaces, Peer, PeerError};

/// How long to wait for descriptors or memory to be given back.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);

/// The connections that come in, for as long as the listener works.
#[derive(Debug)]
pub struct Incoming {
    /// Not tokio's: connections that are refused are not worth registering.
    listener: AsyncFd<net::UnixListener>,
    namespaces: Namespaces,
    check: PeerCheck,
    limits: watch::Receiver<Limits>,
    slots: Slots,
    pause: Option<Pin<Box<Sleep>>>,
    /// Reasons for closing connections that the operator has heard of.
    told: HashSet<Discriminant<PeerError>>,
    complaints: Complaints,
}

impl Incoming {
    /// Accepts from this listener, which tells who sends, within these limits.
    ///
    /// # Errors
    ///
    /// The listener cannot be watched.
    pub fn new(
        listener: UnixListener,
        namespaces: Namespaces,
        check: PeerCheck,
        limits: watch::Receiver<Limits>,
        slots: Slots,
    ) -> io::Result<Self> {
        Ok(Self {
            listener: super::watch(listener.into_std()?)?,
            namespaces,
            check,
            limits,
            slots,
            pause: None,
            told: HashSet::new(),
            complaints: Complaints::default(),
        })
    }

    /// Takes the next connection off the queue of the kernel.
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<net::UnixStream>> {
        loop {
            let mut ready = ready!(self.listener.poll_read_ready(cx))?;
            match ready.try_io(|listener| listener.get_ref().accept()) {
                Ok(accepted) => return Poll::Ready(accepted.map(|(stream, _)| stream)),
                Err(_not_ready) => {}
            }
        }
    }

    fn admit(&self, stream: net::UnixStream) -> Result<Conn, PeerError> {
        // Counted before anything is done for it: who comes too often costs next to nothing.
        let uid = Peer::uid_of(stream.as_fd())?;
        let limits = *self.limits.borrow();
        let slot = self.slots.take(uid, &limits).map_err(|full| {
            let (limit, reason) = match full {
                Full::All => ("connections", "all"),
                Full::User => ("connections_per_uid", "user"),
            };
            if let Some(suppressed) = self.complaints.may_say((uid, reason)) {
                tracing::warn!(uid, limit, suppressed, "connection closed: too many");
            }
            PeerError::Refused
        })?;
        let peer = Peer::of(stream.as_fd(), self.namespaces)?;
        let ready = stream.set_nonblocking(true);
        let stream = ready.and_then(|()| UnixStream::from_std(stream));
        let stream = stream.map_err(|error| PeerError::Io("watching the connection", error))?;
        let complaints = Arc::clone(&self.complaints);
        Conn::new(stream, peer, slot, self.check, &limits, complaints)
            .map_err(|error| PeerError::Io("watching the process", error))
    }

    /// Tells about a connection that is closed unread: aloud the first time for each reason, since
    /// the caller learns nothing.
    fn complain(&mut self, reason: &PeerError) {
        let first = self.told.insert(std::mem::discriminant(reason));
        if first && !matches!(reason, PeerError::Gone | PeerError::Refused) {
            tracing::warn!(%reason, "connection closed: its maker cannot be told");
        } else {
            tracing::debug!(%reason, "connection closed: its maker cannot be told");
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Conn>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(pause) = &mut this.pause {
                ready!(pause.as_mut().poll(cx));
                this.pause = None;
            }
            let error = match ready!(this.poll_accept(cx)) {
                Ok(stream) => match this.admit(stream) {
                    Ok(conn) => return Poll::Ready(Some(Ok(conn))),
                    Err(PeerError::Io(_, error)) if sort(&error) == Verdict::Wait => error,
                    Err(reason) => {
                        this.complain(&reason);
                        continue;
                    }
                },
                Err(error) => error,
            };
            match sort(&error) {
                Verdict::GoOn => {}
                Verdict::Wait => {
                    if let Some(suppressed) = this.complaints.may_say((0, "shortage")) {
                        tracing::warn!(%error, suppressed, "cannot accept connections for the moment");
                    }
                    this.pause = Some(Box::pin(sleep(SHORTAGE_PAUSE)));
                }
                Verdict::End => {
                    tracing::error!(%error, "the workload socket is broken");
                    return Poll::Ready(None);
                }
            }
        }
    }
}

/// What to do after an accept error.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    GoOn,
    Wait,
    End,
}

fn sort(error: &io::Error) -> Verdict {
    match error.raw_os_error() {
        Some(libc::ECONNABORTED | libc::EINTR | libc::EAGAIN | libc::EPERM | libc::EPROTO) => {
            Verdict::GoOn
        }
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Verdict::Wait,
        _ => Verdict::End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_a_shortage_and_a_broken_listener_are_told_apart() {
        let of = |errno| sort(&io::Error::from_raw_os_error(errno));
        assert_eq!(of(libc::ECONNABORTED), Verdict::GoOn);
        assert_eq!(of(libc::EMFILE), Verdict::Wait);
        assert_eq!(of(libc::ENOMEM), Verdict::Wait);
        assert_eq!(of(libc::EBADF), Verdict::End);
        assert_eq!(of(libc::EINVAL), Verdict::End);
        assert_eq!(sort(&io::Error::other("unknown")), Verdict::End);
    }
}
