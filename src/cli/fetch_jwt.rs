//! `agent fetch-jwt`: a token for whoever runs it.

use std::env;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::place::put_secret;
use super::token::{IdentityArgs, Request, claim, expiry, show_time};
use super::{Exit, Failure, Outcome, Progress, advised, parse_audience, runtime, say};
use crate::clock::{Clock, SystemClock, unix_seconds};
use crate::duration::show_duration;
use crate::pb::Jwtsvid;
use crate::shutdown::{Hangup, on_signals};

/// Fetch a JWT-SVID for the calling process.
#[derive(Debug, Args)]
#[command(
    override_usage = "agent fetch-jwt --audience <AUDIENCE> [OPTIONS]",
    after_help = "Examples:
  agent fetch-jwt --audience vault
  curl -H \"Authorization: Bearer $(agent fetch-jwt --audience api --output token)\" ...
  agent fetch-jwt --audience vault --output token --write /run/app/token --watch
  \"executable\": {\"command\": \"agent fetch-jwt --output gcp-executable\"}"
)]
pub struct FetchJwtArgs {
    /// Whom the token is for; may be given several times.
    ///
    /// gcp-executable takes it from GOOGLE_EXTERNAL_ACCOUNT_AUDIENCE otherwise.
    #[arg(long, value_name = "AUDIENCE", value_parser = parse_audience)]
    audience: Vec<String>,

    /// What to print.
    #[arg(long, value_enum, default_value_t = TokenFormat::Text)]
    output: TokenFormat,

    /// Write it to this file, in one piece and for nobody else to read, instead of printing it.
    ///
    /// The directory must exist, and no part of the path may be a link.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,

    /// Go on until Ctrl-C or SIGTERM, and write or print a new token when half of the life of the
    /// last one is over.
    ///
    /// What fails meanwhile is told on standard error and tried again; the file keeps its token.
    #[arg(long)]
    watch: bool,

    #[command(flatten)]
    identity: IdentityArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TokenFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// The bare token of the default identity; a file gets no newline after it.
    Token,
    /// For the external account credentials of Google Cloud.
    GcpExecutable,
    /// For the users of a kubeconfig.
    K8sExecCredential,
}

/// Where Google's libraries say what they want.
const GOOGLE_AUDIENCE: &str = "GOOGLE_EXTERNAL_ACCOUNT_AUDIENCE";
const GOOGLE_OUTPUT_FILE: &str = "GOOGLE_EXTERNAL_ACCOUNT_OUTPUT_FILE";
/// Where clients of Kubernetes say which version of their API they speak.
const KUBERNETES_EXEC_INFO: &str = "KUBERNETES_EXEC_INFO";
const KUBERNETES_VERSIONS: [&str; 2] = [
    "client.authentication.k8s.io/v1",
    "client.authentication.k8s.io/v1beta1",
];

pub(super) fn fetch_jwt(args: &FetchJwtArgs) -> Outcome {
    let outcome = runtime()?.block_on(fetch(args));
    match outcome {
        // Google's library for Python reads both streams as one: there is a single place to tell.
        Err(failure) if args.tells_google() && !failure.is_closed_pipe() => {
            say(google_failure(&failure))?;
            Ok(failure.exit)
        }
        outcome => outcome,
    }
}

impl FetchJwtArgs {
    /// Whether a library of Google reads what is printed.
    fn tells_google(&self) -> bool {
        self.output == TokenFormat::GcpExecutable && self.write.is_none() && !self.watch
    }
}

async fn fetch(args: &FetchJwtArgs) -> Outcome {
    let request = args.identity.request(audience(args)?);
    let sink = Sink::new(args)?;
    if args.watch {
        return watch(&request, &sink).await;
    }
    let progress = Progress::of("waiting for a token");
    let svids = request.fetch().await?;
    drop(progress);
    sink.deliver(&svids)?;
    Ok(Exit::Success)
}

async fn watch(request: &Request<'_>, sink: &Sink<'_>) -> Outcome {
    let stop = CancellationToken::new();
    let told = on_signals(stop.clone(), Hangup::Stop)?;
    let follow = async {
        let svids = request.fetch_patiently().await?;
        sink.deliver(&svids)?;
        let deliver = |svids: &[Jwtsvid]| sink.deliver(svids);
        Err(request.keep_fresh(svids, deliver).await)
    };
    tokio::select! {
        ended = follow => ended,
        () = told => Ok(Exit::Success),
        () = stop.cancelled() => Ok(Exit::Success),
    }
}

/// A variable of the environment, unless it is empty.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whom the token is for: whoever is named, or whom Google's library names.
fn audience(args: &FetchJwtArgs) -> Result<Vec<String>, Failure> {
    if !args.audience.is_empty() {
        return Ok(args.audience.clone());
    }
    let wrong = |reason| Failure::new(Exit::Usage, reason);
    if args.output != TokenFormat::GcpExecutable {
        let reason = anyhow::anyhow!("it is not said whom the token is for");
        return Err(wrong(advised(reason, "name the audience with --audience")));
    }
    let audience = variable(GOOGLE_AUDIENCE).ok_or_else(|| {
        let reason = anyhow::anyhow!("it is not said whom the token is for");
        advised(
            reason,
            format!("name the audience with --audience or {GOOGLE_AUDIENCE}"),
        )
    });
    let audience = audience.and_then(|text| parse_audience(&text).context(GOOGLE_AUDIENCE));
    Ok(vec![audience.map_err(wrong)?])
}

