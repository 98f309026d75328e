//! `container:id`, `systemd:id` and `ns:host`: where a process is.

use super::cgroup::{Cgroups, Engine, Hierarchies, Named};
use super::findings::Findings;
use super::manager;
use crate::peer::{Seen, Wants};

/// The selector type of containers.
pub const CONTAINER: &str = "container";
/// The selector type of namespaces.
pub const NAMESPACE: &str = "ns";

/// Finds what is wanted of it.
pub fn look(seen: &Seen, wanted: Wants, hierarchies: &Hierarchies) -> Findings {
    let mut findings = Findings::default();
    if wanted.is_empty() {
        return findings;
    }
    let Some(cgroups) = cgroups(seen) else {
        findings.failed(wanted, UNREADABLE);
        return findings;
    };
    if wanted.meets(Wants::CONTAINER) {
        match container(&cgroups, hierarchies) {
            Ok((named, _)) => {
                let value = format_args!("id:{}", named.name);
                findings.found(Wants::CONTAINER, CONTAINER, value);
            }
            Err(why) => findings.none(Wants::CONTAINER, why),
        }
    }
    if wanted.meets(Wants::UNIT) {
        match unit(&cgroups, hierarchies) {
            Ok(named) => {
                let value = format_args!("id:{}", named.name);
                findings.found(Wants::UNIT, manager::KIND, value);
            }
            Err(why) => findings.none(Wants::UNIT, why),
        }
    }
    if wanted.meets(Wants::HOST) {
        if cgroups.may_name_a_container() {
            findings.none(Wants::HOST, "its cgroup names a container");
        } else {
            match seen.proc.shares_namespaces_with_us() {
                Ok(true) => findings.found(Wants::HOST, NAMESPACE, "host"),
                Ok(false) => findings.none(
                    Wants::HOST,
                    "it is in another pid or user namespace than the agent",
                ),
                Err(error) => findings.failed(Wants::HOST, error.to_string()),
            }
        }
    }
    findings
}

/// The unit of systemd that it belongs to, by the word of root.
///
/// # Errors
///
/// Why there is none.
pub fn unit<'a>(cgroups: &Cgroups<'a>, hierarchies: &Hierarchies) -> Result<Named<'a>, String> {
    let named = cgroups
        .unit()
        .ok_or("its cgroup names no unit of systemd")?;
    hierarchies.vouch_for(&named)?;
    Ok(named)
}

/// What is wrong with a cgroup that says nothing.
pub const UNREADABLE: &str = "its cgroup cannot be read";

/// The cgroups of a process, where they were wanted and can be read.
pub fn cgroups(seen: &Seen) -> Option<Cgroups<'_>> {
    seen.cgroup.as_deref().and_then(Cgroups::parse)
}

/// The container that it is in, by the word of root.
///
/// # Errors
///
/// Why there is none.
pub fn container<'a>(
    cgroups: &Cgroups<'a>,
    hierarchies: &Hierarchies,
) -> Result<(Named<'a>, Engine), String> {
    let all: Vec<_> = cgroups.containers().collect();
    let Some((first, _)) = all.first() else {
        return Err("its cgroup names no container".to_owned());
    };
    if all.iter().any(|(other, _)| other.name != first.name) {
        return Err("its cgroups name several containers".to_owned());
    }
    let mut doubt = String::new();
    for container in &all {
        match hierarchies.vouch_for(&container.0) {
            Ok(()) => return Ok(*container),
            Err(why) => doubt = why,
        }
    }
    Err(doubt)
}
