//! Every block and option there is: names, types, defaults, ranges and meanings. The parser
//! checks against this table, defaults come from it, and the example must show all of it.

use std::time::Duration;

/// What an option takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Any string.
    Text,
    /// An absolute path without `..`.
    Path,
    /// `true` or `false`.
    Bool,
    /// A whole number in a range.
    Int(i64, i64),
    /// A duration such as `90s`, `5m`, `1h30m`, in a range.
    Duration(Duration, Duration),
    /// A share in a range.
    Share(f64, f64),
    /// Permission bits as an octal string.
    Mode,
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// A list of strings.
    Texts,
    /// A string, or a list of strings.
    TextOrTexts,
    /// An object of JSON-like values.
    Object,
}

/// Whether an option must be written, and what holds where it is not.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Presence {
    /// It must be written.
    Required,
    /// This stands for it, as it would be written.
    Default(&'static str),
    /// What stands for it depends on other options; told in words.
    Derived(&'static str),
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Whether it must be there.
    pub presence: Presence,
    /// What it does.
    pub doc: &'static str,
}

/// One kind of block.
#[derive(Debug)]
pub struct BlockSpec {
    /// Its name.
    pub name: &'static str,
    /// What its label says; empty where it has none.
    pub label: &'static str,
    /// The only label that makes it this block; empty where any does.
    pub only: &'static str,
    /// Its options.
    pub options: &'static [Opt],
    /// The blocks that may stand in it.
    pub blocks: &'static [&'static BlockSpec],
    /// What it is for.
    pub doc: &'static str,
}

const fn opt(name: &'static str, kind: Kind, presence: Presence, doc: &'static str) -> Opt {
    Opt {
        name,
        kind,
        presence,
        doc,
    }
}

const fn secs(from: u64, to: u64) -> Kind {
    Kind::Duration(Duration::from_secs(from), Duration::from_secs(to))
}

const DAY: u64 = 86_400;
const YEAR: u64 = 365 * DAY;

use Presence::{Default, Derived, Required};

/// The file itself.
#[rustfmt::skip]
pub static ROOT: BlockSpec = BlockSpec {
    name: "",
    label: "",
    only: "",
    options: &[
        opt("include", Kind::Texts, Default("[]"), "Patterns of further files with issuer, entry and token_file blocks."),
    ],
    blocks: &[&AGENT, &LIMITS, &METRICS, &ISSUER, &UNIX, &SYSTEMD, &DOCKER, &PODMAN, &ENTRY, &TOKEN_FILE],
    doc: "The configuration file.",
};

#[rustfmt::skip]
static AGENT: BlockSpec = BlockSpec {
    name: "agent",
    label: "",
    only: "",
    options: &[
        opt("trust_domain", Kind::Text, Required, "The SPIFFE trust domain that all identities belong to."),
        opt("data_dir", Kind::Path, Default("\"/var/lib/agent\""), "Where keys and their state are kept, in private/ below it."),
        opt("runtime_dir", Kind::Path, Default("\"/run/agent\""), "Where sockets and token files live; lost at a reboot."),
        opt("socket_path", Kind::Path, Derived("<runtime_dir>/api/api.sock"), "The Workload API socket. It needs a directory of its own."),
        opt("admin_socket_path", Kind::Path, Derived("<runtime_dir>/private/admin.sock"), "The socket for administration, in a directory that only the agent's user can enter."),
        opt("socket_mode", Kind::Mode, Default("\"0777\""), "Who may connect. What a caller gets is decided by entries, not by this."),
        opt("log_level", Kind::Choice(&["error", "warn", "info", "debug", "trace"]), Default("\"info\""), "The least important messages that are logged."),
        opt("log_format", Kind::Choice(&["text", "json"]), Default("\"text\""), "One line of text or of JSON for each message, on standard error."),
        opt("log_selectors", Kind::Texts, Default("[]"), "Beginnings of selectors of callers that may appear in the log, such as \"unix:user\"."),
        opt("default_jwt_svid_ttl", secs(1, YEAR), Default("\"5m\""), "Life of fetched tokens whose entry says nothing else."),
        opt("max_ttl", secs(1, YEAR), Default("\"24h\""), "No token lives longer."),
        opt("leeway", secs(0, 120), Default("\"30s\""), "How far clocks may be apart when tokens are validated."),
        opt("nbf_margin", secs(0, 600), Default("\"5s\""), "How far nbf lies before iat, for verifiers whose clock lags."),
        opt("peer_check", Kind::Choice(&["sender", "connection"]), Default("\"sender\""), "Whom each byte must come from: the process that connected, or whoever holds the connection (for relays)."),
        opt("require_peerpidfd", Kind::Bool, Default("false"), "Serve nobody on kernels without SO_PEERPIDFD (Linux 6.5)."),
        opt("allow_unauthenticated_verifiers", Kind::Bool, Default("false"), "Give the bundle to callers that match no entry."),
        opt("bundle_issuer", Kind::Text, Derived("the only issuer"), "The issuer whose webroot also holds the SPIFFE bundle of the trust domain, bundle.json."),
        opt("probe_interval", secs(1, 300), Default("\"30s\""), "How often at the least what failed on a disk is tried again."),
        opt("shutdown_grace", secs(0, 300), Default("\"5s\""), "How long calls may take to finish when the agent stops."),
    ],
    blocks: &[],
    doc: "The agent itself.",
};

