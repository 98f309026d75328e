//! `agent explain`: why a process has the identities that it has.

mod show;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use self::show::{to_json, to_text};
use super::{
    DEFAULT_ADMIN_SOCKET, DEFAULT_SOCKET, Exit, Outcome, OutputFormat, ask, look_of_output,
    parse_audience, parse_socket, parse_timeout, say,
};
use crate::admin::client::AdminClient;
use crate::pb::admin::ExplainProcessRequest;
use crate::pb::explain::v1::{ExplainCallerRequest, Explanation, Identity, Withheld};
use crate::spiffe_id::SpiffeId;
use crate::workload_api::client::WorkloadClient;

/// Tell why a process has the identities that it has, or has none.
///
/// Without --pid about this very command, which any user may ask; with it about any process, for
/// root and the agent's user alone, and what it lacks for the entries that nearly match. Exits with
/// 0 if the process gets an identity and with 3 if not.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent explain
  agent explain --pid 4711 --audience vault")]
pub struct ExplainArgs {
    /// The process, as the agent sees it.
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,

    /// Whom its token would be for; may be given several times.
    #[arg(long, value_name = "AUDIENCE", value_parser = parse_audience)]
    audience: Vec<String>,

    /// The identity that it should get.
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,

    /// What to print.
    #[arg(long, value_enum, default_value_t = OutputFormat::Text)]
    output: OutputFormat,

    /// The Workload API socket: a path, or unix:///path.
    #[arg(long, value_name = "PATH", env = "SPIFFE_ENDPOINT_SOCKET", default_value = DEFAULT_SOCKET, value_parser = parse_socket)]
    socket: PathBuf,

    /// The admin socket, for --pid: a path, or unix:///path.
    #[arg(long, value_name = "PATH", env = "AGENT_ADMIN_SOCKET", default_value = DEFAULT_ADMIN_SOCKET, value_parser = parse_socket)]
    admin_socket: PathBuf,

    /// How long to try, such as 5s or 1m.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_timeout)]
    timeout: Duration,
}

pub(super) fn explain(args: &ExplainArgs) -> Outcome {
    let spiffe_id = args.spiffe_id.as_ref().map(SpiffeId::to_string);
    let spiffe_id = spiffe_id.unwrap_or_default();
    let audience = args.audience.clone();
    let explained = match args.pid {
        Some(pid) => {
            let client = AdminClient {
                socket: args.admin_socket.clone(),
                timeout: args.timeout,
            };
            let request = ExplainProcessRequest {
                pid,
                audience,
                spiffe_id,
            };
            ask(client.explain(request))?
        }
        None => {
            let client = WorkloadClient {
                socket: args.socket.clone(),
                timeout: args.timeout,
                wait: false,
            };
            let request = ExplainCallerRequest {
                audience,
                spiffe_id,
            };
            ask(client.explain(request))?
        }
    };
    match args.output {
        OutputFormat::Json => say(format_args!("{:#}", to_json(&explained)))?,
        OutputFormat::Text => say(to_text(&explained, args.pid.is_none(), look_of_output()))?,
    }
    let gets = given(&explained).next().is_some();
    Ok(if gets {
        Exit::Success
    } else {
        Exit::NoIdentity
    })
}

/// The identities that the process gets for what was asked.
fn given(explained: &Explanation) -> impl Iterator<Item = &Identity> {
    let all = explained.identities.iter();
    all.filter(|identity| identity.withheld() == Withheld::Not)
}
