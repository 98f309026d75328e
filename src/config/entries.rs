//! `entry` blocks.

use std::collections::HashSet;
use std::sync::Arc;

use super::context::{Context, name};
use super::diagnostic::Place;
use super::hcl::Block;
use crate::registry::rules::{EntryRequest, Fault, Rules, names};

/// Reads all entries into the context.
pub fn build_entries(root: &Block, rules: &Rules, context: &mut Context<'_>) {
    for block in root.children("entry") {
        let id = name(block, context.report);
        let (entry, faults) = rules.check(id, &request(block));
        for fault in faults {
            // What is missing, or of the wrong kind, has been complained about.
            if matches!(fault.field, "spiffe_id" | "selectors") && !block.has(fault.field) {
                continue;
            }
            let place = place_of(block, &fault);
            if fault.fatal {
                context.report.error(&place, fault.message, fault.help);
            } else {
                context.report.warning(&place, fault.message, fault.help);
            }
        }
        for (text, place) in block
            .texts("selectors")
            .map(|(items, _)| items)
            .unwrap_or_default()
        {
            let names = names(text.parse().iter());
            names
                .users
                .iter()
                .for_each(|user| context.want("user", user, &place));
            names
                .groups
                .iter()
                .for_each(|group| context.want("group", group, &place));
        }
        context.entries.extend(entry);
    }
}

/// Refuses files with the token of an entry whose identity a caller completes: a file has no caller.
pub fn refuse_files_without_caller(root: &Block, context: &mut Context<'_>) {
    let templates = context
        .entries
        .iter()
        .filter(|entry| entry.grants.fixed().is_none());
    let templates: HashSet<Arc<str>> = templates.map(|entry| Arc::clone(&entry.id)).collect();
    for block in root.children("token_file") {
        let Some(id) = block
            .text("entry")
            .filter(|id| templates.contains(id.as_str()))
        else {
            continue;
        };
        let message = format!("the identity of entry {id:?} depends on who calls, and nobody does");
        let help = "write spiffe_id and claims of the file's own, without fields";
        context.report.error(block.place_of("entry"), message, help);
    }
}

/// The block as a request; what was of the wrong kind has been complained about.
pub fn request(block: &Block) -> EntryRequest {
    let texts = |name: &str| {
        let (items, _) = block.texts(name)?;
        Some(items.into_iter().map(|(text, _)| text).collect())
    };
    EntryRequest {
        spiffe_id: block.text("spiffe_id").unwrap_or_default(),
        selectors: texts("selectors").unwrap_or_default(),
        audiences: texts("audiences"),
        jwt_svid_ttl: block.duration("jwt_svid_ttl").map(|ttl| ttl.as_secs()),
        hint: block.text("hint").unwrap_or_default(),
        claims: block.object("claims"),
        issuer: block.text("issuer"),
        key: block.text("key"),
        jti: block.flag("jti"),
        allow_path_only: block.flag("allow_path_only"),
        expires_at: None,
    }
}

/// Where the field that a fault is about stands.
pub fn place_of(block: &Block, fault: &Fault) -> Place {
    let item = fault.item.and_then(|item| {
        let (items, _) = block.texts(fault.field)?;
        items.into_iter().nth(item)
    });
    item.map_or_else(|| block.place_of(fault.field).clone(), |(_, place)| place)
}
