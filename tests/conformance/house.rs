//! An agent, a client of it, and the means to forge tokens.

use std::fs;
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tonic::{Code, Request, Status, Streaming};

use crate::common::{Agent, Sandbox, entry, issuer, own_entry};
use crate::load::pb::*;
use crate::load::{Client, connect, request};

pub const URL: &str = "https://id.example.org";

/// An agent and a client of it.
pub struct House {
    pub sandbox: Sandbox,
    pub agent: Agent,
    pub client: Client,
}

impl House {
    /// With an ES256 key and an entry for this user.
    pub async fn usual() -> Self {
        Self::with(&own_entry()).await
    }

    /// With an ES256 key and these blocks.
    pub async fn with(blocks: &str) -> Self {
        let sandbox = Sandbox::new("");
        sandbox.configure(&(issuer("main", URL, "ES256") + blocks));
        Self::of(sandbox).await
    }

    /// With a configuration that is written already.
    pub async fn of(sandbox: Sandbox) -> Self {
        let agent = sandbox.start();
        sandbox.settle();
        let client = connect(&sandbox.socket()).await.unwrap();
        Self {
            sandbox,
            agent,
            client,
        }
    }

    /// Where this user matches nothing.
    pub async fn stranger() -> Self {
        let other = nix::unistd::geteuid().as_raw() + 1;
        Self::with(&entry("other", other)).await
    }

    pub async fn fetch(&self, audience: &[&str], id: &str) -> Result<Vec<Jwtsvid>, Status> {
        let reply = self
            .client
            .clone()
            .fetch_jwtsvid(request(wanted(audience, id)))
            .await?;
        Ok(reply.into_inner().svids)
    }

    /// A token of the default identity.
    pub async fn token(&self, audience: &str) -> String {
        let svids = self.fetch(&[audience], "").await.unwrap();
        svids.into_iter().next().unwrap().svid
    }

    pub async fn bundles(&self) -> Result<Streaming<JwtBundlesResponse>, Status> {
        let message = request(JwtBundlesRequest {});
        let reply = self.client.clone().fetch_jwt_bundles(message).await?;
        Ok(reply.into_inner())
    }

    /// The keys of the own trust domain, as a new stream gives them.
    pub async fn keys(&self) -> Value {
        let first = self.bundles().await.unwrap().message().await.unwrap();
        document(&first.unwrap())
    }

    pub async fn validate(
        &self,
        audience: &str,
        svid: &str,
    ) -> Result<ValidateJwtsvidResponse, Status> {
        let message = ValidateJwtsvidRequest {
            audience: audience.to_owned(),
            svid: svid.to_owned(),
        };
        let reply = self
            .client
            .clone()
            .validate_jwtsvid(request(message))
            .await?;
        Ok(reply.into_inner())
    }

    /// Fails if the token is taken, or refused with anything but InvalidArgument.
    pub async fn refuses(&self, why: &str, token: &str) {
        let status = self.validate("a", token).await.expect_err(why);
        assert_eq!(status.code(), Code::InvalidArgument, "{why}: {status}");
        let told = status.message();
        assert!(
            token.len() < 20 || !told.contains(&token[..20]),
            "{why}: it tells the token"
        );
    }

    /// A token that the agent's own key signed over this header and these claims.
    pub fn forge(&self, header: &Value, claims: &Value) -> String {
        self.sign(&part(header), &part(claims))
    }

    /// The agent's own signature over two parts.
    pub fn sign(&self, header: &str, payload: &str) -> String {
        let pem = fs::read(self.key_file()).unwrap();
        let (_, der) = pem_rfc7468::decode_vec(&pem).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).unwrap();
        let input = format!("{header}.{payload}");
        let signature = key.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", encode(signature.as_ref()))
    }

    fn key_file(&self) -> std::path::PathBuf {
        let keys = fs::read_dir(self.sandbox.path("data/private/keys")).unwrap();
        let mut files = keys.map(|file| file.unwrap().path());
        files
            .find(|path| path.extension().is_some_and(|e| e == "pem"))
            .unwrap()
    }

    pub fn kid(&self) -> String {
        let path = self.key_file();
        Path::new(&path)
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    }

    /// The header of a good token.
    pub fn header(&self) -> Value {
        json!({"alg": "ES256", "kid": self.kid(), "typ": "JWT"})
    }
}

pub fn wanted(audience: &[&str], id: &str) -> JwtsvidRequest {
    JwtsvidRequest {
        audience: audience.iter().map(|text| (*text).to_owned()).collect(),
        spiffe_id: id.to_owned(),
    }
}

/// The claims of a good token, with changes laid over them; null takes one away.
pub fn claims(changes: Value) -> Value {
    let now = now();
    let mut claims = json!({
        "iss": URL, "sub": "spiffe://example.org/me", "aud": ["a"], "iat": now, "exp": now + 300,
    });
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

pub fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

pub fn part(value: &Value) -> String {
    encode(value.to_string())
}

/// Header and payload of a token, unverified.
pub fn opened(token: &str) -> (Value, Value) {
    let mut parts = token.split('.').map(|part| {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).unwrap();
        serde_json::from_slice(&bytes).unwrap_or(Value::Null)
    });
    (parts.next().unwrap(), parts.next().unwrap())
}

/// The JWK Set of the own trust domain in a message.
pub fn document(message: &JwtBundlesResponse) -> Value {
    serde_json::from_slice(&message.bundles["spiffe://example.org"]).unwrap()
}

pub fn with_headers<T>(message: T, headers: &[&'static str]) -> Request<T> {
    let mut request = Request::new(message);
    for header in headers {
        let metadata = request.metadata_mut();
        metadata.append("workload.spiffe.io", header.parse().unwrap());
    }
    request
}

/// Code and message of a refusal.
pub fn refused<T: std::fmt::Debug>(reply: Result<T, Status>) -> (Code, String) {
    let status = reply.unwrap_err();
    (status.code(), status.message().to_owned())
}

/// An entry for this user under another name, with more options.
pub fn also(name: &str, more: &str) -> String {
    own_entry()
        .replace("/me\"", &format!("/{name}\"\n  {more}"))
        .replace("\"me\"", &format!("\"{name}\""))
}
