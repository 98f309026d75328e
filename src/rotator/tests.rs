use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;
use crate::clock::fake::FakeClock;
use crate::jose::Algorithm;
use crate::key::plan::RotationPolicy;
use crate::key::record::KeyRecord;
use crate::key::signing::{KeySpec, RsaSize};

const LIFESPAN: Duration = Duration::from_secs(3600);
const MARGIN: Duration = Duration::from_secs(600);
const KEEP: Duration = Duration::from_secs(1000);

struct Sandbox {
    directory: tempfile::TempDir,
    clock: Arc<FakeClock>,
}

impl Sandbox {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            clock: Arc::new(FakeClock::at(1_800_000_000)),
        }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().canonicalize().unwrap()
    }

    fn issuer(&self, algorithm: Algorithm) -> IssuerSpec {
        let spec = ChainSpec {
            key: KeySpec {
                algorithm,
                rsa_size: RsaSize::Bits2048,
            },
            policy: RotationPolicy {
                lifespan: LIFESPAN,
                publish_margin: MARGIN,
                keep: KEEP,
            },
        };
        IssuerSpec {
            name: "main".into(),
            webroot: WebrootSpec {
                url: "https://id.example.org".parse().unwrap(),
                directory: self.root().join("webroot"),
                create: true,
                jwks_path: "/jwks.json".into(),
                jwks_uri: "https://id.example.org/jwks.json".into(),
                owner: None,
                group: None,
                mode: 0o644,
            },
            bundle: true,
            chains: BTreeMap::from([("main".into(), spec)]),
        }
    }

    fn open(&self, issuer: IssuerSpec) -> Rotator {
        let (store, state, found) = KeyStore::open(&self.root(), &*self.clock).unwrap();
        let (_, names) = watch::channel(Arc::default());
        let parts = Parts {
            authority: Arc::new(Authority::new("example.org".parse().unwrap())),
            clock: self.clock.clone(),
            names,
            steps: watch::channel(()).1,
            metrics: Arc::new(Metrics::new()),
            probe_interval: Duration::from_secs(30),
        };
        Rotator::new(vec![issuer], parts, store, state, found).unwrap()
    }

    /// A start of the agent with one issuer.
    fn start(&self, algorithm: Algorithm) -> Rotator {
        let rotator = self.open(self.issuer(algorithm));
        for lacking in rotator.start_existing().unwrap() {
            rotator.start_new(&lacking).unwrap();
        }
        rotator.round();
        rotator
    }

    fn file(&self, name: &str) -> PathBuf {
        self.root().join("private").join(name)
    }

    fn jwks(&self) -> String {
        fs::read_to_string(self.root().join("webroot/jwks.json")).unwrap()
    }

    fn bundle(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.root().join("webroot/bundle.json")).unwrap()).unwrap()
    }
}

fn chain() -> KeyRef {
    KeyRef {
        issuer: "main".into(),
        key: "main".into(),
    }
}

fn signing_kid(rotator: &Rotator) -> String {
    let signer = rotator.parts.authority.signer(&chain()).unwrap();
    signer.key.jwk().kid().to_owned()
}

fn states(rotator: &Rotator) -> Vec<KeyState> {
    rotator.hand().keys().iter().map(KeyRecord::state).collect()
}

fn kid_in(rotator: &Rotator, state: KeyState) -> String {
    let hand = rotator.hand();
    let key = hand.keys().iter().find(|key| key.state() == state);
    key.unwrap().jwk.kid().to_owned()
}

fn activations(rotator: &Rotator, reason: &str) -> bool {
    let text = rotator.parts.metrics.render(Vec::new());
    text.contains(&format!("key_activations_total{{reason=\"{reason}\"}} 1"))
}

#[test]
fn a_first_start_signs_at_once_and_has_a_successor_published() {
    let sandbox = Sandbox::new();
    let rotator = sandbox.start(Algorithm::Es256);
    assert_eq!(states(&rotator), [KeyState::Active, KeyState::Published]);
    assert!(activations(&rotator, "bootstrap"));
    for state in [KeyState::Active, KeyState::Published] {
        assert!(sandbox.jwks().contains(&kid_in(&rotator, state)));
    }
}

