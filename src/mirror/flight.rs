//! The writing of one file, from the signature to the disk, beside that of all others.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use zeroize::Zeroizing;

use super::file::{MirrorError, TokenFileSpec};
use super::writer::Writers;
use crate::attest::names::Names;
use crate::audit::Audit;
use crate::durable::FileId;
use crate::issue::{Minter, Order};
use crate::svid::Validity;

/// A file that is to be written.
pub struct Flight {
    pub spec: Arc<TokenFileSpec>,
    pub order: Arc<Order>,
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
    pub file: FileId,
    /// Why its reader was not told, where it was to be.
    pub untold: String,
}

/// How it went.
pub struct Landed {
    pub spec: Arc<TokenFileSpec>,
    pub order: Arc<Order>,
    pub result: Result<Done, MirrorError>,
}

impl Flight {
    /// Makes the token and writes it. Always lands.
    pub async fn fly(self) -> Landed {
        let result = AssertUnwindSafe(self.write()).catch_unwind().await;
        let fault = || Err(MirrorError::Write(io::Error::other("internal fault")));
        let result = result.unwrap_or_else(|_| fault());
        Landed {
            spec: self.spec,
            order: self.order,
            result,
        }
    }

    async fn write(&self) -> Result<Done, MirrorError> {
        let svid = self.minter.mint(&self.order).await?;
        if Arc::strong_count(&self.order) == 1 {
            // The mirror has let go of it while the signature was made.
            return Err(MirrorError::Obsolete);
        }
        let content = Zeroizing::new(self.spec.format.render(&svid, &self.order.audience));
        let (spec, names) = (Arc::clone(&self.spec), Arc::clone(&self.names));
        let writers = self.writers.clone();
        let work = move || {
            let file = writers.put(&spec, &names, content)?;
            let told = spec.renewal.as_ref().map_or(Ok(()), |to| writers.renew(to));
            let path = spec.path.display();
            let untold = told.err().map(|error| {
                tracing::warn!(%path, %error, "the token file is written, and its reader was not told");
                format!("its reader was not told: {error}")
            });
            Ok((file, untold.unwrap_or_default()))
        };
        let done = tokio::task::spawn_blocking(work).await;
        let done = done.map_err(|error| MirrorError::Write(io::Error::other(error)))?;
        let (file, untold) = done.map_err(|error: MirrorError| error)?;
        let entry = self.spec.entry().map(|entry| &**entry);
        self.audit
            .written(&self.spec.path, entry, &self.order.audience, &svid);
        Ok(Done {
            validity: svid.validity,
            kid: svid.kid,
            file,
            untold,
        })
    }
}
