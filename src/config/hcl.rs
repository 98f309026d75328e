//! From text to blocks whose options are known, of the right kind, and have their place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hcl_edit::Span;
use hcl_edit::structure::{Attribute, Block as HclBlock, Body, Structure};
use serde_json::{Map, Value};

use super::diagnostic::{Diagnostics, Place};
use super::options::{BlockSpec, NOT_NEEDED, Opt, Presence, RENAMED, ROOT};
use super::syntax;
use super::value::{Setting, nearest, read};

/// A block with its options.
#[derive(Debug)]
pub struct Block {
    /// Which block it is.
    pub spec: &'static BlockSpec,
    /// Where it stands.
    pub place: Place,
    /// Its label; empty where it has none.
    pub label: String,
    /// Where the label stands.
    pub label_place: Place,
    given: BTreeMap<&'static str, (Setting, Place)>,
    /// The blocks in it, in order.
    pub blocks: Vec<Block>,
    /// Kinds of blocks that are meant to be there, and are so wrong that they were left out.
    broken: Vec<&'static str>,
}

/// Parses a file. A syntax error is reported alone; everything else all at once.
pub fn parse(file: &Path, text: &str, report: &mut Diagnostics) -> Option<Block> {
    let source = Source::new(file, text);
    match hcl_edit::parser::parse_body(text) {
        Ok(body) => Some(source.body(&ROOT, &body, 0, report)),
        Err(error) => {
            let place = Place {
                file: file.into(),
                line: error.location().line(),
                column: error.location().column(),
            };
            let help = syntax::help(text, error.line(), error.message());
            let message = format!("syntax: {}", error.message().trim());
            report.error(&place, message, help);
            None
        }
    }
}

struct Source<'a> {
    file: Arc<Path>,
    text: &'a str,
    /// Offset at which each line starts.
    lines: Vec<usize>,
}

impl<'a> Source<'a> {
    fn new(file: &Path, text: &'a str) -> Self {
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            file: file.into(),
            text,
            lines: std::iter::once(0).chain(breaks).collect(),
        }
    }

    fn place(&self, offset: usize) -> Place {
        let line = self.lines.partition_point(|start| *start <= offset).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..offset).unwrap_or_default();
        Place {
            file: Arc::clone(&self.file),
            line,
            column: before.chars().count() + 1,
        }
    }

    fn body(
        &self,
        spec: &'static BlockSpec,
        body: &Body,
        at: usize,
        report: &mut Diagnostics,
    ) -> Block {
        let mut block = Block::absent(spec, "", &self.place(at));
        for structure in body {
            match structure {
                Structure::Attribute(attribute) => self.attribute(&mut block, attribute, report),
                Structure::Block(inner) => match self.block(spec, inner, report) {
                    Ok(inner) => block.blocks.push(inner),
                    Err(broken) => block.broken.extend(broken),
                },
            }
        }
        for option in spec.options {
            if option.presence == Presence::Required && !body.has_attribute(option.name) {
                let message = format!("{} is missing", option.name);
                report.error(&block.place, message, option.doc);
            }
        }
        // Blocks of the file itself are compared when those of included files are there too.
        if !spec.name.is_empty() {
            check_repetition(&block.blocks, report);
        }
        block
    }

    fn attribute(&self, block: &mut Block, attribute: &Attribute, report: &mut Diagnostics) {
        let name = attribute.key.as_str();
        let place = self.place(attribute.key.span().map_or(0, |span| span.start));
        let Some(option) = block.spec.options.iter().find(|option| option.name == name) else {
            if let Some(inner) = block.spec.blocks.iter().find(|inner| inner.name == name) {
                block.broken.push(inner.name);
                let help = format!("write {name} {{ ... }} without =");
                report.error(&place, format!("{name} is a block"), help);
            } else {
                unknown(block.spec, name, &place, report);
            }
            return;
        };
        match read(option.kind, &attribute.value, &|offset| self.place(offset)) {
            Ok(setting) => {
                let value = attribute.value.span().map_or(0, |span| span.start);
                block
                    .given
                    .insert(option.name, (setting, self.place(value)));
            }
            Err(problem) => {
                let message = format!("{name}: {}", problem.message);
                report.error(&self.place(problem.offset), message, problem.help);
            }
        }
    }

    fn block(
        &self,
        outer: &BlockSpec,
        inner: &HclBlock,
        report: &mut Diagnostics,
    ) -> Result<Block, Option<&'static str>> {
        let name = inner.ident.as_str();
        let at = inner.ident.span().map_or(0, |span| span.start);
        let spec = match kind_of(outer, inner) {
            Ok(Some(spec)) => spec,
            Ok(None) => {
                unknown(outer, name, &self.place(at), report);
                return Err(None);
            }
            Err(labels) => {
                let label = inner.labels.first().map_or("", |label| label.as_str());
                let span = inner.labels.first().and_then(Span::span);
                let place = self.place(span.map_or(at, |span| span.start));
                let message = format!("there is no {name} {label:?}");
                report.error(&place, message, nearest(label, &labels));
                return Err(None);
            }
        };
        let mut block = self.body(spec, &inner.body, at, report);
        let wanted = usize::from(!spec.label.is_empty());
        if inner.labels.len() != wanted {
            let message = match wanted {
                0 => format!("{name} takes no label"),
                _ => format!("{name} takes one label: its {}", spec.label),
            };
            let form = if wanted == 0 {
                format!("{name} {{ ... }}")
            } else {
                format!("{name} \"{}\" {{ ... }}", spec.label)
            };
            let help = format!("write {form}: {}", spec.doc);
            report.error(&block.place, message, help);
            return Err(Some(spec.name));
        }
        if let Some(label) = inner.labels.first() {
            block.label = label.as_str().to_owned();
            block.label_place = self.place(label.span().map_or(at, |span| span.start));
        }
        Ok(block)
    }
}

