//! Processes that become another program on the way from connecting to being answered.

use crate::common::{Need, have, long};
use crate::house::{ATTACKER, House, Told, tries};

/// Row 4: it becomes the trusted program after the agent has accepted, with its request sent before or
/// by that program itself.
#[test]
fn a_process_that_becomes_another_program_when_it_was_accepted_gets_nothing() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    house.serves_the_trusted();
    let count = tries().to_string();
    house.denies("exec after accept", || {
        house.play(ATTACKER, &house.impostor, &["exec-when-accepted", &count])
    });
    house.is_left_as_it_was();
}

/// R1 of SECURITY.md: it sends its own request and becomes the trusted program before the agent
/// accepts. That can win what the trusted program of the same user has, and nothing else.
#[test]
fn a_process_that_becomes_another_program_before_it_is_accepted_is_still_the_same_user() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    house.serves_the_trusted();
    // The more connections wait before it, the longer the agent takes to accept it.
    let races = if long() {
        [(0, 100_000), (20, 10_000)]
    } else {
        [(0, 100), (20, 50)]
    };
    for (crowd, count) in races {
        let arguments = ["own-request", &count.to_string(), &crowd.to_string()];
        let play = || house.play(ATTACKER, &house.impostor, &arguments);
        let (Told { won, .. }, counted) = house.counted(play);
        let wins = won.get("trusted").copied().unwrap_or(0);
        println!("R1, exec before accept, {crowd} connections before it: {wins} of {count} won");
        let others: Vec<_> = won.keys().filter(|name| *name != "trusted").collect();
        assert_eq!(others, [""; 0]);
        assert_eq!((&counted.issued, counted.signed), (&won, wins));
    }
    house.is_left_as_it_was();
}

/// Row 5: it becomes a program that runs as root, at every moment there is.
#[test]
fn a_process_that_becomes_a_program_of_root_is_neither_root_nor_itself_any_more() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    house.serves_the_trusted();
    // Called as it is, it is half root and half its caller, who has an entry with its path.
    let told = house.denies("a setuid program", || {
        house.play(ATTACKER, &house.setuid, &["call", "1"])
    });
    assert!(told.said.contains("AS 0\n"), "{}", told.said);
    let program = house.setuid.to_str().unwrap();
    let count = tries().to_string();
    house.denies("exec of a setuid program", || {
        house.play(ATTACKER, &house.impostor, &["exec", &count, program])
    });
    house.is_left_as_it_was();
}
