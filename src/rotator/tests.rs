use std::fs;
use std::path::PathBuf;

use super::*;
use crate::clock::fake::FakeClock;
use crate::key::signing::RsaSize;

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
        let spec = KeySpec {
            algorithm,
            rsa_size: RsaSize::Bits2048,
            lifespan: Duration::from_secs(3600),
        };
        IssuerSpec {
            name: "main".into(),
            webroot: WebrootSpec {
                url: "https://id.example.org".parse().unwrap(),
                directory: self.root().join("webroot"),
                create: true,
                jwks_path: "/jwks.json".into(),
                jwks_uri: "https://id.example.org/jwks.json".into(),
            },
            chains: BTreeMap::from([("main".into(), spec)]),
        }
    }

    /// A start of the agent with one issuer; tells the rotator and the kid that signs.
    fn start(&self, algorithm: Algorithm) -> (Rotator, String) {
        let (store, records) = KeyStore::open(&self.root(), &*self.clock).unwrap();
        let authority = Arc::new(Authority::new("example.org".parse().unwrap()));
        let issuers = vec![self.issuer(algorithm)];
        let clock: Arc<dyn Clock> = self.clock.clone();
        let rotator = Rotator::new(issuers, authority, clock, store, records);
        for lacking in rotator.start_existing().unwrap() {
            rotator.start_new(&lacking).unwrap();
        }
        let kid = signing_kid(&rotator);
        (rotator, kid)
    }

    fn jwks(&self) -> String {
        fs::read_to_string(self.root().join("webroot/jwks.json")).unwrap()
    }
}

fn signing_kid(rotator: &Rotator) -> String {
    let chain = KeyRef {
        issuer: "main".into(),
        key: "main".into(),
    };
    let signer = rotator.authority.signer(&chain).unwrap();
    signer.key.jwk().kid().to_owned()
}

#[test]
fn a_restart_signs_with_the_same_key_and_makes_none() {
    let sandbox = Sandbox::new();
    let (first, kid) = sandbox.start(Algorithm::Es256);
    drop(first);
    let (second, again) = sandbox.start(Algorithm::Es256);
    assert_eq!(again, kid);
    assert_eq!(second.disk().records.len(), 1);
    assert!(sandbox.jwks().contains(&kid));
}

#[test]
fn a_changed_algorithm_gets_a_new_key_and_the_old_one_stays_published() {
    let sandbox = Sandbox::new();
    let (first, old) = sandbox.start(Algorithm::Es256);
    drop(first);
    let (second, new) = sandbox.start(Algorithm::Rs256);
    assert_ne!(new, old);
    assert!(sandbox.jwks().contains(&old) && sandbox.jwks().contains(&new));
    let states: Vec<_> = second.disk().records.iter().map(KeyRecord::state).collect();
    assert_eq!(states, [KeyState::Retired, KeyState::Active]);
}

#[test]
fn a_key_that_was_made_and_never_used_is_used_after_a_crash() {
    let sandbox = Sandbox::new();
    let (store, records) = KeyStore::open(&sandbox.root(), &*sandbox.clock).unwrap();
    let mut disk = Disk { store, records };
    let key = SigningKey::generate(&sandbox.issuer(Algorithm::Es256).chains["main"]).unwrap();
    let chain = KeyRef {
        issuer: "main".into(),
        key: "main".into(),
    };
    disk.prepare(chain, &key, &*sandbox.clock).unwrap();
    drop(disk);
    let (_, kid) = sandbox.start(Algorithm::Es256);
    assert_eq!(kid, key.jwk().kid());
}

#[test]
fn nothing_signs_when_the_documents_cannot_be_written() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.root().join("webroot"), b"in the way").unwrap();
    let (store, records) = KeyStore::open(&sandbox.root(), &*sandbox.clock).unwrap();
    let authority = Arc::new(Authority::new("example.org".parse().unwrap()));
    let issuer = sandbox.issuer(Algorithm::Es256);
    let clock: Arc<dyn Clock> = sandbox.clock.clone();
    let rotator = Rotator::new(vec![issuer.clone()], authority, clock, store, records);
    assert!(matches!(
        rotator.start_new(&issuer),
        Err(RotationError::Webroot(_))
    ));
    assert!(rotator.authority.trusted().is_none());
}

#[test]
fn a_key_past_its_lifespan_is_named_and_goes_on_signing() {
    let sandbox = Sandbox::new();
    let (rotator, kid) = sandbox.start(Algorithm::Es256);
    assert!(rotator.overdue().is_empty());
    sandbox.clock.advance(Duration::from_secs(3601));
    let overdue = rotator.overdue();
    assert_eq!(overdue[0].kid, kid);
    assert_eq!(signing_kid(&rotator), kid);
}
