//! The OpenID Connect webroot: two static documents for any web server to serve.

use std::io;
use std::path::PathBuf;

use serde_json::{Value, json};
use thiserror::Error;

use crate::attest::names::{Account, Names, NoAccount};
use crate::bundle::{SEQUENCE, oidc_jwks};
use crate::durable::{Attributes, Dir, DirError, Persistence};
use crate::issuer::IssuerUrl;
use crate::jose::jwk::Jwk;
use crate::svid::algorithms;

pub(super) const DIRECTORY: &str = ".well-known";
pub(super) const DISCOVERY: &str = "openid-configuration";
pub(super) const BUNDLE: &str = "bundle.json";

/// Which documents to write, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebrootSpec {
    /// The issuer that they speak for.
    pub url: IssuerUrl,
    /// The directory that is served at the root of the issuer URL.
    pub directory: PathBuf,
    /// Whether the agent makes the directory where it is missing.
    pub create: bool,
    /// Path of the JWKS below it, with a leading slash.
    pub jwks_path: String,
    /// Where verifiers find the JWKS.
    pub jwks_uri: String,
    /// The owner of the documents; the agent's user where absent.
    pub owner: Option<Account>,
    /// Their group; the agent's where absent.
    pub group: Option<Account>,
    /// Their permission bits.
    pub mode: u32,
}

/// A document as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    path: PathBuf,
    text: String,
}

/// What became of documents.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Those that were written; what was as it should be was not touched.
    pub written: Vec<PathBuf>,
    /// Why some could not be given to the owner or the group that they are to have, and are the
    /// agent's own.
    pub kept: Option<String>,
}

