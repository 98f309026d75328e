//! `agent exec`: a program with a token file of its own.

use std::ffi::OsString;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::task::Poll;

use anyhow::Context;
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid, getpgrp, tcgetpgrp};
use procfs::process::Process;
use tokio::signal::unix::{self, SignalKind};

use super::place::{make_private, remove, runtime_dir};
use super::token::IdentityArgs;
use super::{Exit, Failure, Outcome, Progress, advised, parse_audience, runtime};
use crate::durable::{Attributes, Dir, Persistence};
use crate::pb::Jwtsvid;

/// Run a program with a file that holds a token of the caller and is kept fresh.
///
/// The file lies in a directory that only the caller can enter and that is gone when the program
/// has ended. The program finds its path in SVID_TOKEN_FILE, AWS_WEB_IDENTITY_TOKEN_FILE and
/// AZURE_FEDERATED_TOKEN_FILE. It is not started if there is no token.
///
/// It gets the signals that agent exec gets, and agent exec ends as it does: with its exit code,
/// with 128 and the number of the signal that killed it, or with 127 or 126 if there is no such
/// program or it cannot be run.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agent exec --audience sts.amazonaws.com -- aws s3 ls
  agent exec --audience vault -- sh -c 'vault write auth/jwt/login role=app jwt=@$SVID_TOKEN_FILE'")]
pub struct ExecArgs {
    /// Whom the token is for; may be given several times.
    #[arg(long, value_name = "AUDIENCE", required = true, value_parser = parse_audience)]
    audience: Vec<String>,

    #[command(flatten)]
    identity: IdentityArgs,

    /// The program, and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Where programs look for the path of the file.
const VARIABLES: [&str; 3] = [
    "SVID_TOKEN_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AZURE_FEDERATED_TOKEN_FILE",
];

/// The file, in the directory.
const FILE: &str = "token";

/// What the program is told too.
const FORWARDED: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

pub(super) fn exec(args: &ExecArgs) -> Outcome {
    runtime()?.block_on(async {
        let request = args.identity.request(args.audience.clone());
        let progress = Progress::of("waiting for a token");
        let svids = request.fetch().await?;
        drop(progress);
        // Before there is anything to clean up, and before there is anybody to tell.
        let signals = Signals::catch()?;
        let home = Home::make()?;
        home.put(&svids)?;
        let mut child = spawn(args, &home)?;
        tokio::select! {
            status = supervise(&mut child, signals) => Ok(Exit::Code(exit_code(status?))),
            failure = request.keep_fresh(svids, |svids| home.put(svids)) => Err(failure),
        }
    })
}

/// The directory with the token, as long as the program runs.
struct Home {
    path: PathBuf,
    dir: Dir,
}

impl Home {
    fn make() -> anyhow::Result<Self> {
        let parent = runtime_dir().unwrap_or_else(std::env::temp_dir);
        let path = make_private(&parent)?;
        let open = || anyhow::Ok(Dir::open(&path.canonicalize()?)?);
        match open() {
            Ok(dir) => Ok(Self {
                path: dir.path().to_owned(),
                dir,
            }),
            Err(error) => {
                remove(&path);
                let error = error.context("no place for the token");
                Err(advised(error, "name a directory of yours with TMPDIR"))
            }
        }
    }

    fn file(&self) -> PathBuf {
        self.path.join(FILE)
    }

    /// Without a newline: libraries send what they read.
    fn put(&self, svids: &[Jwtsvid]) -> Result<(), Failure> {
        let svid = svids.first().context("the agent gave no token")?;
        let (bytes, own) = (svid.svid.as_bytes(), Attributes::own(0o600));
        let written = self.dir.replace(FILE, bytes, own, Persistence::Volatile);
        written.with_context(|| format!("cannot write {}", self.file().display()))?;
        Ok(())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn spawn(args: &ExecArgs, home: &Home) -> Result<Child, Failure> {
    let (program, arguments) = args.command.split_first().context("name a program")?;
    let file = home.file();
    let mut command = Command::new(program);
    command.args(arguments);
    command.envs(VARIABLES.map(|name| (name, &file)));
    command.spawn().map_err(|error| {
        let (code, help) = match error.kind() {
            io::ErrorKind::NotFound => (127, "is it installed, and in PATH?"),
            _ => (126, "is it a program, and may you execute it?"),
        };
        let program = program.display();
        let reason = anyhow::Error::new(error).context(format!("cannot run {program}"));
        Failure::new(Exit::Code(code), advised(reason, help))
    })
}

/// Hands signals on until the program has ended.
async fn supervise(child: &mut Child, mut signals: Signals) -> io::Result<ExitStatus> {
    let pid = Pid::from_raw(child.id().cast_signed());
    loop {
        match signals.next().await {
            Signal::SIGCHLD => {
                if let Some(status) = child.try_wait()? {
                    return Ok(status);
                }
            }
            signal if terminal_tells(signal, pid) => {}
            // The number is that of the program as long as nobody has waited for it. It may have
            // become another user, whom we may not signal.
            signal => drop(kill(pid, signal)),
        }
    }
}

/// Whether the terminal sends such a signal to the program itself, which would get it twice, as
/// Ctrl-C pressed twice, if it were handed on.
fn terminal_tells(signal: Signal, program: Pid) -> bool {
    let group = getpgrp();
    matches!(signal, Signal::SIGINT | Signal::SIGQUIT)
        && getpgid(Some(program)) == Ok(group)
        && File::open("/dev/tty").is_ok_and(|terminal| tcgetpgrp(terminal) == Ok(group))
}

fn exit_code(status: ExitStatus) -> u8 {
    let signal = status.signal().map_or(1, |signal| 128 + signal);
    u8::try_from(status.code().unwrap_or(signal)).unwrap_or(1)
}

/// The signals that are handed on, and the one that tells of the end of the program.
struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    /// Catches them, except those that whoever started us wants ignored, as nohup does: the program
    /// ignores them too.
    fn catch() -> io::Result<Self> {
        let status = Process::myself().and_then(|process| process.status());
        let ignored = status.map_or(0, |status| status.sigign);
        let is_ignored = |signal: &Signal| ignored >> (*signal as u32 - 1) & 1 == 1;
        let forwarded = FORWARDED.into_iter().filter(|signal| !is_ignored(signal));
        let caught = forwarded.chain([Signal::SIGCHLD]).map(|signal| {
            let stream = unix::signal(SignalKind::from_raw(signal as i32))?;
            Ok((signal, stream))
        });
        Ok(Self(caught.collect::<io::Result<_>>()?))
    }

    async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (signal, stream) in &mut self.0 {
                if let Poll::Ready(Some(())) = stream.poll_recv(context) {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }
}