#[test]
fn a_restart_signs_with_the_same_key_and_makes_none() {
    let sandbox = Sandbox::new();
    let first = sandbox.start(Algorithm::Es256);
    let (kid, count) = (signing_kid(&first), states(&first).len());
    drop(first);
    let second = sandbox.start(Algorithm::Es256);
    assert_eq!(signing_kid(&second), kid);
    assert_eq!(states(&second).len(), count);
}

#[test]
fn keys_turn_over_and_what_was_used_leaves_when_its_tokens_have_ended() {
    let sandbox = Sandbox::new();
    let rotator = sandbox.start(Algorithm::Es256);
    let first = signing_kid(&rotator);
    let second = kid_in(&rotator, KeyState::Published);
    sandbox.clock.advance(LIFESPAN);
    rotator.round();
    assert_eq!(signing_kid(&rotator), second);
    assert!(sandbox.jwks().contains(&first));
    assert_eq!(states(&rotator).len(), 3);
    sandbox.clock.advance(KEEP);
    rotator.round();
    assert!(!sandbox.jwks().contains(&first));
    assert!(!sandbox.file(&format!("keys/{first}.pem")).exists());
    assert_eq!(states(&rotator), [KeyState::Active, KeyState::Published]);
}

#[test]
fn a_changed_algorithm_waits_until_verifiers_have_the_new_key() {
    let sandbox = Sandbox::new();
    let first = sandbox.start(Algorithm::Es256);
    let old = signing_kid(&first);
    drop(first);
    let second = sandbox.start(Algorithm::Rs256);
    assert_eq!(
        signing_kid(&second),
        old,
        "verifiers do not have the new key yet"
    );
    sandbox.clock.advance(MARGIN);
    second.round();
    assert_ne!(signing_kid(&second), old);
    assert!(sandbox.jwks().contains(&old) && sandbox.jwks().contains("RS256"));
    let signer = second.parts.authority.signer(&chain()).unwrap();
    assert_eq!(signer.key.jwk().algorithm(), Algorithm::Rs256);
}

#[test]
fn a_chain_that_becomes_one_for_files_alone_never_signs_for_callers_meanwhile() {
    let sandbox = Sandbox::new();
    drop(sandbox.start(Algorithm::EdDsa));
    let second = sandbox.start(Algorithm::Es256);
    let signer = second.parts.authority.signer(&chain()).unwrap();
    assert_eq!(signer.key.jwk().algorithm(), Algorithm::Es256);
}

#[test]
fn nothing_signs_when_the_documents_cannot_be_written() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.root().join("webroot"), b"in the way").unwrap();
    let rotator = sandbox.open(sandbox.issuer(Algorithm::Es256));
    let lacking = rotator.start_existing().unwrap();
    let failed = rotator.start_new(&lacking[0]);
    assert!(matches!(failed, Err(RotationError::Webroot(_))));
    assert!(rotator.parts.authority.trusted().is_none());
}

#[test]
fn where_publication_fails_the_active_key_goes_on_and_all_is_made_up_for_later() {
    let sandbox = Sandbox::new();
    let rotator = sandbox.start(Algorithm::Es256);
    let kid = signing_kid(&rotator);
    let webroot = sandbox.root().join("webroot");
    let away = sandbox.root().join("away");
    fs::rename(&webroot, &away).unwrap();
    fs::write(&webroot, b"in the way").unwrap();
    sandbox.clock.advance(LIFESPAN * 3);
    let pause = rotator.round();
    assert!(pause <= Duration::from_secs(30));
    assert_eq!(signing_kid(&rotator), kid);
    let status = rotator.status().remove(0);
    assert!(status.published && status.trouble.is_some());
    assert!(status.keys[0].overdue().unwrap() > LIFESPAN);

    fs::remove_file(&webroot).unwrap();
    fs::rename(&away, &webroot).unwrap();
    rotator.round();
    assert_ne!(signing_kid(&rotator), kid);
    assert!(rotator.status().remove(0).trouble.is_none());
}

