//! Counts and measures, in the text format of Prometheus (OpenMetrics 1.0). Names are those of
//! SPIRE where the thing is the same, behind a prefix of their own.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The prefix of every name.
pub const PREFIX: &str = "svid_agent";

/// Labels of a series.
pub type Labels = Vec<(&'static str, String)>;

type Counts = Family<Labels, Counter>;
type Levels = Family<Labels, Gauge<f64, AtomicU64>>;

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    /// Locked while the levels of one scrape are set and written out.
    registry: Mutex<Registry>,
    fetch_jwtsvid: Counts,
    fetch_jwt_bundles: Counts,
    validate_jwtsvid: Counts,
    explain_caller: Counts,
    attestation_failures: Counter,
    issued: Counts,
    refused: Counts,
    signing: Family<Labels, Histogram>,
    reloads: Counts,
    activations: Counts,
    cached: Counter,
    levels: Vec<(&'static str, Levels)>,
}

/// A call of the Workload API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rpc {
    /// `FetchJWTSVID`.
    FetchJwtsvid,
    /// `FetchJWTBundles`, when it begins.
    FetchJwtBundles,
    /// `ValidateJWTSVID`.
    ValidateJwtsvid,
    /// `ExplainCaller`, beside the Workload API.
    ExplainCaller,
}

impl Rpc {
    /// Its name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::FetchJwtsvid => "FetchJWTSVID",
            Self::FetchJwtBundles => "FetchJWTBundles",
            Self::ValidateJwtsvid => "ValidateJWTSVID",
            Self::ExplainCaller => "ExplainCaller",
        }
    }
}

/// Levels, that are read when somebody asks: name and meaning.
const LEVELS: [(&str, &str); 15] = [
    ("started", "Always 1, with the version and the trust domain"),
    ("uptime_in_ms", "Milliseconds since the agent started"),
    ("ready", "Whether tokens can be minted now"),
    (
        "problems",
        "How many things are wrong, as agent health tells them",
    ),
    (
        "attestation_degraded",
        "1 where the kernel lacks this, and callers are told by weaker means",
    ),
    ("connections", "Open connections to the workload socket"),
    ("entries", "Registration entries, by where they come from"),
    (
        "seconds_to_next_key",
        "Seconds that the active key is still to sign; below 0 it is overdue",
    ),
    (
        "rotation_overdue_seconds",
        "Seconds that the active key has signed beyond its lifespan; 0 where it has not",
    ),
    (
        "rotation_failing_seconds",
        "Seconds since when keys and documents of the issuer cannot be renewed; 0 where they can",
    ),
    ("token_files", "Token files that hold a token, by block"),
    (
        "token_file_soonest_expiry",
        "When the first token of the block ends, seconds since 1970",
    ),
    (
        "token_file_oldest_issue",
        "When the oldest token of the block was made, seconds since 1970",
    ),
    (
        "token_files_failing",
        "Token files that could not be written the last time, by block",
    ),
    (
        "token_file_next_refresh_in_seconds",
        "Seconds until the next file of the block is written",
    ),
];

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let counts = |registry: &mut Registry, name: &str, help: &str| {
            let counts = Counts::default();
            registry.register(name, help, counts.clone());
            counts
        };
        let rpc = "Calls of the Workload API, by gRPC status";
        let fetch_jwtsvid = counts(&mut registry, "rpc_workload_api_fetch_jwtsvid", rpc);
        let fetch_jwt_bundles = counts(&mut registry, "rpc_workload_api_fetch_jwt_bundles", rpc);
        let validate_jwtsvid = counts(&mut registry, "rpc_workload_api_validate_jwtsvid", rpc);
        let explain_caller = counts(&mut registry, "rpc_workload_api_explain_caller", rpc);
        let issued = counts(
            &mut registry,
            "jwt_svid_issued",
            "Tokens given to callers, by entry",
        );
        let refused = counts(
            &mut registry,
            "refused",
            "Callers that got no identity, by reason",
        );
        let reloads = counts(
            &mut registry,
            "reloads",
            "Reloads of the configuration, by outcome",
        );
        let activations = counts(
            &mut registry,
            "key_activations",
            "Keys that began to sign, by reason; bootstrap, recovery and taint did not wait",
        );
        let cached = Counter::default();
        let help = "Tokens that were given out again and not signed anew";
        registry.register("jwt_svid_cached", help, cached.clone());
        let attestation_failures = Counter::default();
        let help = "Callers that could not be told, or were no longer whom they were";
        let name = "workload_api_workload_attestation_failures";
        registry.register(name, help, attestation_failures.clone());
        let buckets = || Histogram::new(exponential_buckets(0.000_01, 2.0, 14));
        let signing = Family::new_with_constructor(buckets as fn() -> Histogram);
        let help = "Seconds that a token took to sign, waiting included, by algorithm";
        registry.register("sign_jwt_svid_seconds", help, signing.clone());
        let levels = LEVELS.map(|(name, help)| {
            let levels = Levels::default();
            registry.register(name, help, levels.clone());
            (name, levels)
        });
        Self {
            registry: Mutex::new(registry),
            fetch_jwtsvid,
            fetch_jwt_bundles,
            validate_jwtsvid,
            explain_caller,
            attestation_failures,
            issued,
            refused,
            signing,
            reloads,
            activations,
            cached,
            levels: levels.into(),
        }
    }

    /// A call came to an end.
    pub fn rpc(&self, rpc: Rpc, status: &str) {
        let counts = match rpc {
            Rpc::FetchJwtsvid => &self.fetch_jwtsvid,
            Rpc::FetchJwtBundles => &self.fetch_jwt_bundles,
            Rpc::ValidateJwtsvid => &self.validate_jwtsvid,
            Rpc::ExplainCaller => &self.explain_caller,
        };
        counts
            .get_or_create(&vec![("status", status.to_owned())])
            .inc();
    }

    /// A caller could not be told.
    pub fn attestation_failed(&self) {
        self.attestation_failures.inc();
    }

    /// A token was given out.
    pub fn issued(&self, entry: &str) {
        self.issued
            .get_or_create(&vec![("entry", entry.to_owned())])
            .inc();
    }

    /// There is no such entry any more.
    pub fn forget(&self, entry: &str) {
        self.issued.remove(&vec![("entry", entry.to_owned())]);
    }

    /// A caller got nothing.
    pub fn refused(&self, reason: &str) {
        self.refused
            .get_or_create(&vec![("reason", reason.to_owned())])
            .inc();
    }

    /// A token was given out again.
    pub fn cached(&self) {
        self.cached.inc();
    }

    /// A token was signed.
    pub fn signed(&self, algorithm: &str, took: Duration) {
        let labels = vec![("algorithm", algorithm.to_owned())];
        self.signing
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// A reload came to an end.
    pub fn reloaded(&self, outcome: &str) {
        self.reloads
            .get_or_create(&vec![("outcome", outcome.to_owned())])
            .inc();
    }

    /// A key began to sign.
    pub fn activated(&self, reason: &str) {
        self.activations
            .get_or_create(&vec![("reason", reason.to_owned())])
            .inc();
    }

    /// All of it as text, with these levels: name, labels, value.
    pub fn render(&self, levels: Vec<(&'static str, Labels, f64)>) -> String {
        let registry = self
            .registry
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for (_, family) in &self.levels {
            family.clear();
        }
        for (name, labels, value) in levels {
            if let Some((_, family)) = self.levels.iter().find(|(level, _)| *level == name) {
                family.get_or_create(&labels).set(value);
            }
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}
