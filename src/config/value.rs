//! Values of options: what was written, read as what its option takes.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use hcl_edit::Span;
use hcl_edit::expr::{Expression, ObjectKey, UnaryOperator};
use serde_json::{Map, Number, Value};

use super::diagnostic::Place;
use super::options::Kind;
use crate::duration::{parse_duration, show_duration};

/// The value of an option, of the kind that the option takes.
#[derive(Debug, Clone, PartialEq)]
pub enum Setting {
    /// A string, or one of a choice.
    Text(String),
    /// An absolute path.
    Path(PathBuf),
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A duration.
    Duration(Duration),
    /// A share.
    Share(f64),
    /// Permission bits.
    Mode(u32),
    /// Strings, each with where it stands; where one may be written without brackets, whether
    /// it was.
    Texts {
        /// The strings in order.
        items: Vec<(String, Place)>,
        /// Whether it was written as a string.
        bare: bool,
    },
    /// An object.
    Object(Map<String, Value>),
}

/// What is wrong with a value, where it stands, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Byte offset in the file.
    pub offset: usize,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: String,
}

type Read<T> = Result<T, Problem>;

/// Reads a value as what an option takes. `place` turns an offset into a place.
///
/// # Errors
///
/// What is wrong.
pub fn read(kind: Kind, value: &Expression, place: &dyn Fn(usize) -> Place) -> Read<Setting> {
    let offset = offset(value);
    let problem = |message: String, help: &str| Problem {
        offset,
        message,
        help: help.to_owned(),
    };
    let wrong = |wanted: &str, help: &str| {
        Err(problem(
            format!("{} where {wanted} belongs", describe(value)),
            help,
        ))
    };
    let json = to_json(value)?;
    match kind {
        Kind::Text => match json {
            Value::String(text) => Ok(Setting::Text(text)),
            _ => wrong("a string", "put it in double quotes"),
        },
        Kind::Path => match json {
            Value::String(text) => match check_path(&text) {
                Ok(path) => Ok(Setting::Path(path)),
                Err(why) => Err(problem(why, "")),
            },
            _ => wrong("a path", "put it in double quotes"),
        },
        Kind::Bool => match json {
            Value::Bool(flag) => Ok(Setting::Bool(flag)),
            _ => wrong("true or false", "write true or false without quotes"),
        },
        Kind::Int(min, max) => match json.as_i64() {
            Some(number) if (min..=max).contains(&number) => Ok(Setting::Int(number)),
            Some(number) => Err(problem(format!("{number} is not from {min} to {max}"), "")),
            None => wrong("a whole number", "write it without quotes"),
        },
        Kind::Duration(min, max) => match &json {
            Value::String(text) => match parse_duration(text) {
                Some(duration) if (min..=max).contains(&duration) => {
                    Ok(Setting::Duration(duration))
                }
                Some(_) => {
                    let (min, max) = (show_duration(min), show_duration(max));
                    Err(problem(format!("{text} is not from {min} to {max}"), ""))
                }
                None => Err(problem(
                    format!("{text:?} is not a duration"),
                    "write it as 90s, 5m, 1h30m or 24h",
                )),
            },
            _ => wrong(
                "a duration",
                "write it as \"90s\", \"5m\", \"1h30m\" or \"24h\"",
            ),
        },
        Kind::Share(min, max) => match json.as_f64() {
            Some(share) if (min..=max).contains(&share) => Ok(Setting::Share(share)),
            Some(share) => Err(problem(format!("{share} is not from {min} to {max}"), "")),
            None => wrong("a number", "write it without quotes, such as 0.45"),
        },
        Kind::Mode => match &json {
            Value::String(text) => match parse_mode(text) {
                Some(mode) => Ok(Setting::Mode(mode)),
                None => Err(problem(
                    format!("{text:?} is not a file mode"),
                    "write permission bits in octal, such as \"0440\"",
                )),
            },
            _ => wrong("a file mode", "write it in double quotes, such as \"0440\""),
        },
        Kind::Choice(choices) => match &json {
            Value::String(text) if choices.contains(&text.as_str()) => {
                Ok(Setting::Text(text.clone()))
            }
            Value::String(text) => {
                let known = choices.join(", ");
                let help = closest(text, choices).map(|name| format!("did you mean {name}?"));
                Err(problem(
                    format!("{text:?} is none of {known}"),
                    &help.unwrap_or_default(),
                ))
            }
            _ => wrong("a string", "put it in double quotes"),
        },
        Kind::Texts => texts(value, place),
        Kind::TextOrTexts => match json {
            Value::String(text) => Ok(Setting::Texts {
                items: vec![(text, place(offset))],
                bare: true,
            }),
            _ => texts(value, place),
        },
        Kind::Object => match json {
            Value::Object(members) => Ok(Setting::Object(members)),
            _ => wrong("an object", "write it as { name = \"value\" }"),
        },
    }
}

fn texts(value: &Expression, place: &dyn Fn(usize) -> Place) -> Read<Setting> {
    let Some(array) = value.as_array() else {
        return Err(Problem {
            offset: offset(value),
            message: format!("{} where a list of strings belongs", describe(value)),
            help: "put it in brackets, such as [\"one\", \"two\"]".to_owned(),
        });
    };
    let mut items = Vec::with_capacity(array.len());
    for item in array {
        match to_json(item)? {
            Value::String(text) => items.push((text, place(offset(item)))),
            _ => {
                return Err(Problem {
                    offset: offset(item),
                    message: format!("{} in a list of strings", describe(item)),
                    help: "put it in double quotes".to_owned(),
                });
            }
        }
    }
    Ok(Setting::Texts { items, bare: false })
}

