//! The generated messages and services of `proto/`.

#![allow(
    missing_docs,
    clippy::all,
    clippy::indexing_slicing,
    clippy::semicolon_if_nothing_returned,
    clippy::uninlined_format_args,
    reason = "generated code; proto/ holds its documentation"
)]

tonic::include_proto!("_");

/// Why a process has the identities that it has.
pub mod explain {
    /// Its first version.
    pub mod v1 {
        tonic::include_proto!("agent.explain.v1");
    }
}

/// The administration of an agent.
pub mod admin {
    tonic::include_proto!("agent.v1");
}
