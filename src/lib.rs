//! `agent` gives the processes of one Linux machine short-lived identities: JWT-SVIDs that it
//! signs with keys of its own, over the SPIFFE Workload API and in files, and the static documents
//! by which others come to trust them.
//!
//! The modules stand on floors, and each uses only what lies below it; `ARCHITECTURE.md` walks
//! through them and `tests/architecture.rs` holds them to it.
//!
//! - words: `spiffe_id`, `selector`, `entry`, `issuer`, `clock`, `duration`, `limits`,
//!   `quiet`, `terminal`, `durable` (the only writer of files), `sys` (the only unsafe module)
//! - signing, pure: `jose`, `svid`, `bundle`
//! - keys and counts: `key`, `metrics`
//! - workers: `proc`, `peer`, `conn`, `attest`, `authority`, `publish`, `rotator`,
//!   `issue`, `mirror`, `registry`, `audit`, `explain`, `socket`
//! - surfaces: `pb`, `proto_json`, `workload_api`, `admin`
//! - assembly: `config`, `telemetry`, `shutdown`, `systemd`, `privilege`, `reload`, `agent`,
//!   `cli`

#![deny(unsafe_code)]
// Nothing that a caller, a file or a clock can reach may panic, and only the commands print.
#![warn(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used
)]

mod admin;
mod agent;
mod attest;
mod audit;
mod authority;
mod bundle;
pub mod cli;
mod clock;
mod config;
mod conn;
mod durable;
mod duration;
mod entry;
mod explain;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod grpc;
mod issue;
mod issuer;
mod jose;
mod key;
mod limits;
mod metrics;
mod mirror;
mod pb;
mod peer;
mod priority;
mod privilege;
mod proc;
mod proto_json;
mod publish;
mod quiet;
mod registry;
mod reload;
mod rotator;
mod selector;
mod shutdown;
mod socket;
mod spiffe_id;
mod steps;
mod svid;
#[expect(unsafe_code, reason = "what the kernel offers and no safe crate does")]
mod sys;
mod systemd;
mod telemetry;
mod terminal;
mod workload_api;
