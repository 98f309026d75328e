//! What the documentation says of options is what the table says.

use std::fmt::Write;

use super::*;
use crate::config::page::{assert_made, plain};
use crate::duration::show_duration;

#[test]
fn every_option_is_documented_in_a_sentence_and_named_once() {
    let mut specs = vec![&ROOT];
    while let Some(spec) = specs.pop() {
        specs.extend(spec.blocks);
        assert!(spec.doc.ends_with('.'), "{}", spec.name);
        for (i, option) in spec.options.iter().enumerate() {
            assert!(option.doc.ends_with('.'), "{} {}", spec.name, option.name);
            let again = spec.options[i + 1..].iter().any(|o| o.name == option.name);
            assert!(!again, "{} {}", spec.name, option.name);
        }
    }
}

fn takes(kind: Kind) -> String {
    match kind {
        Kind::Text => "string".to_owned(),
        Kind::Path => "absolute path".to_owned(),
        Kind::Bool => "`true` or `false`".to_owned(),
        Kind::Int(from, i64::MAX) => format!("number, {from} or more"),
        Kind::Int(from, to) => format!("number, {from} to {to}"),
        Kind::Duration(from, to) => {
            format!("duration, {} to {}", show_duration(from), show_duration(to))
        }
        Kind::Share(from, to) => format!("number, {from} to {to}"),
        Kind::Mode => "file mode".to_owned(),
        Kind::Choice(choices) => {
            let quoted: Vec<_> = choices.iter().map(|it| format!("`\"{it}\"`")).collect();
            quoted.join(", ")
        }
        Kind::Texts => "list of strings".to_owned(),
        Kind::TextOrTexts => "string, or list of strings".to_owned(),
        Kind::Object => "object".to_owned(),
    }
}

fn stands(presence: Presence) -> String {
    match presence {
        Required => "is needed".to_owned(),
        Default(value) => format!("`{value}`"),
        Derived(words) => plain(words),
    }
}

fn write_block(spec: &BlockSpec, within: &str, page: &mut String) {
    let label = match (spec.label, spec.only) {
        ("", _) => String::new(),
        (label, "") => format!(" \"{}\"", label.to_uppercase()),
        (_, only) => format!(" \"{only}\""),
    };
    match spec.name {
        "" => writeln!(page, "### The file itself\n").unwrap(),
        name => writeln!(page, "### `{name}{label}`\n\n{}{within}\n", plain(spec.doc)).unwrap(),
    }
    writeln!(
        page,
        "| option | takes | without it | is |\n|---|---|---|---|"
    )
    .unwrap();
    for option in spec.options {
        let (takes, stands) = (takes(option.kind), stands(option.presence));
        let doc = plain(option.doc);
        writeln!(page, "| `{}` | {takes} | {stands} | {doc} |", option.name).unwrap();
    }
    writeln!(page).unwrap();
    for inner in spec.blocks {
        let within = match spec.name {
            "" => String::new(),
            name => format!(" It stands in `{name}`."),
        };
        write_block(inner, &within, page);
    }
}

#[test]
fn documentation_of_options_is_made_from_the_table_that_the_parser_reads() {
    let mut page = String::new();
    write_block(&ROOT, "", &mut page);
    assert_made("configuration.md", &page);
}

#[test]
fn documentation_of_what_spire_alone_has_is_made_from_what_the_parser_answers() {
    let mut page = String::from("| in SPIRE's file | here |\n|---|---|\n");
    for (block, name, why) in NOT_NEEDED {
        writeln!(page, "| `{name}` in `{block}` | a warning: {why} |").unwrap();
    }
    for (name, instead) in RENAMED {
        writeln!(page, "| `{name}` | an error: {} |", plain(instead)).unwrap();
    }
    assert_made("from-spire.md", &page);
}
