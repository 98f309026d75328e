use std::fs;
use std::os::unix::fs::MetadataExt;

use super::file::{MirrorError, put};
use super::*;
use crate::attest::names::Account;
use crate::attest::unix::UnixSpec;
use crate::clock::fake::FakeClock;
use crate::entry::tests::entry;
use crate::svid::AudienceClaim;

fn spec(path: PathBuf) -> TokenFileSpec {
    TokenFileSpec {
        path,
        holder: Holder::Entry("x".into()),
        issuer: None,
        key: None,
        claims: crate::entry::Claims::default(),
        jti: false,
        format: Format::Jwt,
        audience: AudienceClaim::One("a".parse().unwrap()),
        ttl: Duration::from_secs(3600),
        nbf_margin: Duration::ZERO,
        refresh_at: 0.45,
        mode: 0o400,
        owner: None,
        group: None,
        create_directory: false,
        renewal: None,
    }
}

#[test]
fn a_file_is_refreshed_well_before_its_token_ends_and_files_differ() {
    let after = |name: &str| {
        let spec = spec(PathBuf::from(format!("/run/{name}")));
        refresh_after(&spec, spec.ttl)
    };
    let all: Vec<_> = (0..100).map(|i| after(&format!("token{i}"))).collect();
    for wait in &all {
        assert!((1458..=1782).contains(&wait.as_secs()), "{wait:?}");
    }
    assert!(all.iter().any(|wait| *wait != all[0]));
    assert_eq!(after("token1"), after("token1"));
}

#[test]
fn retries_start_soon_and_grow_to_a_tenth_of_the_life_at_most() {
    let hour = Duration::from_secs(3600);
    let waits: Vec<_> = (0..8).map(|n| retry_after(hour, n).as_secs()).collect();
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
    let short = Duration::from_secs(2);
    assert_eq!(retry_after(short, 0), Duration::from_millis(100));
    assert_eq!(retry_after(short, u32::MAX), Duration::from_millis(200));
}

#[test]
fn the_file_holds_the_token_alone_and_belongs_to_whom_it_should() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let mut spec = spec(root.join("made/token"));
    let names = Names::default();
    assert!(matches!(put(&spec, &names, b"t"), Err(MirrorError::Directory(e)) if e.is_missing()));
    spec.create_directory = true;
    put(&spec, &names, b"token").unwrap();
    assert_eq!(fs::read(&spec.path).unwrap(), b"token");
    let meta = fs::metadata(&spec.path).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o400);
    let parent = fs::metadata(root.join("made")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (parent.uid(), parent.gid()));
    assert_eq!(fs::read_dir(root.join("made")).unwrap().count(), 1);
}

#[test]
fn an_owner_that_nobody_knows_leaves_the_old_token_in_place() {
    let directory = tempfile::tempdir().unwrap();
    let mut spec = spec(directory.path().canonicalize().unwrap().join("token"));
    let names = Names::default();
    put(&spec, &names, b"old").unwrap();
    spec.owner = Some(Account::Name("nobody-of-this-name".into()));
    assert!(matches!(
        put(&spec, &names, b"new"),
        Err(MirrorError::NoAccount(_))
    ));
    assert_eq!(fs::read(&spec.path).unwrap(), b"old");
}

fn mirror(clock: &Arc<FakeClock>, files: Vec<TokenFileSpec>) -> Mirror {
    let authority = Arc::new(Authority::new("td".parse().unwrap()));
    let clock: Arc<dyn Clock> = clock.clone();
    let minter = Arc::new(
        Minter::new(
            Arc::clone(&authority),
            Arc::new(crate::metrics::Metrics::new()),
            Arc::clone(&clock),
            watch::channel(crate::limits::NONE).1,
        )
        .unwrap(),
    );
    let entries = [entry("x", "spiffe://td/x", &["unix:uid:1"])];
    let unix = UnixSpec {
        discover_path: false,
        size_limit: None,
        hash: true,
    };
    let snapshot = Snapshot {
        entries: entries.into_iter().collect(),
        unix,
    };
    let sources = Sources {
        files: watch::channel(Arc::new(files)).1,
        registry: watch::channel(Arc::new(snapshot)).1,
        names: watch::channel(Arc::default()).1,
        authority,
        audit: Arc::new(Audit::new(
            Arc::new(crate::metrics::Metrics::new()),
            Arc::clone(&clock),
        )),
        steps: watch::channel(()).1,
    };
    Mirror::new(sources, minter, clock)
}

#[tokio::test]
async fn a_step_of_the_wall_clock_makes_a_file_due_and_the_passing_of_time_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let spec = spec(directory.path().canonicalize().unwrap().join("token"));
    let file = put(&spec, &Names::default(), b"token").unwrap();
    let clock = Arc::new(FakeClock::at(1_800_000_000));
    let mut mirror = mirror(&clock, vec![spec]);
    mirror.adopt().await;
    let due = clock.since_boot() + Duration::from_secs(1000);
    for (wall, stays) in [
        (1_800_000_060, true),
        (1_800_000_064, true),
        (1_800_100_000, false),
        (1_700_000_000, false),
    ] {
        let start = crate::clock::from_unix_seconds(1_800_000_000);
        mirror.files[0].due = due;
        mirror.files[0].written = Some(Written {
            kid: "k".into(),
            file,
            validity: Validity::starting(start, Duration::from_secs(3600), Duration::ZERO),
            at: clock.since_boot(),
        });
        clock.advance(Duration::from_secs(60));
        clock.set_wall(wall);
        mirror.notice_clock_steps();
        assert_eq!(mirror.files[0].due == due, stays, "{wall}");
    }
}

#[tokio::test]
async fn a_file_whose_entry_is_gone_is_removed_if_it_is_still_the_one_that_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let [ours, others] = ["ours", "others"].map(|name| spec(root.join(name)));
    let clock = Arc::new(FakeClock::at(1_800_000_000));
    let mut mirror = mirror(&clock, vec![ours.clone(), others.clone()]);
    mirror.adopt().await;
    for (file, spec) in mirror.files.iter_mut().zip([&ours, &others]) {
        file.written = Some(Written {
            kid: "k".into(),
            file: put(spec, &Names::default(), b"token").unwrap(),
            validity: Validity::starting(clock.now(), Duration::from_secs(60), Duration::ZERO),
            at: clock.since_boot(),
        });
    }
    fs::rename(&others.path, root.join("moved")).unwrap();
    fs::write(&others.path, b"of somebody else").unwrap();
    let gone = Vec::new();
    mirror.sources.files = watch::channel(Arc::new(gone)).1;
    mirror.adopt().await;
    assert!(!ours.path.exists());
    assert_eq!(fs::read(&others.path).unwrap(), b"of somebody else");
}
