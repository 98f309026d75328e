//! A machine that sleeps while its tokens expire. The wake-up call of the kernel cannot be had here:
//! the agent has only its clocks to tell by. Steps of the wall clock are in `clocks.rs`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{DEADLINE, claims, long};
use crate::house::{against_each_agent, now};

const FILES: usize = 50;
const NIGHT: Duration = Duration::from_secs(7200);

/// Builds what shifts the clocks of a process.
fn library(directory: &Path) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacks/suspend.c");
    let library = directory.join("suspend.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-o"]);
    compiler.arg(&library).arg(source);
    assert!(compiler.status().unwrap().success());
    library.to_str().unwrap().to_owned()
}

/// A20: each file is written once. Each lies by itself, so that none is in the way of another.
#[test]
fn after_a_sleep_that_outlasts_all_tokens_each_file_is_written_once() {
    against_each_agent(&[], |house| {
        let path = |i: usize| house.sandbox.path(&format!("run/tokens/t{i}/token"));
        let paths: Vec<_> = (0..FILES).map(path).collect();
        let blocks: Vec<_> = paths.iter().map(|path| (path.clone(), "")).collect();
        house.configure_alone(&blocks);
        let slept = house.sandbox.path("slept");
        fs::write(&slept, 0_i64.to_ne_bytes()).unwrap();
        let library = library(&house.sandbox.path(""));
        let environment = [
            ("LD_PRELOAD", library.as_str()),
            ("SLEPT", slept.to_str().unwrap()),
        ];
        let agent = house.sandbox.start_by(house.runner.command(), &environment);
        let issued = |path: &Path| {
            let token = fs::read_to_string(path).ok()?;
            claims(&token)["iat"].as_f64()
        };
        let wait = |since: f64| {
            let start = Instant::now();
            while !paths
                .iter()
                .all(|path| issued(path).is_some_and(|at| at >= since))
            {
                // The clocks are looked at every half minute.
                assert!(start.elapsed() < DEADLINE * 2, "the files are not written");
                std::thread::sleep(Duration::from_millis(20));
            }
            start.elapsed()
        };
        wait(0.0);
        let before = house.attempts();
        let mut file = fs::File::options().write(true).open(&slept).unwrap();
        let seconds = i64::try_from(NIGHT.as_secs()).unwrap();
        file.write_all(&seconds.to_ne_bytes()).unwrap();
        let took = wait(now() + NIGHT.as_secs_f64() - 2.0);
        if long() {
            std::thread::sleep(DEADLINE * 4 / 3);
        }
        let written = house.attempts() - before;
        assert_eq!(written, FILES as u64, "{}", agent.log());
        println!(
            "{:?}: {FILES} files written {took:.1?} after the sleep",
            house.runner
        );
    });
}
