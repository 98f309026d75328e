use std::collections::BTreeMap;

use serde_json::Map;

use super::*;
use crate::clock::fake::FakeClock;
use crate::registry::rules::IssuerRules;

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

    fn open(&self) -> Registry {
        let configured = vec![crate::entry::tests::entry(
            "conf",
            "spiffe://td/conf",
            &["unix:uid:1"],
        )];
        let clock = self.clock.clone();
        Registry::open(
            self.directory.path(),
            rules(),
            configured,
            WantedNames::default(),
            clock,
        )
        .unwrap()
    }
}

fn rules() -> Rules {
    let issuer = IssuerRules {
        keys: [("main".into(), crate::jose::Algorithm::Es256)].into(),
        claims: crate::entry::Claims::default(),
    };
    Rules {
        trust_domain: Some("td".parse().unwrap()),
        default_ttl: Duration::from_secs(300),
        max_ttl: Duration::from_secs(3600),
        attestors: Arc::new(crate::attest::tests::specs(false)),
        issuers: BTreeMap::from([("main".into(), issuer)]),
    }
}

fn wish(id: &str, name: &str) -> Wish {
    Wish {
        id: Some(id.to_owned()),
        request: EntryRequest {
            spiffe_id: format!("spiffe://td/{name}"),
            selectors: vec![format!("unix:user:{name}"), "unix:uid:7".to_owned()],
            ..EntryRequest::default()
        },
        kept: Map::new(),
    }
}

fn create(registry: &Registry, wish: Wish) -> Result<Made, RegistryError> {
    registry.create(vec![wish]).remove(0)
}

fn ids(registry: &Registry) -> Vec<String> {
    let now = registry.subscribe().borrow().clone();
    let mut all: Vec<_> = now.entries.iter().collect();
    all.sort_unstable_by_key(|(place, _)| *place);
    all.into_iter()
        .map(|(_, entry)| entry.id.to_string())
        .collect()
}

#[test]
fn entries_of_the_configuration_come_first_and_the_others_in_the_order_of_their_making() {
    let sandbox = Sandbox::new();
    let registry = sandbox.open();
    for id in ["zebra", "apple", "mango"] {
        create(&registry, wish(id, id)).unwrap();
    }
    assert_eq!(ids(&registry), ["conf", "zebra", "apple", "mango"]);
    registry.delete("apple").unwrap();
    drop(registry);
    let registry = sandbox.open();
    assert_eq!(ids(&registry), ["conf", "zebra", "mango"]);
    create(&registry, wish("apple", "apple")).unwrap();
    assert_eq!(ids(&registry), ["conf", "zebra", "mango", "apple"]);
    assert!(registry.names().borrow().users.contains("apple"));
}

#[test]
fn what_is_wrong_or_there_already_is_refused_by_itself_and_the_rest_of_the_batch_is_made() {
    let registry = Sandbox::new().open();
    let mut wrong = wish("wrong", "wrong");
    wrong.request.selectors = vec!["unix:uid:x".to_owned()];
    wrong.request.jwt_svid_ttl = Some(7200);
    let mut alike = wish("alike", "good");
    alike.request.selectors.reverse();
    let batch = vec![
        wish("good", "good"),
        wrong,
        alike,
        wish("good", "other"),
        wish("conf", "c"),
        wish("-", "ok"),
    ];
    let results = registry.create(batch);
    assert!(results[0].is_ok() && results[5].is_ok());
    assert!(matches!(&results[1], Err(RegistryError::Invalid(faults)) if faults.len() == 2));
    for (index, word) in [
        (2, "similar entry already exists: good"),
        (3, "already"),
        (4, "already"),
    ] {
        let text = results[index].as_ref().unwrap_err().to_string();
        assert!(text.contains(word), "{text}");
    }
    assert_eq!(ids(&registry), ["conf", "good", "-"]);
}

#[test]
fn an_update_replaces_the_whole_entry_and_keeps_its_place() {
    let registry = Sandbox::new().open();
    create(&registry, wish("a", "a")).unwrap();
    create(&registry, wish("b", "b")).unwrap();
    let mut request = wish("a", "a").request;
    request.hint = "new".to_owned();
    registry.update("a", request.clone()).unwrap();
    let listed = registry.list();
    let record = listed[1].record.as_ref().unwrap();
    assert_eq!((record.id.as_str(), record.revision), ("a", 1));
    assert_eq!(ids(&registry), ["conf", "a", "b"]);
    request.spiffe_id = "spiffe://td/b".to_owned();
    request.selectors = wish("b", "b").request.selectors;
    assert!(matches!(
        registry.update("a", request.clone()),
        Err(RegistryError::Exists(_))
    ));
    assert!(matches!(
        registry.update("conf", request.clone()),
        Err(RegistryError::Configured(_))
    ));
    assert!(matches!(
        registry.update("none", request),
        Err(RegistryError::Missing(_))
    ));
}

#[test]
fn an_entry_that_breaks_new_rules_ceases_to_match_and_comes_back_with_the_old_ones() {
    let registry = Sandbox::new().open();
    let mut long = wish("long", "long");
    long.request.jwt_svid_ttl = Some(3600);
    create(&registry, long).unwrap();
    let mut strict = rules();
    strict.max_ttl = Duration::from_secs(60);
    registry.configure(strict, Vec::new(), WantedNames::default());
    assert!(ids(&registry).is_empty());
    assert!(registry.list()[0].problem.contains("above max_ttl"));
    registry.configure(rules(), Vec::new(), WantedNames::default());
    assert_eq!(ids(&registry), ["long"]);
}

#[tokio::test(start_paused = true)]
async fn an_entry_ends_when_its_time_has_come() {
    let sandbox = Sandbox::new();
    let registry = Arc::new(sandbox.open());
    let mut short = wish("short", "short");
    short.request.expires_at = Some(1_800_000_005);
    create(&registry, short).unwrap();
    let mut changes = registry.subscribe();
    let stop = CancellationToken::new();
    let task = tokio::spawn(Arc::clone(&registry).run(stop.clone()));
    sandbox.clock.advance(Duration::from_secs(6));
    changes.changed().await.unwrap();
    assert_eq!(ids(&registry), ["conf"]);
    assert_eq!(registry.list().len(), 1, "it is removed from the store too");
    let mut past = wish("past", "past");
    past.request.expires_at = Some(1_800_000_005);
    assert!(matches!(
        create(&registry, past),
        Err(RegistryError::Invalid(_))
    ));
    stop.cancel();
    task.await.unwrap();
}

#[test]
fn a_store_of_a_later_agent_is_refused() {
    let sandbox = Sandbox::new();
    drop(sandbox.open());
    let path = sandbox.directory.path().join("entries.redb");
    let database = redb::Database::create(&path).unwrap();
    let write = database.begin_write().unwrap();
    let table: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");
    write
        .open_table(table)
        .unwrap()
        .insert("version", 2)
        .unwrap();
    write.commit().unwrap();
    drop(database);
    let refused = EntryStore::open(&path).unwrap_err().to_string();
    assert!(refused.contains("format 2"), "{refused}");
}

#[test]
fn what_a_killed_agent_left_of_a_new_database_is_no_database() {
    let sandbox = Sandbox::new();
    let part = sandbox.directory.path().join("entries.redb.new");
    std::fs::write(&part, [0; 4096]).unwrap();
    drop(sandbox.open());
    assert!(!part.exists());
}