/// A value without anything that would have to be computed.
fn to_json(value: &Expression) -> Read<Value> {
    Ok(match value {
        Expression::Null(_) => Value::Null,
        Expression::Bool(flag) => Value::Bool(*flag.value()),
        Expression::Number(number) => number_to_json(number.value(), false),
        Expression::String(text) => Value::String(text.value().clone()),
        Expression::Array(array) => Value::Array(array.iter().map(to_json).collect::<Read<_>>()?),
        Expression::Object(object) => {
            let mut members = Map::new();
            for (key, member) in object.iter() {
                let name = match key {
                    ObjectKey::Ident(name) => name.to_string(),
                    ObjectKey::Expression(Expression::String(name)) => name.value().clone(),
                    ObjectKey::Expression(other) => return Err(computed(other)),
                };
                if members
                    .insert(name.clone(), to_json(member.expr())?)
                    .is_some()
                {
                    return Err(Problem {
                        offset: offset(member.expr()),
                        message: format!("{name} is given twice"),
                        help: String::new(),
                    });
                }
            }
            Value::Object(members)
        }
        Expression::UnaryOp(op) if *op.operator.value() == UnaryOperator::Neg => match &op.expr {
            Expression::Number(number) => number_to_json(number.value(), true),
            _ => return Err(computed(value)),
        },
        _ => return Err(computed(value)),
    })
}

fn number_to_json(number: &hcl::Number, negative: bool) -> Value {
    let signed = |n: i64| if negative { n.checked_neg() } else { Some(n) };
    match number.as_i64().and_then(signed) {
        Some(whole) => whole.into(),
        None => {
            let float = number.as_f64().map(|n| if negative { -n } else { n });
            float
                .and_then(Number::from_f64)
                .map_or(Value::Null, Value::Number)
        }
    }
}

fn computed(value: &Expression) -> Problem {
    let help = match value {
        Expression::StringTemplate(_) | Expression::HeredocTemplate(_) => {
            "nothing is substituted here; write $${ where ${ itself is meant"
        }
        Expression::Variable(_) | Expression::Traversal(_) => "put text in double quotes",
        _ => "write the value itself",
    };
    Problem {
        offset: offset(value),
        message: format!("{} is not evaluated in this file", describe(value)),
        help: help.to_owned(),
    }
}

fn describe(value: &Expression) -> &'static str {
    match value {
        Expression::Null(_) => "null",
        Expression::Bool(_) => "a truth value",
        Expression::Number(_) => "a number",
        Expression::String(_) => "a string",
        Expression::Array(_) => "a list",
        Expression::Object(_) => "an object",
        Expression::StringTemplate(_) => "a string with ${...}",
        Expression::HeredocTemplate(_) => "a heredoc",
        Expression::Variable(_) | Expression::Traversal(_) => "a bare word",
        Expression::FuncCall(_) => "a function call",
        _ => "an expression",
    }
}

fn offset(value: &Expression) -> usize {
    value.span().map_or(0, |span| span.start)
}

fn check_path(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    let plain = |c: Component<'_>| matches!(c, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() {
        return Err(format!("{text:?} is not an absolute path"));
    }
    if !path.components().all(plain) || text.contains("/./") || text.contains("//") {
        return Err(format!("{text:?} has '.', '..' or empty components"));
    }
    if text.chars().any(char::is_control) {
        return Err(format!("{text:?} has control characters"));
    }
    Ok(PathBuf::from(text.trim_end_matches('/')))
}

fn parse_mode(text: &str) -> Option<u32> {
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mode = u32::from_str_radix(text, 8).ok()?;
    (octal && mode <= 0o777).then_some(mode)
}

/// A hint at the known word that is closest to a mistyped one, or at all of them.
pub fn nearest(word: &str, known: &[&str]) -> String {
    match (closest(word, known), known) {
        (Some(name), _) => format!("did you mean {name}?"),
        (None, []) => String::new(),
        (None, _) => format!("there are {}", known.join(", ")),
    }
}

/// The known word that was likely meant: a few letters away, or the same start.
pub fn closest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |name: &&str| strsim::damerau_levenshtein(word, name);
    let near = known
        .iter()
        .min_by_key(|name| distance(name))
        .filter(|name| {
            let same_start = word.starts_with(**name) || (word.len() > 2 && name.starts_with(word));
            same_start || distance(name) <= 1 + name.len() / 4
        });
    near.copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_paths_are_read_strictly() {
        assert_eq!(parse_mode("0440"), Some(0o440));
        assert_eq!(parse_mode("600"), Some(0o600));
        for text in ["", "44", "0o440", "0888", "4755", "00440", "-440"] {
            assert_eq!(parse_mode(text), None, "{text}");
        }
        assert_eq!(check_path("/run/x/"), Ok(PathBuf::from("/run/x")));
        for text in ["run/x", "/run/../x", "/run//x", "/run/./x", "/run/\n"] {
            assert!(check_path(text).is_err(), "{text}");
        }
    }
}
