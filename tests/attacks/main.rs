//! Token files under attack: an unprivileged user owns the directories in which the agent writes,
//! and has prepared them, changes them meanwhile, or has a disk there that fails. Each case is played
//! against an agent that runs as root and against one that is a user of its own with capabilities.
//! What holds is always the same: nothing of root is touched, and the files for others are written
//! as if nothing were the matter.
//!
//! Where each known attack and fault is tested:
//!
//! | case | is | tested in |
//! |---|---|---|
//! | A1, A2 | links at temporary names | `planted` |
//! | A3 | a file that was opened before | `planted` |
//! | A4 | pipes, sockets, devices, directories | `planted` |
//! | A5, A6 | links at the name of the file | `planted` |
//! | A7, A8 | the directory or one above it becomes a link | `races`, `owners` |
//! | A9 | the directory is moved | `races` |
//! | A10 | something is mounted over the directory | `mounts`, `tests/directories.rs` |
//! | A11, A12, A13 | names, crowds and floods of directories | `tests/directories.rs` |
//! | A14 | disks that are full, read-only or broken | `faults` |
//! | A15 | the agent is killed at any call | `kills`; keys and documents: `tests/crash` |
//! | A16 | whoever watches for new files | `watchers` |
//! | A17 | whoever reads all the time | `readers` |
//! | A18 | files and directories that are mounted in a container | `mounts` |
//! | A19 | directories that go and come | `faults`, `tests/directories.rs` |
//! | A20 | the clock is set, the machine sleeps | `tests/clocks.rs`, `sleep` |
//! | A21 | a second agent | `tests/lifecycle.rs` |
//! | A22, A23 | configurations that cannot be meant | `src/config/tests.rs` |
//! | A24 | who is told of a write | `renewal`, `tests/renew.rs` |
//! | A25 | looking into the agent | `peeking`, `tests/lifecycle.rs` |

#[path = "../common/mod.rs"]
mod common;

mod attacker;
mod faults;
mod house;
mod kills;
mod mounts;
mod owners;
mod peeking;
mod planted;
mod races;
mod readers;
mod renewal;
mod sleep;
mod watchers;
