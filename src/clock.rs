//! Time. Everything that reads a clock takes an `Arc<dyn Clock>`, so that tests can step it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// The two clocks that the agent lives by.
pub trait Clock: Send + Sync + 'static {
    /// Wall time, for claims.
    fn now(&self) -> SystemTime;

    /// Time since the machine started, time asleep included, for ages within one boot.
    fn since_boot(&self) -> Duration;
}

/// The clocks of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn since_boot(&self) -> Duration {
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
    }
}

/// Whole seconds since 1970 as JWT numeric dates want them, rounded down (RFC 7519, section 2);
/// 0 for a clock that stands before that.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The time that a number of seconds since 1970 names; the latest one that can be told where
/// the number is too large.
pub fn from_unix_seconds(seconds: u64) -> SystemTime {
    const END_OF_9999: u64 = 253_402_300_799;
    UNIX_EPOCH + Duration::from_secs(seconds.min(END_OF_9999))
}

#[cfg(test)]
pub mod fake {
    //! A clock that stands still until it is told otherwise.

    use std::sync::Mutex;

    use super::*;

    /// Starts at a given wall time, an hour after boot.
    #[derive(Debug)]
    pub struct FakeClock(Mutex<(SystemTime, Duration)>);

    impl FakeClock {
        /// A clock whose wall time is `seconds` after 1970.
        pub fn at(seconds: u64) -> Self {
            Self(Mutex::new((
                from_unix_seconds(seconds),
                Duration::from_secs(3600),
            )))
        }

        /// Sets the wall clock, as somebody with the privilege can.
        pub fn set_wall(&self, seconds: u64) {
            self.0.lock().unwrap().0 = from_unix_seconds(seconds);
        }

        /// Lets time pass on both clocks.
        pub fn advance(&self, by: Duration) {
            let mut both = self.0.lock().unwrap();
            both.0 += by;
            both.1 += by;
        }
    }

    impl Clock for FakeClock {
        fn now(&self) -> SystemTime {
            self.0.lock().unwrap().0
        }

        fn since_boot(&self) -> Duration {
            self.0.lock().unwrap().1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_reading_of_the_clock_can_make_numeric_dates_panic() {
        assert_eq!(unix_seconds(UNIX_EPOCH - Duration::from_secs(1)), 0);
        assert_eq!(unix_seconds(UNIX_EPOCH + Duration::from_millis(1999)), 1);
        assert_eq!(unix_seconds(from_unix_seconds(u64::MAX)), 253_402_300_799);
    }
}
