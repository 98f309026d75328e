//! What the blocks of a configuration need to know of each other, and the checks they share.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::diagnostic::{Diagnostics, Place};
use super::hcl::Block;
use crate::attest::names::{Account, WantedNames};
use crate::entry::{Claims, Entry, ReservedClaim};
use crate::registry::is_id;
use crate::rotator::IssuerSpec;
use crate::spiffe_id::TrustDomain;

/// What blocks need to know of each other while they are read.
pub struct Context<'a> {
    pub trust_domain: TrustDomain,
    pub data_dir: PathBuf,
    pub runtime_dir: PathBuf,
    pub socket_path: PathBuf,
    pub max_ttl: Duration,
    pub leeway: Duration,
    pub issuers: Vec<IssuerSpec>,
    pub entries: Vec<Entry>,
    pub names: WantedNames,
    pub name_places: Vec<(String, Place)>,
    pub report: &'a mut Diagnostics,
}

impl Context<'_> {
    /// The directory that nobody else may look into.
    pub fn private_dir(&self) -> PathBuf {
        self.data_dir.join("private")
    }

    /// Remembers that the name of a user (or group) occurs.
    pub fn want(&mut self, kind: &str, name: &str, place: &Place) {
        let names = match kind {
            "user" => &mut self.names.users,
            _ => &mut self.names.groups,
        };
        if names.insert(name.to_owned()) {
            self.name_places
                .push((format!("{kind} {name}"), place.clone()));
        }
    }

    /// Refuses a path that lies in a directory of the agent, or holds it.
    pub fn refuse_private(&mut self, what: &str, path: &Path, place: &Place) {
        let private = self.private_dir();
        if path.starts_with(&private) || private.starts_with(path) {
            let message = format!(
                "{what} {} and {} hold each other",
                path.display(),
                private.display()
            );
            self.report.error(
                place,
                message,
                "private/ of data_dir holds the keys and nothing else",
            );
        }
        self.refuse_in_socket_dir(what, path, place);
    }

    /// Refuses a path in the directory of the workload socket, which containers mount whole.
    pub fn refuse_in_socket_dir(&mut self, what: &str, path: &Path, place: &Place) {
        let directory = self.socket_path.parent().unwrap_or(Path::new("/"));
        if path.starts_with(directory) {
            let message = format!(
                "{what} {} lies in the directory of the workload socket",
                path.display()
            );
            self.report.error(
                place,
                message,
                "containers mount that directory, so the socket is alone in it",
            );
        }
    }
}

/// A user or a group (`kind`) that an option names.
pub fn account(
    block: &Block,
    option: &str,
    kind: &str,
    context: &mut Context<'_>,
) -> Option<Account> {
    let text = block.text(option)?;
    if let Ok(id) = text.parse() {
        return Some(Account::Id(id));
    }
    if !is_id(&text.replace(['@', '+', '$', '\\', ' '], "_")) {
        let message = format!("{text:?} is no name of a {kind}");
        context
            .report
            .error(block.place_of(option), message, "write a name or a number");
        return None;
    }
    context.want(kind, &text, block.place_of(option));
    Some(Account::Name(text))
}

/// The `claims` of a block.
pub fn claims(block: &Block, context: &mut Context<'_>) -> Claims {
    Claims::new(block.object("claims")).unwrap_or_else(|error| {
        let place = block.place_of("claims");
        context
            .report
            .error(place, error.to_string(), ReservedClaim::HELP);
        Claims::default()
    })
}

/// Checks the label of a block that names something.
pub fn name(block: &Block, report: &mut Diagnostics) -> Arc<str> {
    if !is_id(&block.label) {
        let message = format!("{:?} is no name for {}", block.label, block.spec.name);
        let help = "use letters, digits, '.', '-' and '_', and no '.' at the start";
        report.error(&block.label_place, message, help);
    }
    block.label.as_str().into()
}
