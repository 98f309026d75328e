//! Makes the `:authority` of clients acceptable that send the path of the socket there.
//!
//! gRPC C-core (Python, C++, Ruby) sends it percent-encoded, Java and Swift as it is. Neither is
//! an authority, and the HTTP/2 library resets such a request before anybody sees it. So the
//! bytes that a client sends pass through here first: header blocks are held until they are
//! complete, and an `:authority` that would be refused is rewritten in place, at equal length.
//! Everything else passes untouched.

use std::ops::Range;

use super::conduct::{Conduct, Kind};
use super::hpack;

const PREFACE_BYTES: usize = 24;
const FRAME_HEADER_BYTES: usize = 9;
/// A header block beyond this is passed on as it is; the HTTP/2 library refuses it anyway.
const MAX_HELD_BYTES: usize = 64 * 1024;

const TYPE_DATA: u8 = 0;
const TYPE_HEADERS: u8 = 1;
const TYPE_CONTINUATION: u8 = 9;
const FLAG_END_STREAM: u8 = 0x1;
const FLAG_END_HEADERS: u8 = 0x4;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;

/// Follows the bytes of one connection.
#[derive(Debug)]
pub struct AuthorityRewriter {
    /// Bytes that may not pass yet: a part of a frame header, or of a header block.
    held: Vec<u8>,
    scan: Scan,
}

impl Default for AuthorityRewriter {
    fn default() -> Self {
        Self {
            held: Vec::new(),
            scan: Scan {
                at: 0,
                skip: PREFACE_BYTES,
                block: None,
                conduct: Conduct::default(),
            },
        }
    }
}

impl AuthorityRewriter {
    /// Takes what was read. Returns how many bytes at the start of `chunk` may pass, rewritten
    /// where they had to be; the rest was taken into safekeeping and comes out of a later call.
    ///
    /// Where earlier bytes are held, all of `chunk` joins them, and what may pass is appended to
    /// `ready`: it comes before anything else.
    pub fn take(&mut self, chunk: &mut [u8], ready: &mut Vec<u8>) -> usize {
        if self.held.is_empty() {
            let passed = self.scan.advance(chunk);
            self.held
                .extend_from_slice(chunk.get(passed..).unwrap_or_default());
            self.scan.forget(passed);
            return passed;
        }
        self.held.extend_from_slice(chunk);
        let passed = self.scan.advance(&mut self.held);
        ready.extend(self.held.drain(..passed));
        self.scan.forget(passed);
        0
    }

    /// How the client behaves.
    pub fn conduct(&mut self) -> &mut Conduct {
        &mut self.scan.conduct
    }

    /// What is still held when the client has closed its side.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

/// Where the reading of the stream stands; positions count from the first held byte.
#[derive(Debug)]
struct Scan {
    /// The next byte to look at.
    at: usize,
    /// How many bytes from there pass unseen.
    skip: usize,
    /// The header block that is being gathered.
    block: Option<Block>,
    conduct: Conduct,
}

#[derive(Debug)]
struct Block {
    start: usize,
    fragments: Vec<Range<usize>>,
}

impl Scan {
    /// Looks at all of `data` that is new; returns how many bytes from its start may pass.
    fn advance(&mut self, data: &mut [u8]) -> usize {
        while self.step(data).is_some() {}
        match &self.block {
            Some(block) => block.start,
            None => self.at,
        }
    }

