//! Connections to the workload socket: accepted one by one, each with the word of the kernel on
//! who made it, and read through the `:authority` rewriter.

pub mod accept;
mod authority;
mod conduct;
mod hpack;
mod outbox;
pub mod slots;

use std::future::Future;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials, recvmsg};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use self::authority::AuthorityRewriter;
use self::conduct::Heard;
use self::outbox::Outbox;
use self::slots::Slot;
use crate::limits::Limits;
use crate::peer::Peer;
use crate::quiet::Quiet;

/// How long a connection that is not read any more may still answer.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// The most bytes that one read takes. They pass over the stack, so that the buffers of idle
/// connections are memory that was never touched.
const MAX_READ: usize = 4 * 1024;

/// Whom the bytes on a connection must come from (`peer_check`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerCheck {
    /// The process that connected: a connection that was handed on is of no use.
    Sender,
    /// Whoever holds the connection, as relays need.
    Connection,
}

/// Complaints about connections, by user and reason.
type Complaints = Arc<Quiet<(u32, &'static str)>>;

/// One connection.
#[derive(Debug)]
pub struct Conn {
    stream: UnixStream,
    peer: Arc<Peer>,
    /// Tells when the process that connected ends.
    exit: AsyncFd<Arc<OwnedFd>>,
    check: PeerCheck,
    rewriter: AuthorityRewriter,
    /// Bytes that were held and may now be read.
    ready: Vec<u8>,
    /// How many of them have been.
    taken: usize,
    /// Room for the credentials of a sender, and for nothing else: no descriptor that somebody
    /// sends along is ever received.
    credentials: Vec<u8>,
    patience: Patience,
    /// When a refused connection ends.
    end: Option<Pin<Box<Sleep>>>,
    complaints: Complaints,
    outbox: Outbox,
    _slot: Slot,
}

/// How long a connection may go without a request.
#[derive(Debug)]
struct Patience {
    /// Until when the next thing must have been heard.
    until: Option<Pin<Box<Sleep>>>,
    /// What that is.
    waits_for: Heard,
    accepted: Instant,
    request_timeout: Option<Duration>,
}

impl Patience {
    fn new(limits: &Limits) -> Self {
        Self {
            until: limits.preface_timeout.map(|wait| Box::pin(sleep(wait))),
            waits_for: Heard::Preface,
            accepted: Instant::now(),
            request_timeout: limits.request_timeout,
        }
    }

    fn note(&mut self, heard: Heard) {
        if heard < self.waits_for {
            return;
        }
        match heard {
            Heard::Request => self.until = None,
            _ => {
                self.waits_for = Heard::Request;
                let until = |wait| Box::pin(sleep_until(self.accepted + wait));
                self.until = self.request_timeout.map(until);
            }
        }
    }

    fn has_ended(&mut self, cx: &mut Context<'_>) -> bool {
        let until = self.until.as_mut();
        until.is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready())
    }
}

impl Conn {
    fn new(
        stream: UnixStream,
        peer: Peer,
        slot: Slot,
        check: PeerCheck,
        limits: &Limits,
        complaints: Complaints,
    ) -> io::Result<Self> {
        let peer = Arc::new(peer);
        Ok(Self {
            stream,
            exit: watch(peer.pidfd())?,
            peer,
            check,
            rewriter: AuthorityRewriter::default(),
            ready: Vec::new(),
            taken: 0,
            credentials: match check {
                PeerCheck::Sender => nix::cmsg_space!(UnixCredentials),
                PeerCheck::Connection => Vec::new(),
            },
            patience: Patience::new(limits),
            end: None,
            complaints,
            outbox: Outbox::default(),
            _slot: slot,
        })
    }

    /// Who made the connection.
    pub fn peer(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }

