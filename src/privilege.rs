//! What the agent may do beyond its user, and gives up for good before it does anything else.
//!
//! What it keeps does not depend on the configuration: a reload, or an entry that is made at run time,
//! may need any of it, and what a process has given up never comes back.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set,
    set_capabilities,
};

/// What some work of the agent takes: to tell programs, to write files for others, to signal readers.
const USED: CapabilitySet = CapabilitySet::SYS_PTRACE
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::KILL);

/// What became of the capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privilege {
    /// Those that this process still has.
    pub kept: CapabilitySet,
    /// Those that it had.
    pub given_up: CapabilitySet,
}

/// Gives up every capability that nothing in the agent uses, for this thread and those that it will
/// start: called while it is the only one. `low_port` keeps the one for ports below 1024.
///
/// # Errors
///
/// What the kernel says.
pub fn give_up_unused(low_port: bool) -> io::Result<Privilege> {
    let mut used = USED;
    used.set(CapabilitySet::NET_BIND_SERVICE, low_port);
    let had = capabilities(None)?;
    if had.effective.contains(CapabilitySet::SETPCAP) {
        // Out of reach for whatever this process would become, too.
        for unused in CapabilitySet::all().difference(used).iter() {
            match remove_capability_from_bounding_set(unused) {
                // Older kernels have fewer.
                Err(rustix::io::Errno::INVAL) | Ok(()) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    let kept = had.permitted & used;
    set_capabilities(
        None,
        CapabilitySets {
            effective: had.effective & used,
            permitted: kept,
            // It starts no other program. With these, the ambient ones go.
            inheritable: CapabilitySet::empty(),
        },
    )?;
    Ok(Privilege {
        kept,
        given_up: had.permitted.difference(used),
    })
}

/// Capabilities as people write them.
pub fn names(set: CapabilitySet) -> String {
    let names = set.iter_names().map(|(name, _)| format!("CAP_{name}"));
    names.collect::<Vec<_>>().join(" ")
}
