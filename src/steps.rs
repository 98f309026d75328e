//! Tells when the wall clock is set, and when the machine wakes: moments at which what was planned
//! by time is to be looked at again.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A time that does not come.
const NEVER: Duration = Duration::from_secs(1 << 40);

/// Watches the wall clock.
#[derive(Debug)]
pub struct ClockSteps {
    timer: AsyncFd<OwnedFd>,
    steps: watch::Sender<()>,
}

impl ClockSteps {
    /// Begins to watch.
    ///
    /// # Errors
    ///
    /// The kernel has no such timer for us.
    pub fn watch() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, flags)?;
        let never = Expiration::OneShot(TimeSpec::from_duration(NEVER));
        // The kernel ends the wait for such a time when the clock is set.
        let flags =
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        timer.set(never, flags)?;
        Ok(Self {
            timer: register(timer.into())?,
            steps: watch::Sender::default(),
        })
    }

    /// Changes with each step.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.steps.subscribe()
    }

    /// Tells steps until told to stop.
    ///
    /// # Errors
    ///
    /// The timer broke.
    pub async fn run(self, stop: CancellationToken) -> io::Result<()> {
        loop {
            let mut ready = tokio::select! {
                ready = self.timer.readable() => ready?,
                () = stop.cancelled() => return Ok(()),
            };
            let mut ticks = [0; 8];
            match nix::unistd::read(self.timer.get_ref(), &mut ticks) {
                Err(Errno::ECANCELED) => {
                    self.steps.send_replace(());
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "the other way is unsafe, for descriptors that may be closed meanwhile; an owned one cannot"
)]
fn register(timer: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(timer, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use nix::time::{ClockId, clock_gettime, clock_settime};

    use super::*;

    /// Sets the clock to the time that it shows.
    fn set() -> nix::Result<()> {
        let clock = ClockId::CLOCK_REALTIME;
        clock_settime(clock, clock_gettime(clock)?)
    }

    #[tokio::test]
    async fn each_setting_of_the_clock_is_told() {
        if set().is_err() {
            // Only root may, and not in every container.
            return;
        }
        let clock = ClockSteps::watch().unwrap();
        let mut steps = clock.subscribe();
        let stop = CancellationToken::new();
        let watching = tokio::spawn(clock.run(stop.clone()));
        for _ in 0..3 {
            set().unwrap();
            let told = tokio::time::timeout(Duration::from_secs(30), steps.changed());
            told.await.expect("it is told in time").unwrap();
        }
        stop.cancel();
        watching.await.unwrap().unwrap();
    }
}
