//! The configuration: what an operator wrote, turned into what it means.
//!
//! `options` is the one table of all there is, `hcl` finds the blocks and checks them against it,
//! `value` reads single values, and `build` makes sense of them together. Nothing behind this
//! module sees what was written, only what it means.

mod build;
mod context;
pub mod diagnostic;
mod entries;
mod files;
mod hcl;
mod issuers;
mod lints;
mod losses;
pub mod options;
mod print;
mod syntax;
mod token_files;
mod value;

use std::path::{Path, PathBuf};
use std::time::Duration;

use self::diagnostic::{Diagnostics, Place};
use self::hcl::Block;
pub use self::losses::Means;
use crate::admin::facts_http::FactsAddress;
use crate::attest::names::WantedNames;
use crate::conn::PeerCheck;
use crate::entry::Entry;
use crate::limits::Limits;
use crate::mirror::TokenFileSpec;
use crate::registry::rules::Rules;
use crate::rotator::IssuerSpec;
use crate::spiffe_id::TrustDomain;
use crate::telemetry::LogSpec;
use crate::workload_api::Policy;

/// What the agent is to do.
#[derive(Debug, Clone)]
pub struct Config {
    /// The trust domain of all identities.
    pub trust_domain: TrustDomain,
    /// Where keys and state are kept.
    pub data_dir: PathBuf,
    /// The Workload API socket.
    pub socket_path: PathBuf,
    /// Its permission bits.
    pub socket_mode: u32,
    /// The socket for administration.
    pub admin_socket_path: PathBuf,
    /// Where metrics are served.
    pub metrics: Option<FactsAddress>,
    /// What is logged, and how.
    pub log: LogSpec,
    /// Beginnings of selectors that may appear in logs.
    pub log_selectors: Vec<String>,
    /// What the Workload API allows.
    pub policy: Policy,
    /// What callers may take.
    pub limits: Limits,
    /// Whom the bytes on a connection must come from.
    pub peer_check: PeerCheck,
    /// Whether kernels without `SO_PEERPIDFD` are refused.
    pub require_peerpidfd: bool,
    /// How often at the least what failed on a disk is tried again.
    pub probe_interval: Duration,
    /// How long calls may take to finish at the end.
    pub shutdown_grace: Duration,
    /// The issuers, in order.
    pub issuers: Vec<IssuerSpec>,
    /// What entries must keep to, those made while the agent runs too.
    pub rules: Rules,
    /// The registration entries, in order.
    pub entries: Vec<Entry>,
    /// The token files, in order.
    pub token_files: Vec<TokenFileSpec>,
    /// User and group names that occur, and where.
    pub names: WantedNames,
    /// Where each name occurs first, for warnings about unknown ones.
    pub name_places: Vec<(String, Place)>,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it; the warnings too, if there is an error.
    pub fn load(path: &Path) -> Result<(Self, Diagnostics), Diagnostics> {
        let (_, config, warnings) = load(path)?;
        Ok((config, warnings))
    }

    /// Makes sense of a text; `path` is only for messages.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &str) -> Result<(Self, Diagnostics), Diagnostics> {
        let mut report = Diagnostics::default();
        let root = files::parse(path, text, &mut report);
        let (_, config, warnings) = understand(root, report)?;
        Ok((config, warnings))
    }

    /// The configuration of a file as it is understood: everything that was written, and every
    /// default.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn print(path: &Path) -> Result<String, Diagnostics> {
        let (root, config, _) = load(path)?;
        Ok(print::effective(&root, &config))
    }

    /// What differs in `other` and cannot change while the agent runs.
    pub fn fixed_differences(&self, other: &Self) -> Vec<&'static str> {
        let pairs = [
            ("trust_domain", self.trust_domain != other.trust_domain),
            ("data_dir", self.data_dir != other.data_dir),
            ("socket_path", self.socket_path != other.socket_path),
            ("metrics", self.metrics != other.metrics),
            (
                "admin_socket_path",
                self.admin_socket_path != other.admin_socket_path,
            ),
            ("socket_mode", self.socket_mode != other.socket_mode),
            ("log_format", self.log.format != other.log.format),
            ("peer_check", self.peer_check != other.peer_check),
            (
                "streams_per_connection",
                self.limits.streams_per_connection != other.limits.streams_per_connection,
            ),
            (
                "request_bytes",
                self.limits.request_bytes != other.limits.request_bytes,
            ),
            (
                "header_list_bytes",
                self.limits.header_list_bytes != other.limits.header_list_bytes,
            ),
            (
                "require_peerpidfd",
                self.require_peerpidfd != other.require_peerpidfd,
            ),
            (
                "probe_interval",
                self.probe_interval != other.probe_interval,
            ),
            (
                "shutdown_grace",
                self.shutdown_grace != other.shutdown_grace,
            ),
        ];
        let differing = pairs.into_iter().filter(|(_, differs)| *differs);
        differing.map(|(name, _)| name).collect()
    }

    /// Whether metrics are to be had on a port that takes a capability to listen on.
    pub fn listens_on_low_port(&self) -> bool {
        matches!(self.metrics, Some(FactsAddress::Loopback(address)) if address.port() < 1024)
    }

    /// Looks up the names that occur and warns about those that nobody has.
    pub fn unknown_names(&self) -> Diagnostics {
        let mut report = Diagnostics::default();
        let names = crate::attest::names::Names::look_up(&self.names).unwrap_or_default();
        for (name, place) in &self.name_places {
            let known = match name.split_once(' ') {
                Some(("user", user)) => names.uid(user).is_some(),
                Some((_, group)) => names.gid(group).is_some(),
                None => true,
            };
            if !known {
                let message = format!("there is no {name} on this machine");
                report.warning(place, message, "what needs it waits until there is one");
            }
        }
        report
    }
}

/// Makes sense of the blocks of a configuration, if it could be parsed.
fn understand(
    root: Option<Block>,
    mut report: Diagnostics,
) -> Result<(Block, Config, Diagnostics), Diagnostics> {
    let config = root
        .as_ref()
        .and_then(|root| build::config(root, &mut report));
    match (root, config) {
        (Some(root), Some(config)) if !report.has_errors() => Ok((root, config, report.sorted())),
        _ => Err(report.sorted()),
    }
}

fn load(path: &Path) -> Result<(Block, Config, Diagnostics), Diagnostics> {
    let mut report = Diagnostics::default();
    let root = files::load(path, &mut report);
    understand(root, report)
}

#[cfg(test)]
pub(crate) mod page;
#[cfg(test)]
mod tests;
