//! What attestors say of a process: what they found, and why they did not find the rest.

use std::borrow::Cow;
use std::fmt;

use crate::peer::Wants;
use crate::selector::Selector;

/// What was found out about a process.
#[derive(Debug, Default)]
pub struct Findings {
    /// What holds.
    pub selectors: Vec<Selector>,
    /// What was looked for and not found.
    pub silent: Vec<Silence>,
    /// What need not be looked for again while program and cgroup stay as they are.
    pub settled: Wants,
}

/// Why a fact was not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// Which.
    pub fact: Wants,
    /// In words.
    pub why: Cow<'static, str>,
    /// Whether something did not work, and may work the next time; otherwise it does not apply.
    pub failed: bool,
}

impl Findings {
    /// Something holds; nothing where the value holds control characters, so that a hostile name
    /// never becomes a fact.
    pub fn found(&mut self, fact: Wants, kind: &str, value: impl fmt::Display) {
        self.settled = self.settled.or(fact);
        match Selector::from_parts(kind, value) {
            Some(selector) => self.selectors.push(selector),
            None => self.none(fact, "it holds control characters, or nothing"),
        }
    }

    /// There is no such fact about this process.
    pub fn none(&mut self, fact: Wants, why: impl Into<Cow<'static, str>>) {
        self.settled = self.settled.or(fact);
        self.silent.push(Silence {
            fact,
            why: why.into(),
            failed: false,
        });
    }

    /// It cannot be told now.
    pub fn failed(&mut self, fact: Wants, why: impl Into<Cow<'static, str>>) {
        self.silent.push(Silence {
            fact,
            why: why.into(),
            failed: true,
        });
    }

    /// These and those; what is silent for the same reason is told once.
    pub fn absorb(&mut self, other: Self) {
        self.selectors.extend(other.selectors);
        for silence in other.silent {
            let same =
                |known: &&mut Silence| known.why == silence.why && known.failed == silence.failed;
            match self.silent.iter_mut().find(same) {
                Some(known) => known.fact = known.fact.or(silence.fact),
                None => self.silent.push(silence),
            }
        }
        self.settled = self.settled.or(other.settled);
    }
}
