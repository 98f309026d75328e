//! What is wrong with an entry, all of it at once.

use std::fmt;

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The field, by its name in the configuration.
    pub field: &'static str,
    /// Which item of it, where it is a list.
    pub item: Option<usize>,
    /// Whether there can be no such entry, or it will likely not do what was meant.
    pub fatal: bool,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.help.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.help)
    }
}

/// Collects faults.
#[derive(Default)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    /// What a field has wrong with it, for which there can be no entry.
    pub fn add(
        &mut self,
        field: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.item(field, None, message, help);
    }

    /// The same of an item of a list.
    pub fn item(
        &mut self,
        field: &'static str,
        item: Option<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.0.push(Fault {
            field,
            item,
            fatal: true,
            message: message.into(),
            help: help.into(),
        });
    }

    /// What will likely not do what was meant.
    pub fn warn(
        &mut self,
        field: &'static str,
        item: Option<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.item(field, item, message, help);
        if let Some(fault) = self.0.last_mut() {
            fault.fatal = false;
        }
    }
}
