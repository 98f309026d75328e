//! The OpenID Connect webroot: two static documents for any web server to serve.

use std::io;
use std::path::PathBuf;

use serde_json::json;
use thiserror::Error;

use crate::bundle::oidc_jwks;
use crate::durable::{Attributes, Dir, DirError, Persistence};
use crate::issuer::IssuerUrl;
use crate::jose::jwk::Jwk;
use crate::svid::algorithms;

const DIRECTORY: &str = ".well-known";
const DISCOVERY: &str = "openid-configuration";
const MODE: u32 = 0o644;

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

    /// Writes both documents, the JWKS first: whoever reads the discovery document finds the keys
    /// that it promises. What has not changed is not touched. When this returns, the documents are
    /// on the disk and were read back.
    ///
    /// # Errors
    ///
    /// The first thing that went wrong; each document is then the old one or the new one.
    pub fn publish(&self, keys: &[Jwk]) -> Result<(), WebrootError> {
        let root = if self.create {
            Dir::create(&self.directory, 0o755)?
        } else {
            Dir::open(&self.directory)?
        };
        let (directory, name) = self
            .jwks_path
            .rsplit_once('/')
            .unwrap_or(("", &self.jwks_path));
        let mut place = root.path().to_owned();
        place.extend(directory.split('/').filter(|part| !part.is_empty()));
        put(&Dir::create(&place, 0o755)?, name, &oidc_jwks(keys))?;
        let well_known = root.create_below(DIRECTORY, 0o755)?;
        put(&well_known, DISCOVERY, &self.discovery_document(keys))
    }
}

fn put(dir: &Dir, name: &str, text: &str) -> Result<(), WebrootError> {
    let path = dir.path().join(name);
    let problem = |source| WebrootError::File {
        path: path.clone(),
        source,
    };
    dir.sweep().map_err(problem)?;
    dir.replace_if_changed(
        name,
        text.as_bytes(),
        Attributes::own(MODE),
        Persistence::Synced,
    )
    .map_err(problem)?;
    if dir.read(name).map_err(problem)? == text.as_bytes() {
        Ok(())
    } else {
        Err(WebrootError::ReadBack(path))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::Value;

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
        }
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
        spec(root.clone()).publish(&keys).unwrap();
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
        spec(root.clone()).publish(&keys).unwrap();
        let before = inode();
        spec(root.clone()).publish(&keys).unwrap();
        assert_eq!(inode(), before);
    }

    #[test]
    fn a_missing_directory_that_is_not_ours_to_make_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut spec = spec(directory.path().canonicalize().unwrap().join("absent"));
        spec.create = false;
        let error = spec.publish(&[]).unwrap_err().to_string();
        assert!(error.contains("absent"), "{error}");
    }
}
