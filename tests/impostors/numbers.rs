//! Numbers of processes, which the kernel gives to others once their owners have ended.

use crate::common::{Need, have};
use crate::house::{House, tries};

/// Rows 1, 2 and 3: one connects and ends, and the trusted program gets its number, often within the
/// tick of the clock that start times are told in. It inherits the connection and makes the call
/// itself, or somebody else makes it while it runs.
#[test]
fn a_process_that_gets_the_number_of_another_does_not_get_its_connection() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    house.serves_the_trusted();
    let count = tries().to_string();
    let told = house.denies("number given again", || {
        house.play(0, &house.impostor, &["reuse", &count])
    });
    assert_eq!(told.tries, tries());
    let same = told.said.lines().next().unwrap();
    println!("number given again: {same} of {}", told.tries);
    assert!(!same.ends_with(" 0"), "start times never were the same");
    house.is_left_as_it_was();
}
