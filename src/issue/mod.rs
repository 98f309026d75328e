//! Makes tokens: chooses the key, fixes the times, signs. What was made is given out again as long
//! as it is young.

mod cache;
mod pool;
pub mod quota;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::watch;

use self::cache::{Cache, Found, SlotName};
pub use self::pool::Caller;
use self::pool::{NotDone, Pool};
use self::quota::Quota;
use crate::authority::{Authority, Signer};
use crate::clock::Clock;
use crate::entry::{Claims, Entry, KeyRef};
use crate::key::signing::{KeyError, SigningKey};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::svid::{AudienceClaim, JwtSvid, Sub, Subject, Token, Validity, signing_input};

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
    /// The user has asked for too many signatures.
    #[error("too many signatures")]
    TooMany,
    /// The claims cannot be written.
    #[error("the claims cannot be written: {0}")]
    Claims(#[from] serde_json::Error),
    /// There is no randomness for `jti`.
    #[error("no randomness for jti")]
    Random,
}

/// A token to be made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Order {
    /// The keys that sign.
    pub key: KeyRef,
    /// `sub`.
    pub sub: Sub,
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
    limits: watch::Receiver<Limits>,
    cache: Cache,
    quota: Quota,
    /// Slow signatures are made beside the threads that serve callers.
    slow: Pool,
}

impl Minter {
    /// A minter for the keys of `authority`.
    ///
    /// # Errors
    ///
    /// The threads that sign cannot be started.
    pub fn new(
        authority: Arc<Authority>,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
        limits: watch::Receiver<Limits>,
    ) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            authority,
            metrics,
            clock,
            limits,
            cache: Cache::default(),
            quota: Quota::default(),
            slow: Pool::start(cores.saturating_sub(1).max(1))?,
        })
    }

    /// A token for a caller: one that was made before, or a new one. Each token with a `jti` is new.
    ///
    /// # Errors
    ///
    /// Why there is none; asking again later may help.
    pub async fn fetch(
        &self,
        uid: u32,
        entry: &Entry,
        order: Order,
    ) -> Result<Arc<JwtSvid>, IssueError> {
        let signer = self.signer(&order)?;
        if order.jti {
            return self.make_for(uid, signer, &order).await;
        }
        let name = SlotName {
            entry: Arc::clone(&entry.id),
            kid: signer.key.jwk().shared_kid(),
            order,
        };
        let find = || self.cache.find(&name, uid, self.clock.now());
        let flight = match find() {
            Found::Fresh(svid) => {
                self.metrics.cached();
                return Ok(svid);
            }
            Found::Stale(flight) => flight,
        };
        let _alone = flight.lock().await;
        if let Found::Fresh(svid) = find() {
            self.metrics.cached();
            return Ok(svid);
        }
        let svid = self.make_for(uid, signer, &name.order).await?;
        self.cache.keep(&name, Arc::clone(&svid));
        Ok(svid)
    }

    /// A new token for a file.
    ///
    /// # Errors
    ///
    /// Why there is none; asking again later may help.
    pub async fn mint(&self, order: &Order) -> Result<JwtSvid, IssueError> {
        let signer = self.signer(order)?;
        self.make(Caller::Files, signer, order).await
    }

    fn signer(&self, order: &Order) -> Result<Signer, IssueError> {
        let not_ready = || IssueError::NotReady(Arc::clone(&order.key.issuer));
        self.authority.signer(&order.key).ok_or_else(not_ready)
    }

    async fn make_for(
        &self,
        uid: u32,
        signer: Signer,
        order: &Order,
    ) -> Result<Arc<JwtSvid>, IssueError> {
        let per_second = self.limits.borrow().signatures_per_second_per_uid;
        if !self.quota.take(uid, per_second) {
            return Err(IssueError::TooMany);
        }
        let made = self.make(Caller::User(uid), signer, order).await;
        made.map(Arc::new)
    }

    async fn make(
        &self,
        caller: Caller,
        signer: Signer,
        order: &Order,
    ) -> Result<JwtSvid, IssueError> {
        let jti = if order.jti { Some(random_id()?) } else { None };
        let validity = Validity::starting(self.clock.now(), order.ttl, order.nbf_margin);
        let subject = Subject {
            issuer: signer.issuer.as_str(),
            sub: &order.sub,
            audience: &order.audience,
            claims: &order.claims,
            jti: jti.as_deref(),
        };
        let input = signing_input(signer.key.jwk(), subject, validity)?;
        let kid = signer.key.jwk().shared_kid();
        let algorithm = signer.key.jwk().algorithm().name();
        let start = Instant::now();
        let token = self.sign(caller, signer.key, input).await?;
        self.metrics.signed(algorithm, start.elapsed());
        Ok(JwtSvid {
            token,
            sub: order.sub.clone(),
            validity,
            kid,
            jti,
        })
    }

    async fn sign(
        &self,
        caller: Caller,
        key: Arc<SigningKey>,
        input: String,
    ) -> Result<Token, IssueError> {
        if !key.is_slow() {
            return sign(&key, input);
        }
        let signed = self.slow.run(caller, move || sign(&key, input)).await;
        signed.map_err(|reason| match reason {
            NotDone::TooMuch => IssueError::TooMany,
            NotDone::Lost => IssueError::Stopping,
        })?
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
