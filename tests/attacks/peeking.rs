//! Looking into the agent from outside, by the attacker in whose directory it works as him, and by
//! the agent's own user. That there is no core file is shown in `lifecycle.rs`.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::attacker::{Attacker, Role, Turns};
use crate::common::{Agent, Need, as_user, text};
use crate::house::{House, OTHER, against_each_agent, renewed, token_of};

/// What only the process itself, or whoever may trace it, can read.
const CLOSED: [&str; 9] = [
    "environ",
    "maps",
    "smaps",
    "mem",
    "auxv",
    "io",
    "stack",
    "syscall",
    "personality",
];
/// The same as links.
const LINKS: [&str; 5] = ["exe", "cwd", "root", "ns/mnt", "ns/user"];

/// Looks at all of that of each thread, and at its descriptors, all the time. What is looked at is
/// named by its own place: `/proc/PID`.
pub fn look_into(process: &Path, turns: &Turns) -> String {
    let (mut looks, mut seen) = (0, Vec::new());
    while turns.go_on() {
        let threads = fs::read_dir(process.join("task")).unwrap();
        let threads = threads.map(|thread| thread.unwrap().path());
        for place in threads.chain([process.to_owned()]) {
            let mut look = |name: &str, found: bool| {
                looks += 1;
                if found {
                    seen.push(name.to_owned());
                }
            };
            for name in CLOSED {
                let opened = fs::File::open(place.join(name));
                let read = opened.and_then(|mut file| std::io::Read::read(&mut file, &mut [0; 1]));
                // All memory of a thread that has just ended is nothing, for everybody.
                look(name, read.is_ok_and(|bytes| bytes > 0));
            }
            for name in LINKS {
                look(name, fs::read_link(place.join(name)).is_ok());
            }
            let listed = fs::read_dir(place.join("fd"));
            look("fd", listed.is_ok_and(|mut all| all.next().is_some()));
            for number in 0..20 {
                let descriptor = place.join(format!("fd/{number}"));
                look(
                    "fd/N",
                    fs::read_link(&descriptor).is_ok() || fs::File::open(&descriptor).is_ok(),
                );
            }
        }
    }
    seen.sort();
    seen.dedup();
    format!(
        "{looks} looks, {} things seen {}",
        seen.len(),
        seen.join(" ")
    )
}

fn peek(house: &House, agent: &Agent, uid: u32) {
    let process = format!("/proc/{}", agent.pid());
    let attacker = Attacker::start(&house.sandbox, uid, Role::LookInto, Path::new(&process));
    for _ in 0..20 {
        renewed(&house.home.join("token"));
    }
    let told = attacker.end();
    assert!(told.contains(" 0 things seen"), "uid {uid}: {told}");
    let mut trace = as_user(uid);
    trace.args(["strace", "-qq", "-p", &agent.pid().to_string()]);
    let traced = trace.output().unwrap();
    let told = text(&traced.stderr);
    assert!(
        told.contains("Operation not permitted"),
        "uid {uid}: {told}"
    );
    println!("{:?} looked into by uid {uid}: {told}", house.runner);
}

/// A25.
#[test]
fn nobody_can_look_into_the_agent_not_even_while_it_works_as_him() {
    against_each_agent(&[Need::Strace], |house| {
        let token = house.home.join("token");
        let often = "ttl = \"2s\"\n  refresh_at = 0.1";
        house.configure(&[(token.clone(), often)]);
        let agent = house.start();
        token_of(OTHER, &token);
        peek(&house, &agent, OTHER);
        // That root can do all is no secret.
        if house.runner.uid() != 0 {
            peek(&house, &agent, house.runner.uid());
        }
        let signal = as_user(OTHER)
            .args(["kill", "-TERM", &agent.pid().to_string()])
            .status();
        assert!(!signal.unwrap().success());
        let mut fixed = Command::new("grep");
        fixed.args(["-c", "eyJ", &format!("/proc/{}/cmdline", agent.pid())]);
        assert_eq!(text(&fixed.output().unwrap().stdout).trim(), "0");
        house.others_are_served();
    });
}
