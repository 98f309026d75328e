//! What people see: on a terminal of 80 columns and in a pipe, with colours and without, and as
//! docs/screens.md shows it.

mod common;

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Agent, Sandbox, binary, eventually, issuer, text};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regex_lite::Regex;

const COLUMNS: u16 = 80;
const ROWS: u16 = 24;

/// A command on a terminal of its own.
struct Terminal {
    child: Child,
    output: fs::File,
    shown: Vec<u8>,
}

impl Terminal {
    fn start(command: &mut Command, columns: u16) -> Self {
        let size = Winsize {
            ws_row: ROWS,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let command = command.stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().unwrap();
        // The command keeps what it was started with, and so would keep the terminal open.
        command.stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let output: OwnedFd = pty.master;
        Self {
            child,
            output: output.into(),
            shown: Vec::new(),
        }
    }

    /// Reads until a text is there.
    fn until(&mut self, wanted: &str) {
        while !text(&self.shown).contains(wanted) {
            let read = self.read();
            assert!(read > 0, "{}\nlacks {wanted}", text(&self.shown));
        }
    }

    fn read(&mut self) -> usize {
        let mut part = [0; 4096];
        // The error tells that nobody is left who writes.
        let read = self.output.read(&mut part).unwrap_or(0);
        self.shown.extend_from_slice(&part[..read]);
        read
    }

    /// Reads to the end; everything that was shown.
    fn end(mut self) -> String {
        while self.read() > 0 {}
        self.child.wait().unwrap();
        text(&self.shown).replace("\r\n", "\n")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It has ended, or its test has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The environment of a terminal, and no more.
fn clean(command: &mut Command) -> &mut Command {
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "LC_CTYPE", "LANG"] {
        command.env_remove(name);
    }
    command
        .env("TERM", "xterm-256color")
        .env("LC_ALL", "C.UTF-8")
}

fn on_terminal(command: &mut Command) -> String {
    Terminal::start(command, COLUMNS).end()
}

/// What is left of a text in the end, without its colours; no other sequences may be in it.
fn bare(shown: &str) -> String {
    let lines = shown.split('\n');
    let left: Vec<_> = lines
        .map(|line| line.rsplit('\r').next().unwrap_or(""))
        .collect();
    let shown = left.join("\n");
    let bare = Regex::new("\x1b\\[[0-9;]*m").unwrap();
    let bare = bare.replace_all(&shown, "").into_owned();
    assert!(!bare.contains('\x1b'), "{shown:?}");
    bare
}

#[track_caller]
fn fits(shown: &str) {
    for line in bare(shown).lines() {
        // What is for copying stays in one piece.
        let copied = line.starts_with("eyJ") || line.starts_with("socket unix:");
        let width = line.chars().count();
        assert!(
            width <= COLUMNS.into() || copied,
            "{width}: {line}\n{shown}"
        );
    }
}

/// A text without what differs from run to run: numbers, times, tokens, ids of keys, paths.
fn form(shown: &str) -> Vec<String> {
    let rules = [
        (r"eyJ[A-Za-z0-9_.\-]+(\n[A-Za-z0-9_.\-]{20,})*", "TOKEN"),
        (r"agent 0\.\d+\.\d+ \([0-9a-f]+\)", "agent VERSION"),
        (r"RS256  [A-Za-z0-9_\-]{12}", "RS256 KID"),
        (r": [A-Za-z0-9_\-]{12} signs", ": KID signs"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "DATE"),
        (
            r"\d+ (second|minute|hour|day)s?( \d+ (second|minute|hour)s?)?",
            "TIME",
        ),
        (r"[█░]+", "BAR"),
        (r"[0-9a-f]{64}", "HASH"),
        (
            r"(unix://|unix:path:| |^)(/|[a-z]+…)[A-Za-z0-9_./…\-]*",
            "${1}PATH",
        ),
        (r"\d+", "N"),
        (r"[ \n]+", " "),
        // Within the last second nothing is said of the next.
        (r"; the agent tries it again in TIME", ""),
    ];
    let paragraphs = bare(shown);
    let form = |paragraph: &str| {
        let mut text = paragraph.to_owned();
        for (pattern, name) in rules {
            text = Regex::new(pattern)
                .unwrap()
                .replace_all(&text, name)
                .into_owned();
        }
        text.trim().to_owned()
    };
    paragraphs.trim().split("\n\n").map(form).collect()
}

/// A screen of docs/screens.md, without the command that it begins with.
fn documented(command: &str) -> String {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/screens.md"));
    let page = page.unwrap();
    let begin = format!("    $ {command}\n");
    let (_, rest) = page.split_once(&begin).expect(command);
    let lines = rest
        .lines()
        .take_while(|line| line.is_empty() || line.starts_with("    "));
    let lines: Vec<_> = lines
        .map(|line| line.strip_prefix("    ").unwrap_or(""))
        .collect();
    let screen = lines.join("\n").trim_end().to_owned();
    fits(&screen);
    screen
}

#[track_caller]
fn is_documented(command: &str, shown: &str) {
    let (real, told) = (form(shown), form(&documented(command)));
    assert_eq!(
        real, told,
        "docs/screens.md shows another screen than\n{shown}"
    );
}

/// An agent as the page has it: a token file that is fresh, one that lacks its directory, and a
/// caller who was refused.
fn house() -> (Sandbox, Agent) {
    let sandbox = Sandbox::new("");
    let blocks = format!(
        r#"attestor "unix" {{
  discover_workload_path = true
  timeout = "30s"
}}
entry "billing" {{
  spiffe_id = "spiffe://example.org/billing"
  selectors = ["unix:uid:{}"]
}}
entry "reports" {{
  spiffe_id = "spiffe://example.org/reports"
  selectors = ["unix:uid:1002", "unix:gid:1003"]
}}
token_file "{}" {{
  entry    = "billing"
  audience = "sts.amazonaws.com"
}}
token_file "{}" {{
  entry    = "billing"
  audience = "vault"
}}
"#,
        nix::unistd::geteuid(),
        sandbox.path("run/tokens/billing/aws").display(),
        sandbox.path("srv/billing/vault").display(),
    );
    sandbox.configure(&(issuer("main", "https://id.example.org", "RS256") + &blocks));
    let agent = sandbox.start();
    sandbox.settle();
    eventually("one file is written and one is missed", || {
        let shown = text(&sandbox.run(&["status"]).stdout);
        (shown.contains("1 without a token, 1 fresh")).then_some(())
    });
    sandbox.token("vault");
    let foreign = [
        "fetch-jwt",
        "--audience",
        "vault",
        "--spiffe-id",
        "spiffe://example.org/reports",
    ];
    assert_eq!(sandbox.run(&foreign).status.code(), Some(3));
    (sandbox, agent)
}