const fn up_to(most: i64) -> Kind {
    Kind::Int(0, most)
}

/// The options of the limits.
#[rustfmt::skip]
pub static LIMITS: BlockSpec = BlockSpec {
    name: "limits",
    label: "",
    only: "",
    options: &[
        opt("connections", up_to(1 << 20), Default("4096"), "Connections to the workload socket at a time."),
        opt("connections_per_uid", up_to(1 << 20), Default("1024"), "The same of one user."),
        opt("streams_per_connection", up_to(1 << 20), Default("64"), "Calls and streams on one connection at a time."),
        opt("bundle_streams_per_pid", up_to(1 << 20), Default("64"), "Open FetchJWTBundles streams of one process."),
        opt("audiences", up_to(32), Default("16"), "Audiences in one request; clients take no more than 32."),
        opt("audience_bytes", up_to(1 << 16), Default("1024"), "Bytes of one audience."),
        opt("request_bytes", up_to(1 << 22), Default("65536"), "Bytes of a request."),
        opt("header_list_bytes", up_to(1 << 20), Default("8192"), "Bytes of the headers of a request, decoded."),
        opt("signatures_per_second_per_uid", up_to(1 << 20), Default("500"), "Tokens that are signed for one user; those from the cache do not count."),
        opt("calls_per_second_per_uid", up_to(1 << 20), Default("0"), "Calls of one user."),
        opt("preface_timeout", secs(0, 3600), Default("\"5s\""), "How long a connection may say nothing."),
        opt("request_timeout", secs(0, 3600), Default("\"10s\""), "How long until its first request."),
    ],
    blocks: &[],
    doc: "What one caller, or all together, may take; 0 takes a limit away. Beyond a limit of calls or signatures the answer is Unavailable.",
};

#[rustfmt::skip]
static METRICS: BlockSpec = BlockSpec {
    name: "metrics",
    label: "",
    only: "",
    options: &[
        opt("socket_path", Kind::Path, Derived("none"), "A Unix socket to serve them on."),
        opt("address", Kind::Text, Derived("none"), "A loopback address and port to serve them on, such as 127.0.0.1:9988."),
    ],
    blocks: &[],
    doc: "Metrics for Prometheus at /metrics, and /live and /ready, over HTTP; off without this block.",
};

#[rustfmt::skip]
static ISSUER: BlockSpec = BlockSpec {
    name: "issuer",
    label: "name",
    only: "",
    options: &[
        opt("url", Kind::Text, Required, "The iss of its tokens: https, and byte for byte what verifiers are told."),
        opt("webroot", Kind::Path, Derived("<data_dir>/webroot/<name>"), "Where its documents are written, for a web server to serve at the URL."),
        opt("webroot_owner", Kind::Text, Derived("the agent's user"), "Owner of the documents, by name or number."),
        opt("webroot_group", Kind::Text, Derived("the agent's group"), "Group of the documents, by name or number."),
        opt("webroot_mode", Kind::Mode, Default("\"0644\""), "Permission bits of the documents."),
        opt("jwks_path", Kind::Text, Default("\"/jwks.json\""), "Path of the JWKS below the webroot."),
        opt("jwks_uri", Kind::Text, Derived("url + jwks_path"), "Where verifiers find the JWKS."),
        opt("claims", Kind::Object, Default("{}"), "Claims in every token of this issuer."),
    ],
    blocks: &[&KEY],
    doc: "An OpenID Connect issuer, with keys and a webroot of its own.",
};

