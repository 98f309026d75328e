//! Issuers and their keys.

use super::{for_words, in_words, minute};
use crate::cli::count;
use crate::cli::screen::{BAR, Screen, width};
use crate::pb::admin::{Issuer, Key};
use crate::terminal::Style;

/// So many issuers, and chains of keys of one of them, are shown.
const MAX_ISSUERS: usize = 5;
const MAX_CHAINS: usize = 4;
/// So many characters of a name, and of the id of a key, are shown.
const NAME: usize = 24;
const KID: usize = 12;
/// So many columns a key takes beside its name and what is said of it.
const KEY_COLUMNS: usize = 2 + 2 + 5 + 2 + KID + 2 + BAR + 2;
/// A key that signs for longer than it should is told of after so many seconds.
const GRACE: u64 = 2;

/// The keys of a block that follow one another.
struct Chain<'a> {
    name: &'a str,
    active: Option<&'a Key>,
    /// The next to sign.
    successor: Option<&'a Key>,
    /// What else is not retired.
    others: Vec<&'a Key>,
}

impl<'a> Chain<'a> {
    fn keys(&self) -> impl Iterator<Item = &'a Key> {
        let first = self.active.into_iter().chain(self.successor);
        first.chain(self.others.iter().copied())
    }
}

/// Shows issuers, those that need somebody first.
pub fn show(screen: &mut Screen, issuers: &[Issuer], now: u64) {
    let mut sorted: Vec<_> = issuers.iter().collect();
    sorted.sort_by_key(|issuer| is_well(issuer));
    for issuer in sorted.iter().take(MAX_ISSUERS) {
        let name = format!("issuer {}", screen.shorten(&issuer.name, NAME));
        screen.heading(&name, &format!("  {}", issuer.url));
        show_keys(screen, issuer, now);
    }
    let others: Vec<_> = sorted.iter().skip(MAX_ISSUERS).collect();
    if !others.is_empty() {
        let well = others.iter().filter(|issuer| is_well(issuer)).count();
        let more = count(others.len(), "more issuer", "more issuers");
        screen.gap();
        let told = format!("{more}, {well} of them well: agent key list shows all");
        screen.paragraph(Style::Plain, "", "  ", &told);
    }
}

/// Whether each of its chains has a key that signs and is not overdue.
fn is_well(issuer: &Issuer) -> bool {
    let chains = chains(issuer);
    let signs = |chain: &Chain<'_>| chain.active.is_some_and(|key| overdue(key).is_none());
    !chains.is_empty() && chains.iter().all(signs)
}

fn overdue(key: &Key) -> Option<u64> {
    let over = key.age.saturating_sub(key.lifespan);
    (key.state == "active" && over > GRACE).then_some(over)
}

/// The chains in the order of their first keys. What is retired belongs to none.
fn chains(issuer: &Issuer) -> Vec<Chain<'_>> {
    let keys = || issuer.keys.iter().filter(|key| key.state != "retired");
    let mut names: Vec<&str> = Vec::new();
    for key in keys() {
        if !names.contains(&key.name.as_str()) {
            names.push(&key.name);
        }
    }
    let chain = |name| {
        let in_state = |state| keys().find(move |key| key.name == name && key.state == state);
        let (active, successor) = (in_state("active"), in_state("published"));
        let other =
            |key: &&Key| key.name == name && Some(*key) != active && Some(*key) != successor;
        Chain {
            name,
            active,
            successor,
            others: keys().filter(other).collect(),
        }
    };
    names.into_iter().map(chain).collect()
}

