//! Entries that are sound by themselves, and likely not what was meant beside each other or on this
//! machine.

use std::collections::HashMap;

use super::context::Context;
use super::entries::{place_of, request};
use super::hcl::Block;
use crate::entry::EntrySet;
use crate::registry::rules::beside;

/// Warns of entries.
pub fn lint_entries(root: &Block, context: &mut Context<'_>) {
    let blocks: HashMap<&str, &Block> = root
        .children("entry")
        .map(|block| (block.label.as_str(), block))
        .collect();
    let all: EntrySet = context.entries.iter().cloned().collect();
    for entry in &context.entries {
        let Some(block) = blocks.get(&*entry.id) else {
            continue;
        };
        for fault in beside(entry, &request(block).selectors, &all) {
            let place = place_of(block, &fault);
            context.report.warning(&place, fault.message, fault.help);
        }
    }
}
