//! Entries that are sound by themselves, and likely not what was meant beside each other or on this
//! machine.

use std::path::Path;
use std::sync::Arc;

use super::{Fault, Faults};
use crate::entry::{Entry, EntrySet};

/// Warns of an entry with these selectors, as they were written, beside `all`, of which it may be one.
/// It looks for the programs that they name, and may wait for the file systems of those.
pub fn beside(entry: &Entry, selectors: &[String], all: &EntrySet) -> Vec<Fault> {
    let mut faults = Faults::default();
    lint_links(selectors, &mut faults);
    if let Some(other) = all.coming_to(entry) {
        let (id, whose) = match (entry.grants.fixed(), other.grants.fixed()) {
            (None, Some(fixed)) => (&fixed.spiffe_id, format!("entry {:?}", other.id)),
            (Some(fixed), _) => (
                &fixed.spiffe_id,
                format!("this entry, by entry {:?}", other.id),
            ),
            (None, None) => return faults.0,
        };
        let message = format!("a caller can come to {id}, the identity of {whose}");
        let help = "put the template below a path of its own, such as /user/";
        faults.warn("spiffe_id", None, message, help);
    }
    if let Some(other) = with_same_hint(entry, all) {
        let message = format!(
            "who matches this entry matches {:?} too, and both have this hint",
            other.id
        );
        let help = "give them different hints: in a reply the later one goes without";
        faults.warn("hint", None, message, help);
    }
    faults.0
}

/// Another entry with the same hint and another identity that matches whoever this one matches; of two
/// with the same selectors the earlier one.
fn with_same_hint<'a>(entry: &'a Entry, all: &'a EntrySet) -> Option<&'a Arc<Entry>> {
    if entry.hint.is_empty() {
        return None;
    }
    let within = all.within(&entry.selectors);
    let own = within.iter().position(|other| other.id == entry.id);
    let clashes = |(at, other): (usize, &&Arc<Entry>)| {
        let is_before = own.is_none_or(|own| at < own);
        other.id != entry.id
            && other.hint == entry.hint
            && other.grants != entry.grants
            && (other.selectors != entry.selectors || is_before)
    };
    let first = within.iter().enumerate().position(clashes)?;
    within.get(first).copied()
}

/// The path of a program is that of its file, to which no link leads.
fn lint_links(selectors: &[String], faults: &mut Faults) {
    for (item, text) in selectors.iter().enumerate() {
        let Some(path) = text.strip_prefix("unix:path:").map(Path::new) else {
            continue;
        };
        let real = std::fs::canonicalize(path).ok();
        if let Some(real) = real.filter(|real| real != path) {
            let message = format!(
                "{} is reached over a link, so this never matches",
                path.display()
            );
            let help = format!("write unix:path:{}", real.display());
            faults.warn("selectors", Some(item), message, help);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::entry;

    fn warned(entry: &Entry, all: &EntrySet) -> Vec<String> {
        let selectors: Vec<_> = entry.selectors.iter().map(ToString::to_string).collect();
        let faults = beside(entry, &selectors, all);
        assert!(faults.iter().all(|fault| !fault.fatal));
        faults.into_iter().map(|fault| fault.message).collect()
    }

    #[test]
    fn of_two_entries_that_clash_one_is_warned_of() {
        let hinted = |id: &str, selectors: &[&str]| Entry {
            hint: "internal".to_owned(),
            ..entry(id, &format!("spiffe://td/{id}"), selectors)
        };
        let [wide, narrow, same] = [
            hinted("wide", &["unix:uid:1"]),
            hinted("narrow", &["unix:gid:1", "unix:uid:1"]),
            hinted("same", &["unix:uid:1"]),
        ];
        let all: EntrySet = [wide.clone(), narrow.clone(), same.clone()]
            .into_iter()
            .collect();
        let both = |other: &str| {
            vec![format!(
                "who matches this entry matches \"{other}\" too, and both have this hint"
            )]
        };
        assert_eq!(warned(&narrow, &all), both("wide"));
        assert_eq!(warned(&same, &all), both("wide"));
        assert!(warned(&wide, &all).is_empty());
        // One that is not there yet comes last.
        let few: EntrySet = [same].into_iter().collect();
        assert_eq!(warned(&wide, &few), both("same"));
        let other = Entry {
            hint: "external".to_owned(),
            ..narrow
        };
        assert!(warned(&other, &all).is_empty());
    }
}