/// Where tokens go, and in which form.
struct Sink<'a> {
    format: TokenFormat,
    file: Option<&'a Path>,
    /// Whether each output must fit on a line, since there will be more.
    one_line: bool,
    /// Where Google's library looks before it asks again.
    cache: Option<PathBuf>,
    kubernetes_version: &'static str,
}

impl<'a> Sink<'a> {
    fn new(args: &'a FetchJwtArgs) -> anyhow::Result<Self> {
        let gcp = args.output == TokenFormat::GcpExecutable;
        let kubernetes = args.output == TokenFormat::K8sExecCredential;
        let [newest, _] = KUBERNETES_VERSIONS;
        let info = variable(KUBERNETES_EXEC_INFO).filter(|_| kubernetes);
        Ok(Self {
            format: args.output,
            file: args.write.as_deref(),
            one_line: args.watch && args.write.is_none(),
            cache: variable(GOOGLE_OUTPUT_FILE)
                .filter(|_| gcp)
                .map(PathBuf::from),
            kubernetes_version: info.map_or(Ok(newest), |info| kubernetes_version(&info))?,
        })
    }

    fn deliver(&self, svids: &[Jwtsvid]) -> Result<(), Failure> {
        let text = self.render(svids)?;
        if let Some(cache) = &self.cache {
            put_secret(cache, text.as_bytes())?;
        }
        match self.file {
            // Programs send what they find in such a file as it is.
            Some(file) if self.format == TokenFormat::Token => put_secret(file, text.as_bytes())?,
            Some(file) => put_secret(file, format!("{text}\n").as_bytes())?,
            None => say(text)?,
        }
        Ok(())
    }

    fn render(&self, svids: &[Jwtsvid]) -> anyhow::Result<String> {
        let first = svids.first().context("the agent gave no token")?;
        Ok(match self.format {
            TokenFormat::Token => first.svid.clone(),
            TokenFormat::Text => {
                let now = SystemClock.now();
                let all: Vec<_> = svids.iter().map(|svid| to_text(svid, now)).collect();
                all.join("\n")
            }
            TokenFormat::Json => {
                let all: Vec<_> = svids.iter().map(to_json).collect();
                let all = json!({ "svids": all });
                if self.one_line {
                    all.to_string()
                } else {
                    format!("{all:#}")
                }
            }
            TokenFormat::GcpExecutable => google_success(first).to_string(),
            TokenFormat::K8sExecCredential => {
                kubernetes_credential(first, self.kubernetes_version).to_string()
            }
        })
    }
}

/// What the libraries of Google Cloud want of a program that fetches a token for them.
fn google_success(svid: &Jwtsvid) -> Value {
    json!({
        "version": 1,
        "success": true,
        "token_type": "urn:ietf:params:oauth:token-type:jwt",
        "id_token": svid.svid,
        "expiration_time": expiry(svid).map(unix_seconds),
    })
}

fn google_failure(failure: &Failure) -> Value {
    let code = match failure.exit {
        Exit::NoIdentity => "NO_IDENTITY",
        Exit::NoAgent => "NO_AGENT",
        Exit::Usage => "USAGE",
        _ => "FAILED",
    };
    let message = failure.sentence();
    json!({ "version": 1, "success": false, "code": code, "message": message })
}

/// What clients of Kubernetes want of a program that fetches a token for them.
fn kubernetes_credential(svid: &Jwtsvid, version: &str) -> Value {
    json!({
        "apiVersion": version,
        "kind": "ExecCredential",
        "status": {
            "token": svid.svid,
            "expirationTimestamp": expiry(svid).map(show_time),
        },
    })
}

/// The version of the API that the client speaks, if we speak it too.
fn kubernetes_version(info: &str) -> anyhow::Result<&'static str> {
    let info: Value = serde_json::from_str(info).with_context(|| {
        format!("{KUBERNETES_EXEC_INFO} is not what a client of Kubernetes sets")
    })?;
    let version = info.get("apiVersion").and_then(Value::as_str);
    let version = version.unwrap_or_default();
    let [newest, older] = KUBERNETES_VERSIONS;
    let known = KUBERNETES_VERSIONS.into_iter().find(|it| *it == version);
    known.with_context(|| {
        format!(
            "the client of Kubernetes wants apiVersion {version:?}: write {newest} or {older} \
             for this command in the kubeconfig"
        )
    })
}

fn to_json(svid: &Jwtsvid) -> Value {
    json!({
        "spiffe_id": svid.spiffe_id,
        "hint": svid.hint,
        "audience": claim(svid, "aud"),
        "expires_at": expiry(svid).map(show_time),
        "token": svid.svid,
    })
}

fn to_text(svid: &Jwtsvid, now: SystemTime) -> String {
    let audience = match claim(svid, "aud") {
        Some(Value::Array(list)) => {
            let names: Vec<_> = list.iter().filter_map(Value::as_str).collect();
            names.join(", ")
        }
        _ => String::new(),
    };
    let expires = expiry(svid).map_or_else(String::new, |at| {
        let left = at.duration_since(now).unwrap_or_default();
        format!("{} (in {})", show_time(at), show_duration(left))
    });
    let mut rows = vec![
        ("SPIFFE ID", svid.spiffe_id.as_str()),
        ("audience", &audience),
        ("expires", &expires),
    ];
    if !svid.hint.is_empty() {
        rows.push(("hint", &svid.hint));
    }
    rows.push(("token", &svid.svid));
    let lines = rows
        .iter()
        .map(|(name, value)| format!("{name:<10} {value}\n"));
    lines.collect()
}
