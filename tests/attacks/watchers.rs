//! Whoever watches the directory for new files, to open them before they are closed to him.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::attacker::{Attacker, Role, Turns};
use crate::house::{OTHER, STRANGER, against_each_agent, is_token, renewed, token_of};

/// Opens each file of which the kernel tells anything, and all that are listed meanwhile.
pub fn open_what_comes(place: &Path, turns: &Turns) -> String {
    let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
    let inotify = Inotify::init(flags).unwrap();
    let all = AddWatchFlags::IN_ALL_EVENTS;
    inotify.add_watch(place, all).unwrap();
    let (mut events, mut whole, mut parts) = (0, 0, 0);
    let mut open = |name: &std::ffi::OsStr| {
        if let Ok(content) = fs::read_to_string(place.join(name)) {
            if is_token(&content) {
                whole += 1;
            } else {
                parts += 1;
            }
        }
    };
    while turns.go_on() {
        for event in inotify.read_events().unwrap_or_default() {
            events += 1;
            event.name.as_deref().into_iter().for_each(&mut open);
        }
        for entry in fs::read_dir(place).unwrap() {
            open(&entry.unwrap().file_name());
        }
    }
    format!("{events} events, {whole} whole tokens, {parts} parts of one")
}

/// The number before some words.
fn count(told: &str, words: &str) -> u64 {
    let before = told.split(words).next().unwrap();
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

/// A16 and row 58: nobody else opens it under any of its names at any time.
#[test]
fn whoever_watches_for_the_file_can_open_it_at_no_moment_if_it_is_not_for_him() {
    against_each_agent(&[], |house| {
        let shared = house.sandbox.path("run/tokens/shared/token");
        let given = house.sandbox.path("run/tokens/shared/given");
        let own = house.home.join("token");
        let often = "ttl = \"2s\"\n  refresh_at = 0.1";
        let of_other = "owner = \"1003\"\n  group = \"1003\"\n  mode = \"0440\"\n  ttl = \"2s\"\n  refresh_at = 0.1";
        house.configure(&[
            (shared.clone(), often),
            (given.clone(), of_other),
            (own.clone(), often),
        ]);
        let _agent = house.start();
        token_of(house.runner.uid(), &shared);
        token_of(OTHER, &given);
        token_of(OTHER, &own);
        let watch = |uid: u32, path: &Path| {
            let directory = path.parent().unwrap();
            Attacker::start(&house.sandbox, uid, Role::OpenWhatComes, directory)
        };
        let watchers = [watch(STRANGER, &shared), watch(STRANGER, &own)];
        let reader = watch(OTHER, &own);
        for _ in 0..20 {
            renewed(&shared);
            renewed(&own);
        }
        for watcher in watchers {
            let told = watcher.end();
            assert!(count(&told, " events") >= 20, "{told}");
            assert_eq!(count(&told, " whole"), 0, "{told}");
            assert_eq!(count(&told, " parts"), 0, "{told}");
        }
        // The one for whom it is finds it whole at every moment.
        let told = reader.end();
        assert!(count(&told, " whole") >= 20, "{told}");
        assert_eq!(count(&told, " parts"), 0, "{told}");
        for (path, owner) in [(&given, OTHER), (&own, OTHER)] {
            assert_eq!(fs::metadata(path).unwrap().uid(), owner);
        }
        house.others_are_served();
    });
}