#[rustfmt::skip]
static KEY: BlockSpec = BlockSpec {
    name: "key",
    label: "name",
    only: "",
    options: &[
        opt("algorithm", Kind::Choice(&["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]), Required, "RS256 is what every relying party takes; ES256 is smaller and faster; EdDSA is for token files only."),
        opt("size", Kind::Int(2048, 4096), Default("2048"), "Bits of an RSA key: 2048, 3072 or 4096."),
        opt("lifespan", secs(1, 10 * YEAR), Default("\"24h\""), "How long a key signs; then its successor does."),
        opt("publish_margin", secs(0, YEAR), Default("\"1h\""), "How long a key is published before it signs: as long as verifiers keep the JWKS."),
    ],
    blocks: &[],
    doc: "Keys of the issuer. A change of algorithm or size makes a new key; the old one stays published.",
};

/// The options of the attestor that is always on.
#[rustfmt::skip]
pub static UNIX: BlockSpec = BlockSpec {
    name: "attestor",
    label: "kind",
    only: "unix",
    options: &[
        TIMEOUT,
        opt("discover_workload_path", Kind::Bool, Default("false"), "Find unix:path and unix:sha256. Needs CAP_SYS_PTRACE for programs of other users."),
        opt("workload_size_limit", Kind::Int(-1, i64::MAX), Default("536870912"), "Largest program that is hashed, in bytes; 0 hashes any, -1 none."),
    ],
    blocks: &[],
    doc: "How callers are told apart. \"unix\" is always on; a block changes its options.",
};

#[rustfmt::skip]
static SYSTEMD: BlockSpec = BlockSpec {
    name: "attestor",
    label: "kind",
    only: "systemd",
    options: &[TIMEOUT],
    blocks: &[],
    doc: "Finds the unit of a caller: systemd:id, and on the system bus fragment_path and invocation_id.",
};

#[rustfmt::skip]
static DOCKER: BlockSpec = BlockSpec {
    name: "attestor",
    label: "kind",
    only: "docker",
    options: &[
        opt("socket_path", Kind::Path, Default("\"/run/docker.sock\""), "The socket of Docker."),
        TIMEOUT,
    ],
    blocks: &[],
    doc: "Asks Docker what the container of a caller is: docker:label, env, image_id and image_config_digest.",
};

#[rustfmt::skip]
static PODMAN: BlockSpec = BlockSpec {
    name: "attestor",
    label: "kind",
    only: "podman",
    options: &[
        opt("socket_path", Kind::Path, Default("\"/run/podman/podman.sock\""), "The socket of Podman, of root."),
        TIMEOUT,
    ],
    blocks: &[],
    doc: "The same of Podman, whose selectors are of the type docker too.",
};

const TIMEOUT: Opt = opt(
    "timeout",
    secs(1, 30),
    Default("\"2s\""),
    "How long it may take; what it would have found is then missing.",
);

#[rustfmt::skip]
static ENTRY: BlockSpec = BlockSpec {
    name: "entry",
    label: "name",
    only: "",
    options: &[
        opt("spiffe_id", Kind::Text, Required, "The identity: a SPIFFE ID with a path, of the own trust domain. A field such as {unix:user} takes its value from the caller."),
        opt("selectors", Kind::Texts, Required, "What a caller must have, all of it."),
        opt("audiences", Kind::Texts, Derived("any"), "The only audiences that may be asked for; absent allows any."),
        opt("jwt_svid_ttl", secs(1, YEAR), Derived("default_jwt_svid_ttl"), "Life of its tokens."),
        opt("hint", Kind::Text, Default("\"\""), "Tells a caller with several identities which one this is; at most 1024 bytes."),
        opt("claims", Kind::Object, Default("{}"), "Further claims, over those of the issuer; they may have fields too."),
        opt("issuer", Kind::Text, Derived("the only issuer"), "Which issuer signs."),
        opt("key", Kind::Text, Derived("the only key of the issuer"), "Which of its keys signs."),
        opt("jti", Kind::Bool, Default("false"), "Put a random jti into each token."),
        opt("allow_path_only", Kind::Bool, Default("false"), "Allow selectors that are all of unix:path, unix:sha256 and ns:host, which any user can satisfy."),
    ],
    blocks: &[],
    doc: "A registration entry: whoever has all the selectors gets the identity.",
};

#[rustfmt::skip]
static TOKEN_FILE: BlockSpec = BlockSpec {
    name: "token_file",
    label: "path",
    only: "",
    options: &[
        opt("entry", Kind::Text, Derived("entry, spiffe_id or sub is needed"), "The entry whose identity the token has."),
        opt("spiffe_id", Kind::Text, Derived("entry, spiffe_id or sub is needed"), "An identity of no entry, for whoever can read the file."),
        opt("sub", Kind::Text, Derived("entry, spiffe_id or sub is needed"), "A sub that is no SPIFFE ID, for whoever can read the file."),
        opt("shared", Kind::Bool, Default("false"), "Allow a spiffe_id that an entry or another block has too."),
        opt("issuer", Kind::Text, Derived("the issuer of the entry, or the only one"), "Which issuer signs."),
        opt("key", Kind::Text, Derived("the key of the entry, or the only one"), "Which key of the issuer signs; an EdDSA key can be chosen only here."),
        opt("claims", Kind::Object, Default("{}"), "Further claims, over those of the issuer and of the entry."),
        opt("jti", Kind::Bool, Default("false"), "Put a random jti into each token; the entry's jti does as well."),
        opt("format", Kind::Choice(&["jwt", "header", "json"]), Default("\"jwt\""), "The token alone, an Authorization header for curl -H @file, or an object."),
        opt("audience", Kind::TextOrTexts, Required, "The aud: a string where one is written, a list where a list is."),
        opt("ttl", secs(2, YEAR), Default("\"1h\""), "Life of the token, up to max_ttl; that of the entry does not matter here."),
        opt("nbf_margin", secs(0, 600), Default("\"5s\""), "How far nbf lies before iat."),
        opt("refresh_at", Kind::Share(0.1, 0.8), Default("0.45"), "The share of its life after which a token is replaced, moved by up to a tenth for each path."),
        opt("owner", Kind::Text, Derived("the directory's owner"), "Owner of the file, by name or number."),
        opt("group", Kind::Text, Derived("the directory's group"), "Group of the file, by name or number."),
        opt("mode", Kind::Mode, Default("\"0400\""), "Permission bits of the file."),
        opt("pid_file", Kind::Path, Derived("nobody is told"), "Holds the id of a process that is signalled after each write."),
        opt("renew_signal", Kind::Choice(&["SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"]), Derived("nobody is told"), "The signal."),
        opt("pattern", Kind::Text, Derived("^[a-z0-9][a-z0-9._-]{0,62}$, where the path has a parameter"), "Which names a path parameter takes: a regular expression that fits the whole name."),
        opt("directory_owner", Kind::Text, Derived("root, where the path has a parameter"), "Whose directories a path parameter takes: a user, by name or number, or any."),
        opt("max_directories", Kind::Int(1, 1 << 20), Derived("4096, where the path has a parameter"), "How many directories a path parameter takes."),
        opt("create_directory", Kind::Bool, Default("true"), "Make missing directories below <runtime_dir>/tokens; elsewhere they are waited for."),
    ],
    blocks: &[],
    doc: "A token kept fresh in a file, for programs that read one.",
};

/// Options and blocks of SPIRE that mean nothing here, and why: block, name, answer.
#[rustfmt::skip]
pub const NOT_NEEDED: &[(&str, &str, &str)] = &[
    ("agent", "server_address", "there is no server"),
    ("agent", "server_port", "there is no server"),
    ("agent", "trust_bundle_path", "there is no server to trust"),
    ("agent", "trust_bundle_url", "there is no server to trust"),
    ("agent", "trust_bundle_format", "there is no server to trust"),
    ("agent", "trust_bundle_unix_socket", "there is no server to trust"),
    ("agent", "trust_bundle_spiffe_workload_api", "there is no server to trust"),
    ("agent", "insecure_bootstrap", "there is no server to trust"),
    ("agent", "rebootstrap_mode", "there is no server to trust"),
    ("agent", "rebootstrap_delay", "there is no server to trust"),
    ("agent", "join_token", "there is no server to join"),
    ("agent", "join_token_file", "there is no server to join"),
    ("agent", "availability_target", "it is about X.509-SVIDs, which are not served"),
    ("agent", "x509_svid_cache_max_size", "X.509-SVIDs are not served"),
    ("agent", "workload_x509_svid_key_type", "X.509-SVIDs are not served"),
    ("agent", "sds", "Envoy's SDS is not served"),
];

/// What takes the place of a block of SPIRE.
pub const RENAMED: &[(&str, &str)] = &[
    (
        "plugins",
        "write attestor \"unix\" { ... } at the top level; keys go into issuer blocks, and there are no node attestors",
    ),
    (
        "server",
        "there is no server: issuer and entry blocks say what it would",
    ),
    (
        "WorkloadAttestor",
        "write attestor \"unix\" { ... }, its options without plugin_data",
    ),
];

#[cfg(test)]
mod tests;
