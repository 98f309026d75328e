//! The `systemd` attestor: the unit that a process belongs to. Its cgroup says which; what else is
//! known of the unit, the manager is asked on the system bus.

use std::time::Duration;

use tokio::sync::Mutex;
use zbus::zvariant::{Fd, OwnedObjectPath, OwnedValue};
use zbus::{Connection, Error};

use super::cgroup::is_unit;
use super::findings::Findings;
use crate::peer::{Peer, Wants};

/// The selector type.
pub const KIND: &str = "systemd";

const NAME: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// How systemd is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemdSpec {
    /// How long it may take.
    pub timeout: Duration,
}

/// Checks the value of a `systemd` selector.
///
/// # Errors
///
/// What is wrong with it, and how it is written.
pub fn check(value: &str) -> Result<(), &'static str> {
    let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    match value.split_once(':').unwrap_or((value, "")) {
        ("id", id) if is_unit(id) => Ok(()),
        ("id", _) => Err("systemd:id takes the whole name of a unit, such as billing.service"),
        ("fragment_path", path) if path.starts_with('/') => Ok(()),
        ("fragment_path", _) => Err("systemd:fragment_path takes an absolute path"),
        ("invocation_id", id) if id.len() == 32 && id.bytes().all(digit) => Ok(()),
        ("invocation_id", _) => {
            Err("systemd:invocation_id takes 32 hexadecimal digits in lower case")
        }
        _ => Err("there are systemd:id, fragment_path and invocation_id"),
    }
}

/// Checks the name of a field of a template.
///
/// # Errors
///
/// What there is.
pub fn check_field(name: &str) -> Result<(), &'static str> {
    match name {
        "id" | "fragment_path" | "invocation_id" => Ok(()),
        _ => Err("there are systemd:id, fragment_path and invocation_id"),
    }
}

/// Asks systemd, over one connection that is made when it is first needed.
#[derive(Debug, Default)]
pub struct Manager(Mutex<Option<Connection>>);

/// What systemd says of a unit.
#[derive(Debug, Default, PartialEq, Eq)]
struct Unit {
    id: String,
    invocation_id: Vec<u8>,
    fragment_path: String,
}

impl Manager {
    /// Finds what systemd knows of the unit of a process, which is `unit` by its cgroup.
    pub async fn look(&self, peer: &Peer, unit: &str, spec: SystemdSpec) -> Findings {
        let mut findings = Findings::default();
        let fact = Wants::MANAGER;
        match tokio::time::timeout(spec.timeout, self.unit_of(peer)).await {
            Ok(Ok(Some(told))) if told.id == unit => tell(&told, &mut findings),
            // One of both was read before the process was moved.
            Ok(Ok(Some(told))) => {
                let why = format!(
                    "systemd says that it belongs to {:?}, its cgroup {unit:?}",
                    told.id
                );
                findings.failed(fact, why);
            }
            Ok(Ok(None)) => findings.none(fact, "systemd knows of no unit that it belongs to"),
            Ok(Err(error)) => {
                self.forget().await;
                findings.failed(fact, format!("the system bus: {error}"));
            }
            Err(_) => {
                self.forget().await;
                findings.failed(fact, "systemd does not answer in time on the system bus");
            }
        }
        findings
    }

