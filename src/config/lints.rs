//! Entries that are sound by themselves, and likely not what was meant beside each other or on this
//! machine.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::context::Context;
use super::diagnostic::Place;
use super::hcl::Block;
use crate::entry::{Entry, EntrySet, Grants};

/// Warns of entries.
pub fn lint_entries(root: &Block, context: &mut Context<'_>) {
    let entries: Vec<_> = context.entries.iter().cloned().map(Arc::new).collect();
    let blocks: HashMap<&str, &Block> = root
        .children("entry")
        .map(|block| (block.label.as_str(), block))
        .collect();
    let all: EntrySet = entries.iter().cloned().collect();
    for (number, entry) in entries.iter().enumerate() {
        let Some(block) = blocks.get(&*entry.id) else {
            continue;
        };
        lint_links(block, context);
        if let Grants::Template(template) = &entry.grants
            && template.spiffe_id.fields().next().is_some()
            && let Some((other, id)) = taken(entry, &entries)
        {
            let message = format!("a caller can come to {id}, the identity of entry {other:?}");
            let help = "put the template below a path of its own, such as /user/";
            let place = block.place_of("spiffe_id");
            context.report.warning(place, message, help);
        }
        if let Some(other) = with_same_hint(number, entry, &entries, &all) {
            let message = format!(
                "who matches this entry matches {:?} too, and both have this hint",
                other.id
            );
            let help = "give them different hints: in a reply the later one goes without";
            context
                .report
                .warning(block.place_of("hint"), message, help);
        }
    }
}

/// The first entry whose identity is one that a template can come to.
fn taken(template: &Entry, entries: &[Arc<Entry>]) -> Option<(Arc<str>, String)> {
    entries.iter().find_map(|other| {
        let id = &other.grants.fixed()?.spiffe_id;
        let taken = template.grants.may_be(id);
        taken.then(|| (Arc::clone(&other.id), id.to_string()))
    })
}

/// Another entry with the same hint and another identity that matches whoever this one matches; of two
/// with the same selectors the earlier one.
fn with_same_hint(
    number: usize,
    entry: &Arc<Entry>,
    entries: &[Arc<Entry>],
    all: &EntrySet,
) -> Option<Arc<Entry>> {
    if entry.hint.is_empty() {
        return None;
    }
    let clashes = |other: &&Arc<Entry>| {
        let mutual = other.selectors == entry.selectors;
        let before = || {
            entries
                .iter()
                .take(number)
                .any(|earlier| earlier.id == other.id)
        };
        other.id != entry.id
            && other.hint == entry.hint
            && other.grants != entry.grants
            && (!mutual || before())
    };
    let within = all.within(&entry.selectors);
    within.into_iter().find(clashes).cloned()
}

/// The path of a program is that of its file, to which no link leads.
fn lint_links(block: &Block, context: &mut Context<'_>) {
    let items: Vec<(String, Place)> = block
        .texts("selectors")
        .map(|(items, _)| items)
        .unwrap_or_default();
    for (text, place) in items {
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
            context.report.warning(&place, message, help);
        }
    }
}
