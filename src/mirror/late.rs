//! Work that blocks on a disk, which may never answer: it is waited for so long, and left behind then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// How long work on files is waited for: longer than for the directory of a user ([`super::user`]).
pub const PATIENCE: Duration = Duration::from_secs(7);

/// Counts the work that was left behind and has not come back.
#[derive(Debug, Default)]
pub struct Lateness(AtomicUsize);

impl Lateness {
    /// Whether some has not come back. No more should go after it.
    pub fn is_any(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }

    /// Does work beside the threads that serve; `None` if it does not come back in time.
    ///
    /// # Panics
    ///
    /// If the work does.
    pub async fn run<T: Send + 'static>(
        self: Arc<Self>,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        // Whoever comes second, we or the work, knows that the other one was first.
        let (one_is_through, count) = (Arc::new(AtomicBool::new(false)), Arc::clone(&self));
        let through = Arc::clone(&one_is_through);
        let watched = move || {
            let done = work();
            if through.swap(true, Ordering::AcqRel) {
                count.0.fetch_sub(1, Ordering::AcqRel);
            }
            done
        };
        let mut working = tokio::task::spawn_blocking(watched);
        if let Ok(done) = tokio::time::timeout(patience, &mut working).await {
            return Some(done.unwrap_or_else(|panic| std::panic::resume_unwind(Box::new(panic))));
        }
        // Counted before it can be taken back.
        self.0.fetch_add(1, Ordering::AcqRel);
        if one_is_through.swap(true, Ordering::AcqRel) {
            self.0.fetch_sub(1, Ordering::AcqRel);
            return working.await.ok();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn what_does_not_come_back_is_left_behind_and_counted_until_it_does() {
        let lateness = Arc::new(Lateness::default());
        let long = Duration::from_secs(30);
        assert_eq!(Arc::clone(&lateness).run(long, || 1).await, Some(1));
        let (go, wait) = channel::<()>();
        let hung = move || wait.recv().is_ok();
        assert_eq!(Arc::clone(&lateness).run(Duration::ZERO, hung).await, None);
        assert!(lateness.is_any());
        go.send(()).unwrap();
        while lateness.is_any() {
            tokio::task::yield_now().await;
        }
    }
}
