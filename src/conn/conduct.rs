//! How a connection behaves: what it has said so far, and whether it keeps the agent busy with
//! frames that ask for nothing.

use std::time::Instant;

/// Frames without a request that are forgiven at any time. Clients send some: settings, window
/// updates, a ping to measure the line.
const MOST_CREDIT: u32 = 1000;
/// How many more each request brings.
const PER_REQUEST: u32 = 10;
/// How many more each second brings.
const PER_SECOND: u32 = 100;

/// What a connection has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heard {
    /// Nothing, or the beginning of the preface.
    Nothing,
    /// The preface (RFC 9113, section 3.4).
    Preface,
    /// A request.
    Request,
}

/// Follows the frames of one connection.
#[derive(Debug)]
pub struct Conduct {
    heard: Heard,
    credit: u32,
    /// Since when no second was counted.
    counted: Option<Instant>,
}

impl Default for Conduct {
    fn default() -> Self {
        Self {
            heard: Heard::Nothing,
            credit: MOST_CREDIT,
            counted: None,
        }
    }
}

impl Conduct {
    /// What the connection has said.
    pub fn heard(&self) -> Heard {
        self.heard
    }

    /// Takes note of a frame, by whether it begins a request or carries a part of one.
    pub fn note(&mut self, frame: Kind) {
        match frame {
            Kind::Request => {
                self.heard = Heard::Request;
                self.credit = (self.credit + PER_REQUEST).min(MOST_CREDIT);
            }
            Kind::Content => {}
            Kind::Control => self.credit = self.credit.saturating_sub(1),
        }
        self.heard = self.heard.max(Heard::Preface);
    }

    /// Whether it sends more frames that ask for nothing than any client needs.
    pub fn is_flooding(&mut self) -> bool {
        if self.credit > 0 {
            return false;
        }
        let now = Instant::now();
        let since = self.counted.replace(now).map(|then| now - then);
        // The first time that it runs out there is a second on the house.
        let seconds = since.map_or(1.0, |time| time.as_secs_f64());
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float becomes the nearest integer there is"
        )]
        let earned = (seconds * f64::from(PER_SECOND)) as u32;
        self.credit = earned.min(MOST_CREDIT);
        self.credit == 0
    }
}

/// What a frame is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It begins a request.
    Request,
    /// It carries something of a request.
    Content,
    /// It asks for nothing that a caller would want.
    Control,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_frames_beyond_what_requests_bring_are_a_flood() {
        let mut conduct = Conduct::default();
        for _ in 0..10_000 {
            conduct.note(Kind::Request);
            for _ in 0..PER_REQUEST {
                conduct.note(Kind::Control);
            }
            assert!(!conduct.is_flooding());
        }
        let mut frames = 0;
        while !conduct.is_flooding() {
            conduct.note(Kind::Control);
            frames += 1;
            assert!(frames < 10_000);
        }
        assert!(frames >= MOST_CREDIT);
    }

    #[test]
    fn what_was_heard_only_grows() {
        let mut conduct = Conduct::default();
        assert_eq!(conduct.heard(), Heard::Nothing);
        conduct.note(Kind::Control);
        assert_eq!(conduct.heard(), Heard::Preface);
        conduct.note(Kind::Request);
        conduct.note(Kind::Control);
        assert_eq!(conduct.heard(), Heard::Request);
    }
}
