//! Gathers what is written until the connection would wait for the next request.
//!
//! The HTTP/2 library writes an answer in two pieces, its message and its trailers. Written at
//! once, each wakes the caller, who can do nothing with the first alone.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use tokio::net::UnixStream;

/// The most that is gathered, in bytes.
const ROOM: usize = 16 * 1024;
/// What is kept for the next answer once all is sent, so that idle connections hold little.
const KEPT: usize = 2 * 1024;

/// Bytes on their way out.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// How many of them have been written.
    sent: usize,
    /// Whether a flush was put off to the next time that the connection is looked at.
    put_off: bool,
}

impl Outbox {
    /// Takes as much as there is room for, and makes room first where there is none.
    pub fn poll_put(
        &mut self,
        stream: &mut UnixStream,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.bytes.len() >= ROOM {
            ready!(self.poll_send(stream, cx))?;
        }
        let before = self.bytes.len();
        for slice in slices {
            let room = ROOM.saturating_sub(self.bytes.len());
            let taken = slice.get(..room).unwrap_or(slice);
            self.bytes.extend_from_slice(taken);
        }
        Poll::Ready(Ok(self.bytes.len() - before))
    }

    /// Asks for what was gathered to be written: the task comes back for it as soon as it has
    /// nothing else to do, and [`Outbox::poll_put_off`] writes it then.
    pub fn flush(&mut self, cx: &Context<'_>) {
        if !self.bytes.is_empty() && !self.put_off {
            self.put_off = true;
            cx.waker().wake_by_ref();
        }
    }

    /// Writes what a flush has put off.
    ///
    /// # Errors
    ///
    /// What the socket says.
    pub fn poll_put_off(
        &mut self,
        stream: &mut UnixStream,
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        if !self.put_off {
            return Ok(());
        }
        match self.poll_send(stream, cx) {
            Poll::Ready(result) => result,
            // The socket wakes the task when it takes more.
            Poll::Pending => Ok(()),
        }
    }

    /// Writes everything.
    pub fn poll_send(
        &mut self,
        stream: &mut UnixStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.bytes.get(self.sent..).filter(|rest| !rest.is_empty()) {
            self.sent += ready!(Pin::new(&mut *stream).poll_write(cx, rest))?;
        }
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.sent = 0;
        self.put_off = false;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn pieces_of_one_answer_leave_together_and_in_order() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut outbox = Outbox::default();
        for piece in [&b"message"[..], b", trailers"] {
            poll_fn(|cx| {
                let put = outbox.poll_put(&mut near, cx, &[IoSlice::new(piece)]);
                outbox.flush(cx);
                put
            })
            .await
            .unwrap();
        }
        let mut far = far.into_std().unwrap();
        let mut got = [0; 100];
        assert!(
            far.read(&mut got).is_err(),
            "nothing leaves before its time"
        );
        poll_fn(|cx| Poll::Ready(outbox.poll_put_off(&mut near, cx)))
            .await
            .unwrap();
        let length = far.read(&mut got).unwrap();
        assert_eq!(&got[..length], b"message, trailers");
    }

    #[tokio::test]
    async fn a_reader_who_stops_holds_up_the_writer_and_loses_nothing() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut outbox = Outbox::default();
        let sent: Vec<u8> = (0..4_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
        let reader = tokio::task::spawn_blocking(move || {
            let mut far = far.into_std().unwrap();
            far.set_nonblocking(false).unwrap();
            let mut got = Vec::new();
            far.read_to_end(&mut got).unwrap();
            got
        });
        let mut rest = &sent[..];
        while !rest.is_empty() {
            let put = poll_fn(|cx| outbox.poll_put(&mut near, cx, &[IoSlice::new(rest)])).await;
            rest = &rest[put.unwrap()..];
            assert!(outbox.bytes.len() <= ROOM);
        }
        poll_fn(|cx| outbox.poll_send(&mut near, cx)).await.unwrap();
        assert!(outbox.bytes.capacity() <= KEPT);
        drop(near);
        assert_eq!(reader.await.unwrap(), sent);
    }
}
