//! Path parameters: one token for each directory that appears, `/run/app/:name/token`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use regex_lite::Regex;
use serde_json::Value;
use thiserror::Error;

use crate::attest::names::{Account, Names, NoAccount};
use crate::durable::Trust;
use crate::entry::Claims;
use crate::spiffe_id::{SpiffeId, SpiffeIdError};
use crate::svid::{Sub, SubError};

/// The longest name that a file system takes, in bytes.
const MAX_NAME: usize = 255;

/// The one component of a path that stands for every directory at its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its name with the colon, as it is written wherever its value belongs.
    pub name: String,
    /// The directory in which directories appear.
    pub parent: PathBuf,
    /// Where the file lies below such a directory, and under which name.
    pub rest: PathBuf,
    /// Which names are taken.
    pub pattern: Pattern,
    /// Whose the directories must be.
    pub owner: DirectoryOwner,
    /// How many directories get a token.
    pub most: usize,
}

/// Which names of directories are taken: those that a regular expression fits from end to end.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

/// Whose directories get a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryOwner {
    /// Everybody's: whoever can make a directory chooses its name, and with it the token.
    Any,
    /// Those of this user.
    Only(Account),
}

/// A text in which the value of a parameter may stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The text, parameters and all.
    pub text: Arc<str>,
    /// Whether it must become a SPIFFE ID.
    pub spiffe_id: bool,
}

