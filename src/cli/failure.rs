//! How a command ends, and why.

use std::io;
use std::process::ExitCode;

use thiserror::Error;

use crate::workload_api::client::ClientError;

/// How a command ended, as its exit code tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Success,
    /// It did not work, or was refused.
    Failure,
    /// The command line makes no sense.
    Usage,
    /// The caller has no identity that fits.
    NoIdentity,
    /// Nobody listens, or nobody could answer in time.
    NoAgent,
    /// A fault of the program.
    Internal,
    /// The configuration is wrong.
    Config,
    /// As a program ended that was run, or could not be.
    Code(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::NoIdentity => 3,
            Exit::NoAgent => 4,
            Exit::Internal => 70,
            Exit::Config => 78,
            Exit::Code(code) => code,
        })
    }
}

/// A failure that was not yet told to anybody, and how the command ends for it.
#[derive(Debug)]
pub struct Failure {
    /// How the command ends.
    pub exit: Exit,
    reason: anyhow::Error,
    help: Option<String>,
}

/// How a command comes to its end.
pub type Outcome = Result<Exit, Failure>;

/// An error with what to do about it.
#[derive(Debug, Error)]
#[error("{what}")]
struct Advised {
    what: String,
    help: String,
}

/// An error, and what to do about it.
pub fn advised(error: impl Into<anyhow::Error>, help: impl Into<String>) -> anyhow::Error {
    let (what, help) = (causes(&error.into()), help.into());
    Advised { what, help }.into()
}

impl Failure {
    /// A failure for which a command ends in this way.
    pub fn new(exit: Exit, reason: impl Into<anyhow::Error>) -> Self {
        let reason = reason.into();
        let help = reason.chain().find_map(|cause| {
            let advised = cause.downcast_ref::<Advised>();
            let client = cause.downcast_ref::<ClientError>();
            let advised = advised.map(|advised| advised.help.clone());
            advised.or_else(|| client?.help())
        });
        Self { exit, reason, help }
    }

    /// The same failure, and what to do about it unless it says so itself.
    pub fn or_help(mut self, help: &str) -> Self {
        self.help.get_or_insert_with(|| help.to_owned());
        self
    }

    /// What failed, and why.
    pub fn what(&self) -> String {
        causes(&self.reason)
    }

    /// What to do about it.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// All of it in one sentence.
    pub fn sentence(&self) -> String {
        match &self.help {
            Some(help) => format!("{}; {help}", self.what()),
            None => self.what(),
        }
    }

    /// Whether it may work in a moment without anybody doing anything about this command.
    pub fn is_passing(&self) -> bool {
        let error = self.reason.downcast_ref::<ClientError>();
        error.is_some_and(|error| error.is_passing(true))
    }

    /// Whether the reader of our output went away, as `head` does.
    pub fn is_closed_pipe(&self) -> bool {
        let error = self.reason.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(reason: E) -> Self {
        let reason = reason.into();
        let exit = match reason.downcast_ref::<ClientError>() {
            Some(ClientError::NoIdentity(_)) => Exit::NoIdentity,
            Some(ClientError::NobodyListens { .. } | ClientError::Unavailable(_)) => Exit::NoAgent,
            _ => Exit::Failure,
        };
        Self::new(exit, reason)
    }
}

/// An error and its causes, each told once: many messages name their cause already.
fn causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            let colon = if text.is_empty() { "" } else { ": " };
            text.push_str(colon);
            text.push_str(&cause);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn advice_is_found_wherever_it_was_given() {
        let deep = || Err::<(), _>(advised(io::Error::other("the disk is gone"), "buy a disk"));
        let failure = Failure::from(deep().context("cannot write x").unwrap_err());
        assert_eq!(failure.what(), "cannot write x: the disk is gone");
        assert_eq!(failure.help(), Some("buy a disk"));
        let failure = failure.or_help("give up");
        assert_eq!(
            failure.sentence(),
            "cannot write x: the disk is gone; buy a disk"
        );
        let failure = Failure::from(io::Error::other("no")).or_help("give up");
        assert_eq!(failure.sentence(), "no; give up");
    }
}
