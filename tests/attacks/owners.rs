//! Directories of other users: there the agent writes as they do, and what they may not have they do
//! not get.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;

use crate::common::{CAPABILITIES, Need, as_user, binary, capable_of, eventually, have, text};
use crate::house::{
    House, OTHER, Runner, STRANGER, against_each_agent, is_token, logged, names, renewed, token_of,
};

#[test]
fn a_file_in_a_directory_of_somebody_else_is_written_as_that_user() {
    against_each_agent(&[], |house| {
        // Closed to everybody else, or open to be entered.
        house.prepare(&["mkdir", "-m", "0700", "closed"]);
        let files = [house.home.join("closed/token"), house.home.join("token")];
        house.configure(&files.clone().map(|file| (file, "ttl = \"2s\"")));
        let _agent = house.start();
        for file in &files {
            token_of(OTHER, file);
            assert_eq!(fs::metadata(file).unwrap().mode() & 0o7777, 0o400);
            let read = |uid: u32| as_user(uid).arg("cat").arg(file).output().unwrap();
            assert!(is_token(&text(&read(OTHER).stdout)));
            assert!(!read(STRANGER).status.success());
            renewed(file);
        }
        assert_eq!(names(&house.home), ["closed", "token"]);
        assert_eq!(names(&house.home.join("closed")), ["token"]);
    });
}

#[test]
fn there_it_can_belong_to_nobody_else_and_is_refused_by_name() {
    against_each_agent(&[], |house| {
        house.prepare(&["mkdir", "owner", "group"]);
        let [owner, group] = ["owner", "group"].map(|name| house.home.join(name).join("token"));
        house.configure(&[
            (owner.clone(), "owner = \"1001\"\n  ttl = \"2s\""),
            (
                group.clone(),
                "group = \"0\"\n  mode = \"0440\"\n  ttl = \"2s\"",
            ),
        ]);
        let agent = house.start();
        house.others_are_served();
        logged(&agent, "can belong to nobody else");
        logged(&agent, "who is not in the group 0");
        assert!(!owner.exists() && !group.exists());
    });
}

/// A7 and A8, without a race.
#[test]
fn a_link_on_the_way_to_the_file_is_refused_by_name() {
    against_each_agent(&[], |house| {
        symlink(&house.vault, house.home.join("up")).unwrap();
        let files = ["up/token", "up/new", "up/inner/token"].map(|name| house.home.join(name));
        house.configure(&files.map(|file| (file, "ttl = \"2s\"")));
        let agent = house.start();
        house.others_are_served();
        logged(&agent, "up is a symbolic link");
        house.is_unharmed();
    });
}

/// Row 60.
#[test]
fn a_file_whose_block_is_gone_is_removed_there_too_and_nothing_else() {
    against_each_agent(&[], |house| {
        house.prepare(&["mkdir", "own", "exchanged"]);
        let [own, exchanged] = ["own", "exchanged"].map(|name| house.home.join(name).join("token"));
        house.configure(&[own.clone(), exchanged.clone()].map(|file| (file, "")));
        let agent = house.start();
        token_of(OTHER, &own);
        token_of(OTHER, &exchanged);
        house.prepare(&["mv", "exchanged", "was"]);
        symlink(&house.vault, house.home.join("exchanged")).unwrap();
        house.configure(&[]);
        assert!(house.sandbox.run(&["reload"]).status.success());
        eventually("the file is gone", || (!own.exists()).then_some(()));
        logged(&agent, "the token file cannot be removed");
        house.others_are_served();
        house.is_unharmed();
        assert_eq!(names(&house.home.join("was")), ["token"]);
    });
}

/// That it keeps its old token, or has none, is all that it costs.
#[test]
fn an_agent_that_may_become_nobody_says_so_and_serves_the_others() {
    if !have(&[Need::Root]) {
        return;
    }
    for runner in [Runner::Root, Runner::Capable] {
        let house = House::new(runner);
        let file = house.home.join("token");
        house.configure(&[(file.clone(), "ttl = \"2s\"")]);
        let others: Vec<_> = CAPABILITIES
            .into_iter()
            .filter(|name| !name.starts_with("set"))
            .collect();
        let without = match runner {
            Runner::Capable => capable_of(runner.uid(), &others),
            Runner::Root => {
                let mut command = Command::new("setpriv");
                command.args(["--bounding-set", "-setuid,-setgid"]);
                command.arg(binary());
                command
            }
        };
        let agent = house.sandbox.start_by(without, &[]);
        house.others_are_served();
        logged(&agent, "CAP_SETUID and CAP_SETGID");
        assert!(!file.exists());
    }
}
