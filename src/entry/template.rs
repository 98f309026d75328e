//! Texts that a caller's own selectors complete: `spiffe://example.org/user/{unix:user}`.
//!
//! What stands in braces is the beginning of a selector; its value is the rest of the one selector of
//! the caller that begins so. A value is taken as it is or not at all: nothing is ever escaped.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::selector::SelectorSet;
use crate::spiffe_id::SpiffeId;

/// The beginning of a selector, without the colon that ends it: `unix:user`, `docker:label:app`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Field(Arc<str>);

impl Field {
    /// As it stands between braces.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the selectors that it takes, such as `docker:label`.
    pub fn name(&self) -> &str {
        let second = self.0.match_indices(':').nth(1);
        let end = second.map_or(self.0.len(), |(at, _)| at);
        self.0.get(..end).unwrap_or_default()
    }

    /// The value of a caller with these selectors.
    fn value<'a>(&self, found: &'a SelectorSet) -> Result<&'a str, NoValue> {
        let begins = |text: &'a str| text.strip_prefix(&*self.0)?.strip_prefix(':');
        let mut values = found.iter().filter_map(|s| begins(s.as_str()));
        match (values.next(), values.next()) {
            (None, _) => Err(NoValue::None(self.clone())),
            (Some(only), None) => Ok(only),
            (Some(_), Some(_)) => Err(NoValue::Several(self.clone())),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.0)
    }
}

/// Why a text cannot be completed for a caller, who then has no identity of that entry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoValue {
    /// He has no such selector.
    #[error("it has no {name}, which {field} stands for", name = .0.as_str(), field = .0)]
    None(Field),
    /// He has more than one.
    #[error("it has several {name}, and {field} stands for one", name = .0.as_str(), field = .0)]
    Several(Field),
    /// What he has may not stand there.
    #[error("its {name} is {value:?}, and {field} takes only {takes}", name = .field.as_str())]
    Unfit {
        /// Of which field.
        field: Field,
        /// What he has.
        value: String,
        /// What may stand there.
        takes: &'static str,
    },
    /// The whole is no SPIFFE ID.
    #[error("{text:?} is no SPIFFE ID: {why}")]
    NoId {
        /// The whole.
        text: String,
        /// What is wrong with it.
        why: crate::spiffe_id::SpiffeIdError,
    },
}

/// Why a text is no template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// A brace has no partner.
    #[error("a brace stands alone: write {{{{ or }}}} for a brace itself")]
    Brace,
    /// What stands between braces is no beginning of a selector.
    #[error("between braces stands the type and the name of a selector, such as {{unix:user}}")]
    Field,
    /// A field stands before the path.
    #[error("a field may stand only in the path")]
    NotInPath,
    /// Two fields stand in one segment, so that two callers could come to the same text.
    #[error("a segment of the path may hold one field: put a slash between them")]
    TwoInSegment,
}

/// What a value may consist of.
#[derive(Debug, Clone, Copy)]
struct Alphabet {
    further: &'static str,
    told: &'static str,
}

impl Alphabet {
    /// That of a path segment of a SPIFFE ID.
    const SEGMENT: Self = Self {
        further: ".-_",
        told: "letters, digits, '.', '-' and '_'",
    };
    /// That of a whole SPIFFE ID, and of names of units: what no language of policies gives a
    /// meaning to, as it does to '*', '$' or a quote.
    const CLAIM: Self = Self {
        further: ".-_/:@",
        told: "letters, digits, '.', '-', '_', '/', ':' and '@'",
    };

    fn allows(self, value: &str) -> bool {
        let allowed = |c: char| c.is_ascii_alphanumeric() || self.further.contains(c);
        !value.is_empty() && value.chars().all(allowed)
    }
}

/// A text with fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(Field),
}

impl Template {
    /// Reads a text in which `{{` and `}}` stand for braces.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            literal.push_str(before);
            if let Some(after) = from.strip_prefix("{{").or(from.strip_prefix("}}")) {
                literal.push_str(from.get(..1).unwrap_or_default());
                rest = after;
                continue;
            }
            let inner = from.strip_prefix('{').ok_or(TemplateError::Brace)?;
            let (field, after) = inner.split_once('}').ok_or(TemplateError::Brace)?;
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Field(parse_field(field)?));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Ok(Self(pieces))
    }

    /// Its fields in order.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Field(field) => Some(field),
            Piece::Text(_) => None,
        })
    }

    /// The text with an opening brace in place of each field.
    fn shape(&self) -> String {
        let texts = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => text.as_str(),
            Piece::Field(_) => "{",
        });
        texts.collect()
    }

    fn render(&self, found: &SelectorSet, alphabet: Alphabet) -> Result<String, NoValue> {
        let texts = self.0.iter().map(|piece| match piece {
            Piece::Text(text) => Ok(text.as_str()),
            Piece::Field(field) => match field.value(found)? {
                value if alphabet.allows(value) => Ok(value),
                value => Err(NoValue::Unfit {
                    field: field.clone(),
                    value: value.to_owned(),
                    takes: alphabet.told,
                }),
            },
        });
        texts.collect()
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => {
                    f.write_str(&text.replace('{', "{{").replace('}', "}}"))?;
                }
                Piece::Field(field) => write!(f, "{field}")?,
            }
        }
        Ok(())
    }
}

