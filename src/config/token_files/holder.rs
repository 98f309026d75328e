//! Whose token a file holds, and which key signs it.

use std::sync::Arc;

use super::super::context::Context;
use super::super::hcl::Block;
use crate::entry::Entry;
use crate::mirror::{Chosen, Holder, Parameter, Template};
use crate::registry::rules::{IssuerRules, Rules};
use crate::svid::Sub;

const SHARED: &str =
    "whoever can read the file has that identity: write shared = true if that is meant";

/// Whose token it is: exactly one of three options says so, or the parameter `:sub`.
pub fn holder(
    block: &Block,
    parameter: Option<&Parameter>,
    rules: &Rules,
    context: &mut Context<'_>,
) -> Option<Holder> {
    let written: Vec<_> = ["entry", "spiffe_id", "sub"]
        .into_iter()
        .filter_map(|option| Some((option, block.text(option)?)))
        .collect();
    if let ([], Some(parameter)) = (written.as_slice(), parameter)
        && parameter.name == ":sub"
    {
        return Some(each(":sub", false));
    }
    let [(option, text)] = written.as_slice() else {
        let message = "it needs one of entry, spiffe_id and sub";
        let help = "entry has the identity of that entry; the others name one of the file's own";
        context.report.error(&block.place, message, help);
        return None;
    };
    if *option == "entry" {
        return Some(Holder::Entry(text.as_str().into()));
    }
    if let Some(parameter) = parameter
        && !parameter.occurs_in(text)
        && !block.flag("shared")
    {
        let name = &parameter.name;
        let message = format!("every directory gets the same {option}");
        let help = format!("name {name} in it, or write shared = true if that is meant");
        context.report.error(block.place_of(option), message, help);
    }
    let named = parameter.filter(|parameter| parameter.occurs_in(text));
    match *option {
        "spiffe_id" => spiffe_id(block, text, named, rules, context),
        _ => sub(block, text, named, context),
    }
}

fn each(text: &str, spiffe_id: bool) -> Holder {
    let text = text.into();
    Holder::Each(Template { text, spiffe_id })
}

fn spiffe_id(
    block: &Block,
    text: &str,
    named: Option<&Parameter>,
    rules: &Rules,
    context: &mut Context<'_>,
) -> Option<Holder> {
    let place = block.place_of("spiffe_id");
    // What one directory makes of it is checked; each name is checked when it appears.
    let example = named.map_or_else(|| text.to_owned(), |parameter| parameter.fill(text, "x"));
    let (id, faults) = rules.check_spiffe_id(&example);
    let fatal = faults.iter().any(|fault| fault.fatal);
    for fault in faults {
        if fault.fatal {
            context.report.error(place, fault.message, fault.help);
        } else {
            context.report.warning(place, fault.message, fault.help);
        }
    }
    let id = id.filter(|_| !fatal)?;
    let could_be = |entry: &Entry| match (named, entry.grants.fixed()) {
        (Some(parameter), Some(identity)) => {
            parameter.could_make(text, identity.spiffe_id.as_str())
        }
        _ => entry.grants.may_be(&id),
    };
    let mut entries = context.entries.iter();
    if let Some(entry) = entries.find(|entry| could_be(entry))
        && !block.flag("shared")
    {
        let message = format!("{text} is the identity of entry {:?} too", entry.id);
        context.report.error(place, message, SHARED);
    }
    Some(match named {
        Some(_) => each(text, true),
        None => Holder::Own(Sub::from(&id)),
    })
}

fn sub(
    block: &Block,
    text: &str,
    named: Option<&Parameter>,
    context: &mut Context<'_>,
) -> Option<Holder> {
    let place = block.place_of("sub");
    match text.parse::<Sub>() {
        Ok(sub) => {
            if text.len() > 255 {
                let message = format!("the sub has {} bytes", text.len());
                let help = "AWS and Snowflake take 255 at most, GCP 127";
                context.report.warning(place, message, help);
            }
            Some(match named {
                Some(_) => each(text, false),
                None => Holder::Own(sub),
            })
        }
        Err(why) => {
            let help = "name the holder of the token, as the relying party knows it";
            context.report.error(place, format!("sub: {why}"), help);
            None
        }
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
        (None, Holder::Own(_) | Holder::Each(_)) => {
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
        Holder::Own(_) | Holder::Each(_) => None,
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
        let other = before.find(|other| {
            let of_other = other.text("spiffe_id");
            of_other.is_some_and(|of_other| may_meet(block, &id, other, &of_other))
        });
        if let Some(other) = other
            && !(block.flag("shared") && other.flag("shared"))
        {
            let place = block.place_of("spiffe_id");
            let message = format!("{id} is the identity of {:?} too", other.label);
            context.report.error(place, message, SHARED);
        }
    }
}

/// Whether two blocks may have one identity: up to their first parameters, and from their last ones
/// on, both must say the same as far as both say anything.
fn may_meet(one: &Block, of_one: &str, other: &Block, of_other: &str) -> bool {
    let ends = |block: &Block, text: &str| -> (String, String) {
        let name = Parameter::split(&block.label).map(|(_, name, _)| name.to_owned());
        let whole = || (text.to_owned(), text.to_owned());
        name.map_or_else(whole, |name| {
            let (start, end) = (text.find(&name), text.rfind(&name));
            start.zip(end).map_or_else(whole, |(start, end)| {
                let tail = text.get(end + name.len()..).unwrap_or_default();
                (
                    text.get(..start).unwrap_or_default().to_owned(),
                    tail.to_owned(),
                )
            })
        })
    };
    let ((start, end), (other_start, other_end)) = (ends(one, of_one), ends(other, of_other));
    if of_one == of_other {
        return true;
    }
    let is_whole = |start: &str, text: &str| start == text;
    if is_whole(&start, of_one) && is_whole(&other_start, of_other) {
        return false;
    }
    let starts = start.starts_with(&other_start) || other_start.starts_with(&start);
    let ends = end.ends_with(&other_end) || other_end.ends_with(&end);
    starts && ends
}
