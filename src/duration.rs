//! Durations as people write them: `90s`, `5m`, `1h30m`.

use std::time::Duration;

/// Hours, minutes and seconds in this order, each at most once: `1h30m`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total: u64 = 0;
    for (unit, seconds) in [('h', 3600), ('m', 60), ('s', 1)] {
        let Some((digits, after)) = rest.split_once(unit) else {
            continue;
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        total = total.checked_add(digits.parse::<u64>().ok()?.checked_mul(seconds)?)?;
        rest = after;
    }
    (rest.is_empty() && !text.is_empty()).then(|| Duration::from_secs(total))
}

/// A duration as [`parse_duration`] reads it.
pub fn show_duration(duration: Duration) -> String {
    use std::fmt::Write;

    let mut rest = duration.as_secs();
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, seconds) in [('h', 3600), ('m', 60), ('s', 1)] {
        if rest >= seconds {
            let _ = write!(text, "{}{unit}", rest / seconds);
            rest %= seconds;
        }
    }
    text
}

/// A duration as people say it: `3 days`, `1 hour 5 minutes`. Rounded to whole units; below ten of
/// them to the next smaller ones.
pub fn duration_in_words(duration: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [
        (86_400, "day"),
        (3600, "hour"),
        (60, "minute"),
        (1, "second"),
    ];
    let from = |seconds: u64| {
        let units = UNITS.into_iter();
        units.skip_while(move |(unit, _)| *unit > seconds.max(1))
    };
    let seconds = duration.as_secs();
    let mut units = from(seconds).map(|(unit, _)| unit);
    let unit = units.next().unwrap_or(1);
    let step = match units.next() {
        Some(smaller) if seconds / unit < 10 => smaller,
        _ => unit,
    };
    let mut rest = seconds.saturating_add(step / 2) / step * step;
    let mut words = Vec::new();
    for (unit, name) in from(rest).take(2) {
        let many = if rest / unit == 1 { "" } else { "s" };
        if rest >= unit || words.is_empty() {
            words.push(format!("{} {name}{many}", rest / unit));
        }
        rest %= unit;
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_in_one_spelling_and_nothing_else() {
        for (text, seconds) in [
            ("90s", 90),
            ("5m", 300),
            ("1h30m", 5400),
            ("24h", 86_400),
            ("0s", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_secs(seconds)),
                "{text}"
            );
        }
        for text in [
            "",
            "5",
            "m",
            "5m1h",
            "5m5m",
            "-5m",
            "+5m",
            "1.5h",
            "5 m",
            "5M",
            "1d",
            "5ms",
            "99999999999999999999s",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn words_are_rounded_to_what_one_wants_to_know() {
        for (seconds, words) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "1 minute"),
            (61, "1 minute 1 second"),
            (599, "9 minutes 59 seconds"),
            (629, "10 minutes"),
            (630, "11 minutes"),
            (3596, "1 hour"),
            (3600 + 29, "1 hour"),
            (7199, "2 hours"),
            (7150, "1 hour 59 minutes"),
            (86_395, "1 day"),
            (86_400 + 3600, "1 day 1 hour"),
            (10 * 86_400 - 10, "10 days"),
            (400 * 86_400, "400 days"),
        ] {
            let told = duration_in_words(Duration::from_secs(seconds));
            assert_eq!(told, words, "{seconds}");
        }
        assert!(duration_in_words(Duration::MAX).ends_with(" days"));
    }

    proptest! {
        #[test]
        fn a_duration_shown_is_read_back(seconds in 0u64..10_000_000_000) {
            let duration = Duration::from_secs(seconds);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }
    }
}