#[test]
fn screens_have_colours_on_a_terminal_alone_and_only_if_they_are_wanted() {
    let (sandbox, _agent) = house();
    for arguments in [
        &["status"][..],
        &["explain"],
        &["explain", "--pid", "1"],
        &["status", "--admin-socket", "/nonexistent"],
        &["nonesuch"],
        &["fetch-jwt"],
        &["--help"],
        &["run", "--config", "/nonexistent"],
    ] {
        let command = || {
            let mut command = sandbox.command(arguments);
            clean(&mut command);
            command
        };
        let coloured = on_terminal(&mut command());
        assert!(coloured.contains("\x1b["), "{arguments:?}: {coloured}");
        fits(&coloured);
        for (name, value) in [("NO_COLOR", "1"), ("NO_COLOR", "0"), ("TERM", "dumb")] {
            let plain = on_terminal(command().env(name, value));
            assert!(!plain.contains('\x1b'), "{arguments:?} {name}: {plain}");
            fits(&plain);
            if name == "NO_COLOR" {
                assert_eq!(form(&plain), form(&coloured), "{arguments:?} {name}");
            }
        }
        let empty = on_terminal(command().env("NO_COLOR", ""));
        assert!(empty.contains("\x1b["), "{arguments:?}: {empty}");
        let piped = command().env("CLICOLOR_FORCE", "1").output().unwrap();
        let piped = text(&piped.stdout) + &text(&piped.stderr);
        assert!(!piped.contains('\x1b'), "{arguments:?}: {piped}");
    }
}

#[test]
fn the_log_has_colours_on_a_terminal_alone_and_only_if_they_are_wanted() {
    for (name, value, coloured) in [
        ("X", "", true),
        ("NO_COLOR", "1", false),
        ("TERM", "dumb", false),
    ] {
        let sandbox = Sandbox::with_entry("ES256");
        let mut command = sandbox.command(&["run", "--config"]);
        command.arg(sandbox.config());
        let mut terminal = Terminal::start(clean(&mut command).env(name, value), COLUMNS);
        terminal.until("serving");
        assert_eq!(text(&terminal.shown).contains('\x1b'), coloured, "{name}");
        kill(
            Pid::from_raw(terminal.child.id().cast_signed()),
            Signal::SIGTERM,
        )
        .unwrap();
        terminal.end();
    }
}

#[test]
fn without_a_locale_for_it_nothing_goes_beyond_ascii() {
    let (sandbox, _agent) = house();
    let shown = on_terminal(clean(&mut sandbox.command(&["status"])).env("LC_ALL", "C"));
    assert!(shown.is_ascii() && shown.contains("####"), "{shown}");
    fits(&shown);
}