    /// Goes on by a frame, or through a part of one; `None` when more bytes are needed.
    fn step(&mut self, data: &mut [u8]) -> Option<()> {
        let available = data.len().checked_sub(self.at)?;
        if self.skip > 0 {
            let passed = self.skip.min(available);
            self.at += passed;
            self.skip -= passed;
            return (passed > 0).then_some(());
        }
        let frame = Frame::read(data.get(self.at..self.at + FRAME_HEADER_BYTES)?)?;
        let belongs = match frame.kind {
            TYPE_HEADERS => self.block.is_none(),
            TYPE_CONTINUATION => self.block.is_some(),
            _ => false,
        };
        let start = self.block.as_ref().map_or(self.at, |block| block.start);
        let end = self.at + FRAME_HEADER_BYTES + frame.length;
        if !belongs || end - start > MAX_HELD_BYTES {
            self.block = None;
            self.conduct.note(frame.purpose());
            self.at += FRAME_HEADER_BYTES;
            self.skip = frame.length;
            return Some(());
        }
        // A frame is looked at when it is whole.
        let payload = data.get(self.at + FRAME_HEADER_BYTES..end)?;
        let inner = frame.fragment(payload);
        let offset = self.at + FRAME_HEADER_BYTES;
        let block = self.block.get_or_insert_with(|| Block {
            start,
            fragments: Vec::new(),
        });
        block
            .fragments
            .push(offset + inner.start..offset + inner.end);
        self.at = end;
        if frame.flags & FLAG_END_HEADERS != 0
            && let Some(block) = self.block.take()
        {
            self.conduct.note(Kind::Request);
            rewrite(data, &block.fragments);
        }
        Some(())
    }

    /// Counts positions from the first byte that has not passed.
    fn forget(&mut self, passed: usize) {
        self.at = self.at.saturating_sub(passed);
        if let Some(block) = &mut self.block {
            block.start = block.start.saturating_sub(passed);
            for fragment in &mut block.fragments {
                *fragment =
                    fragment.start.saturating_sub(passed)..fragment.end.saturating_sub(passed);
            }
        }
    }
}

struct Frame {
    length: usize,
    kind: u8,
    flags: u8,
}

impl Frame {
    /// A frame header (RFC 9113, section 4.1).
    fn read(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, ..] = *bytes else {
            return None;
        };
        Some(Self {
            length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
        })
    }

    /// What a frame that is not looked into is good for. A block that is too long to be held
    /// counts as a request, since the HTTP/2 library answers it.
    fn purpose(&self) -> Kind {
        match self.kind {
            TYPE_HEADERS => Kind::Request,
            TYPE_DATA if self.length > 0 || self.flags & FLAG_END_STREAM != 0 => Kind::Content,
            _ => Kind::Control,
        }
    }

    /// The part of the payload that belongs to the header block (RFC 9113, section 6.2); empty
    /// where padding or priority do not fit, which the HTTP/2 library will object to.
    fn fragment(&self, payload: &[u8]) -> Range<usize> {
        if self.kind != TYPE_HEADERS {
            return 0..payload.len();
        }
        let (mut start, mut padding) = (0, 0);
        if self.flags & FLAG_PADDED != 0 {
            padding = payload.first().map_or(0, |length| usize::from(*length));
            start += 1;
        }
        if self.flags & FLAG_PRIORITY != 0 {
            start += 5;
        }
        match payload.len().checked_sub(padding) {
            Some(end) if start <= end => start..end,
            _ => 0..0,
        }
    }
}

/// Rewrites the authority of a block that lies in `data` in pieces.
fn rewrite(data: &mut [u8], fragments: &[Range<usize>]) {
    if let [whole] = fragments {
        if let Some(block) = data.get_mut(whole.clone()) {
            rewrite_block(block);
        }
        return;
    }
    let pieces = fragments.iter().filter_map(|range| data.get(range.clone()));
    let mut block = pieces.collect::<Vec<_>>().concat();
    rewrite_block(&mut block);
    let mut rest = block.as_slice();
    for range in fragments {
        if let (Some(place), Some((piece, after))) = (
            data.get_mut(range.clone()),
            rest.split_at_checked(range.len()),
        ) {
            place.copy_from_slice(piece);
            rest = after;
        }
    }
}

fn rewrite_block(block: &mut [u8]) {
    for literal in hpack::authority_literals(block) {
        hpack::sanitize(block, &literal, |text| {
            http::uri::Authority::try_from(text).is_ok()
        });
    }
}

#[cfg(test)]
mod tests;
