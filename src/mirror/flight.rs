//! The writing of files of one block, from the signature to the disk, beside that of all others.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use zeroize::Zeroizing;

use super::error::MirrorError;
use super::late::PATIENCE;
use super::pace::FileNo;
use super::spec::TokenFileSpec;
use super::table::{Batch, Plan, Wanted};
use super::writer::{Laid, Letter, Writers};
use crate::attest::names::Names;
use crate::audit::Audit;
use crate::issue::Minter;
use crate::svid::{JwtSvid, Validity};

/// A moment on both clocks, from which the age of a token counts: `iat` is a whole second that may
/// almost be over, and the machine may sleep between a signature and its landing.
#[derive(Debug, Clone, Copy)]
pub struct Launch {
    /// Wall time.
    pub wall: SystemTime,
    /// The clock that counts from boot.
    pub boot: Duration,
}

/// Files that are to be written.
pub struct Flight {
    pub batch: Batch,
    /// When it was launched.
    pub launched: Launch,
    pub names: Arc<Names>,
    pub minter: Arc<Minter>,
    pub audit: Arc<Audit>,
    pub writers: Writers,
}

/// A token that lies in its file.
pub struct Done {
    pub validity: Validity,
    /// The key that signed it.
    pub kid: Arc<str>,
    pub laid: Laid,
    /// Why its reader was not told, where it was to be.
    pub untold: String,
}

/// How it went with one file.
pub struct Outcome {
    pub number: FileNo,
    pub value: Arc<str>,
    pub result: Result<Done, MirrorError>,
}

/// How it went.
pub struct Landed {
    pub plan: Arc<Plan>,
    pub outcomes: Vec<Outcome>,
    /// When the flight was launched.
    pub launched: Launch,
    /// That of the list of files when the flight began.
    pub generation: u64,
}

/// A file whose token is made.
struct Addressed {
    number: FileNo,
    svid: JwtSvid,
    letter: Letter,
}

impl Flight {
    /// Makes the tokens and writes them. Always lands.
    pub async fn fly(self) -> Landed {
        let generation = self.writers.generation();
        let written = AssertUnwindSafe(self.write()).catch_unwind().await;
        let outcomes = written.unwrap_or_else(|_| {
            let fault = || Err(MirrorError::Write(io::Error::other("internal fault")));
            let files = self.batch.files.iter();
            let failed = files.map(|wanted| Outcome {
                number: wanted.number,
                value: Arc::clone(&wanted.value),
                result: fault(),
            });
            failed.collect()
        });
        Landed {
            plan: self.batch.plan,
            outcomes,
            launched: self.launched,
            generation,
        }
    }

    async fn write(&self) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(self.batch.files.len());
        let mut addressed = Vec::with_capacity(self.batch.files.len());
        for wanted in &self.batch.files {
            match self.mint(&wanted.value).await {
                Ok(svid) => addressed.push(self.address(wanted, svid)),
                Err(error) => outcomes.push(Outcome {
                    number: wanted.number,
                    value: Arc::clone(&wanted.value),
                    result: Err(error),
                }),
            }
        }
        if addressed.is_empty() {
            return outcomes;
        }
        let plan = Arc::clone(&self.batch.plan);
        let (names, writers, audit) = (
            Arc::clone(&self.names),
            self.writers.clone(),
            Arc::clone(&self.audit),
        );
        let about = addressed
            .iter()
            .map(|one| (one.number, Arc::clone(&one.letter.value)));
        let about: Vec<_> = about.collect();
        let watched = Arc::clone(&plan.lateness);
        let work = move || deliver(&plan, &names, &writers, &audit, addressed);
        match watched.run(PATIENCE, work).await {
            Some(delivered) => outcomes.extend(delivered),
            None => outcomes.extend(about.into_iter().map(|(number, value)| Outcome {
                number,
                value,
                result: Err(MirrorError::Hangs),
            })),
        }
        outcomes
    }

    async fn mint(&self, value: &str) -> Result<JwtSvid, MirrorError> {
        let plan = &self.batch.plan;
        if plan.lateness.is_any() {
            return Err(MirrorError::Hangs);
        }
        let order = plan.order.as_ref().map_err(|_| MirrorError::Obsolete)?;
        let order = plan.spec.fill(order, value)?;
        Ok(self.minter.mint(&order).await?)
    }

    fn address(&self, wanted: &Wanted, svid: JwtSvid) -> Addressed {
        let spec = &self.batch.plan.spec;
        let letter = Letter {
            value: Arc::clone(&wanted.value),
            content: Zeroizing::new(spec.format.render(&svid, &spec.audience)),
            sweep: wanted.sweep,
            first: wanted.first,
        };
        Addressed {
            number: wanted.number,
            svid,
            letter,
        }
    }
}

/// Writes what is made, and tells the readers.
fn deliver(
    plan: &Plan,
    names: &Arc<Names>,
    writers: &Writers,
    audit: &Audit,
    addressed: Vec<Addressed>,
) -> Vec<Outcome> {
    let (mut about, mut letters) = (Vec::new(), Vec::new());
    for Addressed {
        number,
        svid,
        letter,
    } in addressed
    {
        about.push((number, Arc::clone(&letter.value), svid));
        letters.push(letter);
    }
    // The mirror may have let go of it while the signatures were made.
    let laid = if plan.is_superseded() {
        let obsolete = letters.iter().map(|_| Err(MirrorError::Obsolete));
        obsolete.collect()
    } else {
        writers.put_all(&plan.spec, names, letters)
    };
    let outcome = |((number, value, svid), laid): ((FileNo, Arc<str>, JwtSvid), Result<_, _>)| {
        let result = laid.map(|laid| done(&plan.spec, &value, svid, laid, writers, audit));
        Outcome {
            number,
            value,
            result,
        }
    };
    about.into_iter().zip(laid).map(outcome).collect()
}

fn done(
    spec: &TokenFileSpec,
    value: &str,
    svid: JwtSvid,
    laid: Laid,
    writers: &Writers,
    audit: &Audit,
) -> Done {
    let path = spec.path_of(value);
    let entry = spec.entry().map(|entry| &**entry);
    audit.written(&path, entry, &spec.audience, &svid);
    let told = match &spec.renewal {
        Some(renewal) => writers
            .users
            .renew(&renewal.of(spec.parameter.as_ref(), value)),
        None => Ok(()),
    };
    let untold = told.err().map(|error| {
        tracing::warn!(path = %path.display(), %error, "the token file is written, and its reader was not told");
        format!("its reader was not told: {error}")
    });
    Done {
        validity: svid.validity,
        kid: svid.kid,
        laid,
        untold: untold.unwrap_or_default(),
    }
}
