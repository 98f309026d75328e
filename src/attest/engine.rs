//! The `docker` attestor: what Docker or Podman knows of the container that a process is in. The
//! cgroup says which container it is; the engine is asked on its socket what that one is.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use thiserror::Error;
use tokio::net::UnixStream;

use super::cgroup::Engine;
use super::findings::Findings;
use crate::peer::Wants;

/// The selector type of both engines.
pub const KIND: &str = "docker";

/// The most that an engine may say of a container, in bytes.
const MAX_ANSWER: usize = 4 << 20;

/// Where an engine is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSpec {
    /// Its socket.
    pub socket: PathBuf,
    /// How long it may take.
    pub timeout: Duration,
}

/// The engines that are asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineSpecs {
    /// Docker, if any.
    pub docker: Option<EngineSpec>,
    /// Podman, if any.
    pub podman: Option<EngineSpec>,
}

impl EngineSpecs {
    /// Whether there is one.
    pub fn is_some(&self) -> bool {
        self.docker.is_some() || self.podman.is_some()
    }
}

/// Why an engine did not say what a container is.
#[derive(Debug, Error)]
enum EngineError {
    #[error("{0}")]
    Socket(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("the answer is cut off, or longer than {MAX_ANSWER} bytes")]
    Answer,
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("the answer cannot be read: {0}")]
    Json(#[from] serde_json::Error),
}

/// What an engine says of a container, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    image: String,
    config: Config,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    image: String,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    env: Option<Vec<String>>,
}

/// Checks the value of a `docker` selector.
///
/// # Errors
///
/// What is wrong with it, and how it is written.
pub fn check(value: &str) -> Result<(), &'static str> {
    let (name, value) = value.split_once(':').unwrap_or((value, ""));
    let digest = value.strip_prefix("sha256:");
    match name {
        "label" if value.contains(':') => Ok(()),
        "label" => Err("it is written docker:label:KEY:VALUE"),
        "env" if value.contains('=') => Ok(()),
        "env" => Err("it is written docker:env:NAME=VALUE"),
        "image_id" if !value.is_empty() => Ok(()),
        "image_id" => Err("docker:image_id takes the name that the image was run by"),
        "image_config_digest" if digest.is_some_and(super::facts::is_digest) => Ok(()),
        "image_config_digest" => {
            Err("it is written docker:image_config_digest:sha256:, then 64 hexadecimal digits")
        }
        _ => Err("there are docker:label, env, image_id and image_config_digest"),
    }
}

/// Checks the name of a field of a template: of what it stands for, a container has one at most.
///
/// # Errors
///
/// What is wrong with it, and what there is.
pub fn check_field(name: &str) -> Result<(), &'static str> {
    match name.split_once(':').unwrap_or((name, "")) {
        ("label", key) if !key.is_empty() && !key.contains(':') => Ok(()),
        ("label", _) => Err("it is written {docker:label:KEY}"),
        ("image_id" | "image_config_digest", "") => Ok(()),
        ("env", _) => Err("what a container has in its environment is no identity: use a label"),
        _ => Err("there are docker:label:KEY, image_id and image_config_digest"),
    }
}

/// Finds what the engine of a container knows of it.
pub async fn look(engine: Engine, id: &str, specs: &EngineSpecs) -> Findings {
    let (name, spec) = match engine {
        Engine::Docker => ("docker", &specs.docker),
        Engine::Podman => ("podman", &specs.podman),
    };
    let mut findings = Findings::default();
    let Some(spec) = spec else {
        let why = format!("it is a container of {name}, and there is no attestor {name:?}");
        findings.none(Wants::ENGINE, why);
        return findings;
    };
    let asked = tokio::time::timeout(spec.timeout, inspect(spec, id)).await;
    let why = match asked {
        Ok(Ok(Some(inspected))) if inspected.id == id => {
            tell(inspected, &mut findings);
            return findings;
        }
        Ok(Ok(_)) => {
            findings.none(Wants::ENGINE, format!("{name} does not know the container"));
            return findings;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it does not answer in time".to_owned(),
    };
    findings.failed(Wants::ENGINE, format!("{}: {why}", spec.socket.display()));
    findings
}

/// Turns what is said of a container into selectors, as SPIRE writes them.
fn tell(inspected: Inspected, findings: &mut Findings) {
    let mut add = |value: String| findings.found(Wants::ENGINE, KIND, value);
    let Config { image, labels, env } = inspected.config;
    for (key, value) in labels.unwrap_or_default() {
        add(format!("label:{key}:{value}"));
    }
    for variable in env.unwrap_or_default() {
        add(format!("env:{variable}"));
    }
    add(format!("image_id:{image}"));
    // Of the container and not of its image's name, which may mean another image by now.
    let digest = inspected.image;
    let digest = digest.strip_prefix("sha256:").unwrap_or(&digest);
    add(format!("image_config_digest:sha256:{digest}"));
}

/// Asks an engine for a container; `None` where it knows none of this id.
async fn inspect(spec: &EngineSpec, id: &str) -> Result<Option<Inspected>, EngineError> {
    let stream = UnixStream::connect(&spec.socket).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let request = Request::get(format!("/containers/{id}/json"))
        .header(header::HOST, "localhost")
        .body(Empty::<Bytes>::new())
        .map_err(|_| EngineError::Answer)?;
    let answer = async move {
        let answer = sender.send_request(request).await?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status => return Err(EngineError::Status(status)),
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER);
        let body = body.collect().await.map_err(|_| EngineError::Answer)?;
        Ok(Some(serde_json::from_slice(&body.to_bytes())?))
    };
    tokio::pin!(answer);
    tokio::select! {
        answered = &mut answer => answered,
        // The connection ends first where the other side closes it, with everything received.
        _ = connection => answer.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_written_as_spire_writes_them() {
        let text = r#"{
            "Id": "x", "Image": "sha256:abc", "State": {"Pid": 1},
            "Config": {
                "Image": "registry/app:1",
                "Labels": {"team": "pay:ments", "odd": "a\nb"},
                "Env": ["STAGE=prod"]
            }
        }"#;
        let mut findings = Findings::default();
        tell(serde_json::from_str(text).unwrap(), &mut findings);
        let found: Vec<_> = findings.selectors.iter().map(ToString::to_string).collect();
        let expected = [
            "docker:label:team:pay:ments",
            "docker:env:STAGE=prod",
            "docker:image_id:registry/app:1",
            "docker:image_config_digest:sha256:abc",
        ];
        assert_eq!(found, expected);
        let bare = r#"{"Id": "x", "Image": "", "Config": {"Image": "i", "Labels": null}}"#;
        assert!(serde_json::from_str::<Inspected>(bare).is_ok());
    }

    #[test]
    fn a_selector_that_no_engine_gives_is_refused() {
        for value in ["label:a:b", "label:a:", "env:A=", "image_id:x"] {
            assert_eq!(check(value), Ok(()), "{value}");
        }
        let digest = format!("image_config_digest:sha256:{}", "a".repeat(64));
        assert_eq!(check(&digest), Ok(()));
        for value in [
            "label:a",
            "env:A",
            "image_id:",
            "image_config_digest:abc",
            "image_config_digest:sha256:abc",
            "id:x",
            "image-signature:verified",
        ] {
            assert!(check(value).is_err(), "{value}");
        }
    }
}
