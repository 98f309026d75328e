use std::fs;
use std::os::unix::fs::MetadataExt;

use super::error::MirrorError;
use super::table::TokenFile;
use super::writer::{Laid, Letter};
use super::*;
use crate::attest::names::Account;
use crate::clock::fake::FakeClock;
use crate::entry::tests::entry;
use crate::svid::{AudienceClaim, Validity};

fn spec(path: std::path::PathBuf) -> TokenFileSpec {
    TokenFileSpec {
        path,
        parameter: None,
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

/// Writes a file as the mirror does; the list of files is lost.
fn put(spec: &TokenFileSpec, names: &Names, content: &[u8]) -> Result<Laid, MirrorError> {
    let lost = tempfile::tempdir().unwrap();
    let writers = Writers::new(Arc::new(Manifest::open(lost.path()).0));
    let letter = Letter {
        value: "".into(),
        content: String::from_utf8(content.to_vec()).unwrap().into(),
        sweep: true,
        first: true,
    };
    let (spec, names) = (Arc::new(spec.clone()), Arc::new(names.clone()));
    let mut laid = writers.put_all(&spec, &names, vec![letter]);
    laid.pop().unwrap()
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
            state::channel(crate::limits::NONE).1,
        )
        .unwrap(),
    );
    let entries = [entry("x", "spiffe://td/x", &["unix:uid:1"])];
    let snapshot = Snapshot {
        entries: entries.into_iter().collect(),
        attestors: Arc::new(crate::attest::tests::specs(false)),
    };
    let sources = Sources {
        files: state::channel(Arc::new(files)).1,
        registry: state::channel(Arc::new(snapshot)).1,
        names: state::channel(Arc::default()).1,
        authority,
        audit: Arc::new(Audit::new(
            Arc::new(crate::metrics::Metrics::new()),
            Arc::clone(&clock),
        )),
        steps: state::channel(()).1,
    };
    let lost = tempfile::tempdir().unwrap();
    Mirror::new(sources, minter, clock, Manifest::open(lost.path()))
}

/// Does something with the only file.
fn with_file<T>(mirror: &Mirror, work: impl FnOnce(&mut TokenFile) -> T) -> T {
    let mut table = mirror.files.lock();
    let (number, _) = table.files().next().unwrap();
    work(table.file_mut(number).unwrap())
}

/// Follows the sources, and waits for what is removed.
async fn adopt(mirror: &mut Mirror) {
    mirror.adopt().await;
    while mirror.removals.are_under_way() {
        mirror.removals.one_ended().await;
    }
}

fn written(laid: Laid, clock: &FakeClock) -> Written {
    let validity = Validity::starting(clock.now(), Duration::from_secs(3600), Duration::ZERO);
    Written::new(laid.file, "k".into(), validity)
}

#[tokio::test]
async fn a_step_of_the_wall_clock_makes_a_file_due_and_the_passing_of_time_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let spec = spec(directory.path().canonicalize().unwrap().join("token"));
    let clock = Arc::new(FakeClock::at(1_800_000_000));
    let mut mirror = mirror(&clock, vec![spec.clone()]);
    mirror.adopt().await;
    let laid = put(&spec, &Names::default(), b"token").unwrap();
    let held = written(laid, &clock);
    with_file(&mirror, |file| file.written = Some(held));
    let mut wall = 1_800_000_000;
    // A clock that is slewed moves by little at a time; what it has moved adds up.
    for (moved, stays) in [
        (0, true),
        (4, true),
        (100_000, false),
        (-1_000_000, false),
        (0, true),
        (-4, true),
        (-4, false),
    ] {
        let later = clock.since_boot() + Duration::from_secs(1000);
        let number = mirror.files.lock().files().next().unwrap().0;
        mirror.files.lock().take_due(later, 1);
        let now = clock.since_boot();
        mirror.files.lock().landed(number, later, now);
        clock.advance(Duration::from_secs(60));
        wall = wall + 60 + moved;
        clock.set_wall(u64::try_from(wall).unwrap());
        mirror.notice_clock_step();
        let due = with_file(&mirror, |file| file.due().unwrap());
        assert_eq!(due == later, stays, "{moved}");
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
    for spec in [&ours, &others] {
        let laid = put(spec, &Names::default(), b"token").unwrap();
        let mut table = mirror.files.lock();
        let mut files = table.files();
        let (number, _) = files.find(|(_, file)| *file.plan.spec == *spec).unwrap();
        drop(files);
        table.file_mut(number).unwrap().written = Some(written(laid, &clock));
    }
    fs::rename(&others.path, root.join("moved")).unwrap();
    fs::write(&others.path, b"of somebody else").unwrap();
    let gone = Vec::new();
    mirror.sources.files = state::channel(Arc::new(gone)).1;
    adopt(&mut mirror).await;
    assert!(!ours.path.exists());
    assert_eq!(fs::read(&others.path).unwrap(), b"of somebody else");
}

#[tokio::test]
async fn what_an_earlier_agent_wrote_is_removed_where_nobody_wants_it_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let [wanted, unwanted, replaced] =
        ["wanted", "unwanted", "replaced"].map(|name| spec(root.join(name)));
    let clock = Arc::new(FakeClock::at(1_800_000_000));
    let mut mirror = mirror(&clock, vec![wanted.clone()]);
    for spec in [&wanted, &unwanted, &replaced] {
        let laid = put(spec, &Names::default(), b"token").unwrap();
        mirror.former.insert(spec.path.clone(), vec![laid.file]);
    }
    fs::rename(&replaced.path, root.join("moved")).unwrap();
    fs::write(&replaced.path, b"of somebody else").unwrap();
    adopt(&mut mirror).await;
    assert!(wanted.path.exists() && !unwanted.path.exists());
    assert_eq!(fs::read(&replaced.path).unwrap(), b"of somebody else");
    assert!(mirror.former.is_empty());
}

#[tokio::test]
async fn a_first_token_comes_though_more_renewals_are_due_than_can_be_done() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    let clock = Arc::new(FakeClock::at(1_800_000_000));
    let files = ["busy", "new"].map(|name| spec(root.join(name)));
    let mut mirror = mirror(&clock, files.to_vec());
    mirror.adopt().await;
    let laid = put(&files[0], &Names::default(), b"token").unwrap();
    let mut table = mirror.files.lock();
    let (busy, _) = table.files().next().unwrap();
    let now = clock.since_boot();
    table.file_mut(busy).unwrap().written = Some(written(laid, &clock));
    table.make_due(busy, now);
    for _ in 0..10 {
        let batch = table.take_due(now, 1).unwrap();
        let number = batch.files[0].number;
        if number != busy {
            return;
        }
        table.landed(number, now, now);
        table.flight_ended(&batch.plan);
    }
    panic!("it waits for ever");
}
