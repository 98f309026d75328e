//! Tells whoever sits at a terminal what is waited for, once that takes longer than a moment.

use std::io::{Write, stderr};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::screen::width;
use crate::terminal::Look;

/// What takes less is not worth a word.
const MOMENT: Duration = Duration::from_secs(1);
/// How often the line changes.
const TICK: Duration = Duration::from_millis(200);

/// As long as this lives, something is waited for; the line about it goes with it.
#[derive(Debug)]
pub struct Progress {
    over: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// Begins to wait. `what` is such as "making keys".
    pub fn of(what: &str) -> Self {
        let look = Look::of(&stderr());
        let what = what.to_owned();
        let over = look.erasable.then(|| {
            let (over, is_over) = channel();
            let shown = std::thread::Builder::new().spawn(move || show(&what, look, &is_over));
            // Without the thread there is one line less on the screen.
            Some((over, shown.ok()?))
        });
        Self {
            over: over.flatten(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((over, shown)) = self.over.take() {
            drop(over);
            let _ = shown.join();
        }
    }
}

fn show(what: &str, look: Look, is_over: &Receiver<()>) {
    let began = Instant::now();
    let mut pause = MOMENT;
    let mut widest = 0;
    while is_over.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let line = line(what, look, began.elapsed());
        widest = width(&line).max(widest);
        // There is nobody to tell where that fails.
        let _ = write!(stderr(), "\r{line:<widest$}");
        pause = TICK;
    }
    if widest > 0 {
        let _ = write!(stderr(), "\r{:widest$}\r", "");
    }
}

fn line(what: &str, look: Look, elapsed: Duration) -> String {
    let signs = if look.unicode {
        "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
    } else {
        r"|/-\"
    };
    let turns = elapsed.as_millis() / TICK.as_millis();
    let at = turns % u128::try_from(width(signs)).unwrap_or(1).max(1);
    let sign = signs.chars().nth(usize::try_from(at).unwrap_or(0));
    let line = format!("{} {what}, {}s", sign.unwrap_or('.'), elapsed.as_secs());
    // In the last column the cursor would go on to the next line.
    line.chars().take(look.columns.saturating_sub(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_fits_and_counts_seconds() {
        let look = Look {
            colours: false,
            unicode: false,
            live: true,
            erasable: true,
            columns: 40,
        };
        let at = |seconds| line("making keys", look, Duration::from_secs(seconds));
        assert_eq!(at(1), "/ making keys, 1s");
        let long = line(&"x".repeat(100), look, MOMENT);
        assert_eq!(width(&long), 39);
    }
}
