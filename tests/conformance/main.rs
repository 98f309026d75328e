//! The conformance list of the SPIFFE Workload API, its rows as tests against the real binary. Each
//! test bears the number of its row; `docs/conformance.md` is made from the comments here by
//! `SVID_AGENT_WRITE_DOCS=1 cargo test --test conformance`.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/load.rs"]
mod load;

mod bundles;
mod endpoint;
mod fetch;
mod house;
mod ids;
mod page;
mod rotation;
mod tokens;
#[path = "../common/turnover.rs"]
mod turnover;
mod validate;
#[path = "../common/verifier.rs"]
mod verifier;
#[path = "../common/web.rs"]
mod web;
mod webroot;
#[path = "../common/wire.rs"]
mod wire;
