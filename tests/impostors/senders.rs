//! Connections that others write to than those who made them, and makers that are others by then.

use std::process::Command;

use crate::common::{Need, as_user, have};
use crate::house::{ATTACKER, House, STRANGER, Won, only, tries};

/// Row 6: the trusted program lives and leaks its connection to a child of its own user, who writes
/// all of the call, its end or its beginning.
#[test]
fn a_child_that_writes_to_the_connection_of_its_parent_gets_nothing() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    house.serves_the_trusted();
    let count = tries().to_string();
    house.denies("child holding the socket", || {
        house.play(ATTACKER, &house.trusted, &["held", &count])
    });
    house.is_left_as_it_was();
}

/// Row 6: a connection goes from the trusted program to somebody else, or the other way round.
#[test]
fn a_connection_that_is_passed_to_another_user_is_of_no_use_to_either() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    house.serves_the_trusted();
    let count = tries().to_string();
    let (attacker, stranger) = (ATTACKER.to_string(), STRANGER.to_string());
    let trusted = [&*attacker, house.trusted.to_str().unwrap()];
    let other = [&*stranger, house.impostor.to_str().unwrap()];
    for (name, from, to) in [
        ("passed by the trusted program", trusted, other),
        ("passed to the trusted program", other, trusted),
    ] {
        let role = [&["pass", &*count][..], &from, &to].concat();
        let told = house.denies(name, || house.play(0, &house.impostor, &role));
        assert_eq!(told.tries, tries());
    }
    house.is_left_as_it_was();
}

/// Row 7: root connects and gives up what it may, before or after it is accepted.
#[test]
fn whoever_gives_up_privileges_after_connecting_gets_what_neither_user_has() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    assert_eq!(house.call(0, &house.impostor), only("root", 1));
    house.denies("privileges given up", || {
        house.play(0, &house.impostor, &["drop", "20"])
    });
    house.denies("privileges given up by the trusted program", || {
        house.play(0, &house.trusted, &["drop", "20"])
    });
}

/// Row 18: groups are those of the moment of connecting.
#[test]
fn groups_that_change_after_connecting_neither_give_nor_take() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    let call = |role: &[&str]| house.play(0, &house.impostor, role).won;
    assert_eq!(call(&["groups", "40", "0"]), only("root", 40));
    let both = [only("root", 40), only("group", 40)];
    assert_eq!(
        call(&["groups", "40", "1"]),
        both.into_iter().flatten().collect()
    );
}

/// Row 22: the user of the agent is a user as any other.
#[test]
fn the_user_of_the_agent_has_nothing_that_no_entry_gives_it() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    let config = std::fs::read_to_string(house.sandbox.config()).unwrap();
    let without = config.replace("\"unix:uid:0\"", "\"unix:uid:7\"");
    std::fs::write(house.sandbox.config(), without).unwrap();
    assert!(house.sandbox.run(&["reload"]).status.success());
    for command in [Command::new("env"), as_user(0)] {
        house.denies("the agent's own user", || {
            house.play_by(command, &house.impostor, &["call", "5"])
        });
    }
    assert_eq!(house.call(STRANGER, &house.trusted), Won::new());
}
