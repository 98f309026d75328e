//! Streams that are open while their maker changes.

use std::process::Stdio;

use crate::common::{Need, as_user, have, lines};
use crate::house::{ANYHOW, House};
use crate::{turnover, wire};

/// Row 20: a program opens a stream, whose user has an identity whatever he runs, and becomes another
/// program or ends, while somebody else holds the connection; what changes then is not told any more.
#[test]
fn a_stream_tells_nothing_more_when_its_maker_is_another_or_gone() {
    if !have(&[Need::Root]) {
        return;
    }
    let house = House::new();
    let other = house.trusted.to_str().unwrap();
    for (becomes, messages) in [("-", 2), (other, 1), ("", 1)] {
        house.sandbox.settle();
        let mut command = as_user(ANYHOW);
        house.equip(&mut command);
        let mut child = command
            .env("CALL", wire::hex("/SpiffeWorkloadAPI/FetchJWTBundles"))
            .arg(&house.impostor)
            .args(["stream", "1", becomes])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = lines(child.stdout.take().unwrap());
        assert_eq!(said.next().unwrap(), "CHANGED", "{becomes}");
        let active = turnover::in_state(&turnover::keys(&house.sandbox), "active");
        let tainted = house.sandbox.run(&["key", "taint", &active[0]]);
        assert!(tainted.status.success(), "{tainted:?}");
        assert_eq!(
            said.next().unwrap(),
            format!("MESSAGES {messages}"),
            "{becomes}"
        );
        assert!(child.wait().unwrap().success());
    }
    house.is_left_as_it_was();
}
