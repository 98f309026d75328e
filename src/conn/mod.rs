//! Connections to the workload socket: accepted one by one, each with the word of the kernel on
//! who made it, and read through the `:authority` rewriter.

pub mod accept;
mod authority;
mod hpack;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Sleep, sleep};

use self::authority::AuthorityRewriter;
use crate::peer::Peer;

/// How long a connection that is not read any more may still answer.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// One connection.
#[derive(Debug)]
pub struct Conn {
    stream: UnixStream,
    peer: Arc<Peer>,
    rewriter: AuthorityRewriter,
    /// Bytes that were held and may now be read.
    ready: Vec<u8>,
    /// How many of them have been.
    taken: usize,
    /// When a refused connection ends.
    end: Option<Pin<Box<Sleep>>>,
}

impl Conn {
    fn new(stream: UnixStream, peer: Peer) -> Self {
        Self {
            stream,
            peer: Arc::new(peer),
            rewriter: AuthorityRewriter::default(),
            ready: Vec::new(),
            taken: 0,
            end: None,
        }
    }

    /// Who made the connection.
    pub fn peer(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
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
        if this.peer.is_refused() {
            // Nothing more comes in, and what was answered gets a moment to go out.
            let end = this.end.get_or_insert_with(|| Box::pin(sleep(LAST_WORDS)));
            return end.as_mut().poll(cx).map(Ok);
        }
        while buf.remaining() > 0 && !this.give_ready(buf) {
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let Some(chunk) = buf.filled_mut().get_mut(before..).filter(|c| !c.is_empty()) else {
                this.ready = this.rewriter.finish();
                this.give_ready(buf);
                break;
            };
            let passed = this.rewriter.take(chunk, &mut this.ready);
            buf.set_filled(before + passed);
            if passed > 0 {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