#[test]
fn a_wider_terminal_shows_more_of_what_is_long() {
    let (sandbox, _agent) = house();
    let mut command = sandbox.command(&["status"]);
    let shown = Terminal::start(clean(&mut command), 160).end();
    let whole = sandbox.path("run/tokens/billing/aws").display().to_string();
    assert!(shown.contains(&format!("{whole}  ")), "{shown}");
}

#[test]
fn dev_fits_its_first_screen_and_what_it_says_to_type_works() {
    let runtime = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary());
    command.arg("dev").env("XDG_RUNTIME_DIR", runtime.path());
    let mut terminal = Terminal::start(clean(&mut command), COLUMNS);
    terminal.until("the configuration");
    let screen = text(&terminal.shown).replace("\r\n", "\n");
    fits(&screen);
    let columns = usize::from(COLUMNS);
    let rows = bare(&screen);
    let rows = rows
        .lines()
        .map(|line| line.chars().count().div_ceil(columns).max(1));
    // The line of the command itself, and that of the cursor.
    assert!(rows.sum::<usize>() + 2 <= ROWS.into(), "{screen}");

    let screen = bare(&screen);
    let commands = screen
        .lines()
        .skip_while(|line| !line.starts_with("Try it"));
    let commands = commands.skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<_> = commands.map(str::trim).collect();
    assert!(commands.len() > 4, "{screen}");
    eventually("the token file is there", || {
        runtime
            .path()
            .join("svid-agent/tokens/me")
            .exists()
            .then_some(())
    });
    for (at, command) in commands.iter().enumerate().skip(1) {
        let script = format!("{}\n{command}\n", commands[0]);
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        // The one that asks for an identity of somebody else is refused.
        let expected = if command.contains("--spiffe-id") {
            3
        } else {
            0
        };
        assert_eq!(
            output.status.code(),
            Some(expected),
            "{at}: {command}: {}",
            text(&output.stderr)
        );
    }
    kill(
        Pid::from_raw(terminal.child.id().cast_signed()),
        Signal::SIGINT,
    )
    .unwrap();
    let all = terminal.end();
    assert_eq!(
        bare(&all).trim_end(),
        screen.trim_end(),
        "there is no other noise"
    );
    is_documented("agent dev", &all);
}

#[test]
fn the_page_shows_what_there_is_to_see() {
    let (sandbox, _agent) = house();
    let show = |arguments: &[&str]| on_terminal(clean(&mut sandbox.command(arguments)));
    is_documented("agent status", &show(&["status"]));

    let gone = [
        "fetch-jwt",
        "--audience",
        "vault",
        "--socket",
        "/run/agent/api/api.sock",
    ];
    if !Path::new(gone[4]).exists() {
        is_documented("agent fetch-jwt --audience vault", &show(&gone));
    }
    if common::have(&[common::Need::Root]) {
        let mut sleep = common::as_user(1003).args(["sleep", "60"]).spawn().unwrap();
        let pid = sleep.id().to_string();
        let cmdline = format!("/proc/{pid}/comm");
        eventually("it sleeps", || {
            (fs::read_to_string(&cmdline).ok()? == "sleep\n").then_some(())
        });
        let shown = show(&["explain", "--pid", &pid]);
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        // What can be found of a process is not the same on all machines.
        let headings = |shown: &str| {
            let paragraphs = bare(shown).trim().to_owned();
            let firsts = paragraphs.split("\n\n").skip(1);
            let firsts = firsts.filter_map(|paragraph| paragraph.lines().next());
            firsts.map(str::to_owned).collect::<Vec<_>>()
        };
        let page = documented("agent explain --pid $(pidof report)");
        assert_eq!(headings(&shown), headings(&page), "{shown}");
    }
}

#[test]
fn what_takes_long_is_told_on_a_terminal_alone_and_leaves_no_trace() {
    let sandbox = Sandbox::new("");
    let wait = [
        "fetch-jwt",
        "--audience",
        "vault",
        "--wait",
        "--timeout",
        "3s",
    ];
    let piped = sandbox.run(&wait);
    assert!(
        !text(&piped.stderr).contains("waiting"),
        "{}",
        text(&piped.stderr)
    );
    let shown = on_terminal(clean(&mut sandbox.command(&wait)));
    assert!(shown.contains("waiting for a token, 1s"), "{shown}");
    // The cursor is back where the line began, and the line is gone.
    let (line, rest) = shown.rsplit_once('\r').unwrap();
    assert!(
        line.ends_with("          ") && bare(rest).starts_with("agent: error: "),
        "{shown:?}"
    );
}
