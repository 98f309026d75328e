//! Removing files whose token nobody is to have any more, each beside all others: a directory that does
//! not answer keeps no other file from going.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::late::{Lateness, PATIENCE};
use super::manifest::Lying;
use super::writer::Writers;

/// So many files are being removed at a time.
const MOST: usize = 16;
/// When a file that could not be removed is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Files that are to be removed.
#[derive(Debug, Default)]
pub struct Removals {
    wanted: Vec<Lying>,
    /// Those that could not be, and when they are tried again.
    failed: Vec<Lying>,
    again: Option<Duration>,
    under_way: JoinSet<Option<Left>>,
    /// Those whose directories do not answer. The next agent tries them again.
    hung: Vec<Lying>,
}

/// A file that is still there.
#[derive(Debug)]
enum Left {
    Failed(Lying),
    Hangs(Lying),
}

impl Removals {
    /// Takes files in.
    pub fn add(&mut self, files: impl IntoIterator<Item = Lying>) {
        self.wanted.extend(files);
    }

    /// Starts to remove what it is time for.
    pub fn start(&mut self, writers: &Writers, now: Duration) {
        if !self.failed.is_empty() && now >= *self.again.get_or_insert(now + AGAIN) {
            self.again = None;
            self.wanted.append(&mut self.failed);
        }
        while self.under_way.len() < MOST
            && let Some(file) = self.wanted.pop()
        {
            let directory = file.path.parent();
            if self.hung.iter().any(|hung| hung.path.parent() == directory) {
                self.hung.push(file);
            } else {
                self.under_way.spawn(remove(writers.clone(), file));
            }
        }
    }

    /// Waits for one that is under way; at once where none is.
    pub async fn one_ended(&mut self) {
        match self.under_way.join_next().await {
            Some(Ok(Some(Left::Failed(file)))) => self.failed.push(file),
            Some(Ok(Some(Left::Hangs(file)))) => self.hung.push(file),
            // One that panicked has been told of.
            Some(Ok(None) | Err(_)) | None => {}
        }
    }

    /// As many as can be in this time.
    pub async fn run_for(&mut self, patience: Duration, writers: &Writers, now: Duration) {
        let until = Instant::now() + patience;
        loop {
            self.start(writers, now);
            let ended = tokio::time::timeout_at(until, self.one_ended()).await;
            if ended.is_err() || !self.are_under_way() {
                return;
            }
        }
    }

    /// Whether some are being removed.
    pub fn are_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    /// When some are tried again.
    pub fn due(&self) -> Option<Duration> {
        self.again
    }

    /// Those that are still there, while none is under way.
    pub fn left(&self) -> impl Iterator<Item = &Lying> {
        self.wanted.iter().chain(&self.failed).chain(&self.hung)
    }
}

async fn remove(writers: Writers, file: Lying) -> Option<Left> {
    let left = file.clone();
    let work = move || (!writers.remove(&file)).then_some(Left::Failed(file));
    match Arc::new(Lateness::default()).run(PATIENCE, work).await {
        Some(left) => left,
        None => {
            let path = left.path.display();
            tracing::warn!(%path, "the token file cannot be removed, since its directory does not answer: the next start tries it again");
            Some(Left::Hangs(left))
        }
    }
}
