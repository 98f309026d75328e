//! Entries in the form of SPIRE: `{"entries": [...]}`, as its server's command prints and reads.

use anyhow::{Context, bail};
use serde_json::{Map, Value};

use crate::pb::admin::{EntrySpec, NewEntry};
use crate::proto_json::object;

/// Fields that mean nothing here; they are kept as they came.
const WITHOUT_MEANING: [&str; 9] = [
    "parent_id",
    "x509_svid_ttl",
    "federates_with",
    "dns_names",
    "created_at",
    "revision_number",
    "admin",
    "downstream",
    "store_svid",
];
/// Fields whose meaning is a privilege that nobody has here: they must be false.
const NEVER_TRUE: [&str; 3] = ["admin", "downstream", "store_svid"];

/// The one additional attribute that has a meaning here.
const INCLUDE_JTI: &str = "jwt_svid_include_jti";

/// What a file holds.
pub struct Imported {
    /// The entries, to be made.
    pub entries: Vec<NewEntry>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// Reads a file.
pub fn parse(text: &str) -> anyhow::Result<Imported> {
    let file: Value = serde_json::from_str(text).context("it is no JSON")?;
    let list = file.get("entries").and_then(Value::as_array);
    let list = list.context("it is not of the form {\"entries\": [...]}")?;
    let mut imported = Imported {
        entries: Vec::with_capacity(list.len()),
        warnings: Vec::new(),
    };
    for (index, entry) in list.iter().enumerate() {
        let place = || format!("entry {}", index + 1);
        let fields = entry.as_object().with_context(place)?;
        let (new, kept) = read(fields).with_context(place)?;
        if !kept.is_empty() {
            let names = kept.keys().cloned().collect::<Vec<_>>().join(", ");
            imported.warnings.push(format!(
                "{}: {names}: no meaning here, kept as it came",
                place()
            ));
        }
        imported.entries.push(NewEntry {
            kept: Some(object(kept)),
            ..new
        });
    }
    Ok(imported)
}

fn read(fields: &Map<String, Value>) -> anyhow::Result<(NewEntry, Map<String, Value>)> {
    let mut spec = EntrySpec::default();
    let mut id = String::new();
    let mut kept = Map::new();
    for (name, value) in fields {
        let text = || {
            value
                .as_str()
                .map(str::to_owned)
                .with_context(|| format!("{name} is no string"))
        };
        let number = || as_u64(value).with_context(|| format!("{name} is no number"));
        match name.as_str() {
            "entry_id" | "id" => id = text()?,
            "spiffe_id" => spec.spiffe_id = id_text(value).context("spiffe_id is no SPIFFE ID")?,
            "selectors" => spec.selectors = selectors(value)?,
            "jwt_svid_ttl" => spec.jwt_svid_ttl = number()?,
            "hint" => spec.hint = text()?,
            "entryExpiry" | "entry_expiry" | "expires_at" => spec.expires_at = number()?,
            "additional_attributes" => {
                let jti = value.get(INCLUDE_JTI).and_then(Value::as_bool);
                spec.jti = jti.unwrap_or(false);
                let others = |fields: &Map<_, _>| fields.keys().any(|f| f != INCLUDE_JTI);
                if !is_empty(value) && value.as_object().is_none_or(others) {
                    kept.insert(name.clone(), value.clone());
                }
            }
            name if NEVER_TRUE.contains(&name) && value.as_bool() == Some(true) => {
                bail!("{name} is true, which nothing here can be: remove the entry, or the field");
            }
            name if WITHOUT_MEANING.contains(&name) => {
                if !is_empty(value) {
                    kept.insert(name.to_owned(), value.clone());
                }
            }
            name => bail!("there is no field {name:?}"),
        }
    }
    let new = NewEntry {
        id,
        spec: Some(spec),
        kept: None,
    };
    Ok((new, kept))
}

/// 64-bit numbers are strings in the JSON form of protobuf.
fn as_u64(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// A string, or the parts of an ID.
fn id_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        _ => {
            let domain = value.get("trust_domain")?.as_str()?;
            Some(format!("spiffe://{domain}{}", value.get("path")?.as_str()?))
        }
    }
}