#[test]
fn a_foreign_change_of_a_document_is_undone_and_the_successor_waits_anew() {
    let sandbox = Sandbox::new();
    let rotator = sandbox.start(Algorithm::Es256);
    let kid = signing_kid(&rotator);
    sandbox.clock.advance(LIFESPAN);
    let good = sandbox.jwks();
    fs::write(sandbox.root().join("webroot/jwks.json"), "{\"keys\":[]}").unwrap();
    rotator.round();
    assert_eq!(sandbox.jwks(), good);
    assert_eq!(
        signing_kid(&rotator),
        kid,
        "verifiers may have read the other one"
    );
    sandbox.clock.advance(MARGIN);
    rotator.round();
    assert_ne!(signing_kid(&rotator), kid);

    let jwks = sandbox.root().join("webroot/jwks.json");
    fs::set_permissions(&jwks, fs::Permissions::from_mode(0o600)).unwrap();
    rotator.round();
    assert_eq!(
        fs::metadata(&jwks).unwrap().permissions().mode() & 0o777,
        0o644
    );
}

#[test]
fn an_operator_gets_the_successor_as_soon_as_verifiers_have_it() {
    let sandbox = Sandbox::new();
    let rotator = sandbox.start(Algorithm::Es256);
    let next = kid_in(&rotator, KeyState::Published);
    sandbox.clock.advance(MARGIN / 2);
    let replaced = rotator.replace(&chain()).unwrap();
    assert_eq!(replaced, Replaced::In(MARGIN / 2));
    drop(rotator);
    // The wish outlives a restart.
    let rotator = sandbox.start(Algorithm::Es256);
    sandbox.clock.advance(MARGIN / 2);
    rotator.round();
    assert_eq!(signing_kid(&rotator), next);
    sandbox.clock.advance(MARGIN);
    let third = kid_in(&rotator, KeyState::Published);
    assert_eq!(rotator.replace(&chain()).unwrap(), Replaced::By(third));
}

#[test]
fn a_tainted_key_leaves_everything_at_once_and_its_successor_signs() {
    let sandbox = Sandbox::new();
    let rotator = sandbox.start(Algorithm::Es256);
    sandbox.clock.advance(MARGIN);
    let (bad, good) = (signing_kid(&rotator), kid_in(&rotator, KeyState::Published));
    assert_eq!(rotator.taint(&bad).unwrap(), Some(good.clone()));
    assert_eq!(
        states(&rotator),
        [KeyState::Active],
        "nothing else was waited for"
    );
    assert_eq!(signing_kid(&rotator), good);
    assert!(
        activations(&rotator, "vacant"),
        "it was out for long enough"
    );
    assert!(!sandbox.jwks().contains(&bad));
    assert!(!sandbox.bundle().to_string().contains(&bad));
    let trusted = rotator.parts.authority.trusted().unwrap();
    assert!(!String::from_utf8_lossy(&trusted.document).contains(&bad));
    assert!(!sandbox.file(&format!("keys/{bad}.pem")).exists());
    let again = rotator.taint(&bad).unwrap_err().to_string();
    assert!(again.contains("there is no key"), "{again}");
    // Not even the records of before bring it back.
    fs::write(sandbox.file("state.json"), "").unwrap();
    drop(rotator);
    let rotator = sandbox.start(Algorithm::Es256);
    assert_eq!(signing_kid(&rotator), good);
    assert!(!sandbox.jwks().contains(&bad));
}

#[test]
fn a_tainted_key_without_a_successor_is_replaced_by_a_new_one() {
    let sandbox = Sandbox::new();
    let rotator = sandbox.start(Algorithm::Es256);
    let successor = kid_in(&rotator, KeyState::Published);
    rotator.taint(&successor).unwrap();
    let bad = signing_kid(&rotator);
    let good = rotator.taint(&bad).unwrap().unwrap();
    assert!(good != bad && good != successor);
    assert!(activations(&rotator, "taint"));
    assert_eq!(signing_kid(&rotator), good);
}

