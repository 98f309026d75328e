#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| svid_agent::fuzz::cgroup(bytes));