    /// Reads from the socket what fits; nothing at its end.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.check == PeerCheck::Connection {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let mut space = [0; MAX_READ];
        let room = buf.remaining().min(MAX_READ);
        let space = space.get_mut(..room).unwrap_or_default();
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let fd = self.stream.as_raw_fd();
            let credentials = &mut self.credentials;
            let mut received = None;
            let tried = self.stream.try_io(Interest::READABLE, || {
                let (length, sender) = receive(fd, space, credentials)?;
                received = Some((length, sender));
                if 0 < length && length < room {
                    // There is no more: the reactor may wait for the next chunk without our
                    // having to try. A chunk of another sender would not be taken anyway.
                    return Err(ErrorKind::WouldBlock.into());
                }
                Ok(())
            });
            match (received, tried) {
                (Some((0, _)), _) => return Poll::Ready(Ok(())),
                (Some((length, sender)), _) => {
                    self.check_sender(sender)?;
                    buf.put_slice(space.get(..length).unwrap_or_default());
                    return Poll::Ready(Ok(()));
                }
                (None, Err(error)) if error.kind() == ErrorKind::WouldBlock => {}
                (None, Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                (None, Err(error)) => return Poll::Ready(Err(error)),
                (None, Ok(())) => {}
            }
        }
    }

    /// Whoever writes must be the process that connected, still under the user that it connected
    /// as: the kernel puts the word of the sender beside each chunk, and never joins two senders.
    fn check_sender(&self, sender: Option<UnixCredentials>) -> io::Result<()> {
        let (pid, uid) = (self.peer.pid(), self.peer.uid());
        if sender.is_some_and(|sender| sender.pid() == pid && sender.uid() == uid) {
            return Ok(());
        }
        if let Some(suppressed) = self.complaints.may_say((uid, "sender")) {
            tracing::warn!(
                pid,
                uid,
                sender_pid = sender.map(|sender| sender.pid()),
                sender_uid = sender.map(|sender| sender.uid()),
                suppressed,
                "connection closed: another process than the one that connected writes to it; \
                 peer_check = \"connection\" would let it"
            );
        }
        Err(ErrorKind::PermissionDenied.into())
    }

    /// Hands out what waits in `ready`; tells whether there was anything.
    fn give_ready(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let waiting = self.ready.get(self.taken..).unwrap_or_default();
        let amount = waiting.len().min(buf.remaining());
        buf.put_slice(waiting.get(..amount).unwrap_or_default());
        self.taken += amount;
        if self.taken == self.ready.len() {
            self.ready.clear();
            self.taken = 0;
        }
        amount > 0
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.outbox.poll_put_off(&mut this.stream, cx)?;
        if this.peer.is_refused() {
            // Nothing more comes in, and what was answered gets a moment to go out.
            let end = this.end.get_or_insert_with(|| Box::pin(sleep(LAST_WORDS)));
            return end.as_mut().poll(cx).map(Ok);
        }
        if this.exit.poll_read_ready(cx).is_ready() {
            return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
        }
        if this.patience.has_ended(cx) {
            return Poll::Ready(Err(ErrorKind::TimedOut.into()));
        }
        while buf.remaining() > 0 && !this.give_ready(buf) {
            let before = buf.filled().len();
            ready!(this.poll_receive(cx, buf))?;
            let Some(chunk) = buf.filled_mut().get_mut(before..).filter(|c| !c.is_empty()) else {
                this.ready = this.rewriter.finish();
                this.give_ready(buf);
                break;
            };
            let passed = this.rewriter.take(chunk, &mut this.ready);
            buf.set_filled(before + passed);
            let conduct = this.rewriter.conduct();
            this.patience.note(conduct.heard());
            if conduct.is_flooding() {
                let uid = this.peer.uid();
                if let Some(suppressed) = this.complaints.may_say((uid, "flood")) {
                    let pid = this.peer.pid();
                    tracing::warn!(pid, uid, suppressed, "connection closed: a flood of frames");
                }
                return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
            }
            if passed > 0 {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[expect(
    deprecated,
    reason = "the other way is unsafe, for descriptors that may be closed meanwhile; an owned one cannot"
)]
fn watch<T: AsRawFd>(owned: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(owned, Interest::READABLE)
}

/// One read with the word of the kernel on who wrote it.
fn receive(
    fd: RawFd,
    space: &mut [u8],
    credentials: &mut [u8],
) -> io::Result<(usize, Option<UnixCredentials>)> {
    let mut pieces = [IoSliceMut::new(space)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(fd, &mut pieces, Some(credentials), flags)?;
    if message.flags.contains(MsgFlags::MSG_CTRUNC) {
        // Somebody sent descriptors along. The kernel has dropped them.
        return Err(ErrorKind::PermissionDenied.into());
    }
    let sender = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmCredentials(sender) => Some(sender),
        _ => None,
    });
    Ok((message.bytes, sender))
}

impl AsyncWrite for Conn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.outbox.poll_put(&mut this.stream, cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().outbox.flush(cx);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.outbox.poll_send(&mut this.stream, cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

/// For `crate::fuzz`.
#[cfg(any(test, fuzzing))]
pub mod fuzz {
    use super::authority::AuthorityRewriter;

    /// What comes out when bytes come in pieces of a size.
    pub fn pass(bytes: &[u8], size: usize) -> Vec<u8> {
        let mut rewriter = AuthorityRewriter::default();
        let mut out = Vec::with_capacity(bytes.len());
        for piece in bytes.chunks(size) {
            let mut chunk = piece.to_vec();
            let mut ready = Vec::new();
            let passed = rewriter.take(&mut chunk, &mut ready);
            out.extend(ready);
            out.extend_from_slice(chunk.get(..passed).unwrap_or_default());
        }
        out.extend(rewriter.finish());
        out
    }
}
