//! Which threads go first where several want the same core.

/// How far others go before a thread that gives way, as a nice value: not so far that it gets nowhere
/// on a busy machine.
const NICE: i32 = 5;

/// Has other threads go before this one from now on: for work that takes long beside that of threads
/// that serve callers. Nothing changes where a filter of system calls forbids it.
pub fn give_way() {
    let _ = rustix::process::setpriority_process(None, NICE);
}
