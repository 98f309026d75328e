//! The file from which the agent learns whom to signal, in the hands of an attacker: nobody else is
//! signalled, and the token files are written as ever.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::attacker::{Role, Turns};
use crate::common::{as_user, eventually, long};
use crate::house::{House, OTHER, against_each_agent, logged, renewed};

/// A process that notes each signal in a file.
struct Sleeper {
    child: Child,
    told: PathBuf,
}

impl Sleeper {
    fn start(mut command: Command, told: PathBuf) -> Self {
        let script = format!(
            "trap 'echo told >> {0}' HUP; echo ready > {0}; while :; do sleep 0.05; done",
            told.display()
        );
        let child = command.args(["sh", "-c", &script]).spawn().unwrap();
        let ready = || fs::read_to_string(&told).is_ok_and(|said| said == "ready\n");
        eventually("it is ready to be told", || ready().then_some(()));
        Self { child, told }
    }

    fn of_root(house: &House) -> Self {
        Self::start(Command::new("env"), house.sandbox.path("told"))
    }

    fn of_attacker(house: &House) -> Self {
        Self::start(as_user(OTHER), house.home.join("told"))
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    fn times(&self) -> usize {
        fs::read_to_string(&self.told)
            .unwrap()
            .matches("told")
            .count()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn options(pid_file: &Path) -> String {
    format!(
        "ttl = \"2s\"\n  pid_file = \"{}\"\n  renew_signal = \"SIGHUP\"",
        pid_file.display()
    )
}

/// A24: nothing in the file, and nothing in its place, has anybody else signalled or holds up the
/// writing.
#[test]
fn whatever_the_file_with_the_process_id_is_nobody_else_is_signalled() {
    against_each_agent(&[], |house| {
        let (of_root, of_attacker) = (Sleeper::of_root(&house), Sleeper::of_attacker(&house));
        let (root, own) = (of_root.pid(), of_attacker.pid());
        fs::write(house.sandbox.path("of-root"), &root).unwrap();
        let (foreign, none) = ("is not that of uid 1003", "holds no process id");
        // What is done in an own directory, and what is told of it.
        let cases = [
            ("root", format!("echo {root} > pid"), foreign),
            ("all", "echo -1 > pid".to_owned(), none),
            ("group", "echo 0 > pid".to_owned(), none),
            ("negative", format!("echo -{root} > pid"), none),
            ("huge", format!("echo {root}99999999999 > pid"), none),
            ("most", "echo 2147483647 > pid".to_owned(), "2147483647"),
            ("lines", format!("printf '{own}\n{root}' > pid"), none),
            ("empty", "touch pid".to_owned(), none),
            (
                "link",
                "ln -s ../../of-root pid".to_owned(),
                "symbolic links",
            ),
            ("pipe", "mkfifo pid".to_owned(), "not a regular file"),
            ("directory", "mkdir pid".to_owned(), "not a regular file"),
            ("endless", "truncate -s 1T pid".to_owned(), "far too large"),
            ("nonesuch", "true".to_owned(), "No such file"),
        ];
        let mut files = Vec::new();
        for (name, script, _) in &cases {
            house.prepare(&["mkdir", name]);
            house.prepare(&["sh", "-c", &format!("cd {name} && {script}")]);
            let token = house.sandbox.path("run/tokens").join(name);
            files.push((token, options(&house.home.join(name).join("pid"))));
        }
        let blocks = files
            .iter()
            .map(|(path, options)| (path.clone(), options.as_str()));
        house.configure(&blocks.collect::<Vec<_>>());
        let _agent = house.start();
        for ((token, _), (_, _, told)) in files.iter().zip(&cases) {
            renewed(token);
            house.tells(token, told);
        }
        house.others_are_served();
        assert_eq!((of_root.times(), of_attacker.times()), (0, 0));
    });
}

/// A24: the agent itself, which he could have told to read its configuration again.
#[test]
fn the_agent_cannot_be_made_to_signal_itself() {
    against_each_agent(&[], |house| {
        let (token, pid_file) = (house.sandbox.path("run/tokens/t"), house.home.join("pid"));
        house.configure(&[(token.clone(), &options(&pid_file))]);
        let agent = house.start();
        fs::write(&pid_file, agent.pid().to_string()).unwrap();
        logged(&agent, "holds no process id");
        renewed(&token);
        assert!(!agent.log().contains("reload"), "{}", agent.log());
    });
}

/// A24: a file of root that others can write is not one of root.
#[test]
fn a_file_with_the_process_id_that_others_can_write_is_not_believed() {
    use std::os::unix::fs::PermissionsExt;

    against_each_agent(&[], |house| {
        let of_root = Sleeper::of_root(&house);
        let (token, pid_file) = (
            house.sandbox.path("run/tokens/t"),
            house.sandbox.path("pid"),
        );
        fs::write(&pid_file, of_root.pid()).unwrap();
        fs::set_permissions(&pid_file, fs::Permissions::from_mode(0o666)).unwrap();
        house.configure(&[(token.clone(), &options(&pid_file))]);
        let agent = house.start();
        logged(&agent, "can be written by others");
        renewed(&token);
        assert_eq!(of_root.times(), 0);
        fs::set_permissions(&pid_file, fs::Permissions::from_mode(0o644)).unwrap();
        eventually("it is told now", || (of_root.times() > 0).then_some(()));
    });
}

/// Names the attacker's own process and that of root in turns; both are in a file beside.
pub fn name_others(home: &Path, turns: &Turns) -> String {
    let pids = fs::read_to_string(home.join("pids")).unwrap();
    let files: Vec<_> = (0..)
        .map(|i| home.join(format!("{i}/pid")))
        .take_while(|path| path.parent().unwrap().exists())
        .collect();
    let mut count = 0;
    while turns.go_on() {
        for pid in pids.split(' ') {
            for file in &files {
                let mut new = fs::File::create(file.with_extension("new")).unwrap();
                new.write_all(pid.as_bytes()).unwrap();
                fs::rename(file.with_extension("new"), file).unwrap();
                count += 1;
            }
        }
    }
    format!("{count} changes of the process id")
}

/// A24: whatever is read twice may differ.
#[test]
fn a_process_id_that_changes_all_the_time_reaches_nobody_else() {
    against_each_agent(&[], |house| {
        let (of_root, of_attacker) = (Sleeper::of_root(&house), Sleeper::of_attacker(&house));
        let files = if long() { 128 } else { 32 };
        let rounds = if long() { 100_000 } else { 2_000 };
        let names: Vec<_> = (0..files).map(|i| i.to_string()).collect();
        house.prepare(
            &[
                &["mkdir"],
                &*names.iter().map(String::as_str).collect::<Vec<_>>(),
            ]
            .concat(),
        );
        let pids = format!("{} {}", of_attacker.pid(), of_root.pid());
        fs::write(house.home.join("pids"), pids).unwrap();
        let often =
            |name: &String| options(&house.home.join(name).join("pid")) + "\n  refresh_at = 0.1";
        let all: Vec<_> = names.iter().map(often).collect();
        let paths = names
            .iter()
            .map(|name| house.sandbox.path("run/tokens").join(name).join("t"));
        house.configure(
            &paths
                .zip(all.iter().map(String::as_str))
                .collect::<Vec<_>>(),
        );
        let attacker = house.attack(Role::NameOthers);
        let agent = house.start();
        let mut seen = 0;
        while seen < rounds {
            let before = seen;
            seen = eventually("files are written", || {
                Some(house.attempts()).filter(|count| *count >= before + 100)
            });
            assert_eq!(of_root.times(), 0);
        }
        house.others_are_served();
        println!(
            "{:?}: {seen} files written, {}; {} signals",
            house.runner,
            attacker.end(),
            of_attacker.times()
        );
        assert_eq!(of_root.times(), 0);
        assert!(of_attacker.times() > 0);
        assert!(agent.log().contains("is not that of uid 1003"));
    });
}
