//! `agent run`: the daemon, and everything it writes once.

use std::future::Future;
use std::path::PathBuf;

use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{ConfigArgs, Exit, Failure, Outcome, problem};
use crate::agent::{AgentError, Bound, write_once};
use crate::config::Config;
use crate::privilege::{self, Privilege};
use crate::shutdown::{Hangup, on_signals};
use crate::sys;
use crate::systemd;
use crate::telemetry;

/// Run the agent until it is told to stop by SIGTERM or SIGINT.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent run
  agent run --once --config ./agent.conf")]
pub struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// Write keys, documents and every token file once, serve nobody, and exit: 1 if anything could
    /// not be written. What is missing, an entry or a directory, is not waited for
    #[arg(long)]
    once: bool,
}

pub(super) fn run(args: &RunArgs) -> Outcome {
    let (config, warnings) = match Config::load(&args.config.config) {
        Ok(loaded) => loaded,
        Err(report) => {
            problem::diagnosed(report.iter());
            return Ok(Exit::Config);
        }
    };
    telemetry::init(config.log);
    for warning in warnings.iter().chain(config.unknown_names().iter()) {
        let help = warning.help.as_deref().unwrap_or_default();
        tracing::warn!(place = %warning.place, help, "{}", warning.message);
    }
    if args.once {
        return once(config);
    }
    let socket = config.socket_path.display().to_string();
    let file = Some(args.config.config.clone());
    serve(config, file, || async move {
        systemd::ready("serving");
        tracing::info!(version = crate::agent::VERSION, socket, "serving");
        Ok(())
    })
}

/// Writes everything once.
fn once(config: Config) -> Outcome {
    harden(&config)?;
    let runtime = runtime()?;
    let failed = runtime.block_on(write_once(config));
    runtime.shutdown_background();
    let failed = failed?;
    for failure in &failed {
        problem::error(failure);
    }
    Ok(if failed.is_empty() {
        Exit::Success
    } else {
        Exit::Failure
    })
}

fn runtime() -> std::io::Result<Runtime> {
    // On a single core a second thread would only take turns with the first.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
}

/// Serves a configuration, and calls `ready` once when everything works.
pub(super) fn serve<F>(config: Config, file: Option<PathBuf>, ready: impl FnOnce() -> F) -> Outcome
where
    F: Future<Output = Result<(), Failure>>,
{
    harden(&config)?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(serve_until_told(config, file, ready));
    // Nothing that still blocks is worth waiting for.
    runtime.shutdown_background();
    outcome
}

async fn serve_until_told<F>(
    config: Config,
    file: Option<PathBuf>,
    ready: impl FnOnce() -> F,
) -> Outcome
where
    F: Future<Output = Result<(), Failure>>,
{
    let stop = CancellationToken::new();
    // Without a file to read again, a hangup means that the terminal has gone.
    let hangup = if file.is_some() {
        Hangup::Ignore
    } else {
        Hangup::Stop
    };
    let hurry = on_signals(stop.clone(), hangup)?;
    let mut hurry = std::pin::pin!(hurry);
    let bound = tokio::select! {
        bound = Bound::build(config, file) => bound?,
        () = stop.cancelled() => return Ok(Exit::Success),
        () = &mut hurry => return Ok(Exit::Success),
    };
    let (told, is_ready) = oneshot::channel();
    let until = stop.clone();
    let start = async {
        if is_ready.await.is_ok() {
            // What a start needs is not needed again.
            sys::trim_memory();
            if let Err(failure) = ready().await {
                until.cancel();
                return Err(failure);
            }
        }
        Ok(())
    };
    let stopping = async {
        stop.cancelled().await;
        systemd::stopping();
        std::future::pending::<()>().await;
    };
    let all = async { tokio::join!(bound.run(stop.clone(), told), start) };
    let (ran, started) = tokio::select! {
        both = all => both,
        () = &mut hurry => return Ok(Exit::Success),
        () = stopping => return Ok(Exit::Success),
    };
    started?;
    match ran {
        Ok(()) => Ok(Exit::Success),
        Err(error @ AgentError::Fault(_)) => Err(Failure::new(Exit::Internal, error)),
        Err(error) => Err(error.into()),
    }
}

/// Before anything secret is in memory and any other thread is there: no core file, no look into this
/// process by others of the same user, no file open to anybody unless said so, as many descriptors as
/// allowed, and no capability that is not used.
fn harden(config: &Config) -> std::io::Result<()> {
    umask(Mode::from_bits_truncate(0o077));
    nix::sys::prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    let Privilege { kept, given_up } = privilege::give_up_unused(config.listens_on_low_port())?;
    if !given_up.is_empty() {
        let (kept, given_up) = (privilege::names(kept), privilege::names(given_up));
        tracing::info!(
            kept,
            given_up,
            "capabilities that are not used are given up"
        );
    }
    Ok(())
}
