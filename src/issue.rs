//! Makes tokens: chooses the key, fixes the times, signs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::Semaphore;

use crate::authority::Authority;
use crate::clock::Clock;
use crate::entry::{Claims, KeyRef};
use crate::key::signing::{KeyError, SigningKey};
use crate::metrics::Metrics;
use crate::spiffe_id::SpiffeId;
use crate::svid::{AudienceClaim, JwtSvid, Subject, Token, Validity, signing_input};

/// Why there is no token.
#[derive(Debug, Error)]
pub enum IssueError {
    /// The keys of the issuer are not published yet.
    #[error("the signing keys of issuer {0} are not ready")]
    NotReady(Arc<str>),
    /// The signature failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The agent stops.
    #[error("the agent is stopping")]
    Stopping,
    /// There is no randomness for `jti`.
    #[error("no randomness for jti")]
    Random,
}

/// A token to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The keys that sign.
    pub key: KeyRef,
    /// `sub`.
    pub spiffe_id: SpiffeId,
    /// `aud`.
    pub audience: AudienceClaim,
    /// Configured claims.
    pub claims: Claims,
    /// How long it holds; whole seconds.
    pub ttl: Duration,
    /// How far `nbf` lies before `iat`.
    pub nbf_margin: Duration,
    /// Whether it carries a `jti`.
    pub jti: bool,
}

/// Signs on behalf of everybody.
#[derive(Debug)]
pub struct Minter {
    authority: Arc<Authority>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    /// Slow signatures are made beside the threads that serve callers, and leave them a core.
    slow: Arc<Semaphore>,
}

impl Minter {
    /// A minter for the keys of `authority`.
    pub fn new(authority: Arc<Authority>, metrics: Arc<Metrics>, clock: Arc<dyn Clock>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            authority,
            metrics,
            clock,
            slow: Arc::new(Semaphore::new(cores.saturating_sub(1).max(1))),
        }
    }

    /// Makes a token.
    ///
    /// # Errors
    ///
    /// Why there is none; asking again later may help.
    pub async fn mint(&self, order: &Order) -> Result<JwtSvid, IssueError> {
        let not_ready = || IssueError::NotReady(Arc::clone(&order.key.issuer));
        let signer = self.authority.signer(&order.key).ok_or_else(not_ready)?;
        let jti = if order.jti { Some(random_id()?) } else { None };
        let validity = Validity::starting(self.clock.now(), order.ttl, order.nbf_margin);
        let subject = Subject {
            issuer: signer.issuer.as_str(),
            spiffe_id: &order.spiffe_id,
            audience: &order.audience,
            claims: &order.claims,
            jti: jti.as_deref(),
        };
        let input = signing_input(signer.key.jwk(), subject, validity);
        let kid = signer.key.jwk().kid().to_owned();
        let algorithm = signer.key.jwk().algorithm().name();
        let start = Instant::now();
        let token = self.sign(signer.key, input).await?;
        self.metrics.signed(algorithm, start.elapsed());
        Ok(JwtSvid {
            token,
            spiffe_id: order.spiffe_id.clone(),
            validity,
            kid,
            jti,
        })
    }

    async fn sign(&self, key: Arc<SigningKey>, input: String) -> Result<Token, IssueError> {
        if !key.is_slow() {
            return sign(&key, input);
        }
        let permit = Arc::clone(&self.slow).acquire_owned().await;
        let permit = permit.map_err(|_| IssueError::Stopping)?;
        let work = move || {
            let _permit = permit;
            sign(&key, input)
        };
        let signed = tokio::task::spawn_blocking(work).await;
        signed.map_err(|_| IssueError::Stopping)?
    }
}

fn sign(key: &SigningKey, input: String) -> Result<Token, IssueError> {
    let signature = key.sign(input.as_bytes())?;
    Ok(Token::assemble(input, &signature))
}

/// 128 random bits, in hexadecimal.
fn random_id() -> Result<String, IssueError> {
    let mut random = [0u8; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| IssueError::Random)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(random)))
}
