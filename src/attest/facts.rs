//! Which selectors there are: how each is written, which fact it wants, and who gives it.

use super::{engine, manager, place, unix};
use crate::entry::Field;
use crate::peer::Wants;
use crate::selector::Selector;

/// What the attestors may do, as the configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestorSpecs {
    /// User, groups and program.
    pub unix: unix::UnixSpec,
    /// Units of systemd, where they are wanted.
    pub systemd: Option<manager::SystemdSpec>,
    /// Containers.
    pub engines: engine::EngineSpecs,
}

/// A name that has to be looked up before a selector can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// None.
    Plain,
    /// That of a user.
    User(String),
    /// That of a group.
    Group(String),
}

/// Facts that tell no user and no container from another.
pub const NARROWING: Wants = Wants::PROGRAM.or(Wants::HOST);

/// The fact that a selector is, beyond what the connection tells.
pub fn wants(selector: &Selector) -> Wants {
    wants_by_name(selector.name()).without(Wants::NAMES)
}

/// The fact that selectors with this name are, such as `unix:path`.
pub fn wants_by_name(name: &str) -> Wants {
    match name.split_once(':') {
        Some((unix::KIND, name)) => unix::wants(name),
        Some((place::NAMESPACE, _)) => Wants::HOST,
        Some((place::CONTAINER, _)) => Wants::CONTAINER,
        Some((engine::KIND, _)) => Wants::ENGINE,
        Some((manager::KIND, "id")) => Wants::UNIT,
        Some((manager::KIND, _)) => Wants::MANAGER,
        _ => Wants::NONE,
    }
}

/// Checks that a selector is one that an attestor could give.
///
/// # Errors
///
/// What is wrong with it, and how it is written.
pub fn check(selector: &Selector) -> Result<Wanted, String> {
    match selector.kind() {
        unix::KIND => unix::check(selector.value()),
        place::NAMESPACE if selector.value() == "host" => Ok(Wanted::Plain),
        place::NAMESPACE => Err("there is ns:host alone".to_owned()),
        place::CONTAINER => {
            let id = selector.value().strip_prefix("id:");
            let whole = id.is_some_and(is_digest);
            let help = "it is written container:id:, then the 64 hexadecimal digits of the id";
            whole.then_some(Wanted::Plain).ok_or(help.to_owned())
        }
        engine::KIND => match engine::check(selector.value()) {
            Ok(()) => Ok(Wanted::Plain),
            Err(why) => Err(why.to_owned()),
        },
        manager::KIND => match manager::check(selector.value()) {
            Ok(()) => Ok(Wanted::Plain),
            Err(why) => Err(why.to_owned()),
        },
        kind => Err(format!(
            "no attestor gives {kind:?} selectors; there are unix, systemd, docker, container and ns, such as unix:uid:1001"
        )),
    }
}

/// Checks what a field of a template stands for: something of which a process has one at most.
///
/// # Errors
///
/// What is wrong with it, and what there is.
pub fn check_field(field: &Field) -> Result<(), String> {
    let (kind, name) = field.as_str().split_once(':').unwrap_or_default();
    let checked = match kind {
        unix::KIND => unix::check_field(name),
        place::CONTAINER if name == "id" => Ok(()),
        place::CONTAINER => Err("there is container:id"),
        place::NAMESPACE => Err("it has no value"),
        engine::KIND => engine::check_field(name),
        manager::KIND => manager::check_field(name),
        _ => Err("there are unix, systemd, docker and container, such as {unix:user}"),
    };
    checked.map_err(|why| format!("nothing can stand for {field}: {why}"))
}

/// Whether a text is 64 hexadecimal digits in lower case.
pub fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl AttestorSpecs {
    /// The facts that are found at all.
    pub fn gives(&self) -> Wants {
        let mut gives = Wants::NAMES.or(Wants::HOST).or(Wants::CONTAINER);
        if self.unix.discover_path {
            gives = gives.or(Wants::PATH);
            if self.unix.hash {
                gives = gives.or(Wants::SHA256);
            }
        }
        if self.systemd.is_some() {
            gives = gives.or(Wants::UNIT).or(Wants::MANAGER);
        }
        if self.engines.is_some() {
            gives = gives.or(Wants::ENGINE);
        }
        gives
    }

    /// Why facts are never found, and what would change that.
    pub fn lack(&self, facts: Wants) -> Option<(&'static str, &'static str)> {
        let lacking = facts.without(self.gives());
        if lacking.is_empty() {
            None
        } else if lacking.meets(Wants::UNIT.or(Wants::MANAGER)) {
            Some((
                "units of systemd are not looked for",
                "write attestor \"systemd\" {}",
            ))
        } else if lacking == Wants::ENGINE {
            Some((
                "no container engine is asked",
                "write attestor \"docker\" {} or attestor \"podman\" {}",
            ))
        } else if lacking == Wants::SHA256 && self.unix.discover_path {
            Some((
                "programs are not hashed",
                "remove workload_size_limit = -1 from attestor \"unix\"",
            ))
        } else {
            Some((
                "unix:path and unix:sha256 are not discovered",
                "write attestor \"unix\" { discover_workload_path = true }",
            ))
        }
    }
}
