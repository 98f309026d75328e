//! Units of systemd: by the cgroup, and on a bus of one's own where somebody stands in for systemd.

#[path = "common/callers.rs"]
mod callers;
mod common;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::chown;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use callers::{entry, fetch, granted, sandbox};
use common::{Cgroup, Need, Sandbox, binary, eventually, have};
use zbus::zvariant::{OwnedFd, OwnedObjectPath};

const UNIT: &str = "svid-agent-test-billing.service";
const FRAGMENT: &str = "/lib/systemd/system/svid-agent-test-billing.service";
const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/billing";

/// A bus in a directory of its own; ends with this.
struct Bus {
    daemon: Child,
    address: String,
}

impl Bus {
    fn new(house: &Sandbox) -> Self {
        let socket = house.path("bus.sock");
        let address = format!("unix:path={}", socket.display());
        let config = format!(
            "<busconfig>\n<type>session</type>\n<listen>{address}</listen>\n<auth>EXTERNAL</auth>\n\
             <policy context=\"default\">\n<allow send_destination=\"*\" eavesdrop=\"true\"/>\n\
             <allow eavesdrop=\"true\"/>\n<allow own=\"*\"/>\n</policy>\n</busconfig>\n"
        );
        let path = house.path("bus.conf");
        fs::write(&path, config).unwrap();
        let daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}", path.display()))
            .arg("--nofork")
            .spawn()
            .unwrap();
        let bus = Self { daemon, address };
        eventually("the bus", || {
            std::os::unix::net::UnixStream::connect(&socket).ok()
        });
        bus
    }

    /// Lets somebody stand in for systemd.
    async fn stand_in<M: zbus::object_server::Interface>(&self, manager: M) -> zbus::Connection {
        zbus::connection::Builder::address(self.address.as_str())
            .unwrap()
            .name("org.freedesktop.systemd1")
            .unwrap()
            .serve_at("/org/freedesktop/systemd1", manager)
            .unwrap()
            .serve_at(UNIT_PATH, Unit)
            .unwrap()
            .build()
            .await
            .unwrap()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

struct Unit;

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    fn id(&self) -> String {
        UNIT.to_owned()
    }

    #[zbus(property)]
    fn fragment_path(&self) -> String {
        FRAGMENT.to_owned()
    }

    #[zbus(property, name = "InvocationID")]
    fn invocation_id(&self) -> Vec<u8> {
        vec![0x1f; 16]
    }
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum Refusal {
    #[zbus(error)]
    ZBus(zbus::Error),
    #[zbus(name = "NoUnitForPID")]
    NoUnitForPid(String),
}

fn path() -> OwnedObjectPath {
    OwnedObjectPath::try_from(UNIT_PATH).unwrap()
}

/// The unit of a process, as systemd finds it.
fn unit_of(pid: &str) -> Result<(), Refusal> {
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let none = || Refusal::NoUnitForPid(format!("PID {pid} does not belong to any loaded unit."));
    cgroup.contains(UNIT).then_some(()).ok_or_else(none)
}

/// Answers as systemd does since 253, and says that the unit has this name.
struct Manager {
    told: &'static str,
    asked: Arc<AtomicUsize>,
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    #[zbus(name = "GetUnitByPIDFD")]
    fn get_unit_by_pidfd(
        &self,
        pidfd: OwnedFd,
    ) -> Result<(OwnedObjectPath, String, Vec<u8>), Refusal> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:\t"));
        unit_of(pid.expect("it is a pidfd"))?;
        Ok((path(), self.told.to_owned(), vec![0x1f; 16]))
    }
}

/// Answers as systemd did before 253.
struct OldManager;

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl OldManager {
    #[zbus(name = "GetUnitByPID")]
    fn get_unit_by_pid(&self, pid: u32) -> Result<OwnedObjectPath, Refusal> {
        unit_of(&pid.to_string())?;
        Ok(path())
    }
}

/// Never answers.
struct SilentManager;

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl SilentManager {
    #[zbus(name = "GetUnitByPIDFD")]
    async fn get_unit_by_pidfd(&self, _pidfd: OwnedFd) -> String {
        std::future::pending().await
    }
}

fn blocks() -> Vec<String> {
    let invocation = format!("systemd:invocation_id:{}", "1f".repeat(16));
    vec![
        "attestor \"systemd\" {\n  timeout = \"1s\"\n}\n".to_owned(),
        entry("root", &["unix:uid:0"]),
        entry("id", &[&format!("systemd:id:{UNIT}")]),
        entry("file", &[&format!("systemd:fragment_path:{FRAGMENT}")]),
        entry("run", &["unix:uid:0", &invocation]),
        entry("other", &["systemd:id:svid-agent-test-other.service"]),
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
    let (inside, outside, log) = grants(&bus.address, &caller);
    assert_eq!(inside, ["root", "id", "file", "run"], "{log}");
    assert_eq!(outside, ["root"]);
    // Who is in no unit is not asked for.
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert!(!log.contains("cannot be told"), "{log}");
    served.close().await.unwrap();

    let _old = bus.stand_in(OldManager).await;
    let (inside, outside, log) = grants(&bus.address, &caller);
    assert_eq!(inside, ["root", "id", "file", "run"], "{log}");
    assert_eq!(outside, ["root"]);
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
