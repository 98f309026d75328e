//! Callers that want to be taken for somebody else. What holds is always the same: they get no token,
//! and the agent makes no signature for them, which its own counters tell.
//!
//! Where each known attack on the question who is calling is tested:
//!
//! | row | is | tested in |
//! |---|---|---|
//! | 1, 2 | the number of a process that ended is given to another one, in the same tick too | `numbers` |
//! | 3 | a process that is gone when the agent asks for it | `numbers`; kernels that cannot tell: `src/peer.rs` |
//! | 4 | a process becomes another program after it connected | `programs` |
//! | 5 | it becomes a program that runs as root | `programs` |
//! | 6 | a connection is inherited or passed on | `senders`, `tests/hostile.rs` |
//! | 7 | privileges are given up after connecting | `senders`, `tests/workload_api.rs` |
//! | 8 | another file is mounted at a trusted path, or another root chosen | `namespaces` |
//! | 9 | files without a name, removed, replaced, oddly called | `files` |
//! | 10, 11 | large programs, and those that change | `src/attest/hash.rs`, `tests/programs.rs` |
//! | 12 | the main thread has ended | `threads` |
//! | 13, 14 | agent and caller in different namespaces | `tests/sight.rs`, `tests/conformance/endpoint.rs` (C21) |
//! | 15 | the agent lacks a capability | `tests/sight.rs` |
//! | 16 | names of processes that look like more | `files`, `src/proc.rs` |
//! | 17 | cgroups of the caller's making | `tests/attestation.rs`, `tests/units.rs` |
//! | 18 | groups change after connecting | `senders` |
//! | 19 | the name service hangs | `src/attest/accounts.rs` |
//! | 20 | a stream is open and its process changes or ends, or its entry goes | `streams`, `tests/entries.rs` |
//! | 21 | descriptors are left over from refused connections | every race here |
//! | 22 | the agent's own user | `senders` |
//! | 23, 24 | something is at the place of the socket, or another agent | `sockets`, `tests/lifecycle.rs`, C13 |
//! | 25 | who can reach which socket | `tests/admin.rs`, `tests/lifecycle.rs` |
//! | 26 | sockets of other kinds | `sockets` |
//! | 27 | clients that do not know to whom they speak | `tests/conformance/endpoint.rs` (C1 to C5) |
//!
//! The races are run 100,000 times each where `SVID_AGENT_LONG` is set.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/turnover.rs"]
mod turnover;
#[path = "../common/wire.rs"]
mod wire;

mod files;
mod house;
mod namespaces;
mod numbers;
mod programs;
mod senders;
mod sockets;
mod streams;
mod threads;
