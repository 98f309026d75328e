//! What one caller, or all together, may take.

use std::time::Duration;

/// The limits of the configuration. A number that is not limited is as large as can be, a time
/// that is not limited is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections to the workload socket at a time.
    pub connections: usize,
    /// The same of one user.
    pub connections_per_uid: usize,
    /// Calls and streams on one connection at a time.
    pub streams_per_connection: usize,
    /// Open streams of bundles of one process.
    pub bundle_streams_per_pid: usize,
    /// Audiences in one request.
    pub audiences: usize,
    /// Bytes of one audience.
    pub audience_bytes: usize,
    /// Bytes of a request.
    pub request_bytes: usize,
    /// Bytes of the headers of a request, decoded.
    pub header_list_bytes: usize,
    /// Tokens signed for one user in a second.
    pub signatures_per_second_per_uid: usize,
    /// Calls of one user in a second.
    pub calls_per_second_per_uid: usize,
    /// How long a connection may say nothing.
    pub preface_timeout: Option<Duration>,
    /// How long until its first request.
    pub request_timeout: Option<Duration>,
}

/// No limit at all, for tests.
#[cfg(any(test, fuzzing))]
pub const NONE: Limits = Limits {
    connections: usize::MAX,
    connections_per_uid: usize::MAX,
    streams_per_connection: usize::MAX,
    bundle_streams_per_pid: usize::MAX,
    audiences: usize::MAX,
    audience_bytes: usize::MAX,
    request_bytes: usize::MAX,
    header_list_bytes: usize::MAX,
    signatures_per_second_per_uid: usize::MAX,
    calls_per_second_per_uid: usize::MAX,
    preface_timeout: None,
    request_timeout: None,
};
