//! Selectors that can be had, and likely are not what was meant.

use std::collections::BTreeMap;

use super::Faults;
use crate::attest::facts::{self, AttestorSpecs};
use crate::selector::Selector;

/// Names of selectors of which a process has one.
const SINGLE: [&str; 10] = [
    "unix:uid",
    "unix:gid",
    "unix:path",
    "unix:sha256",
    "container:id",
    "systemd:id",
    "systemd:fragment_path",
    "systemd:invocation_id",
    "docker:image_id",
    "docker:image_config_digest",
];

/// Programs that run what others wrote, without the version that may stand behind.
const INTERPRETERS: [&str; 44] = [
    "ash", "awk", "bash", "beam.smp", "bun", "busybox", "csh", "dash", "deno", "dotnet", "elixir",
    "env", "erl", "fish", "gawk", "guile", "java", "jshell", "julia", "ksh", "lua", "luajit",
    "mawk", "mksh", "mono", "node", "nodejs", "perl", "php", "pwsh", "pypy", "python", "R",
    "racket", "Rscript", "ruby", "sh", "tclsh", "tcsh", "toybox", "wine", "wish", "zsh", "rbash",
];

/// Warns of the selectors of an entry, each with its place in the list.
pub(super) fn lint(selectors: &[(usize, Selector)], specs: &AttestorSpecs, faults: &mut Faults) {
    let mut warn = |item: usize, message: String, help: &str| {
        faults.warn("selectors", Some(item), message, help);
    };
    let mut single: BTreeMap<&str, &Selector> = BTreeMap::new();
    for (item, selector) in selectors {
        let (name, shown) = (selector.name(), selector.as_str());
        let value = shown.get(name.len() + 1..).unwrap_or_default();
        if let Some((why, help)) = specs.lack(facts::wants(selector)) {
            warn(*item, format!("{why}, so this never matches"), help);
            continue;
        }
        match (name, value) {
            ("unix:path", path) if is_interpreter(path) => {
                let message =
                    format!("{path} is an interpreter: whatever it is told to run matches");
                warn(
                    *item,
                    message,
                    "give the workload a user of its own and name that",
                );
            }
            ("unix:uid" | "unix:gid" | "unix:supplementary_gid", "65534")
            | ("unix:user", "nobody")
            | ("unix:group" | "unix:supplementary_group", "nogroup") => {
                let message = format!(
                    "{shown} is nobody: services share it, and users of other namespaces look like it"
                );
                warn(*item, message, "give the workload a user of its own");
            }
            _ => {}
        }
        if SINGLE.contains(&name)
            && let Some(other) = single.insert(name, selector)
            && other != selector
        {
            let message = format!("no process has {other} and {shown}, so this never matches");
            warn(*item, message, "write two entries with the same spiffe_id");
        }
    }
    if let [(item, first), ..] = selectors
        && selectors
            .iter()
            .all(|(_, selector)| selector.kind() == "ns")
    {
        let message = format!("{first} alone matches every process of this machine");
        warn(*item, message, "add unix:uid or unix:user");
    }
}

/// Whether a program runs what others wrote.
fn is_interpreter(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let versioned = |c: char| c.is_ascii_digit() || matches!(c, '.' | '-');
    let bare = name.trim_end_matches(versioned);
    // The loader of programs runs any of them.
    let loader = ["ld-linux", "ld-musl", "ld.so"]
        .iter()
        .any(|start| name.starts_with(start));
    loader || name.starts_with("qemu-") || INTERPRETERS.contains(&bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(texts: &[&str], discover_path: bool, hash: bool) -> String {
        let mut specs = crate::attest::tests::specs(discover_path);
        specs.unix.hash = hash;
        let selectors = texts.iter().enumerate();
        let selectors: Vec<_> = selectors
            .map(|(at, text)| (at, text.parse().unwrap()))
            .collect();
        let mut faults = Faults::default();
        lint(&selectors, &specs, &mut faults);
        assert!(faults.0.iter().all(|fault| !fault.fatal));
        let told = faults
            .0
            .iter()
            .map(|fault| format!("{:?} {}\n", fault.item, fault.message));
        told.collect()
    }

    #[test]
    fn what_likely_was_not_meant_is_told_with_its_place() {
        let hash = format!("unix:sha256:{}", "a".repeat(64));
        for (texts, word) in [
            (&["unix:uid:65534"][..], "Some(0) unix:uid:65534 is nobody"),
            (&["unix:user:nobody"], "nobody"),
            (
                &["unix:uid:1", "unix:path:/usr/bin/python3.11"],
                "Some(1) /usr/bin/python3.11 is an",
            ),
            (
                &["unix:uid:1", "unix:gid:1", "unix:uid:2"],
                "Some(2) no process has unix:uid:1 and",
            ),
            (
                &["unix:path:/a", "unix:path:/b"],
                "no process has unix:path:/a and unix:path:/b",
            ),
            (&["ns:host"], "ns:host alone matches every process"),
        ] {
            let told = warnings(texts, true, true);
            assert!(told.contains(word), "{texts:?}: {told:?}");
            assert_eq!(told.lines().count(), 1, "{told}");
        }
        assert!(warnings(&["unix:uid:1", "unix:path:/a"], false, true).contains("not discovered"));
        assert!(warnings(&["unix:uid:1", &hash], true, false).contains("not hashed"));
    }

    #[test]
    fn what_is_sound_is_not_complained_about() {
        let hash = format!("unix:sha256:{}", "a".repeat(64));
        for texts in [
            &["unix:uid:1001", "unix:path:/usr/bin/billing"][..],
            &["unix:uid:1", "unix:uid:1"],
            &[
                "unix:supplementary_gid:1",
                "unix:supplementary_gid:2",
                &hash,
            ],
            // Two names of one number.
            &["unix:user:root", "unix:user:toor"],
            &["ns:host", "unix:uid:1"],
        ] {
            assert_eq!(warnings(texts, true, true), "", "{texts:?}");
        }
        for path in [
            "/usr/bin/billing",
            "/opt/envoy",
            "/usr/bin/nodejs-exporter",
            "/usr/sbin/shd",
        ] {
            assert!(!is_interpreter(path), "{path}");
        }
        for path in [
            "/bin/sh",
            "/usr/bin/perl5.36.0",
            "/lib64/ld-linux-x86-64.so.2",
            "/usr/bin/env",
        ] {
            assert!(is_interpreter(path), "{path}");
        }
    }
}
