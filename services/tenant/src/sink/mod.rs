//! The audit log on its way to other systems.
//!
//! What holds:
//! * Each sink gets every entry at least once, in the order in which they ended. Its cursor moves only after the receiver has taken a
//!   batch: a webhook by its 2xx, a file by fsync, syslog (which has no answer) by ending the connection in order after having read it.
//! * One replica delivers to a sink at a time, by a lease that only it can extend; who has lost it moves nothing.
//! * Whoever fails is tried again later and later, at most every five minutes, at places that whoever takes does not need: a receiver that
//!   answers nothing holds up no other.
//! * A connection goes to an address that was checked (`reach`), with a certificate that was verified; redirects are not followed.

pub(crate) mod config;
mod delivery;
mod file;
mod reach;
mod send;
mod syslog;
mod webhook;

use std::{io, path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};

pub(crate) use delivery::{Courier, deliver};
pub(crate) use reach::Reach;

use file::Writers;

use crate::clients::sealer;

/// Why a sink did not take. The words are for the tenant: no secret; of what the receiver said nothing but a number, and the names in a
/// certificate that is not the right one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The DNS did not answer.
    #[error("the name of the host was not looked up in time")]
    LookUpTimeout,
    /// It answered no.
    #[error("the host has no address")]
    NoAddress,
    /// Every address is one that a sink may not have.
    #[error("the host's address is inside the installation or not of the internet")]
    AddressForbidden,
    /// Nobody there.
    #[error("no connection in time")]
    ConnectTimeout,
    /// Nobody there who would.
    #[error("no connection: {0}")]
    Connect(io::ErrorKind),
    /// Not who it should be, or not speaking TLS.
    #[error("TLS: {0}")]
    Tls(String),
    /// It broke off.
    #[error("the connection broke: {0}")]
    Broken(io::ErrorKind),
    /// It does not answer.
    #[error("no answer in time")]
    NoAnswer,
    /// It speaks something else.
    #[error("the answer is not HTTP")]
    NotHttp,
    /// It does not want it.
    #[error("the answer was {0}")]
    Answer(u16),
    /// The secret cannot be opened.
    #[error("the secret of the sink cannot be opened: {}", .0.words())]
    Secret(sealer::Refusal),
    /// The row has none.
    #[error("the sink has no secret: make it anew")]
    NoSecret,
    /// The plan has room for fewer.
    #[error("the plan has room for {0} sinks; this one waits")]
    Frozen(u32),
    /// The operator has set no folder aside.
    #[error("this installation has no folder for files")]
    NoFolder,
    /// The disk.
    #[error("the file was not written: {0}")]
    File(io::ErrorKind),
    /// An attempt before hangs.
    #[error("the file is still being written by an attempt before")]
    FileBusy,
    /// Something is where the file should be.
    #[error("there is no plain file at the sink's place")]
    NoFile,
    /// Not the sink's fault.
    #[error("the service could not deliver at the moment")]
    Own,
}

impl From<sealer::Refusal> for Failure {
    fn from(refusal: sealer::Refusal) -> Self {
        Self::Secret(refusal)
    }
}

/// What this installation has for sinks.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    /// Which addresses.
    pub(crate) reach: Reach,
    /// Whom to trust.
    pub(crate) tls: Arc<ClientConfig>,
    /// Where files go.
    pub(crate) folder: Option<PathBuf>,
    /// Who writes them.
    writers: Writers,
}

impl Means {
    /// The public authorities are trusted, and those in `authorities`, PEM.
    ///
    /// # Errors
    /// A sentence about a file that cannot be used.
    pub(crate) fn new(
        reach: Reach,
        authorities: Option<&[u8]>,
        folder: Option<PathBuf>,
    ) -> Result<Self, String> {
        let mut roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        if let Some(pem) = authorities {
            let own: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
            let own = own.map_err(|_| "is not PEM".to_owned())?;
            if own.is_empty() {
                return Err("has no certificate".to_owned());
            }
            for certificate in own {
                roots.add(certificate).map_err(|error| error.to_string())?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            reach,
            tls: Arc::new(tls),
            folder,
            writers: Writers::default(),
        })
    }
}
