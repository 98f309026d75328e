//! Selectors: what is known of a caller, and what a registration entry asks for.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// Why a text is no selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SelectorError {
    /// There is no colon, or nothing before or behind it.
    #[error("a selector is written type:value, such as unix:uid:1001")]
    Form,
    /// A control character stands in it.
    #[error("a selector may not hold control characters")]
    Control,
}

/// One fact about a process, `type:value`; the value may hold further colons. Compared byte by
/// byte.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector(Arc<str>);

impl Selector {
    /// A selector of an attestor, from parts that hold no control character; `None` otherwise,
    /// so that a hostile name never becomes a fact.
    pub fn from_parts(kind: &str, value: impl fmt::Display) -> Option<Self> {
        format!("{kind}:{value}").parse().ok()
    }

    /// The whole of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the first colon: the attestor.
    pub fn kind(&self) -> &str {
        self.0.split_once(':').map_or("", |(kind, _)| kind)
    }

    /// Type and name together, such as `unix:uid`: what stands before the second colon, or all of
    /// it where there is no second one.
    pub fn name(&self) -> &str {
        let second = self.0.match_indices(':').nth(1);
        let end = second.map_or(self.0.len(), |(at, _)| at);
        self.0.get(..end).unwrap_or_default()
    }

    /// What it is about: its name, and of a container's labels and variables which one. Two of one
    /// subject differ in their value.
    pub fn subject(&self) -> &str {
        let text = self.as_str();
        let end = match self.name() {
            "docker:label" => text.match_indices(':').nth(2).map(|(at, _)| at),
            "docker:env" => text.find('='),
            name => Some(name.len()),
        };
        text.get(..end.unwrap_or(text.len())).unwrap_or_default()
    }

    /// Whether the connection of a caller tells it. Anything else is looked for where some entry
    /// could match by it.
    pub fn is_told(&self) -> bool {
        self.cost() == Cost::Told
    }

    /// What it takes to find it.
    pub fn cost(&self) -> Cost {
        Cost::of(self.name())
    }

    /// What stands behind the first colon.
    pub fn value(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, value)| value)
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some((kind, value)) if !kind.is_empty() && !value.is_empty() => {}
            _ => return Err(SelectorError::Form),
        }
        if text.chars().any(char::is_control) {
            return Err(SelectorError::Control);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What it takes to find a selector of a caller, the cheapest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cost {
    /// The connection tells it: user and groups.
    Told,
    /// The kernel has it at hand: where the caller is.
    Cheap,
    /// Somebody has to be asked, or a file system.
    Dear,
}

impl Cost {
    /// That of selectors with this name, such as `unix:path`.
    pub fn of(name: &str) -> Self {
        match name {
            "unix:uid"
            | "unix:gid"
            | "unix:user"
            | "unix:group"
            | "unix:supplementary_gid"
            | "unix:supplementary_group" => Self::Told,
            "ns:host" | "container:id" | "systemd:id" => Self::Cheap,
            _ => Self::Dear,
        }
    }
}

/// Selectors, sorted and without repetition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SelectorSet(Vec<Selector>);

impl SelectorSet {
    /// Whether every selector of `other` is also here. True for an empty `other`.
    pub fn is_superset_of(&self, other: &Self) -> bool {
        let mut have = self.0.iter();
        other
            .0
            .iter()
            .all(|wanted| have.by_ref().find(|had| *had >= wanted) == Some(wanted))
    }

    /// Whether this one is here.
    pub fn contains(&self, selector: &Selector) -> bool {
        self.0.binary_search(selector).is_ok()
    }

    /// These and more.
    #[must_use]
    pub fn with(mut self, more: impl IntoIterator<Item = Selector>) -> Self {
        self.0.extend(more);
        self.0.into_iter().collect()
    }

    /// The selectors in order.
    pub fn iter(&self) -> impl Iterator<Item = &Selector> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Selector> for SelectorSet {
    fn from_iter<I: IntoIterator<Item = Selector>>(selectors: I) -> Self {
        let mut sorted: Vec<_> = selectors.into_iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        Self(sorted)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set(texts: &[&str]) -> SelectorSet {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn only_the_first_colon_splits_type_from_value() {
        let selector: Selector = "unix:path:/usr/bin/a:b".parse().unwrap();
        assert_eq!(selector.kind(), "unix");
        assert_eq!(selector.value(), "path:/usr/bin/a:b");
        assert_eq!(selector.name(), "unix:path");
        assert_eq!("ns:host".parse::<Selector>().unwrap().name(), "ns:host");
        for (text, subject) in [
            ("unix:path:/a:b", "unix:path"),
            ("docker:label:team:a:b=c", "docker:label:team"),
            ("docker:env:A=b:c=d", "docker:env:A"),
            ("docker:image_id:a:b", "docker:image_id"),
            ("ns:host", "ns:host"),
        ] {
            assert_eq!(text.parse::<Selector>().unwrap().subject(), subject);
        }
    }

    #[test]
    fn half_selectors_and_control_characters_are_refused() {
        for text in ["", "unix", ":uid", "unix:", ":"] {
            assert_eq!(text.parse::<Selector>(), Err(SelectorError::Form), "{text}");
        }
        for text in ["unix:path:/a\nb", "unix:path:/a\0", "unix:user:\u{85}"] {
            assert_eq!(text.parse::<Selector>(), Err(SelectorError::Control));
        }
        assert_eq!(Selector::from_parts("unix", "path:/tmp/\x1b[2J"), None);
    }

    #[test]
    fn an_entry_selector_that_the_caller_lacks_prevents_the_match() {
        let caller = set(&["unix:uid:1", "unix:gid:1", "unix:path:/a"]);
        assert!(caller.is_superset_of(&set(&["unix:uid:1"])));
        assert!(caller.is_superset_of(&set(&["unix:path:/a", "unix:gid:1"])));
        assert!(!caller.is_superset_of(&set(&["unix:uid:1", "unix:uid:2"])));
        assert!(!caller.is_superset_of(&set(&["unix:path:/ab"])));
    }

    proptest! {
        #[test]
        fn the_subset_test_agrees_with_that_of_the_standard_library(
            have in prop::collection::vec(0u8..12, 0..12),
            want in prop::collection::vec(0u8..12, 0..6),
        ) {
            let make = |numbers: &[u8]| -> SelectorSet {
                numbers.iter().map(|n| format!("t:{n}").parse().unwrap()).collect()
            };
            let have_std: BTreeSet<_> = have.iter().collect();
            let want_std: BTreeSet<_> = want.iter().collect();
            prop_assert_eq!(
                make(&have).is_superset_of(&make(&want)),
                have_std.is_superset(&want_std)
            );
        }
    }
}
