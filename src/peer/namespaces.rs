//! What the agent can see from where it stands.

/// What holds for every connection of this agent.
#[derive(Debug, Clone, Copy)]
pub struct Namespaces {
    /// The number that stands for every user that our user namespace does not know; `None` where
    /// it knows them all.
    pub(super) overflow_uid: Option<u32>,
    /// The same of groups.
    pub(super) overflow_gid: Option<u32>,
    /// Whether `/proc` has the numbers that the kernel tells us.
    pub(super) proc_is_ours: bool,
    /// Whether kernels without `SO_PEERPIDFD` are refused.
    pub(super) require_peerpidfd: bool,
}

impl Namespaces {
    /// Looks at the user namespace that we are in.
    pub fn of_self(require_peerpidfd: bool) -> Self {
        Self {
            overflow_uid: overflow("/proc/self/uid_map", "/proc/sys/kernel/overflowuid"),
            overflow_gid: overflow("/proc/self/gid_map", "/proc/sys/kernel/overflowgid"),
            proc_is_ours: proc_is_ours(),
            require_peerpidfd,
        }
    }
}

/// Whether `/proc` is that of our pid namespace: in another one the same numbers are of other
/// processes.
pub fn proc_is_ours() -> bool {
    let own = std::process::id().to_string();
    std::fs::read_link("/proc/self").is_ok_and(|link| link.as_os_str() == own.as_str())
}

/// Whether our user namespace has a number for every user.
pub fn knows_every_user() -> bool {
    overflow("/proc/self/uid_map", "/proc/sys/kernel/overflowuid").is_none()
}

/// The number that stands for what a map leaves out; `None` where it leaves out nothing.
fn overflow(map: &str, number: &str) -> Option<u32> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let identity = ["0", "0", "4294967295"];
    let whole = read(map).split_whitespace().eq(identity);
    (!whole).then(|| read(number).trim().parse().unwrap_or(65_534))
}
