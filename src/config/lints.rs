//! Entries that are sound by themselves, and likely not what was meant beside each other or on this
//! machine.

use std::collections::HashMap;

use super::context::Context;
use super::entries::{place_of, request};
use super::hcl::Block;
use crate::entry::{Audience, Claims, EntrySet};
use crate::issuer::AWS_AUDIENCE;
use crate::mirror::TokenFileSpec;
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

/// Warns of tokens for AWS that it would take for somebody else's.
pub fn lint_azp(root: &Block, files: &[TokenFileSpec], context: &mut Context<'_>) {
    let holds = |claims: &Claims| claims.as_map().contains_key("azp");
    let is_aws = |audience: &Audience| audience.as_str() == AWS_AUDIENCE;
    let of_entries = context.entries.iter().filter(|entry| {
        let allowed = entry.audiences.as_deref().unwrap_or_default();
        allowed.iter().any(is_aws) && holds(&entry.grants.written_claims())
    });
    let files = files.iter();
    let files = files.filter(|file| file.audience.as_slice().iter().any(is_aws));
    let of_files = files.filter(|file| {
        let leant = context
            .entries
            .iter()
            .filter(|entry| file.entry() == Some(&entry.id));
        let order = file.order(&leant.cloned().collect());
        let claims = order.map_or_else(|_| file.claims.clone(), |order| order.claims);
        holds(&claims)
    });
    let entries = of_entries.map(|entry| ("entry", entry.id.to_string()));
    let files = of_files.map(|file| ("token_file", file.path.display().to_string()));
    for (kind, label) in entries.chain(files).collect::<Vec<_>>() {
        let mut blocks = root.children(kind);
        if let Some(block) = blocks.find(|block| block.label == label) {
            let message = format!(
                "{kind} {label:?} has the claim azp, which AWS takes for the audience instead of {AWS_AUDIENCE}"
            );
            let help = "remove azp from the claims of the issuer, the entry and the token file";
            context
                .report
                .warning(block.place_of("claims"), message, help);
        }
    }
}
