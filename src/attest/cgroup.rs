//! What the cgroup of a process says: in which container it is, and of which unit of systemd.
//!
//! A name in the path is the word of whoever owns the directory that it stands in: users have
//! directories of their own, below `user@UID.service`, and may call what they make there as they
//! like. So the outermost name counts, and each comes with the directory that vouches for it.

use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use procfs::process::MountInfo;

/// The cgroups of a process, one in each hierarchy.
#[derive(Debug)]
pub struct Cgroups<'a>(Vec<Membership<'a>>);

/// A line of `/proc/PID/cgroup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Membership<'a> {
    /// The controllers of the hierarchy, as a list; empty for that of version 2.
    controllers: &'a str,
    path: &'a str,
}

/// A name in the path of a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<'a> {
    /// The name, or the part of it that matters.
    pub name: &'a str,
    /// The controllers of the hierarchy.
    controllers: &'a str,
    /// The directory that it stands in.
    directory: &'a str,
}

/// Who makes containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Docker, or another one that names cgroups as it does.
    Docker,
    /// Podman.
    Podman,
}

impl<'a> Cgroups<'a> {
    /// Reads the text of a `cgroup` file; `None` where a line of it is none.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let membership = |line: &'a str| {
            let mut fields = line.splitn(3, ':');
            let number = fields.next()?;
            let (controllers, path) = (fields.next()?, fields.next()?);
            let sound = number.parse::<u32>().is_ok() && path.starts_with('/');
            sound.then_some(Membership { controllers, path })
        };
        let lines = text.split_terminator('\n').map(membership);
        lines.collect::<Option<_>>().map(Self)
    }

    /// The container that each hierarchy names, outermost first come; hierarchies that name none are
    /// left out.
    pub fn containers(&self) -> impl Iterator<Item = (Named<'a>, Engine)> {
        self.0.iter().filter_map(|membership| {
            let mut names = names(*membership);
            names.find_map(|(name, directory)| {
                let (id, engine) = container(name, directory)?;
                let named = Named {
                    name: id,
                    controllers: membership.controllers,
                    directory,
                };
                Some((named, engine))
            })
        })
    }

    /// The unit of systemd, where it names one: the first directory that is no slice.
    pub fn unit(&self) -> Option<Named<'a>> {
        let of = |controllers| {
            let mut all = self.0.iter();
            all.find(move |one| one.controllers == controllers && one.path != "/")
        };
        // Where both are there, systemd counts in the first.
        let membership = of("name=systemd").or_else(|| of(""))?;
        let mut names = names(*membership);
        let (name, directory) = names.find(|(name, _)| !name.ends_with(".slice"))?;
        // So systemd writes names that the kernel has a meaning for.
        let name = name.strip_prefix('_').unwrap_or(name);
        is_unit(name).then_some(Named {
            name,
            controllers: membership.controllers,
            directory,
        })
    }

    /// Whether anything in it could name a container, whoever wrote it.
    pub fn may_name_a_container(&self) -> bool {
        let mut paths = self.0.iter().map(|membership| membership.path.as_bytes());
        paths.any(|path| path.windows(ID_DIGITS).any(|part| part.iter().all(is_hex)))
    }
}

/// The names of a path, each with the directory that it stands in.
fn names(membership: Membership<'_>) -> impl Iterator<Item = (&str, &str)> {
    let path = membership.path;
    let starts = path.match_indices('/').map(|(at, _)| at + 1);
    starts.filter_map(move |start| {
        let rest = path.get(start..)?;
        let name = rest.split('/').next()?;
        (!name.is_empty()).then_some((name, path.get(..start)?))
    })
}

/// Hexadecimal digits in the id of a container.
const ID_DIGITS: usize = 64;

