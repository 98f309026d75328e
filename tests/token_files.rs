//! Token files as their readers meet them.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use common::{Need, Sandbox, entry, eventually, have, issuer, text};

fn sandbox(path: &str, options: &str) -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::new("");
    let file = sandbox.path(path);
    let block = format!(
        "token_file \"{}\" {{\n  entry = \"billing\"\n  audience = \"vault\"\n  {options}\n}}\n",
        file.display()
    );
    let issuer = issuer("main", "https://id.example.org", "ES256");
    sandbox.configure(&(issuer + &entry("billing", 1001) + &block));
    (sandbox, file)
}

/// The file, once it is there.
fn wait_for(file: &Path) -> String {
    eventually("the token file is there", || fs::read_to_string(file).ok())
}

#[test]
fn the_file_belongs_to_its_reader_and_to_nobody_else() {
    if !have(&[Need::Root]) {
        return;
    }
    let (sandbox, file) = sandbox(
        "run/tokens/billing/aws",
        "owner = \"1001\"\n  group = \"1002\"\n  mode = \"0440\"",
    );
    let _agent = sandbox.start();
    let token = wait_for(&file);
    assert_eq!(token.split('.').count(), 3);
    assert_eq!(token.trim(), token, "no newline: SDKs would send it");
    let meta = fs::metadata(&file).unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode() & 0o7777),
        (1001, 1002, 0o440)
    );
    let directory = fs::metadata(file.parent().unwrap()).unwrap();
    assert_eq!((directory.uid(), directory.mode() & 0o7777), (0, 0o755));
    let read = |uid: u32| common::as_user(uid).arg("cat").arg(&file).output().unwrap();
    assert_eq!(text(&read(1001).stdout), token);
    assert!(!read(1003).status.success());
}

#[test]
fn the_token_is_replaced_in_time_and_no_read_finds_less_than_one() {
    let (sandbox, file) = sandbox("run/tokens/token", "ttl = \"2s\"");
    let _agent = sandbox.start();
    let mut seen = vec![wait_for(&file)];
    eventually("five tokens", || {
        let token = fs::read_to_string(&file).expect("the file is always there");
        assert_eq!(token.split('.').count(), 3, "a torn read");
        if *seen.last().unwrap() != token {
            seen.push(token);
        }
        (seen.len() == 5).then_some(())
    });
}

#[test]
fn a_directory_that_is_missing_is_waited_for_and_one_of_others_is_refused() {
    if !have(&[Need::Root]) {
        return;
    }
    let (waiting, file) = sandbox("elsewhere/token", "ttl = \"2s\"");
    let _agent = waiting.start();
    eventually("the log tells", || {
        _agent
            .log()
            .contains("waits for its directory")
            .then_some(())
    });
    fs::create_dir(file.parent().unwrap()).unwrap();
    wait_for(&file);

    let (foreign, file) = sandbox("elsewhere/token", "ttl = \"2s\"");
    let directory = file.parent().unwrap();
    fs::create_dir(directory).unwrap();
    std::os::unix::fs::chown(directory, Some(1003), Some(1003)).unwrap();
    let agent = foreign.start();
    eventually("the log tells", || {
        agent.log().contains("belongs to uid 1003").then_some(())
    });
    assert!(!file.exists());
}

#[test]
fn a_link_in_the_place_of_the_file_is_replaced_and_its_target_untouched() {
    let (sandbox, file) = sandbox("run/tokens/token", "");
    let victim = sandbox.path("victim");
    fs::write(&victim, "precious").unwrap();
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    symlink(&victim, &file).unwrap();
    let _agent = sandbox.start();
    eventually("the link is replaced", || {
        fs::symlink_metadata(&file).unwrap().is_file().then_some(())
    });
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn the_group_is_the_configured_one_even_where_the_directory_hands_down_its_own() {
    use std::os::unix::fs::PermissionsExt;

    if !have(&[Need::Root]) {
        return;
    }
    let (sandbox, file) = sandbox("elsewhere/token", "group = \"0\"\n  mode = \"0440\"");
    let directory = file.parent().unwrap();
    fs::create_dir(directory).unwrap();
    std::os::unix::fs::chown(directory, Some(0), Some(1002)).unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o2755)).unwrap();
    let _agent = sandbox.start();
    wait_for(&file);
    assert_eq!(fs::metadata(&file).unwrap().gid(), 0);
}
