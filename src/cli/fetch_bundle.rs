//! `agent fetch-bundle`: the keys that tokens of this trust domain are signed with.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::place::put_public;
use super::{Exit, Failure, Outcome, SocketArgs, problem, runtime, say};

/// Between two streams of `--watch`.
const PAUSE: Duration = Duration::from_secs(1);

/// Fetch the public keys of the trust domain.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent fetch-bundle --write ./jwks.json
  agent fetch-bundle --format spiffe --watch --write ./bundle.json")]
pub struct FetchBundleArgs {
    /// A plain JWK Set, or a SPIFFE bundle.
    #[arg(long, value_enum, default_value_t = BundleFormat::Jwks)]
    format: BundleFormat,

    /// Write it to this file, in one piece, instead of printing it.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,

    /// Go on, and write or print it again whenever it changes.
    #[arg(long)]
    watch: bool,

    #[command(flatten)]
    socket: SocketArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BundleFormat {
    /// As the Workload API gives it.
    Jwks,
    /// With the use of each key (SPIFFE Trust Domain and Bundle, section 4).
    Spiffe,
}

pub(super) fn fetch_bundle(args: &FetchBundleArgs) -> Outcome {
    runtime()?.block_on(async {
        loop {
            match follow(args).await {
                Ok(()) => return Ok(Exit::Success),
                Err(failure) if args.watch && failure.is_passing() => {
                    problem::warning(format_args!("{}; trying again", failure.what()));
                    tokio::time::sleep(PAUSE).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    })
}

/// Delivers what one stream brings: the first message, or with `--watch` all of them.
async fn follow(args: &FetchBundleArgs) -> Result<(), Failure> {
    let mut bundles = args.socket.client().bundles().await?;
    loop {
        if let Some((_, document)) = bundles.next().await?.into_iter().next() {
            deliver(args, &render(document, args.format))?;
        }
        if !args.watch {
            return Ok(());
        }
    }
}

fn render(mut document: Value, format: BundleFormat) -> String {
    if format == BundleFormat::Spiffe {
        let keys = document.get_mut("keys").and_then(Value::as_array_mut);
        for key in keys.into_iter().flatten().filter_map(Value::as_object_mut) {
            key.insert("use".to_owned(), json!("jwt-svid"));
        }
    }
    format!("{document:#}")
}

fn deliver(args: &FetchBundleArgs, text: &str) -> anyhow::Result<()> {
    let Some(path) = &args.write else {
        return Ok(say(text)?);
    };
    put_public(path, format!("{text}\n").as_bytes())
}