/// Which of the blocks of `outer` it is: the one of its name, and of its label where those differ in
/// their options.
fn kind_of(
    outer: &BlockSpec,
    inner: &HclBlock,
) -> Result<Option<&'static BlockSpec>, Vec<&'static str>> {
    let named = || {
        outer
            .blocks
            .iter()
            .filter(|spec| spec.name == inner.ident.as_str())
    };
    let label = inner
        .labels
        .first()
        .map(hcl_edit::structure::BlockLabel::as_str);
    let fits = |spec: &&&'static BlockSpec| {
        spec.only.is_empty() || label.is_none_or(|label| label == spec.only)
    };
    match (named().find(fits), named().next()) {
        (None, Some(_)) => Err(named().map(|spec| spec.only).collect()),
        (found, _) => Ok(found.copied()),
    }
}

fn unknown(spec: &BlockSpec, name: &str, place: &Place, report: &mut Diagnostics) {
    let of = if spec.name.is_empty() {
        "the file"
    } else {
        spec.name
    };
    if let Some((_, _, why)) = NOT_NEEDED
        .iter()
        .find(|(b, n, _)| *b == spec.name && *n == name)
    {
        report.warning(place, format!("{name} is not needed: {why}"), "remove it");
        return;
    }
    if let Some((_, instead)) = RENAMED.iter().find(|(renamed, _)| *renamed == name) {
        report.error(place, format!("there is no {name} in {of}"), *instead);
        return;
    }
    let options = spec.options.iter().map(|option| option.name);
    let mut known: Vec<_> = options
        .chain(spec.blocks.iter().map(|block| block.name))
        .collect();
    // There is a kind of attestor for each label.
    known.dedup();
    report.error(
        place,
        format!("there is no {name} in {of}"),
        nearest(name, &known),
    );
}

/// Two blocks of one kind need two labels; those without labels stand once.
pub fn check_repetition(blocks: &[Block], report: &mut Diagnostics) {
    let mut seen: BTreeMap<(&str, &str), &Place> = BTreeMap::new();
    for block in blocks {
        let key = (block.spec.name, block.label.as_str());
        if let Some(first) = seen.get(&key) {
            let (name, label) = key;
            let what = if label.is_empty() {
                name.to_owned()
            } else {
                format!("{name} \"{label}\"")
            };
            let message = format!("{what} is there twice");
            report.error(
                &block.label_place,
                message,
                format!("the first one is at {first}"),
            );
        } else {
            seen.insert(key, &block.label_place);
        }
    }
}

