//! Makes sense of the blocks together: references, sums of durations, paths that must not meet.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::diagnostic::Diagnostics;
use super::hcl::Block;
use super::options::{LIMITS, UNIX};
use super::{Config, entries, issuers, lints, token_files};
use crate::admin::facts_http::FactsAddress;
use crate::attest::engine::{EngineSpec, EngineSpecs};
use crate::attest::facts::AttestorSpecs;
use crate::attest::manager::SystemdSpec;
use crate::attest::names::WantedNames;
use crate::attest::unix::UnixSpec;
use crate::conn::PeerCheck;
use crate::duration::show_duration;
use crate::limits::Limits;
use crate::registry::rules::Rules;
use crate::socket::MAX_SOCKET_PATH;
use crate::spiffe_id::TrustDomain;
use crate::telemetry::{LogFormat, LogLevel, LogSpec};
use crate::workload_api::Policy;

/// Clients take tokens for no more audiences.
const MAX_AUDIENCES: usize = 32;

/// Builds the configuration; `None` if too much is missing to go on. Errors go to `report`.
pub fn config(root: &Block, report: &mut Diagnostics) -> Option<Config> {
    let Some(agent) = root.children("agent").next() else {
        let help = "write agent { trust_domain = \"example.org\" }";
        if !root.mentions("agent") {
            report.error(&root.place, "there is no agent block", help);
        }
        return None;
    };
    let trust_domain = trust_domain(agent, report);
    let runtime_dir = agent.path("runtime_dir")?;
    let socket_path = agent
        .path("socket_path")
        .unwrap_or_else(|| runtime_dir.join("api").join("api.sock"));
    let admin_socket_path = agent
        .path("admin_socket_path")
        .unwrap_or_else(|| runtime_dir.join("private").join("admin.sock"));
    let (default_ttl, max_ttl) = ttls(agent, report);
    let mut context = Context {
        // Something to go on with, so that the rest is checked too.
        trust_domain: trust_domain.clone().or_else(|| "invalid".parse().ok())?,
        data_dir: agent.path("data_dir")?,
        runtime_dir,
        socket_path,
        max_ttl,
        leeway: agent.duration("leeway")?,
        issuers: Vec::new(),
        entries: Vec::new(),
        names: WantedNames::default(),
        name_places: Vec::new(),
        report,
    };
    sockets(agent, &admin_socket_path, &mut context);
    let metrics = metrics(root, &mut context);
    let rules = Rules {
        trust_domain,
        default_ttl,
        max_ttl,
        attestors: Arc::new(attestors(root)),
        issuers: issuers::build(root, &mut context),
    };
    issuers::choose_bundle_issuer(agent, &mut context);
    entries::build_entries(root, &rules, &mut context);
    entries::refuse_files_without_caller(root, &mut context);
    lints::lint_entries(root, &mut context);
    let token_files = token_files::build(root, &rules, &mut context);
    lints::lint_azp(root, &token_files, &mut context);
    Some(Config {
        trust_domain: context.trust_domain,
        data_dir: context.data_dir,
        socket_path: context.socket_path,
        admin_socket_path,
        metrics,
        socket_mode: agent.mode("socket_mode")?,
        log: log(agent),
        log_selectors: texts(agent, "log_selectors"),
        policy: Policy {
            leeway: agent.duration("leeway")?,
            nbf_margin: agent.duration("nbf_margin")?,
            allow_unauthenticated_verifiers: agent.flag("allow_unauthenticated_verifiers"),
        },
        limits: limits(root),
        peer_check: match agent.text("peer_check").as_deref() {
            Some("connection") => PeerCheck::Connection,
            _ => PeerCheck::Sender,
        },
        require_peerpidfd: agent.flag("require_peerpidfd"),
        probe_interval: agent.duration("probe_interval")?,
        shutdown_grace: agent.duration("shutdown_grace")?,
        issuers: context.issuers,
        rules,
        entries: context.entries,
        token_files,
        names: context.names,
        name_places: context.name_places,
    })
}

fn trust_domain(agent: &Block, report: &mut Diagnostics) -> Option<TrustDomain> {
    let text = agent.text("trust_domain")?;
    match text.parse() {
        Ok(trust_domain) => Some(trust_domain),
        Err(why) => {
            let help = "write the name alone, such as \"example.org\"";
            let message = format!("trust_domain {text:?}: {why}");
            report.error(agent.place_of("trust_domain"), message, help);
            None
        }
    }
}

/// A default that is above `max_ttl` is lowered to it; a written one is refused.
fn ttls(agent: &Block, report: &mut Diagnostics) -> (Duration, Duration) {
    let of = |name| agent.duration(name).unwrap_or(Duration::from_secs(300));
    let (default, max) = (of("default_jwt_svid_ttl"), of("max_ttl"));
    if default > max && agent.has("default_jwt_svid_ttl") {
        let (default, max) = (show_duration(default), show_duration(max));
        let message = format!("default_jwt_svid_ttl {default} is above max_ttl {max}");
        report.error(
            agent.place_of("default_jwt_svid_ttl"),
            message,
            "lower it, or raise max_ttl",
        );
    }
    (default.min(max), max)
}