fn selectors(value: &Value) -> anyhow::Result<Vec<String>> {
    let one = |selector: &Value| match selector {
        Value::String(text) => Some(text.clone()),
        _ => {
            let part = |name: &str| selector.get(name)?.as_str();
            Some(format!("{}:{}", part("type")?, part("value")?))
        }
    };
    let list = value.as_array().context("selectors is no list")?;
    let all: Option<_> = list.iter().map(one).collect();
    all.context("a selector is neither a string nor {\"type\", \"value\"}")
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty() || text == "0",
        Value::Array(items) => items.is_empty(),
        Value::Number(number) => number.as_u64() == Some(0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_of_spire_is_read_as_it_is() {
        let text = r#"{"entries": [{
            "selectors": [{"type": "unix", "value": "uid:1000"}],
            "spiffe_id": "spiffe://example.org/w", "parent_id": "spiffe://example.org/agent",
            "x509_svid_ttl": 3600, "jwt_svid_ttl": "60", "admin": false, "dns_names": [],
            "entryExpiry": 1900000000, "hint": "h",
            "additional_attributes": {"jwt_svid_include_jti": true}
        }]}"#;
        let imported = parse(text).unwrap();
        let spec = imported.entries[0].spec.clone().unwrap();
        assert_eq!(spec.selectors, ["unix:uid:1000"]);
        assert_eq!(
            (spec.jwt_svid_ttl, spec.expires_at, spec.jti),
            (60, 1_900_000_000, true)
        );
        assert_eq!(imported.warnings.len(), 1);
        assert!(
            imported.warnings[0].contains("parent_id, x509_svid_ttl"),
            "{:?}",
            imported.warnings
        );
    }

    #[test]
    fn attributes_without_a_meaning_are_kept_and_told() {
        let attributes = r#"{"jwt_svid_include_jti": true, "later": 1}"#;
        let text = format!(r#"{{"entries": [{{"additional_attributes": {attributes}}}]}}"#);
        let imported = parse(&text).unwrap();
        let entry = &imported.entries[0];
        assert!(entry.spec.as_ref().unwrap().jti);
        let kept = crate::proto_json::to_json(entry.kept.clone().unwrap());
        assert_eq!(kept["additional_attributes"]["later"].as_f64(), Some(1.0));
        assert!(imported.warnings[0].contains("additional_attributes"));
    }

    #[test]
    fn privileges_and_unknown_fields_are_refused_by_name() {
        for (field, word) in [
            ("\"admin\": true", "admin is true"),
            ("\"downstream\": true", "downstream"),
            ("\"nope\": 1", "nope"),
        ] {
            let text = format!("{{\"entries\": [{{\"spiffe_id\": \"spiffe://td/a\", {field}}}]}}");
            let error = format!("{:#}", parse(&text).err().unwrap());
            assert!(error.contains("entry 1") && error.contains(word), "{error}");
        }
        assert!(parse("[]").is_err() && parse("x").is_err());
    }

    #[test]
    fn documentation_of_fields_names_those_that_are_read() {
        let page = include_str!("../../docs/from-spire.md");
        let table = page
            .split("| field | becomes |\n|---|---|\n")
            .nth(1)
            .unwrap();
        let rows = table.lines().take_while(|line| line.starts_with('|'));
        let cells = rows.filter_map(|row| row.split(" | ").next());
        let named: Vec<_> = cells
            .flat_map(|it| it.split('`').skip(1).step_by(2))
            .collect();
        for name in &named {
            let text = format!(r#"{{"entries": [{{"{name}": false}}]}}"#);
            let error = parse(&text).err().map(|error| format!("{error:#}"));
            let unknown = error.filter(|error| error.contains("there is no field"));
            assert_eq!(unknown, None);
        }
        let meant = [
            "entry_id",
            "spiffe_id",
            "selectors",
            "jwt_svid_ttl",
            "hint",
            "expires_at",
        ];
        for name in WITHOUT_MEANING.iter().chain(&meant) {
            assert!(named.contains(name), "{name}");
        }
    }
}
