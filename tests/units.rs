//! Units of systemd: by the cgroup, and on a bus of one's own where somebody stands in for systemd.

#[path = "common/bus.rs"]
mod bus;
#[path = "common/callers.rs"]
mod callers;
mod common;

use std::os::unix::fs::chown;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bus::{Bus, FRAGMENT, Manager, OldManager, SilentManager, UNIT};
use callers::{entry, fetch, granted, sandbox, template};
use common::{Cgroup, Need, Sandbox, binary, have};

fn blocks() -> Vec<String> {
    let invocation = format!("systemd:invocation_id:{}", "1f".repeat(16));
    vec![
        "attestor \"systemd\" {\n  timeout = \"1s\"\n}\n".to_owned(),
        entry("root", &["unix:uid:0"]),
        entry("id", &[&format!("systemd:id:{UNIT}")]),
        entry("file", &[&format!("systemd:fragment_path:{FRAGMENT}")]),
        entry("run", &["unix:uid:0", &invocation]),
        entry("other", &["systemd:id:svid-agent-test-other.service"]),
        template("run/{systemd:invocation_id}", &["unix:uid:0"]),
    ]
}

/// What a caller in a unit is granted, and one in none; and the log of the agent.
fn grants(bus: &str, caller: &Cgroup) -> (Vec<String>, Vec<String>, String) {
    let sandbox = sandbox(&blocks());
    let agent = sandbox.start_with(&[("DBUS_SYSTEM_BUS_ADDRESS", bus)]);
    let call = |by| granted(fetch(by, binary(), &sandbox.socket()));
    let inside = call(caller.shell());
    let outside = call(Command::new("env"));
    (inside, outside, agent.log())
}

/// A caller in the unit has all that there is to know of it, and one in none nothing; the log.
fn is_told_all(bus: &str, caller: &Cgroup) -> String {
    let (inside, outside, log) = grants(bus, caller);
    let run = "1f".repeat(16);
    assert_eq!(inside, ["root", "id", "file", "run", &run], "{log}");
    assert_eq!(outside, ["root"]);
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unit_is_that_of_the_cgroup_and_systemd_tells_the_rest() {
    if !have(&[Need::Root, Need::Cgroups, Need::Bus]) {
        return;
    }
    let house = Sandbox::new("");
    let bus = Bus::new(&house);
    let caller = Cgroup::new(&format!("svid-agent-test-a.slice/{UNIT}/sub"));
    let asked = Arc::new(AtomicUsize::new(0));
    let manager = Manager {
        told: UNIT,
        asked: Arc::clone(&asked),
    };
    let served = bus.stand_in(manager).await;
    let log = is_told_all(&bus.address, &caller);
    // Who is in no unit is not asked for.
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert!(!log.contains("cannot be told"), "{log}");
    served.close().await.unwrap();

    let _old = bus.stand_in(OldManager).await;
    is_told_all(&bus.address, &caller);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_bus_that_refuses_what_it_does_not_know_is_asked_otherwise() {
    if !have(&[Need::Root, Need::Cgroups, Need::Bus]) {
        return;
    }
    let house = Sandbox::new("");
    // As before systemd 253 to all users but root, of whom the agent need not be one.
    let refusal = "<deny send_interface=\"org.freedesktop.systemd1.Manager\" send_member=\"GetUnitByPIDFD\"/>\n";
    let bus = Bus::with_policy(&house, refusal);
    let caller = Cgroup::new(&format!("svid-agent-test-f.slice/{UNIT}"));
    let _old = bus.stand_in(OldManager).await;
    is_told_all(&bus.address, &caller);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_systemd_does_not_tell_in_time_or_tells_otherwise_is_missing() {
    if !have(&[Need::Root, Need::Cgroups, Need::Bus]) {
        return;
    }
    let house = Sandbox::new("");
    let bus = Bus::new(&house);
    let caller = Cgroup::new(&format!("svid-agent-test-b.slice/{UNIT}"));
    let expect = |why: &str, address: &str| {
        let (inside, _, log) = grants(address, &caller);
        assert_eq!(inside, ["root", "id"], "{why}");
        assert!(log.contains(why), "{why}\n{log}");
    };
    expect("the system bus: ", "unix:path=/nonexistent/bus");
    // Nobody has the name of systemd.
    expect("the system bus: ", &bus.address);
    let liar = Manager {
        told: "svid-agent-test-other.service",
        asked: Arc::default(),
    };
    let served = bus.stand_in(liar).await;
    expect("systemd says that it belongs to", &bus.address);
    served.close().await.unwrap();
    let _silent = bus.stand_in(SilentManager).await;
    expect("does not answer in time", &bus.address);
}

#[test]
fn each_unit_has_the_identity_of_its_name_and_who_is_in_none_has_none() {
    if !have(&[Need::Root, Need::Cgroups]) {
        return;
    }
    let sandbox = sandbox(&[
        "attestor \"systemd\" {}\n".to_owned(),
        template("unit/{systemd:id}", &["unix:uid:0"]),
    ]);
    let _agent = sandbox.start();
    let call = |by| granted(fetch(by, binary(), &sandbox.socket()));
    for unit in [UNIT, "svid-agent-test-mail.service"] {
        let inside = Cgroup::new(&format!("svid-agent-test-e.slice/{unit}/sub"));
        assert_eq!(call(inside.shell()), [unit]);
    }
    assert_eq!(call(Command::new("env")), [""; 0]);
    // What a SPIFFE ID cannot hold is not bent until it fits.
    let other = Cgroup::new("svid-agent-test-e.slice/svid-agent-test-mail@a.service");
    assert_eq!(call(other.shell()), [""; 0]);
}

#[test]
fn a_unit_that_a_user_made_below_his_own_is_not_believed() {
    const USER: u32 = 1006;

    if !have(&[Need::Root, Need::Cgroups]) {
        return;
    }
    let sandbox = sandbox(&[
        "attestor \"systemd\" {}\n".to_owned(),
        entry("id", &[&format!("systemd:id:{UNIT}")]),
        entry("outer", &[&format!("systemd:id:user@{USER}.service")]),
    ]);
    let _agent = sandbox.start();
    let call = |by| granted(fetch(by, binary(), &sandbox.socket()));
    let manager = Cgroup::new(&format!("svid-agent-test-c.slice/user@{USER}.service"));
    chown(manager.path(), Some(USER), Some(USER)).unwrap();
    let inner = format!("svid-agent-test-c.slice/user@{USER}.service/{UNIT}");
    assert_eq!(call(Cgroup::new(&inner).shell()), ["outer"]);
    // A directory of his own that is called a slice.
    let slice = Cgroup::new("svid-agent-test-d.slice");
    chown(slice.path(), Some(USER), Some(USER)).unwrap();
    let inner = Cgroup::new(&format!("svid-agent-test-d.slice/{UNIT}"));
    assert_eq!(call(inner.shell()), [""; 0]);
}
