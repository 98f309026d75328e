//! How the agent ends: signals, and tasks that nobody told to end.

use std::future::Future;
use std::io;
use std::panic::resume_unwind;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What SIGHUP means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// The terminal has gone: the end.
    Stop,
    /// Nothing to do with the end: a daemon has no terminal.
    Ignore,
}

/// Cancels `stop` at the first SIGTERM or SIGINT. The future ends at the second one: whoever is
/// in such a hurry is not kept waiting.
///
/// # Errors
///
/// The signals cannot be caught.
pub fn on_signals(stop: CancellationToken, hangup: Hangup) -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    Ok(async move {
        let mut asked = 0;
        while asked < 2 {
            let signal = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = hung_up.recv() => "SIGHUP",
            };
            if signal == "SIGHUP" && hangup == Hangup::Ignore {
                continue;
            }
            asked += 1;
            tracing::info!(signal, "stopping");
            stop.cancel();
        }
    })
}

/// Why a task ended.
#[derive(Debug)]
pub enum Ended<E> {
    /// It returned although nobody asked it to, or with an error.
    Task {
        /// Which.
        name: &'static str,
        /// Its error, where it had one.
        error: Option<E>,
    },
    /// It panicked.
    Panic(&'static str),
}

/// Tasks that all have a name and somebody who waits for them.
#[derive(Debug)]
pub struct Supervisor<E> {
    tasks: JoinSet<(&'static str, Result<(), E>)>,
    names: std::collections::HashMap<tokio::task::Id, &'static str>,
    stop: CancellationToken,
}

impl<E: Send + 'static> Supervisor<E> {
    /// A supervisor of tasks that end at `stop`.
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            tasks: JoinSet::new(),
            names: std::collections::HashMap::new(),
            stop,
        }
    }

    /// Starts a task.
    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let handle = self.tasks.spawn(async move { (name, task.await) });
        self.names.insert(handle.id(), name);
    }

    /// As [`Supervisor::spawn`], on a thread of its own: the task is done where it is, and nobody wakes
    /// another thread for a part of it.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub fn spawn_apart(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> io::Result<()> {
        // However busy the task is, others' words, times and files are looked at after each turn of it.
        let runtime = Builder::new_current_thread()
            .global_queue_interval(1)
            .event_interval(1)
            .enable_all()
            .build()?;
        let (done, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name(name.to_owned());
        let thread = thread.spawn(move || {
            // Not the task that the thread blocks on: that one is woken by way of the kernel, even
            // where it wakes itself.
            let result = runtime.block_on(runtime.spawn(task));
            let result = result.unwrap_or_else(|error| resume_unwind(error.into_panic()));
            // Nothing that still blocks is worth waiting for.
            runtime.shutdown_background();
            // Whoever waited may have gone first.
            let _ = done.send(result);
        })?;
        self.spawn(name, async move {
            match ended.await {
                Ok(result) => result,
                Err(_) => resume_unwind(match thread.join() {
                    Err(panic) => panic,
                    Ok(()) => Box::new("it ended without a word"),
                }),
            }
        });
        Ok(())
    }

    /// Waits until all tasks have ended. The first one that ends by itself makes the others end
    /// too, and is what is told; `None` if all were asked to.
    pub async fn run(mut self) -> Option<Ended<E>> {
        let mut first = None;
        while let Some(ended) = self.tasks.join_next().await {
            let asked = self.stop.is_cancelled();
            let ended = match ended {
                Ok((_, Ok(()))) if asked => continue,
                Ok((name, result)) => Ended::Task {
                    name,
                    error: result.err(),
                },
                Err(error) if error.is_cancelled() => continue,
                Err(error) => {
                    Ended::Panic(self.names.get(&error.id()).copied().unwrap_or("unknown"))
                }
            };
            self.stop.cancel();
            first.get_or_insert(ended);
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervisor() -> (Supervisor<&'static str>, CancellationToken) {
        let stop = CancellationToken::new();
        let mut supervisor = Supervisor::new(stop.clone());
        let until = stop.clone();
        supervisor.spawn("patient", async move {
            until.cancelled().await;
            Ok(())
        });
        (supervisor, stop)
    }

    #[tokio::test]
    async fn a_task_that_ends_by_itself_ends_all_and_is_named() {
        let (mut all, stop) = supervisor();
        all.spawn("broken", async { Err("why") });
        let ended = all.run().await.unwrap();
        assert!(matches!(
            ended,
            Ended::Task {
                name: "broken",
                error: Some("why")
            }
        ));
        assert!(stop.is_cancelled());

        let (mut all, _) = supervisor();
        all.spawn("hasty", async { Ok(()) });
        assert!(matches!(
            all.run().await,
            Some(Ended::Task {
                name: "hasty",
                error: None
            })
        ));

        let (mut all, _) = supervisor();
        all.spawn("clumsy", async { panic!("on purpose") });
        assert!(matches!(all.run().await, Some(Ended::Panic("clumsy"))));

        let (mut all, _) = supervisor();
        let apart = async { panic!("on purpose") };
        all.spawn_apart("clumsy apart", apart).unwrap();
        assert!(matches!(
            all.run().await,
            Some(Ended::Panic("clumsy apart"))
        ));
    }

    #[tokio::test]
    async fn tasks_that_were_asked_to_end_are_no_failure() {
        let (all, stop) = supervisor();
        stop.cancel();
        assert!(all.run().await.is_none());
    }
}
