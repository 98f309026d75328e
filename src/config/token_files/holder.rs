//! Whose token a file holds, and which key signs it.

use std::sync::Arc;

use super::super::context::Context;
use super::super::hcl::Block;
use crate::mirror::{Chosen, Holder};
use crate::registry::rules::{IssuerRules, Rules};
use crate::svid::Sub;

const SHARED: &str =
    "whoever can read the file has that identity: write shared = true if that is meant";

/// Whose token it is: exactly one of three options says so.
pub fn holder(block: &Block, rules: &Rules, context: &mut Context<'_>) -> Option<Holder> {
    let written: Vec<_> = ["entry", "spiffe_id", "sub"]
        .into_iter()
        .filter_map(|option| Some((option, block.text(option)?)))
        .collect();
    let [(option, text)] = written.as_slice() else {
        let message = "it needs one of entry, spiffe_id and sub";
        let help = "entry has the identity of that entry; the others name one of the file's own";
        context.report.error(&block.place, message, help);
        return None;
    };
    let place = block.place_of(option);
    match *option {
        "entry" => Some(Holder::Entry(text.as_str().into())),
        "spiffe_id" => {
            let (id, faults) = rules.check_spiffe_id(text);
            let fatal = faults.iter().any(|fault| fault.fatal);
            for fault in faults {
                if fault.fatal {
                    context.report.error(place, fault.message, fault.help);
                } else {
                    context.report.warning(place, fault.message, fault.help);
                }
            }
            let id = id.filter(|_| !fatal)?;
            let mut entries = context.entries.iter();
            if let Some(entry) = entries.find(|entry| entry.spiffe_id == id)
                && !block.flag("shared")
            {
                let message = format!("{id} is the identity of entry {:?} too", entry.id);
                context.report.error(place, message, SHARED);
            }
            Some(Holder::Own(Sub::from(&id)))
        }
        _ => match text.parse::<Sub>() {
            Ok(sub) => {
                if text.len() > 255 {
                    let message = format!("the sub has {} bytes", text.len());
                    let help = "AWS and Snowflake take 255 at most, GCP 127";
                    context.report.warning(place, message, help);
                }
                Some(Holder::Own(sub))
            }
            Err(why) => {
                let help = "name the holder of the token, as the relying party knows it";
                context.report.error(place, format!("sub: {why}"), help);
                None
            }
        },
    }
}

/// The issuer that a block has chosen, or must have: the inner `None` leaves it to the entry.
#[expect(clippy::option_option, reason = "nothing, or nothing chosen")]
pub fn issuer(
    block: &Block,
    holder: &Holder,
    rules: &Rules,
    context: &mut Context<'_>,
) -> Option<Option<Chosen>> {
    let chosen = |(name, issuer): (&Arc<str>, &IssuerRules)| Chosen {
        name: Arc::clone(name),
        claims: issuer.claims.clone(),
    };
    let known = || {
        let names: Vec<_> = rules.issuers.keys().map(|name| &**name).collect();
        format!("there are {}", names.join(", "))
    };
    match (block.text("issuer"), holder) {
        (Some(name), _) => {
            let found = rules.issuers.get_key_value(name.as_str());
            if found.is_none() {
                let message = format!("there is no issuer {name:?}");
                let place = block.place_of("issuer");
                context.report.error(place, message, known());
            }
            found.map(chosen).map(Some)
        }
        (None, Holder::Entry(_)) => Some(None),
        (None, Holder::Own(_)) => {
            let mut issuers = rules.issuers.iter();
            match (issuers.next(), issuers.next()) {
                (Some(only), None) => Some(Some(chosen(only))),
                (None, _) => None,
                _ => {
                    let message = "there are several issuers, and the block chooses none";
                    context.report.error(&block.place, message, known());
                    None
                }
            }
        }
    }
}

/// The key that a block has chosen, or must have: the inner `None` leaves it to the entry.
#[expect(clippy::option_option, reason = "nothing, or nothing chosen")]
pub fn key(
    block: &Block,
    holder: &Holder,
    issuer: Option<&Chosen>,
    rules: &Rules,
    context: &mut Context<'_>,
) -> Option<Option<Arc<str>>> {
    let of_entry = match holder {
        Holder::Entry(id) => {
            let mut entries = context.entries.iter();
            entries
                .find(|entry| entry.id == *id)
                .map(|entry| Arc::clone(&entry.key.issuer))
        }
        Holder::Own(_) => None,
    };
    let written = block.text("key");
    let same = issuer.is_none_or(|issuer| of_entry.as_ref() == Some(&issuer.name));
    if written.is_none() && same && matches!(holder, Holder::Entry(_)) {
        return Some(None);
    }
    let Some(name) = issuer.map(|issuer| Arc::clone(&issuer.name)).or(of_entry) else {
        // An entry that is made later: its issuer is not known yet.
        return Some(written.map(Into::into));
    };
    let keys = &rules.issuers.get(&name)?.keys;
    let known = || {
        let names: Vec<_> = keys.keys().map(|name| &**name).collect();
        format!("there are {}", names.join(", "))
    };
    match written {
        Some(wanted) => {
            let found = keys.get_key_value(wanted.as_str());
            if found.is_none() {
                let message = format!("issuer {name:?} has no key {wanted:?}");
                context
                    .report
                    .error(block.place_of("key"), message, known());
            }
            found.map(|(name, _)| Some(Arc::clone(name)))
        }
        None if keys.len() == 1 => keys.keys().next().cloned().map(Some),
        None => {
            let message = format!("issuer {name:?} has several keys, and the block chooses none");
            context.report.error(&block.place, message, known());
            None
        }
    }
}

/// Two blocks that name one identity of their own must both mean it.
pub fn refuse_unmeant_sharing(root: &Block, context: &mut Context<'_>) {
    let blocks: Vec<_> = root.children("token_file").collect();
    for (at, block) in blocks.iter().enumerate() {
        let Some(id) = block.text("spiffe_id") else {
            continue;
        };
        let mut before = blocks.iter().take(at);
        let other = before.find(|other| other.text("spiffe_id").as_ref() == Some(&id));
        if let Some(other) = other
            && !(block.flag("shared") && other.flag("shared"))
        {
            let place = block.place_of("spiffe_id");
            let message = format!("{id} is the identity of {:?} too", other.label);
            context.report.error(place, message, SHARED);
        }
    }
}