    /// The unit of a process; `None` where systemd knows none.
    async fn unit_of(&self, peer: &Peer) -> Result<Option<Unit>, Error> {
        let bus = self.bus().await?;
        let pidfd = peer.pidfd();
        let by_pidfd = bus
            .call_method(
                Some(NAME),
                PATH,
                Some(MANAGER),
                "GetUnitByPIDFD",
                &Fd::from(&*pidfd),
            )
            .await;
        let (path, id, invocation_id) = match by_pidfd {
            Ok(reply) => reply.body().deserialize()?,
            // Before systemd 253. The process lives on, so its number is still its own.
            Err(error) if is_unknown(&error) => {
                let pid = u32::try_from(peer.pid()).unwrap_or(0);
                let by_pid = bus.call_method(Some(NAME), PATH, Some(MANAGER), "GetUnitByPID", &pid);
                let path: OwnedObjectPath = match by_pid.await {
                    Ok(reply) => reply.body().deserialize()?,
                    Err(error) if is_none(&error) => return Ok(None),
                    Err(error) => return Err(error),
                };
                let id = property(&bus, &path, "Id").await?.try_into()?;
                let invocation_id = property(&bus, &path, "InvocationID").await?.try_into()?;
                (path, id, invocation_id)
            }
            Err(error) if is_none(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let fragment_path = property(&bus, &path, "FragmentPath").await?.try_into()?;
        Ok(Some(Unit {
            id,
            invocation_id,
            fragment_path,
        }))
    }

    async fn bus(&self) -> Result<Connection, Error> {
        let mut held = self.0.lock().await;
        if let Some(bus) = &*held {
            return Ok(bus.clone());
        }
        let bus = Connection::system().await?;
        *held = Some(bus.clone());
        Ok(bus)
    }

    /// The next one starts anew.
    async fn forget(&self) {
        *self.0.lock().await = None;
    }
}

async fn property(
    bus: &Connection,
    path: &OwnedObjectPath,
    name: &str,
) -> Result<OwnedValue, Error> {
    let reply = bus
        .call_method(Some(NAME), path, Some(PROPERTIES), "Get", &(UNIT, name))
        .await?;
    reply.body().deserialize()
}

/// Whether an answer is the error of this name.
fn is(error: &Error, wanted: &str) -> bool {
    matches!(error, Error::MethodError(name, _, _) if name.as_str() == wanted)
}

/// Whether there is no such method; to users other than root the bus refuses each that it does not know.
fn is_unknown(error: &Error) -> bool {
    is(error, "org.freedesktop.DBus.Error.UnknownMethod")
        || is(error, "org.freedesktop.DBus.Error.AccessDenied")
}

/// Whether systemd says that there is no unit.
fn is_none(error: &Error) -> bool {
    is(error, "org.freedesktop.systemd1.NoUnitForPID")
        || is(error, "org.freedesktop.systemd1.NoSuchUnit")
}

fn tell(unit: &Unit, findings: &mut Findings) {
    let (fact, path) = (Wants::MANAGER, &unit.fragment_path);
    // A unit that was made at run time by a program may have no file.
    if path.is_empty() {
        findings.none(fact, "the unit has no file");
    } else {
        findings.found(fact, KIND, format_args!("fragment_path:{path}"));
    }
    if unit.invocation_id.len() == 16 {
        let digits: String = unit
            .invocation_id
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        findings.found(fact, KIND, format_args!("invocation_id:{digits}"));
    } else {
        findings.none(fact, "the unit has no invocation");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_that_systemd_cannot_give_are_refused() {
        let id = "0123456789abcdef".repeat(2);
        for value in [
            "id:billing.service",
            "id:user@1000.service",
            "id:session-3.scope",
            "fragment_path:/lib/systemd/system/billing.service",
            &format!("invocation_id:{id}"),
        ] {
            assert_eq!(check(value), Ok(()), "{value}");
        }
        for value in [
            "id:billing",
            "id:.service",
            "id:system.slice",
            "id:a b.service",
            "id",
            "fragment_path:billing.service",
            "invocation_id:1",
            &format!("invocation_id:{}", id.to_uppercase()),
            "unit:billing.service",
        ] {
            assert!(check(value).is_err(), "{value}");
        }
    }

    #[test]
    fn what_a_unit_lacks_is_left_out() {
        let texts = |unit: &Unit| {
            let mut findings = Findings::default();
            tell(unit, &mut findings);
            let all = findings.selectors.iter();
            all.map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(texts(&Unit::default()).is_empty());
        let unit = Unit {
            id: "billing.service".to_owned(),
            invocation_id: vec![10; 16],
            fragment_path: "/etc/systemd/system/billing.service".to_owned(),
        };
        let expected = [
            "systemd:fragment_path:/etc/systemd/system/billing.service".to_owned(),
            format!("systemd:invocation_id:{}", "0a".repeat(16)),
        ];
        assert_eq!(texts(&unit), expected);
    }
}