#[test]
fn a_lost_key_file_is_set_aside_and_its_tokens_still_verify() {
    let sandbox = Sandbox::new();
    let rotator = sandbox.start(Algorithm::Es256);
    let (lost, next) = (signing_kid(&rotator), kid_in(&rotator, KeyState::Published));
    drop(rotator);
    fs::write(sandbox.file(&format!("keys/{lost}.pem")), "garbage").unwrap();
    let rotator = sandbox.start(Algorithm::Es256);
    assert_eq!(signing_kid(&rotator), next);
    assert!(sandbox.jwks().contains(&lost));
    let aside = sandbox.file(&format!("quarantine/{lost}.pem"));
    assert_eq!(fs::read(aside).unwrap(), b"garbage");
}

#[test]
fn lost_records_are_told_anew_from_keys_that_were_published() {
    let sandbox = Sandbox::new();
    let rotator = sandbox.start(Algorithm::Es256);
    let old = signing_kid(&rotator);
    let sequence = sandbox.bundle()["spiffe_sequence"].as_u64();
    drop(rotator);
    for name in ["state.json", "state.prev.json"] {
        fs::write(sandbox.file(name), "garbage").unwrap();
    }
    let rotator = sandbox.start(Algorithm::Es256);
    assert_ne!(signing_kid(&rotator), old);
    assert!(
        sandbox.jwks().contains(&old),
        "its tokens are still to be believed"
    );
    assert!(activations(&rotator, "recovery"));
    assert!(sandbox.bundle()["spiffe_sequence"].as_u64() > sequence);
    assert!(sandbox.file("quarantine/state.json").exists());
}

#[test]
fn the_sequence_of_the_bundle_grows_with_its_content_and_only_then() {
    let sandbox = Sandbox::new();
    let rotator = sandbox.start(Algorithm::Es256);
    let sequence = || sandbox.bundle()["spiffe_sequence"].as_u64().unwrap();
    let before = sequence();
    rotator.round();
    drop(rotator);
    let rotator = sandbox.start(Algorithm::Es256);
    assert_eq!(sequence(), before);
    sandbox.clock.advance(LIFESPAN);
    rotator.round();
    assert!(sequence() > before);
    assert_eq!(sandbox.bundle()["spiffe_refresh_hint"], 120);
}

#[test]
fn an_issuer_that_is_gone_signs_no_more_and_is_believed_until_its_tokens_have_ended() {
    let sandbox = Sandbox::new();
    let rotator = sandbox.start(Algorithm::Es256);
    let gone = signing_kid(&rotator);
    let mut other = sandbox.issuer(Algorithm::Es256);
    other.name = "other".into();
    other.webroot.directory = sandbox.root().join("other");
    let prepared = rotator.prepare(vec![other]).unwrap();
    assert_eq!(signing_kid(&rotator), gone, "until it is settled");
    rotator.settle(prepared);
    assert!(rotator.parts.authority.signer(&chain()).is_none());
    let believed = || {
        let trusted = rotator.parts.authority.trusted().unwrap();
        String::from_utf8_lossy(&trusted.document).contains(&gone)
    };
    assert!(believed());
    sandbox.clock.advance(KEEP);
    rotator.round();
    assert!(!believed());
}

#[test]
fn a_round_in_the_middle_of_a_reload_takes_neither_the_new_nor_the_old_for_gone() {
    let sandbox = Sandbox::new();
    let rotator = sandbox.start(Algorithm::Es256);
    let old = signing_kid(&rotator);
    let renamed = |name: &str| {
        let mut issuer = sandbox.issuer(Algorithm::Es256);
        let chain = issuer.chains.remove("main").unwrap();
        issuer.chains.insert(name.into(), chain);
        issuer
    };
    let prepared = rotator.prepare(vec![renamed("next")]).unwrap();
    let next = KeyRef {
        key: "next".into(),
        ..chain()
    };
    let new = || {
        let signer = rotator.parts.authority.signer(&next);
        signer.map(|signer| signer.key.jwk().kid().to_owned())
    };
    let made = new().expect("it signs already");
    rotator.round();
    assert_eq!((signing_kid(&rotator), new()), (old, Some(made.clone())));
    rotator.settle(prepared);
    assert_eq!(new(), Some(made));
    assert!(rotator.parts.authority.signer(&chain()).is_none());
}
