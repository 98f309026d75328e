//! What the agent can see from where it stands.

/// What holds for every connection of this agent.
#[derive(Debug, Clone, Copy)]
pub struct Namespaces {
    /// The number that stands for every user that our user namespace does not know; `None` where
    /// it knows them all.
    pub(super) overflow_uid: Option<u32>,
    /// The same of groups.
    pub(super) overflow_gid: Option<u32>,
    /// Whether kernels without `SO_PEERPIDFD` are refused.
    pub(super) require_peerpidfd: bool,
}

impl Namespaces {
    /// Looks at the user namespace that we are in.
    pub fn of_self(require_peerpidfd: bool) -> Self {
        Self {
            overflow_uid: overflow("/proc/self/uid_map", "/proc/sys/kernel/overflowuid"),
            overflow_gid: overflow("/proc/self/gid_map", "/proc/sys/kernel/overflowgid"),
            require_peerpidfd,
        }
    }
}

/// The number that stands for what a map leaves out; `None` where it leaves out nothing.
fn overflow(map: &str, number: &str) -> Option<u32> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let identity = ["0", "0", "4294967295"];
    let whole = read(map).split_whitespace().eq(identity);
    (!whole).then(|| read(number).trim().parse().unwrap_or(65_534))
}