fn is_hex(byte: &u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// Whether systemd could have a unit of this name that has processes.
pub fn is_unit(name: &str) -> bool {
    let kinds = [".service", ".scope", ".socket", ".mount", ".swap"];
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    let stem = kinds.iter().find_map(|kind| name.strip_suffix(kind));
    name.len() <= 255 && stem.is_some_and(|stem| !stem.is_empty() && stem.bytes().all(plain))
}

/// The id of a container in a name: `ID`, `docker-ID.scope`, `libpod-payload-ID`, `x:cri-containerd:ID`.
fn container<'a>(name: &'a str, directory: &str) -> Option<(&'a str, Engine)> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let start = name.len().checked_sub(ID_DIGITS)?;
    let (prefix, id) = (name.get(..start)?, name.get(start..)?);
    if !id.bytes().all(|byte| is_hex(&byte)) {
        return None;
    }
    let prefix = match prefix.strip_suffix(['-', ':']) {
        Some(prefix) => prefix,
        // That of a pod, whose containers follow.
        None if directory.ends_with("/libpod_parent/") => return None,
        None if prefix.is_empty() => prefix,
        None => return None,
    };
    // What watches over a container is not in it.
    if prefix.ends_with("conmon") {
        return None;
    }
    let engine = if prefix.starts_with("libpod") {
        Engine::Podman
    } else {
        Engine::Docker
    };
    Some((id, engine))
}

/// Where the hierarchies of cgroups are mounted.
#[derive(Debug, Default)]
pub struct Hierarchies(Vec<Mount>);

#[derive(Debug)]
struct Mount {
    /// The controllers; none for the hierarchy of version 2.
    controllers: Vec<String>,
    point: PathBuf,
}

impl Hierarchies {
    /// Those that the agent sees.
    pub fn of_self() -> Self {
        let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        Self::parse(&text)
    }

    /// Those in the text of a `mountinfo` file. What is mounted in part is left out.
    pub fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let mounts = text
            .lines()
            .filter_map(|line| MountInfo::from_line(line).ok());
        let whole = mounts.filter(|mount| mount.root == "/");
        let hierarchy = whole.filter_map(|mount| {
            let controllers = match mount.fs_type.as_str() {
                "cgroup2" => Vec::new(),
                "cgroup" => mount.super_options.into_iter().map(option).collect(),
                _ => return None,
            };
            Some(Mount {
                controllers,
                point: mount.mount_point,
            })
        });
        Self(hierarchy.collect())
    }

    /// Makes sure that nobody but root chose a name.
    ///
    /// # Errors
    ///
    /// Who else could have, or why that cannot be told.
    pub fn vouch_for(&self, named: &Named<'_>) -> Result<(), String> {
        let of_line = |mount: &&Mount| match named.controllers {
            "" => mount.controllers.is_empty(),
            list => list
                .split(',')
                .all(|one| mount.controllers.iter().any(|c| c == one)),
        };
        let directory = Path::new(named.directory);
        let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        let mount = self.0.iter().find(of_line);
        let Some(mount) = mount.filter(|_| directory.components().all(plain)) else {
            return Err(format!("the agent does not see the cgroup {directory:?}"));
        };
        let relative = directory.strip_prefix("/").unwrap_or(directory);
        for ancestor in relative.ancestors() {
            let path = mount.point.join(ancestor);
            let meta = std::fs::symlink_metadata(&path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
                return Err(format!(
                    "the cgroup {:?} is of user {}, who names what is in it as he likes",
                    Path::new("/").join(ancestor),
                    meta.uid()
                ));
            }
        }
        Ok(())
    }
}

/// An option of a mount as it was written.
fn option((name, value): (String, Option<String>)) -> String {
    match value {
        Some(value) => format!("{name}={value}"),
        None => name,
    }
}

#[cfg(any(test, fuzzing))]
pub mod fuzz {
    use super::*;

    /// Names that are found are in the text, whole and in their directory.
    pub fn cgroup(bytes: &[u8]) {
        let Some(cgroups) = Cgroups::parse(bytes) else {
            return;
        };
        for (named, _) in cgroups.containers() {
            assert!(cgroups.may_name_a_container());
            assert_eq!(named.name.len(), ID_DIGITS);
            assert!(named.name.bytes().all(|byte| is_hex(&byte)));
            assert!(named.directory.starts_with('/') && named.directory.ends_with('/'));
        }
        if let Some(named) = cgroups.unit() {
            assert!(is_unit(named.name) && !named.name.contains('/'));
            assert!(
                named
                    .directory
                    .split('/')
                    .all(|part| part.is_empty() || part.ends_with(".slice"))
            );
        }
    }

    /// What is mounted is told without a panic.
    pub fn mountinfo(bytes: &[u8]) {
        let _ = Hierarchies::parse(bytes);
    }
}

#[cfg(test)]
mod tests;
