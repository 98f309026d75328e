//! A bus of one's own, on which somebody stands in for systemd.

#![allow(dead_code, reason = "helpers, of which each test file uses some")]

use std::fs;
use std::os::fd::AsRawFd;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use zbus::zvariant::{OwnedFd, OwnedObjectPath};

use crate::common::{Sandbox, eventually};

pub const UNIT: &str = "svid-agent-test-billing.service";
pub const FRAGMENT: &str = "/lib/systemd/system/svid-agent-test-billing.service";
const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/billing";

/// A bus in a directory of its own; ends with this.
pub struct Bus {
    daemon: Child,
    /// Where it listens, as the environment tells it.
    pub address: String,
}

impl Bus {
    /// Starts it in a sandbox.
    pub fn new(house: &Sandbox) -> Self {
        Self::with_policy(house, "")
    }

    /// As [`Bus::new`], with further rules for who may say what.
    pub fn with_policy(house: &Sandbox, rules: &str) -> Self {
        let socket = house.path("bus.sock");
        let address = format!("unix:path={}", socket.display());
        let config = format!(
            "<busconfig>\n<type>session</type>\n<listen>{address}</listen>\n<auth>EXTERNAL</auth>\n\
             <policy context=\"default\">\n<allow send_destination=\"*\" eavesdrop=\"true\"/>\n\
             <allow eavesdrop=\"true\"/>\n<allow own=\"*\"/>\n{rules}</policy>\n</busconfig>\n"
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
    pub async fn stand_in<M: zbus::object_server::Interface>(
        &self,
        manager: M,
    ) -> zbus::Connection {
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
pub enum Refusal {
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
pub struct Manager {
    pub told: &'static str,
    pub asked: Arc<AtomicUsize>,
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
pub struct OldManager;

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl OldManager {
    #[zbus(name = "GetUnitByPID")]
    fn get_unit_by_pid(&self, pid: u32) -> Result<OwnedObjectPath, Refusal> {
        unit_of(&pid.to_string())?;
        Ok(path())
    }
}

/// Never answers.
pub struct SilentManager;

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl SilentManager {
    #[zbus(name = "GetUnitByPIDFD")]
    async fn get_unit_by_pidfd(&self, _pidfd: OwnedFd) -> String {
        std::future::pending().await
    }
}