/// Why the documents could not be put in place.
#[derive(Debug, Error)]
pub enum WebrootError {
    /// The directory cannot be used.
    #[error("webroot: {0}")]
    Directory(#[from] DirError),
    /// A document cannot be written.
    #[error("webroot: {}: {source}", path.display())]
    File {
        /// The document.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its owner or its group is nobody.
    #[error("webroot: {0}")]
    NoAccount(#[from] NoAccount),
    /// What was read back is not what was written.
    #[error("webroot: {} does not hold what was written to it", .0.display())]
    ReadBack(PathBuf),
}

impl WebrootSpec {
    /// The discovery document (OpenID Connect Discovery 1.0, section 3): what verifiers of tokens
    /// need, and no endpoint that is not there. Ends with a newline.
    pub fn discovery_document(&self, keys: &[Jwk]) -> String {
        let algorithms: Vec<_> = algorithms(keys).iter().map(|a| a.name()).collect();
        let document = json!({
            "issuer": self.url.as_str(),
            "jwks_uri": self.jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
            "claims_supported": ["iss", "sub", "aud", "iat", "exp", "nbf", "jti"],
        });
        format!("{document:#}\n")
    }

    /// All documents for these keys, in the order in which they must come out: whoever reads the
    /// discovery document finds the keys that it promises. `bundle` is the SPIFFE bundle where this
    /// webroot has it.
    pub fn documents(&self, keys: &[Jwk], bundle: Option<String>) -> Vec<Document> {
        let below = |path: &str| self.directory.join(path.trim_start_matches('/'));
        let mut documents = Vec::new();
        documents.extend(bundle.map(|text| Document {
            path: below(BUNDLE),
            text,
        }));
        documents.push(Document {
            path: below(&self.jwks_path),
            text: oidc_jwks(keys),
        });
        documents.push(Document {
            path: below(DIRECTORY).join(DISCOVERY),
            text: self.discovery_document(keys),
        });
        documents
    }

    /// Writes documents; what is as it should be is not touched. When this returns, they are on the
    /// disk and were read back. Those that the agent may not give away stay its own: most verifiers
    /// read them all the same, and without them all would be lost.
    ///
    /// # Errors
    ///
    /// The first thing that went wrong; each document is then the old one or the new one.
    pub fn publish(
        &self,
        documents: &[Document],
        names: &Names,
    ) -> Result<Published, WebrootError> {
        let attributes = Attributes {
            mode: self.mode,
            owner: self.owner.as_ref().map(|a| a.uid_now(names)).transpose()?,
            group: self.group.as_ref().map(|a| a.gid_now(names)).transpose()?,
        };
        if !self.create {
            // What lies below is made; this is for its owner to make.
            Dir::open(&self.directory)?;
        }
        let mut published = Published::default();
        for document in documents {
            put(document, attributes, &mut published)?;
        }
        Ok(published)
    }

    /// The ids of the keys that verifiers find in the JWKS at this moment; none where it is not
    /// there or is none.
    pub fn kids_on_disk(&self) -> Vec<String> {
        self.jwks_on_disk()
            .iter()
            .map(|key| key.kid().to_owned())
            .collect()
    }

    /// The keys that verifiers find in the JWKS at this moment.
    pub fn jwks_on_disk(&self) -> Vec<Jwk> {
        let keys = |document: Value| -> Option<Vec<Jwk>> {
            let keys = document.get("keys")?.as_array()?.iter();
            let members = keys.filter_map(Value::as_object);
            Some(members.filter_map(|key| Jwk::from_json(key).ok()).collect())
        };
        self.on_disk(&self.jwks_path)
            .and_then(keys)
            .unwrap_or_default()
    }

    /// The number of the bundle that readers find at this moment; 0 where there is none.
    pub fn sequence_on_disk(&self) -> u64 {
        let number = |document: Value| document.get(SEQUENCE)?.as_u64();
        self.on_disk(BUNDLE).and_then(number).unwrap_or(0)
    }

    fn on_disk(&self, path: &str) -> Option<Value> {
        let path = self.directory.join(path.trim_start_matches('/'));
        let dir = Dir::open(path.parent()?).ok()?;
        serde_json::from_slice(&dir.read(path.file_name()?.to_str()?).ok()?).ok()
    }
}

/// Puts a document in place.
fn put(
    document: &Document,
    attributes: Attributes,
    published: &mut Published,
) -> Result<(), WebrootError> {
    let path = &document.path;
    let problem = |source| WebrootError::File {
        path: path.clone(),
        source,
    };
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
    else {
        return Err(problem(io::ErrorKind::InvalidFilename.into()));
    };
    let dir = Dir::create(directory, 0o755)?;
    dir.sweep().map_err(problem)?;
    let bytes = document.text.as_bytes();
    let write = |attributes| dir.replace_if_changed(name, bytes, attributes, Persistence::Synced);
    let written = write(attributes).or_else(|error| {
        let own = Attributes::own(attributes.mode);
        // The second where a user namespace has no such number.
        let refused = matches!(error.raw_os_error(), Some(libc::EPERM | libc::EINVAL));
        if own == attributes || !refused {
            return Err(error);
        }
        published.kept = Some(error.to_string());
        write(own)
    });
    if written.map_err(problem)? {
        published.written.push(path.clone());
    }
    if dir.read(name).map_err(problem)? == bytes {
        Ok(())
    } else {
        Err(WebrootError::ReadBack(path.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::jose::Algorithm;
    use crate::key::signing::tests::key;

    fn spec(directory: PathBuf) -> WebrootSpec {
        WebrootSpec {
            url: "https://id.example.org/tenant".parse().unwrap(),
            directory,
            create: true,
            jwks_path: "/keys/jwks.json".to_owned(),
            jwks_uri: "https://id.example.org/tenant/keys/jwks.json".to_owned(),
            owner: None,
            group: None,
            mode: 0o644,
        }
    }

    fn publish(spec: &WebrootSpec, keys: &[Jwk]) -> Result<Published, WebrootError> {
        let bundle = Some("{}\n".to_owned());
        spec.publish(&spec.documents(keys, bundle), &Names::default())
    }

    fn json(path: PathBuf) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn both_documents_are_there_and_say_what_verifiers_compare() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap().join("webroot");
        let keys = [Algorithm::Es256, Algorithm::Rs256, Algorithm::EdDsa];
        let keys = keys.map(|algorithm| key(algorithm).jwk().clone());
        publish(&spec(root.clone()), &keys).unwrap();
        let discovery = json(root.join(".well-known/openid-configuration"));
        assert_eq!(discovery["issuer"], "https://id.example.org/tenant");
        assert_eq!(
            discovery["jwks_uri"],
            "https://id.example.org/tenant/keys/jwks.json"
        );
        let supported = &discovery["id_token_signing_alg_values_supported"];
        assert_eq!(*supported, json!(["RS256", "ES256", "EdDSA"]));
        let jwks = json(root.join("keys/jwks.json"));
        assert_eq!(jwks["keys"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn publishing_the_same_keys_again_touches_nothing() {
        use std::os::unix::fs::MetadataExt;

        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let keys = [key(Algorithm::Es256).jwk().clone()];
        let inode = || fs::metadata(root.join("keys/jwks.json")).unwrap().ino();
        publish(&spec(root.clone()), &keys).unwrap();
        let before = inode();
        publish(&spec(root.clone()), &keys).unwrap();
        assert_eq!(inode(), before);
    }

    #[test]
    fn a_missing_directory_that_is_not_ours_to_make_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut spec = spec(directory.path().canonicalize().unwrap().join("absent"));
        spec.create = false;
        let error = publish(&spec, &[]).unwrap_err().to_string();
        assert!(error.contains("absent"), "{error}");
    }
}
