//! Attackers: this program once more, as another user, until it is told to end.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Sandbox, as_user, lines};
use crate::{peeking, races, renewal, watchers};

/// What an attacker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// See [`races::exchange`].
    Exchange,
    /// See [`races::take_away`].
    TakeAway,
    /// See [`races::swap_files`].
    SwapFiles,
    /// See [`watchers::open_what_comes`].
    OpenWhatComes,
    /// See [`renewal::name_others`].
    NameOthers,
    /// See [`peeking::look_into`].
    LookInto,
}

const ROLES: [Role; 6] = [
    Role::Exchange,
    Role::TakeAway,
    Role::SwapFiles,
    Role::OpenWhatComes,
    Role::NameOthers,
    Role::LookInto,
];

impl Role {
    fn play(self, place: &Path, turns: &Turns) -> String {
        match self {
            Self::Exchange => races::exchange(place, turns),
            Self::TakeAway => races::take_away(place, turns),
            Self::SwapFiles => races::swap_files(place, turns),
            Self::OpenWhatComes => watchers::open_what_comes(place, turns),
            Self::NameOthers => renewal::name_others(place, turns),
            Self::LookInto => peeking::look_into(place, turns),
        }
    }
}

/// Tells an attacker whether to go on.
pub struct Turns {
    over: Arc<AtomicBool>,
    begun: AtomicBool,
}

impl Turns {
    /// Until somebody closes the standard input.
    fn until_told() -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        std::thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            until.store(true, Ordering::Relaxed);
        });
        Self {
            over,
            begun: AtomicBool::new(false),
        }
    }

    /// Whether there is another turn. The first call tells that the attack is on.
    pub fn go_on(&self) -> bool {
        if !self.begun.swap(true, Ordering::Relaxed) {
            println!("ATTACKING");
        }
        !self.over.load(Ordering::Relaxed)
    }
}

/// What an attacker does when this program calls itself under another user.
#[test]
#[ignore = "it is a part of the other tests, as a process of its own"]
fn attacker() {
    let (Ok(role), Ok(place)) = (std::env::var("ATTACK"), std::env::var("ATTACK_PLACE")) else {
        return;
    };
    let role = ROLES.into_iter().find(|known| format!("{known:?}") == role);
    let told = role.unwrap().play(Path::new(&place), &Turns::until_told());
    println!("RESULT {told}");
}

/// A process of an attacker; killed when dropped.
pub struct Attacker {
    child: Child,
    said: Box<dyn Iterator<Item = String>>,
}

impl Attacker {
    /// Starts one and waits until it is at it.
    pub fn start(sandbox: &Sandbox, uid: u32, role: Role, place: &Path) -> Self {
        // Where every user can execute it.
        let program = sandbox.path("attacker");
        if !program.exists() {
            // Whatever we had open for writing, a child of another thread might keep open.
            let mut copy = Command::new("cp");
            copy.arg(std::env::current_exe().unwrap()).arg(&program);
            assert!(copy.status().unwrap().success());
        }
        let mut command = as_user(uid);
        command
            .arg(program)
            .args(["--ignored", "--exact", "attacker::attacker", "--nocapture"])
            .env("ATTACK", format!("{role:?}"))
            .env("ATTACK_PLACE", place)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = lines(child.stdout.take().unwrap());
        let begun = said.any(|line| line.contains("ATTACKING"));
        assert!(begun, "the attacker did not begin");
        Self {
            child,
            said: Box::new(said),
        }
    }

    /// Ends it; what it tells of its doings.
    pub fn end(mut self) -> String {
        drop(self.child.stdin.take());
        let told = self.said.find_map(|line| {
            let told = line.split_once("RESULT ")?.1;
            Some(told.to_owned())
        });
        assert!(self.child.wait().unwrap().success());
        told.expect("the attacker tells what it did")
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
