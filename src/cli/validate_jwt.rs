//! `agent validate-jwt`: is this token good for this audience?

use std::io::Read;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value, json};

use super::failure::advised;
use super::{
    Exit, Outcome, OutputFormat, SocketArgs, complain, parse_audience, problem, runtime, say,
};
use crate::jose::decode_base64url;
use crate::jose::jws::MAX_TOKEN_BYTES;
use crate::workload_api::client::ClientError;

/// Validate a JWT-SVID that is read from standard input or from a file.
///
/// Tokens are never taken as arguments, which other users can see.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  agent fetch-jwt --audience test --output token | agent validate-jwt --audience test")]
pub struct ValidateJwtArgs {
    /// The audience that the token must be for.
    #[arg(long, value_name = "AUDIENCE", value_parser = parse_audience)]
    audience: String,

    /// Read the token from this file; - is standard input.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// What to print.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,

    #[command(flatten)]
    socket: SocketArgs,
}

pub(super) fn validate_jwt(args: &ValidateJwtArgs) -> Outcome {
    let token = read_token(args)?;
    let client = args.socket.client();
    let (spiffe_id, claims) = match runtime()?.block_on(client.validate_jwt(&args.audience, &token))
    {
        Ok(valid) => valid,
        Err(ClientError::Refused(reason)) => {
            problem::error(format_args!("not valid: {reason}"));
            show_untrusted(&token);
            return Ok(Exit::Failure);
        }
        Err(error) => return Err(error.into()),
    };
    match args.output {
        OutputFormat::Json => {
            say(format_args!(
                "{:#}",
                json!({"spiffe_id": spiffe_id, "claims": claims})
            ))?;
        }
        OutputFormat::Text => {
            say(format_args!("valid      {spiffe_id}"))?;
            for (name, value) in &claims {
                say(format_args!("{name:<10} {value}"))?;
            }
        }
    }
    Ok(Exit::Success)
}

fn read_token(args: &ValidateJwtArgs) -> anyhow::Result<String> {
    let limit = u64::try_from(MAX_TOKEN_BYTES).unwrap_or(u64::MAX) + 2;
    let mut text = String::new();
    match &args.file {
        Some(path) if path.as_os_str() != "-" => std::fs::File::open(path)
            .and_then(|file| file.take(limit).read_to_string(&mut text))
            .with_context(|| format!("cannot read {}", path.display()))?,
        _ => std::io::stdin()
            .take(limit)
            .read_to_string(&mut text)
            .context("cannot read standard input")?,
    };
    let token = text.trim_end_matches(['\n', '\r']);
    if token.is_empty() {
        let none = anyhow::anyhow!("there is no token");
        return Err(advised(none, "give one on standard input or with --file"));
    }
    Ok(token.to_owned())
}

/// Shows what the token claims, so that its holder finds the mistake; nothing of it is believed.
fn show_untrusted(token: &str) {
    for (name, part) in ["header", "claims"].into_iter().zip(token.split('.')) {
        let members: Option<Map<String, Value>> =
            decode_base64url(part).and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(members) = members {
            complain(format_args!(
                "untrusted {name}: {:#}",
                Value::Object(members)
            ));
        }
    }
}
