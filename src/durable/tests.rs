use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

const OWN: Attributes = Attributes::own(0o600);

fn sandbox() -> (tempfile::TempDir, Dir) {
    let directory = tempfile::tempdir().unwrap();
    let dir = Dir::open(&directory.path().canonicalize().unwrap()).unwrap();
    (directory, dir)
}

#[test]
fn a_file_has_its_bytes_and_mode_and_leaves_nothing_beside_it() {
    let (directory, dir) = sandbox();
    for (mode, persistence) in [(0o600, Persistence::Synced), (0o444, Persistence::Volatile)] {
        dir.replace("f", b"bytes", Attributes::own(mode), persistence)
            .unwrap();
        let path = directory.path().join("f");
        assert_eq!(fs::read(&path).unwrap(), b"bytes");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode);
    }
    assert_eq!(dir.names().unwrap(), ["f"]);
}

#[test]
fn a_file_with_the_same_bytes_is_not_written_again() {
    let (directory, dir) = sandbox();
    let path = directory.path().join("f");
    let write = |bytes: &[u8]| dir.replace_if_changed("f", bytes, OWN, Persistence::Volatile);
    assert!(write(b"one").unwrap());
    let inode = fs::metadata(&path).unwrap().ino();
    assert!(!write(b"one").unwrap());
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    assert!(write(b"two").unwrap());
}

#[test]
fn a_link_in_place_of_the_file_is_replaced_and_its_target_untouched() {
    let (directory, dir) = sandbox();
    let victim = directory.path().join("victim");
    fs::write(&victim, b"precious").unwrap();
    symlink(&victim, directory.path().join("soft")).unwrap();
    fs::hard_link(&victim, directory.path().join("hard")).unwrap();
    for name in ["soft", "hard"] {
        dir.replace(name, b"new", OWN, Persistence::Volatile)
            .unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_eq!(fs::read(directory.path().join(name)).unwrap(), b"new");
    }
}

#[test]
fn reading_neither_follows_links_nor_waits_on_a_pipe() {
    let (directory, dir) = sandbox();
    fs::write(directory.path().join("file"), b"x").unwrap();
    symlink("file", directory.path().join("link")).unwrap();
    nix::unistd::mkfifo(&directory.path().join("pipe"), Mode::S_IRWXU).unwrap();
    assert!(dir.read("link").is_err());
    assert!(dir.read("pipe").is_err());
    assert_eq!(dir.read("file").unwrap(), b"x");
}

#[test]
fn a_secret_that_others_may_read_is_refused() {
    let (directory, dir) = sandbox();
    dir.replace("key", b"x", OWN, Persistence::Volatile)
        .unwrap();
    assert_eq!(dir.read_secret("key").unwrap(), b"x");
    let path = directory.path().join("key");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = dir.read_secret("key").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("0640"), "{error}");
}

#[test]
fn a_directory_that_others_can_change_is_refused_by_name() {
    let (directory, _) = sandbox();
    let root = directory.path().canonicalize().unwrap();
    let open = |path: &str| Dir::open(&root.join(path));
    fs::create_dir_all(root.join("open/below")).unwrap();
    fs::create_dir_all(root.join("group/below")).unwrap();
    // An access list shows in the bits of the group, whoever the group is.
    fs::set_permissions(root.join("group"), fs::Permissions::from_mode(0o775)).unwrap();
    assert!(matches!(
        open("group/below"),
        Err(DirError::Writable { .. })
    ));
    fs::create_dir_all(root.join("sticky/below")).unwrap();
    fs::set_permissions(root.join("open"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(root.join("sticky"), fs::Permissions::from_mode(0o1777)).unwrap();
    symlink("sticky", root.join("link")).unwrap();
    assert!(
        matches!(open("open/below"), Err(DirError::Writable { path, .. }) if path.ends_with("open"))
    );
    assert!(open("sticky/below").is_ok());
    assert!(matches!(open("sticky"), Err(DirError::Writable { .. })));
    assert!(Dir::open_shared(&root.join("sticky")).is_ok());
    assert!(Dir::open_shared(&root.join("open")).is_err());
    assert!(matches!(open("link/below"), Err(DirError::Symlink(path)) if path.ends_with("link")));
    assert!(matches!(open("../x"), Err(DirError::NotAbsolute(_))));
    assert!(open("absent").unwrap_err().is_missing());
}

#[test]
fn made_directories_have_their_mode_whatever_the_umask() {
    let (directory, _) = sandbox();
    let root = directory.path().canonicalize().unwrap();
    let made = Dir::create(&root.join("a/b"), 0o755).unwrap();
    assert_eq!(made.mode().unwrap(), 0o755);
    assert_eq!(fs::metadata(root.join("a")).unwrap().mode() & 0o777, 0o755);
    let private = made.create_below("c", 0o700).unwrap();
    assert_eq!(private.mode().unwrap(), 0o700);
}

#[test]
fn the_sweep_takes_our_leftovers_and_nothing_else() {
    let (directory, dir) = sandbox();
    let ours = Temporary::new().unwrap().as_str().to_owned();
    for name in [ours.as_str(), ".agent-1.tmp", "token", ".hidden.tmp"] {
        fs::write(directory.path().join(name), b"x").unwrap();
    }
    dir.sweep().unwrap();
    assert_eq!(
        dir.names().unwrap(),
        [".agent-1.tmp", ".hidden.tmp", "token"]
    );
}

#[test]
fn a_failed_rename_leaves_no_temporary_file() {
    let (directory, dir) = sandbox();
    fs::create_dir(directory.path().join("f")).unwrap();
    assert!(dir.replace("f", b"x", OWN, Persistence::Volatile).is_err());
    assert_eq!(dir.names().unwrap(), ["f"]);
}

#[test]
fn making_a_directory_removes_one_that_was_never_finished() {
    let (directory, dir) = sandbox();
    let left = directory.path().join(Temporary::new().unwrap().as_str());
    fs::create_dir(&left).unwrap();
    dir.create_below("made", 0o755).unwrap();
    assert_eq!(dir.names().unwrap(), ["made"]);
}

#[test]
fn a_file_that_got_the_number_of_ours_is_not_ours() {
    let (directory, dir) = sandbox();
    for _ in 0..100 {
        let ours = dir.replace("f", b"x", OWN, Persistence::Volatile).unwrap();
        let path = directory.path().join("f");
        let inode = fs::metadata(&path).unwrap().ino();
        // A tick of the clock by which files are dated.
        let ticked = std::time::Instant::now() + std::time::Duration::from_millis(20);
        while std::time::Instant::now() < ticked {
            std::thread::yield_now();
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        assert!(!dir.remove_own("f", &[ours]).unwrap());
        if fs::metadata(&path).unwrap().ino() == inode {
            return;
        }
    }
}