impl Block {
    /// A block that is not written, with defaults alone.
    pub fn absent(spec: &'static BlockSpec, label: &str, place: &Place) -> Self {
        Self {
            spec,
            place: place.clone(),
            label: label.to_owned(),
            label_place: place.clone(),
            given: BTreeMap::new(),
            blocks: Vec::new(),
            broken: Vec::new(),
        }
    }

    /// The blocks of one kind in it.
    pub fn children(&self, name: &str) -> impl Iterator<Item = &Block> {
        self.blocks
            .iter()
            .filter(move |block| block.spec.name == name)
    }

    /// Whether a block of this kind is there, or was meant to be.
    pub fn mentions(&self, name: &str) -> bool {
        self.children(name).next().is_some() || self.broken.contains(&name)
    }

    /// Where an option stands; the block itself where it is not written.
    pub fn place_of(&self, name: &str) -> &Place {
        self.given.get(name).map_or(&self.place, |(_, place)| place)
    }

    /// Whether the option is written (and was of the right kind).
    pub fn has(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// What is written, or the default of the table.
    pub fn setting(&self, name: &str) -> Option<Setting> {
        match self.given.get(name) {
            Some((setting, _)) => Some(setting.clone()),
            None => self
                .spec
                .options
                .iter()
                .find(|option| option.name == name)
                .and_then(default),
        }
    }

    /// A string option.
    pub fn text(&self, name: &str) -> Option<String> {
        match self.setting(name) {
            Some(Setting::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A path option.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        match self.setting(name) {
            Some(Setting::Path(path)) => Some(path),
            _ => None,
        }
    }

    /// A truth value; false where the table has no default.
    pub fn flag(&self, name: &str) -> bool {
        self.setting(name) == Some(Setting::Bool(true))
    }

    /// A whole number.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.setting(name) {
            Some(Setting::Int(number)) => Some(number),
            _ => None,
        }
    }

    /// A duration.
    pub fn duration(&self, name: &str) -> Option<Duration> {
        match self.setting(name) {
            Some(Setting::Duration(duration)) => Some(duration),
            _ => None,
        }
    }

    /// A share.
    pub fn share(&self, name: &str) -> Option<f64> {
        match self.setting(name) {
            Some(Setting::Share(share)) => Some(share),
            _ => None,
        }
    }

    /// Permission bits.
    pub fn mode(&self, name: &str) -> Option<u32> {
        match self.setting(name) {
            Some(Setting::Mode(mode)) => Some(mode),
            _ => None,
        }
    }

    /// A list of strings with their places, and whether it was written as a bare string.
    pub fn texts(&self, name: &str) -> Option<(Vec<(String, Place)>, bool)> {
        match self.setting(name) {
            Some(Setting::Texts { items, bare }) => Some((items, bare)),
            _ => None,
        }
    }

    /// An object; empty where there is none.
    pub fn object(&self, name: &str) -> Map<String, Value> {
        match self.setting(name) {
            Some(Setting::Object(members)) => members,
            _ => Map::new(),
        }
    }
}

/// The default of an option, read as if it had been written.
fn default(option: &Opt) -> Option<Setting> {
    let Presence::Default(text) = option.presence else {
        return None;
    };
    let value = hcl_edit::parser::parse_body(&format!("x = {text}\n")).ok()?;
    let value = &value.get_attribute("x")?.value;
    let nowhere = |_| Place {
        file: Path::new("").into(),
        line: 0,
        column: 0,
    };
    read(option.kind, value, &nowhere).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_of_the_table_is_a_value_its_option_takes() {
        let mut specs = vec![&ROOT];
        while let Some(spec) = specs.pop() {
            specs.extend(spec.blocks);
            for option in spec.options {
                let has = matches!(option.presence, Presence::Default(_));
                assert_eq!(
                    default(option).is_some(),
                    has,
                    "{} {}",
                    spec.name,
                    option.name
                );
            }
        }
    }
}
