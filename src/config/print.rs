//! The configuration as it is understood: every block, with every option and what stands for it.

use std::fmt::Write;

use super::Config;
use super::hcl::Block;
use super::options::{BlockSpec, Presence};
use super::value::Setting;
use crate::duration::show_duration;

/// Prints a configuration that is known to be valid; what is printed means the same.
pub fn effective(root: &Block, config: &Config) -> String {
    // Included blocks are printed with the others.
    let mut out = String::new();
    for block in &root.blocks {
        print_block(&mut out, block, config, 0);
        out.push('\n');
    }
    let is_unix = |block: &Block| block.label == "unix";
    if !root.children("attestor").any(is_unix) {
        let unix = Block::absent(&super::options::UNIX, "unix", &root.place);
        print_block(&mut out, &unix, config, 0);
    }
    if root.children("limits").next().is_none() {
        let limits = Block::absent(&super::options::LIMITS, "", &root.place);
        print_block(&mut out, &limits, config, 0);
    }
    out
}

fn print_block(out: &mut String, block: &Block, config: &Config, depth: usize) {
    let indent = "  ".repeat(depth);
    let BlockSpec {
        name,
        label,
        options,
        ..
    } = block.spec;
    let label = if label.is_empty() {
        String::new()
    } else {
        format!(" {}", quoted(&block.label))
    };
    let _ = writeln!(out, "{indent}{name}{label} {{");
    for option in *options {
        let name = option.name;
        let written = block.setting(name).map(|setting| show(&setting));
        let line = match (
            written.or_else(|| derived(block, name, config)),
            option.presence,
        ) {
            (Some(value), _) => format!("{name} = {value}"),
            (None, Presence::Derived(from)) => format!("# {name}: {from}"),
            (None, _) => continue,
        };
        let _ = writeln!(out, "{indent}  {line}");
    }
    for inner in &block.blocks {
        print_block(out, inner, config, depth + 1);
    }
    let _ = writeln!(out, "{indent}}}");
}

/// What stands for an option that depends on others.
fn derived(block: &Block, option: &str, config: &Config) -> Option<String> {
    let issuer = || {
        config
            .issuers
            .iter()
            .find(|issuer| *issuer.name == *block.label)
    };
    let entry = || {
        config
            .entries
            .iter()
            .find(|entry| *entry.id == *block.label)
    };
    Some(match (block.spec.name, option) {
        ("agent", "socket_path") => quoted(&config.socket_path.to_string_lossy()),
        ("agent", "admin_socket_path") => quoted(&config.admin_socket_path.to_string_lossy()),
        ("issuer", "webroot") => quoted(&issuer()?.webroot.directory.to_string_lossy()),
        ("issuer", "jwks_uri") => quoted(&issuer()?.webroot.jwks_uri),
        ("entry", "jwt_svid_ttl") => quoted(&show_duration(entry()?.ttl)),
        ("entry", "issuer") => quoted(&entry()?.key.issuer),
        ("entry", "key") => quoted(&entry()?.key.key),
        _ => return None,
    })
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
