//! `agent fetch-jwt`: a token for whoever runs it.

use std::time::SystemTime;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{Exit, Outcome, SocketArgs, parse_audience, runtime, say};
use crate::clock::{Clock, SystemClock, from_unix_seconds};
use crate::duration::show_duration;
use crate::jose::jws::Unverified;
use crate::pb::Jwtsvid;
use crate::spiffe_id::SpiffeId;

/// Fetch a JWT-SVID for the calling process.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent fetch-jwt --audience vault
  curl -H \"Authorization: Bearer $(agent fetch-jwt --audience api --output token)\" ...")]
pub struct FetchJwtArgs {
    /// Whom the token is for; may be given several times.
    #[arg(long, value_name = "AUDIENCE", required = true, value_parser = parse_audience)]
    audience: Vec<String>,

    /// Fetch this identity only.
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,

    /// Fetch only the identity with this hint.
    #[arg(long, value_name = "HINT")]
    hint: Option<String>,

    /// What to print; token is the bare token of the default identity.
    #[arg(long, value_enum, default_value_t = TokenFormat::Text)]
    output: TokenFormat,

    #[command(flatten)]
    socket: SocketArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TokenFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// The token and nothing else.
    Token,
}

pub(super) fn fetch_jwt(args: &FetchJwtArgs) -> Outcome {
    let client = args.socket.client();
    let mut svids = runtime()?.block_on(client.fetch_jwt(
        &args.audience,
        args.spiffe_id.as_ref().map(SpiffeId::as_str),
    ))?;
    if let Some(hint) = &args.hint {
        svids.retain(|svid| svid.hint == *hint);
        if svids.is_empty() {
            let reason = anyhow::anyhow!("no identity of this process has the hint {hint:?}");
            return Err(super::Failure::new(Exit::NoIdentity, reason));
        }
    }
    match args.output {
        TokenFormat::Token => say(svids.first().map_or("", |svid| &svid.svid))?,
        TokenFormat::Json => {
            let all: Vec<_> = svids.iter().map(to_json).collect();
            say(format_args!("{:#}", json!({ "svids": all })))?;
        }
        TokenFormat::Text => {
            let now = SystemClock.now();
            let all: Vec<_> = svids.iter().map(|svid| to_text(svid, now)).collect();
            say(all.join("\n"))?;
        }
    }
    Ok(Exit::Success)
}

/// A claim of a token that just came from the agent.
fn claim(svid: &Jwtsvid, name: &str) -> Option<Value> {
    let token = Unverified::parse(&svid.svid).ok()?;
    token.untrusted_payload().get(name).cloned()
}

fn expiry(svid: &Jwtsvid) -> Option<SystemTime> {
    claim(svid, "exp")?.as_u64().map(from_unix_seconds)
}

/// A time as RFC 3339 writes it, in UTC.
pub(super) fn show_time(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "unknown".to_owned(), |time| time.to_string())
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