/// Why a name gives no token.
#[derive(Debug, Error)]
pub enum Unfit {
    /// It makes no SPIFFE ID.
    #[error("no SPIFFE ID can be made of it: {0}")]
    SpiffeId(#[from] SpiffeIdError),
    /// It makes no `sub`.
    #[error("no sub can be made of it: {0}")]
    Sub(#[from] SubError),
}

impl Pattern {
    /// Takes a regular expression.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, regex_lite::Error> {
        // By itself first: a parenthesis too many must not close ours.
        Regex::new(text)?;
        Regex::new(&format!("^(?:{text})$")).map(Self)
    }

    /// Whether a directory of this name is taken. Hidden ones and those with control characters
    /// never are, whatever the pattern says.
    pub fn fits(&self, name: &str) -> bool {
        let plain = !name.is_empty() && name.len() <= MAX_NAME && !name.starts_with('.');
        plain && !name.contains(|c: char| c == '/' || c.is_control()) && self.0.is_match(name)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl DirectoryOwner {
    /// Whom the directory with the directories may belong to. Whoever can rename in it can give a
    /// directory the name of another.
    ///
    /// # Errors
    ///
    /// The user is not known, or not yet.
    pub fn trust_in_parent(&self, names: &Names) -> Result<Trust, NoAccount> {
        Ok(match self {
            // In a sticky one, each can rename only what is his.
            Self::Any => Trust {
                sticky: true,
                also: None,
            },
            Self::Only(account) => Trust {
                sticky: false,
                also: Some(account.uid(names)?),
            },
        })
    }

    /// Whether a directory of this user gets a token.
    ///
    /// # Errors
    ///
    /// The user is not known, or not yet.
    pub fn is(&self, uid: u32, names: &Names) -> Result<bool, NoAccount> {
        match self {
            Self::Any => Ok(true),
            Self::Only(account) => Ok(account.uid(names)? == uid),
        }
    }
}

impl Parameter {
    /// Takes the path of a block apart, where it has a parameter: the parent, the parameter with its
    /// colon, the rest. `None` for a path without one.
    pub fn split(path: &str) -> Option<(&str, &str, &str)> {
        let start = path.find("/:")?;
        let (parent, tail) = (path.get(..start)?, path.get(start + 1..)?);
        let (name, rest) = tail.split_once('/').unwrap_or((tail, ""));
        Some((parent, name, rest))
    }

    /// Where the file of the directory with this name lies.
    pub fn path_of(&self, value: &str) -> PathBuf {
        self.parent.join(value).join(&self.rest)
    }

    /// Which directory below such a directory the file lies in; none where it lies in itself.
    pub fn below(&self) -> Option<&Path> {
        let below = self.rest.parent();
        below.filter(|below| !below.as_os_str().is_empty())
    }

    /// The `sub` for the directory with this name.
    ///
    /// # Errors
    ///
    /// The name makes none.
    pub fn sub(&self, template: &Template, value: &str) -> Result<Sub, Unfit> {
        let text = self.fill(&template.text, value);
        if template.spiffe_id {
            let id: SpiffeId = text.parse()?;
            Ok(Sub::from(&id))
        } else {
            Ok(text.parse()?)
        }
    }

    /// Claims with the value wherever one of their texts names the parameter.
    pub fn claims(&self, claims: &Claims, value: &str) -> Claims {
        if claims.as_map().values().any(|claim| self.is_in(claim)) {
            claims.map_texts(|text| self.fill(text, value))
        } else {
            claims.clone()
        }
    }

    fn is_in(&self, claim: &Value) -> bool {
        match claim {
            Value::String(text) => self.occurs_in(text),
            Value::Array(items) => items.iter().any(|item| self.is_in(item)),
            Value::Object(members) => members.values().any(|member| self.is_in(member)),
            _ => false,
        }
    }

    /// Whether a text names the parameter.
    pub fn occurs_in(&self, text: &str) -> bool {
        self.occurrence(text).is_some()
    }

    /// A text with `value` wherever it names the parameter.
    pub fn fill(&self, text: &str, value: &str) -> String {
        let mut filled = String::with_capacity(text.len() + value.len());
        let mut rest = text;
        while let Some((before, after)) = self.occurrence(rest) {
            filled.push_str(before);
            filled.push_str(value);
            rest = after;
        }
        filled.push_str(rest);
        filled
    }

    /// Whether a directory could make `result` of a text that names the parameter.
    pub fn could_make(&self, text: &str, result: &str) -> bool {
        let Some((before, _)) = self.occurrence(text) else {
            return text == result;
        };
        let rest = result.strip_prefix(before);
        rest.into_iter()
            .flat_map(|rest| (1..=rest.len()).filter_map(|end| rest.get(..end)))
            .any(|value| self.pattern.fits(value) && self.fill(text, value) == result)
    }

    /// What stands before the first occurrence of the parameter in a text and after it: `:name`
    /// is not in `:names`.
    fn occurrence<'a>(&self, text: &'a str) -> Option<(&'a str, &'a str)> {
        text.match_indices(&self.name).find_map(|(at, found)| {
            let (before, after) = (text.get(..at)?, text.get(at + found.len()..)?);
            let ends = !after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            ends.then_some((before, after))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parameter() -> Parameter {
        Parameter {
            name: ":name".to_owned(),
            parent: "/run/app".into(),
            rest: "sub/token".into(),
            pattern: Pattern::new("[a-z]+").unwrap(),
            owner: DirectoryOwner::Any,
            most: 1,
        }
    }

    #[test]
    fn a_pattern_fits_whole_names_and_never_hidden_ones_or_control_characters() {
        let pattern = Pattern::new("^[a-z]+$|b").unwrap();
        assert!(pattern.fits("abc") && pattern.fits("b"));
        assert!(!pattern.fits("1b") && !pattern.fits("b1") && !pattern.fits(""));
        let any = Pattern::new("(?s).*").unwrap();
        assert!(any.fits("Two words") && any.fits("a:b"));
        for name in [".hidden", "..x", "a\nb", "a\u{7f}", "a/b", &"x".repeat(256)] {
            assert!(!any.fits(name), "{name:?}");
        }
        assert!(Pattern::new("a)(b").is_err() && Pattern::new("[").is_err());
    }

    #[test]
    fn the_value_stands_where_the_parameter_is_named_and_nowhere_else() {
        let parameter = parameter();
        assert_eq!(parameter.fill(":name/x:name", "v"), "v/xv");
        assert_eq!(
            parameter.fill(":names :Name name", "v"),
            ":names :Name name"
        );
        let claims = json!({"a": ":name", "b": [":name-1", 2], "c": {"d": "x"}});
        let claims = Claims::new(claims.as_object().unwrap().clone()).unwrap();
        let filled = Value::from(parameter.claims(&claims, "v").as_map().clone());
        assert_eq!(filled, json!({"a": "v", "b": ["v-1", 2], "c": {"d": "x"}}));
        assert_eq!(parameter.path_of("v"), Path::new("/run/app/v/sub/token"));
        assert_eq!(parameter.below(), Some(Path::new("sub")));
    }

    #[test]
    fn a_path_is_split_at_its_parameter() {
        let split = Parameter::split;
        assert_eq!(split("/run/:a/b/token"), Some(("/run", ":a", "b/token")));
        assert_eq!(split("/:a/token"), Some(("", ":a", "token")));
        assert_eq!(split("/run/:a"), Some(("/run", ":a", "")));
        assert_eq!(split("/run/a:b/token"), None);
    }

    proptest! {
        #[test]
        fn no_name_makes_an_identity_outside_its_place(name in any::<String>()) {
            let (parameter, any) = (parameter(), Pattern::new("(?s).*").unwrap());
            let template = Template { text: "spiffe://td/app/:name/x".into(), spiffe_id: true };
            if any.fits(&name) && let Ok(sub) = parameter.sub(&template, &name) {
                let middle = sub.as_str().strip_prefix("spiffe://td/app/");
                let middle = middle.and_then(|rest| rest.strip_suffix("/x"));
                prop_assert_eq!(middle, Some(&*name));
                prop_assert!(!name.contains('/') && name != ".." && name != ".");
            }
        }
    }
}
