//! The threads that make slow signatures. They leave a core to the threads that serve callers, and
//! take users in turn: whoever asks for much waits for himself.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::priority::give_way;

/// Signatures that one user may wait for at a time.
const MAX_WAITING: usize = 256;

/// On whose behalf something is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A process of this user, over the socket.
    User(u32),
    /// Token files: one caller, behind every other.
    Files,
}

/// Why a piece of work is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotDone {
    /// The user waits for too much already.
    TooMuch,
    /// It panicked, or the pool is gone.
    Lost,
}

type Job = Box<dyn FnOnce() + Send>;

/// The threads and what waits for them.
pub struct Pool(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Users with work that waits, the next one first.
    turns: VecDeque<u32>,
    users: HashMap<u32, VecDeque<Job>>,
    files: VecDeque<Job>,
    closed: bool,
}

impl Queue {
    /// The next piece of work: of the user whose turn it is, of files only where nobody waits.
    fn next(&mut self) -> Option<Job> {
        while let Some(uid) = self.turns.pop_front() {
            let Some(jobs) = self.users.get_mut(&uid) else {
                continue;
            };
            let job = jobs.pop_front();
            if jobs.is_empty() {
                self.users.remove(&uid);
            } else {
                self.turns.push_back(uid);
            }
            if job.is_some() {
                return job;
            }
        }
        self.files.pop_front()
    }

    fn add(&mut self, caller: Caller, job: Job) -> Result<(), NotDone> {
        let Caller::User(uid) = caller else {
            self.files.push_back(job);
            return Ok(());
        };
        let jobs = self.users.entry(uid).or_default();
        if jobs.len() >= MAX_WAITING {
            return Err(NotDone::TooMuch);
        }
        if jobs.is_empty() {
            self.turns.push_back(uid);
        }
        jobs.push_back(job);
        Ok(())
    }
}

impl Pool {
    /// Starts so many threads.
    ///
    /// # Errors
    ///
    /// A thread cannot be started.
    pub fn start(threads: usize) -> io::Result<Self> {
        let pool = Self(Arc::default());
        for _ in 0..threads {
            let shared = Arc::clone(&pool.0);
            std::thread::Builder::new()
                .name("signer".to_owned())
                .spawn(move || work(&shared))?;
        }
        Ok(pool)
    }

    /// Has a piece of work done on behalf of a caller.
    pub async fn run<T: Send + 'static>(
        &self,
        caller: Caller,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotDone> {
        let (tell, told) = oneshot::channel();
        let job = Box::new(move || {
            // Whoever has gone meanwhile does not need it.
            if !tell.is_closed() {
                let _ = tell.send(work());
            }
        });
        self.0.queue().add(caller, job)?;
        self.0.work.notify_one();
        told.await.map_err(|_| NotDone::Lost)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.0.queue().closed = true;
        self.0.work.notify_all();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pool")
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn work(shared: &Shared) {
    // Whoever serves callers has little to do each time and would wait for a whole signature.
    give_way();
    loop {
        let mut queue = shared.queue();
        let job = loop {
            if let Some(job) = queue.next() {
                break job;
            }
            if queue.closed {
                return;
            }
            let waited = shared.work.wait(queue);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
        };
        drop(queue);
        // A panic costs this one signature, whose caller hears of it.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_take_turns_and_files_come_last() {
        let mut queue = Queue::default();
        let order: Arc<Mutex<Vec<&str>>> = Arc::default();
        let job = |name: &'static str| -> Job {
            let order = Arc::clone(&order);
            Box::new(move || order.lock().unwrap().push(name))
        };
        queue.add(Caller::Files, job("file")).unwrap();
        for name in ["a1", "a2", "a3"] {
            queue.add(Caller::User(1), job(name)).unwrap();
        }
        queue.add(Caller::User(2), job("b1")).unwrap();
        while let Some(job) = queue.next() {
            job();
        }
        assert_eq!(*order.lock().unwrap(), ["a1", "b1", "a2", "a3", "file"]);
    }

    #[test]
    fn nobody_can_queue_without_end() {
        let mut queue = Queue::default();
        let mut add = |uid| queue.add(Caller::User(uid), Box::new(|| {}));
        for _ in 0..MAX_WAITING {
            add(1).unwrap();
        }
        assert_eq!(add(1), Err(NotDone::TooMuch));
        add(2).unwrap();
    }

    #[tokio::test]
    async fn a_panic_costs_one_piece_of_work_and_not_the_thread() {
        let pool = Pool::start(1).unwrap();
        let lost = pool.run(Caller::Files, || panic!("on purpose")).await;
        assert_eq!(lost, Err::<(), _>(NotDone::Lost));
        assert_eq!(pool.run(Caller::User(1), || 7).await, Ok(7));
    }
}
