//! Names of users and groups. A look-up may go over the network and hang, so it is never made
//! for a caller: the names that the configuration mentions are looked up at load and every
//! minute on a thread of their own, and callers are compared with the last answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Group, User};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often names are looked up again.
const EVERY: Duration = Duration::from_secs(60);
/// How long all the look-ups of one round may take.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer stands after look-ups began to fail.
const STANDS: Duration = Duration::from_secs(600);

/// Names that somebody asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedNames {
    /// Names of users.
    pub users: BTreeSet<String>,
    /// Names of groups.
    pub groups: BTreeSet<String>,
}

/// The numbers that names stood for when they were last looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    users: BTreeMap<String, u32>,
    groups: BTreeMap<String, u32>,
}

impl Names {
    /// Looks all of them up; blocks for as long as the name services take.
    ///
    /// # Errors
    ///
    /// The first name whose look-up failed, which is not the same as finding that there is none.
    pub fn look_up(wanted: &WantedNames) -> Result<Self, String> {
        let mut names = Self::default();
        for name in &wanted.users {
            let found = User::from_name(name).map_err(|errno| format!("user {name}: {errno}"))?;
            names
                .users
                .extend(found.map(|user| (name.clone(), user.uid.as_raw())));
        }
        for name in &wanted.groups {
            let found = Group::from_name(name).map_err(|errno| format!("group {name}: {errno}"))?;
            names
                .groups
                .extend(found.map(|group| (name.clone(), group.gid.as_raw())));
        }
        Ok(names)
    }

    /// The number of a user.
    pub fn uid(&self, name: &str) -> Option<u32> {
        self.users.get(name).copied()
    }

    /// The number of a group.
    pub fn gid(&self, name: &str) -> Option<u32> {
        self.groups.get(name).copied()
    }

    /// The wanted names of a user.
    pub fn of_user(&self, uid: u32) -> impl Iterator<Item = &str> {
        of(&self.users, uid)
    }

    /// The wanted names of a group.
    pub fn of_group(&self, gid: u32) -> impl Iterator<Item = &str> {
        of(&self.groups, gid)
    }
}

/// A user or a group, as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// By number.
    Id(u32),
    /// By name; looked up off the path of callers.
    Name(String),
}

/// Nobody bears this name, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoAccount {
    /// As a user.
    #[error("there is no user {0}")]
    User(String),
    /// As a group.
    #[error("there is no group {0}")]
    Group(String),
}

impl Account {
    /// As [`Account::uid`], asking now for a name that was not looked up yet: for threads that may
    /// wait for name services.
    ///
    /// # Errors
    ///
    /// There is none of this name.
    pub fn uid_now(&self, names: &Names) -> Result<u32, NoAccount> {
        self.uid(names).or_else(|none| match &none {
            NoAccount::User(name) => match User::from_name(name) {
                Ok(Some(user)) => Ok(user.uid.as_raw()),
                _ => Err(none),
            },
            NoAccount::Group(_) => Err(none),
        })
    }

    /// As [`Account::gid`], asking now as [`Account::uid_now`] does.
    ///
    /// # Errors
    ///
    /// There is none of this name.
    pub fn gid_now(&self, names: &Names) -> Result<u32, NoAccount> {
        self.gid(names).or_else(|none| match &none {
            NoAccount::Group(name) => match Group::from_name(name) {
                Ok(Some(group)) => Ok(group.gid.as_raw()),
                _ => Err(none),
            },
            NoAccount::User(_) => Err(none),
        })
    }

    /// The number of the user.
    ///
    /// # Errors
    ///
    /// There is none of this name, or none yet.
    pub fn uid(&self, names: &Names) -> Result<u32, NoAccount> {
        match self {
            Self::Id(uid) => Ok(*uid),
            Self::Name(name) => names.uid(name).ok_or_else(|| NoAccount::User(name.clone())),
        }
    }

    /// The number of the group.
    ///
    /// # Errors
    ///
    /// There is none of this name, or none yet.
    pub fn gid(&self, names: &Names) -> Result<u32, NoAccount> {
        match self {
            Self::Id(gid) => Ok(*gid),
            Self::Name(name) => names
                .gid(name)
                .ok_or_else(|| NoAccount::Group(name.clone())),
        }
    }
}

fn of(names: &BTreeMap<String, u32>, number: u32) -> impl Iterator<Item = &str> {
    let named = names.iter().filter(move |(_, n)| **n == number);
    named.map(|(name, _)| name.as_str())
}

/// Keeps the names fresh.
#[derive(Debug)]
pub struct NameKeeper {
    wanted: watch::Receiver<Arc<WantedNames>>,
    names: watch::Sender<Arc<Names>>,
    /// The look-up that is going on: there is one at a time, however long it hangs.
    round: Option<JoinHandle<Result<Names, String>>>,
}

impl NameKeeper {
    /// Looks up all names once, so that the first caller finds them.
    pub async fn start(wanted: watch::Receiver<Arc<WantedNames>>) -> Self {
        let mut keeper = Self {
            wanted,
            names: watch::Sender::default(),
            round: None,
        };
        match keeper.look_up().await {
            Ok(names) => drop(keeper.names.send_replace(Arc::new(names))),
            Err(reason) => tracing::warn!(%reason, "user and group names cannot be looked up"),
        }
        keeper
    }

    /// Starts a look-up, or waits on for the one that hangs.
    async fn look_up(&mut self) -> Result<Names, String> {
        let round = self.round.get_or_insert_with(|| {
            let wanted = Arc::clone(&self.wanted.borrow_and_update());
            tokio::task::spawn_blocking(move || Names::look_up(&wanted))
        });
        let ended = tokio::time::timeout(TIMEOUT, round).await;
        let ended = ended.map_err(|_| format!("no answer within {} s", TIMEOUT.as_secs()))?;
        self.round = None;
        ended.map_err(|error| error.to_string())?
    }

    /// The last answers, now and later.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Names>> {
        self.names.subscribe()
    }

    /// Looks them up again and again, and at once when others are wanted.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut answered = Instant::now();
        loop {
            let wanted = self.wanted.borrow().clone();
            let none = wanted.users.is_empty() && wanted.groups.is_empty();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return stop.cancelled().await;
                    }
                }
            }
            if none && *self.wanted.borrow() == wanted {
                continue;
            }
            match self.look_up().await {
                Ok(names) => {
                    answered = Instant::now();
                    self.names.send_if_modified(|old| {
                        let changed = **old != names;
                        *old = Arc::new(names);
                        changed
                    });
                }
                Err(reason) if answered.elapsed() < STANDS => {
                    tracing::warn!(%reason, "names cannot be looked up: the last answers stand");
                }
                Err(reason) => {
                    tracing::error!(%reason, "names cannot be looked up: nobody has one now");
                    self.names.send_replace(Arc::default());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_have_numbers_and_unknown_ones_are_no_error() {
        let wanted = WantedNames {
            users: ["root", "nobody-of-this-name"].map(str::to_owned).into(),
            groups: ["root"].map(str::to_owned).into(),
        };
        let names = Names::look_up(&wanted).unwrap();
        assert_eq!(names.uid("root"), Some(0));
        assert_eq!(names.uid("nobody-of-this-name"), None);
        assert_eq!(names.of_user(0).collect::<Vec<_>>(), ["root"]);
        assert_eq!(names.of_group(0).collect::<Vec<_>>(), ["root"]);
        assert_eq!(names.of_user(1).count(), 0);
    }
}