fn parse_field(text: &str) -> Result<Field, TemplateError> {
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
    let whole = |part: &str| !part.is_empty() && part.bytes().all(named);
    if text.contains(':') && text.split(':').all(whole) {
        Ok(Field(text.into()))
    } else {
        Err(TemplateError::Field)
    }
}

/// A SPIFFE ID whose path has fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdTemplate(Template);

impl IdTemplate {
    /// Reads one, and what it would be for some caller, by which the rest of it can be judged.
    ///
    /// # Errors
    ///
    /// Where its fields may not stand.
    pub fn parse(text: &str) -> Result<(Self, String), TemplateError> {
        let template = Template::parse(text)?;
        for (number, part) in template.shape().split('/').enumerate() {
            let fields = part.matches('{').count();
            // The scheme, nothing, and the trust domain.
            if fields > 0 && number < 3 {
                return Err(TemplateError::NotInPath);
            }
            if fields > 1 {
                return Err(TemplateError::TwoInSegment);
            }
        }
        let some = template.shape().replace('{', "x");
        Ok((Self(template), some))
    }

    /// Its fields in order.
    pub fn fields(&self) -> impl Iterator<Item = &Field> {
        self.0.fields()
    }

    /// What stands before, between and after its fields.
    pub fn texts(&self) -> Vec<String> {
        self.0.shape().split('{').map(str::to_owned).collect()
    }

    /// The ID of a caller.
    ///
    /// # Errors
    ///
    /// Why he has none.
    pub fn render(&self, found: &SelectorSet) -> Result<SpiffeId, NoValue> {
        let text = self.0.render(found, Alphabet::SEGMENT)?;
        text.parse().map_err(|why| NoValue::NoId { text, why })
    }

    /// Whether some caller could come to this ID.
    pub fn may_be(&self, id: &SpiffeId) -> bool {
        let shape = self.0.shape();
        let (mut ours, mut theirs) = (shape.split('/'), id.as_str().split('/'));
        loop {
            let (one, other) = match (ours.next(), theirs.next()) {
                (None, None) => return true,
                (Some(one), Some(other)) => (one, other),
                _ => return false,
            };
            let fits = match one.split_once('{') {
                None => one == other,
                Some((start, end)) => {
                    let value = other.strip_prefix(start);
                    let value = value.and_then(|value| value.strip_suffix(end));
                    value.is_some_and(|value| !value.is_empty())
                }
            };
            if !fits {
                return false;
            }
        }
    }
}

impl fmt::Display for IdTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A claim in whose texts there are fields.
#[derive(Debug, Clone, PartialEq)]
pub enum ClaimTemplate {
    /// A text.
    Text(Template),
    /// A list.
    List(Vec<Self>),
    /// An object.
    Object(BTreeMap<String, Self>),
    /// Anything without texts.
    Other(Value),
}

impl ClaimTemplate {
    /// Reads a claim.
    ///
    /// # Errors
    ///
    /// What is wrong with one of its texts.
    pub fn parse(value: &Value) -> Result<Self, TemplateError> {
        Ok(match value {
            Value::String(text) => Self::Text(Template::parse(text)?),
            Value::Array(items) => {
                let items = items.iter().map(Self::parse);
                Self::List(items.collect::<Result<_, _>>()?)
            }
            Value::Object(members) => Self::Object(Self::parse_all(members)?),
            other => Self::Other(other.clone()),
        })
    }

    /// Reads claims by name.
    ///
    /// # Errors
    ///
    /// What is wrong with the first of them that is wrong.
    pub fn parse_all(claims: &Map<String, Value>) -> Result<BTreeMap<String, Self>, TemplateError> {
        let parse = |(name, value): (&String, &Value)| Ok((name.clone(), Self::parse(value)?));
        claims.iter().map(parse).collect()
    }

    /// Its fields in order.
    pub fn fields(&self) -> Vec<&Field> {
        match self {
            Self::Text(template) => template.fields().collect(),
            Self::List(items) => items.iter().flat_map(Self::fields).collect(),
            Self::Object(members) => members.values().flat_map(Self::fields).collect(),
            Self::Other(_) => Vec::new(),
        }
    }

    /// The claim of a caller.
    ///
    /// # Errors
    ///
    /// Why he has none.
    pub fn render(&self, found: &SelectorSet) -> Result<Value, NoValue> {
        Ok(match self {
            Self::Text(template) => template.render(found, Alphabet::CLAIM)?.into(),
            Self::List(items) => {
                let items = items.iter().map(|item| item.render(found));
                items.collect::<Result<Vec<_>, _>>()?.into()
            }
            Self::Object(members) => Self::render_all(members, found)?.into(),
            Self::Other(value) => value.clone(),
        })
    }

    /// The claims of a caller by name.
    ///
    /// # Errors
    ///
    /// Why he lacks one.
    pub fn render_all(
        claims: &BTreeMap<String, Self>,
        found: &SelectorSet,
    ) -> Result<Map<String, Value>, NoValue> {
        let claims = claims.iter();
        let rendered = claims.map(|(name, claim)| Ok((name.clone(), claim.render(found)?)));
        rendered.collect()
    }
}

#[cfg(test)]
mod tests;
