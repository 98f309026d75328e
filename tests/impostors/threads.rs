//! Processes that are there, but not as one runs a program: their main thread has ended, or somebody
//! else acts through them.

use crate::common::{Need, have};
use crate::house::{ANYHOW, ATTACKER, House, only};

/// Row 12: the main thread ends, before or after the agent accepts, and another thread calls.
#[test]
fn a_process_whose_main_thread_has_ended_gets_nothing() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    house.serves_the_trusted();
    assert_eq!(house.call(ANYHOW, &house.impostor), only("anyhow", 1));
    for (name, form) in [
        ("zombie leader connects", "0"),
        ("zombie leader after accept", "1"),
    ] {
        for user in [ATTACKER, ANYHOW] {
            house.denies(name, || house.play(user, &house.trusted, &["leader", form]));
        }
    }
    house.is_left_as_it_was();
}

/// R2: whoever traces the trusted program from its start can make it call, and that is worth nothing.
#[test]
fn a_program_that_is_traced_from_its_start_is_not_the_trusted_one() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    house.serves_the_trusted();
    house.denies("traced from the start", || {
        house.play(ATTACKER, &house.impostor, &["traced", "1"])
    });
}