fn show_keys(screen: &mut Screen, issuer: &Issuer, now: u64) {
    let chains = chains(issuer);
    let shown = chains.iter().take(MAX_CHAINS);
    let rows: Vec<Vec<_>> = shown
        .clone()
        .map(|chain| chain.keys().map(row).collect())
        .collect();
    let words = rows.iter().flatten().map(|row| width(&row.words));
    let room = screen
        .columns()
        .saturating_sub(words.max().unwrap_or(0) + KEY_COLUMNS);
    let names = shown.clone().map(|chain| width(chain.name));
    let wide = names.max().unwrap_or(0).min(room).min(NAME);
    for (chain, rows) in shown.zip(&rows) {
        for row in rows {
            show_row(screen, row, wide);
        }
        let (style, next) = what_comes(chain, now);
        let next = match chains.as_slice() {
            [_] => next,
            _ => format!("{}: {next}", screen.shorten(chain.name, NAME)),
        };
        screen.paragraph(style, "  ", "    ", &next);
    }
    let more = chains.len().saturating_sub(MAX_CHAINS);
    if more > 0 {
        let more = count(more, "more key block", "more key blocks");
        let told = format!("{more}: agent key list shows all");
        screen.paragraph(Style::Plain, "  ", "    ", &told);
    }
    if chains.is_empty() {
        screen.paragraph(
            Style::Doubtful,
            "  ",
            "    ",
            "no key yet: one is being made",
        );
    }
    let retired: Vec<_> = issuer
        .keys
        .iter()
        .filter(|key| key.state == "retired")
        .collect();
    if let Some(longest) = retired.iter().filter_map(|key| key.next_in).max() {
        let keys = count(retired.len(), "retired key stays", "retired keys stay");
        let longest = for_words(longest);
        let told = format!("{keys} published for old tokens, {longest} more");
        screen.paragraph(Style::Dim, "  ", "    ", &told);
    }
}

/// A key as a row of the screen.
struct Row<'a> {
    key: &'a Key,
    style: Style,
    /// Of its lifespan, in seconds.
    left: u64,
    words: String,
}

fn row(key: &Key) -> Row<'_> {
    let since = for_words(key.age);
    let left = key.lifespan.saturating_sub(key.age);
    let (style, left, words) = match (key.state.as_str(), overdue(key)) {
        ("active", Some(_)) => (Style::Bad, 0, format!("signs since {since}")),
        ("active", None) => (Style::Good, left, format!("signs since {since}")),
        ("published", _) => (
            Style::Plain,
            key.lifespan,
            "published, signs next".to_owned(),
        ),
        ("prepared", _) => (
            Style::Plain,
            key.lifespan,
            "made, not published yet".to_owned(),
        ),
        (state, _) => (Style::Bad, 0, format!("{state} since {since}")),
    };
    Row {
        key,
        style,
        left,
        words,
    }
}

fn show_row(screen: &mut Screen, row: &Row<'_>, wide: usize) {
    let Row { key, words, .. } = row;
    let name = screen.shorten(&key.name, wide);
    let kid: String = key.kid.chars().take(KID).collect();
    let algorithm = &key.algorithm;
    let first = format!("  {name:<wide$}  {algorithm:<5}  {kid:<KID$}  ");
    screen.line(&[
        (Style::Plain, &first),
        (row.style, &screen.bar(row.left, key.lifespan)),
        (Style::Plain, &format!("  {words}")),
    ]);
}

/// What happens next to a chain, and when.
fn what_comes(chain: &Chain<'_>, now: u64) -> (Style, String) {
    let Some(active) = chain.active else {
        return (
            Style::Bad,
            "no key signs: one is being made or published".to_owned(),
        );
    };
    let successor = chain
        .successor
        .map(|key| key.kid.chars().take(KID).collect::<String>());
    let late = overdue(active).map(|over| format!("rotation is late by {}", for_words(over)));
    let next = match (active.next_in, successor) {
        (Some(time), Some(kid)) => {
            let when = in_words(time);
            let at = minute(now.saturating_add(time));
            format!("next rotation {when}: {kid} signs from {at}")
        }
        (Some(time), None) => {
            format!(
                "next rotation {} at the soonest: its key is still to be made",
                in_words(time)
            )
        }
        (None, _) => "no rotation: its block is gone".to_owned(),
    };
    match late {
        Some(late) => (Style::Bad, format!("{late}; {next}")),
        None => (Style::Plain, next),
    }
}
