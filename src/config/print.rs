//! The configuration as it is understood: every block that was written, with every option.

use std::fmt::Write;
use std::path::Path;

use super::diagnostic::Diagnostics;
use super::hcl::{self, Block};
use super::options::{Opt, Presence};
use super::value::{Setting, show_duration};

/// Prints the configuration of a file that is known to be valid.
///
/// # Errors
///
/// The file cannot be read any more.
pub fn effective(path: &Path) -> std::io::Result<String> {
    let text = super::read(path).map_err(std::io::Error::other)?;
    let root = hcl::parse(path, &text, &mut Diagnostics::default());
    let mut out = String::new();
    for block in root.iter().flat_map(|root| &root.blocks) {
        print_block(&mut out, block, 0);
        out.push('\n');
    }
    Ok(out)
}

fn print_block(out: &mut String, block: &Block, depth: usize) {
    let indent = "  ".repeat(depth);
    let label = if block.spec.label.is_empty() {
        String::new()
    } else {
        format!(" {}", quoted(&block.label))
    };
    let _ = writeln!(out, "{indent}{}{label} {{", block.spec.name);
    for option in block.spec.options {
        let _ = writeln!(out, "{indent}  {}", line(block, option));
    }
    for inner in &block.blocks {
        print_block(out, inner, depth + 1);
    }
    let _ = writeln!(out, "{indent}}}");
}

fn line(block: &Block, option: &Opt) -> String {
    let name = option.name;
    match (block.setting(name), option.presence) {
        (Some(setting), _) => format!("{name} = {}", show(&setting)),
        (None, Presence::Derived(from)) => format!("# {name}: {from}"),
        (None, _) => format!("# {name}: none"),
    }
}

fn show(setting: &Setting) -> String {
    match setting {
        Setting::Text(text) => quoted(text),
        Setting::Path(path) => quoted(&path.to_string_lossy()),
        Setting::Bool(flag) => flag.to_string(),
        Setting::Int(number) => number.to_string(),
        Setting::Share(share) => share.to_string(),
        Setting::Duration(duration) => quoted(&show_duration(*duration)),
        Setting::Mode(mode) => quoted(&format!("{mode:04o}")),
        Setting::Texts { items, bare: true } => items
            .first()
            .map_or_else(String::new, |(text, _)| quoted(text)),
        Setting::Texts { items, .. } => {
            let texts: Vec<_> = items.iter().map(|(text, _)| quoted(text)).collect();
            format!("[{}]", texts.join(", "))
        }
        Setting::Object(members) if members.is_empty() => "{}".to_owned(),
        Setting::Object(members) => formatted(members),
    }
}

fn quoted(text: &str) -> String {
    formatted(text)
}

fn formatted(value: &(impl serde::Serialize + ?Sized)) -> String {
    ::hcl::to_expression(value)
        .and_then(|expression| ::hcl::format::to_string(&expression))
        .unwrap_or_default()
}