fn sockets(agent: &Block, admin: &Path, context: &mut Context<'_>) {
    let workload = context.socket_path.clone();
    let private = context.private_dir();
    for (option, path) in [
        ("socket_path", workload.as_path()),
        ("admin_socket_path", admin),
    ] {
        let place = agent.place_of(option);
        let length = path.as_os_str().len();
        if length > MAX_SOCKET_PATH {
            let message = format!("the socket path {} has {length} bytes", path.display());
            let help = format!(
                "the kernel takes {MAX_SOCKET_PATH} at most: choose a shorter {option} or runtime_dir"
            );
            context.report.error(place, message, help);
        }
    }
    if workload.starts_with(&private) {
        let message = format!(
            "the socket {} lies in {}",
            workload.display(),
            private.display()
        );
        let place = agent.place_of("socket_path");
        context
            .report
            .error(place, message, "nobody else could reach it there");
    }
    let admin_place = agent.place_of("admin_socket_path");
    context.refuse_in_socket_dir("the admin socket", admin, admin_place);
    let data_dir = context.data_dir.clone();
    context.refuse_in_socket_dir("data_dir", &data_dir, agent.place_of("data_dir"));
}

fn log(agent: &Block) -> LogSpec {
    let level = match agent.text("log_level").as_deref() {
        Some("error") => LogLevel::Error,
        Some("warn") => LogLevel::Warn,
        Some("debug") => LogLevel::Debug,
        Some("trace") => LogLevel::Trace,
        _ => LogLevel::Info,
    };
    let format = match agent.text("log_format").as_deref() {
        Some("json") => LogFormat::Json,
        _ => LogFormat::Text,
    };
    LogSpec { level, format }
}

fn metrics(root: &Block, context: &mut Context<'_>) -> Option<FactsAddress> {
    let block = root.children("metrics").next()?;
    match (block.path("socket_path"), block.text("address")) {
        (Some(path), None) => {
            context.refuse_private("the metrics socket", &path, block.place_of("socket_path"));
            Some(FactsAddress::Socket(path))
        }
        (None, Some(text)) => {
            let address = text
                .parse::<SocketAddr>()
                .ok()
                .filter(|at| at.ip().is_loopback());
            if address.is_none() {
                let help =
                    "write it as 127.0.0.1:9988; to serve others, put a web server before it";
                let message = format!("{text:?} is no loopback address with a port");
                context
                    .report
                    .error(block.place_of("address"), message, help);
            }
            address.map(FactsAddress::Loopback)
        }
        _ => {
            let help = "give one of them: a Unix socket or a loopback address";
            context
                .report
                .error(&block.place, "metrics needs socket_path or address", help);
            None
        }
    }
}

/// The limits; 0 is none.
fn limits(root: &Block) -> Limits {
    let absent = Block::absent(&LIMITS, "", &root.place);
    let block = root.children("limits").next().unwrap_or(&absent);
    let number = |name| match block.int(name).map(usize::try_from) {
        Some(Ok(number)) if number > 0 => number,
        _ => usize::MAX,
    };
    let time = |name| block.duration(name).filter(|time| !time.is_zero());
    Limits {
        connections: number("connections"),
        connections_per_uid: number("connections_per_uid"),
        streams_per_connection: number("streams_per_connection"),
        bundle_streams_per_pid: number("bundle_streams_per_pid"),
        // Without a limit of ours it is that of the clients.
        audiences: number("audiences").min(MAX_AUDIENCES),
        audience_bytes: number("audience_bytes"),
        request_bytes: number("request_bytes"),
        header_list_bytes: number("header_list_bytes"),
        signatures_per_second_per_uid: number("signatures_per_second_per_uid"),
        calls_per_second_per_uid: number("calls_per_second_per_uid"),
        preface_timeout: time("preface_timeout"),
        request_timeout: time("request_timeout"),
    }
}

fn texts(block: &Block, name: &str) -> Vec<String> {
    let items = block
        .texts(name)
        .map(|(items, _)| items)
        .unwrap_or_default();
    items.into_iter().map(|(text, _)| text).collect()
}

fn attestors(root: &Block) -> AttestorSpecs {
    let absent = Block::absent(&UNIX, "unix", &root.place);
    let named = |label| {
        let mut all = root.children("attestor");
        all.find(move |block| block.label == label)
    };
    let block = named("unix").unwrap_or(&absent);
    let timeout = |block: &Block| block.duration("timeout").unwrap_or_default();
    let limit = block.int("workload_size_limit").unwrap_or(-1);
    let engine = |label| {
        let block = named(label)?;
        Some(EngineSpec {
            socket: block.path("socket_path")?,
            timeout: timeout(block),
        })
    };
    AttestorSpecs {
        systemd: named("systemd").map(|block| SystemdSpec {
            timeout: timeout(block),
        }),
        engines: EngineSpecs {
            docker: engine("docker"),
            podman: engine("podman"),
        },
        unix: UnixSpec {
            discover_path: block.flag("discover_workload_path"),
            size_limit: u64::try_from(limit).ok().filter(|limit| *limit > 0),
            hash: limit >= 0,
            timeout: timeout(block),
        },
    }
}
