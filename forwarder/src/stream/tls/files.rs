//! PEM files: certificates, keys, roots.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    InconsistentKeys, RootCertStore, crypto::CryptoProvider, server::VerifierBuilderError,
    sign::CertifiedKey,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject as _},
};
use thiserror::Error;
use webpki::EndEntityCert;
use zeroize::Zeroizing;

use super::Expiry;
use crate::config::Certificate;

/// Access of group and others.
const FOREIGN_ACCESS: u32 = 0o077;
/// Longest file that is read, in bytes; the roots of a whole operating system have a quarter of it.
const LONGEST: u64 = 1 << 20;

/// What is wrong with what TLS needs.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}; give the right path, and let this user read it")]
    Read {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: io::Error,
    },
    /// Somebody else than the owner may read or write a private key.
    #[error(
        "the private key {path} has mode {mode:04o}: others than its owner have access; chmod 0600 {path}"
    )]
    Access {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file is no PEM.
    #[error("{path} is no good PEM file: {source}; make it anew")]
    Pem {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: pem::Error,
    },
    /// There is no certificate in a file.
    #[error(
        "there is no certificate in {0}; it must hold one as PEM, between lines BEGIN and END CERTIFICATE"
    )]
    NoCertificate(PathBuf),
    /// A certificate cannot be read.
    #[error("a certificate in {path} cannot be used ({reason}); have it made anew")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no private key in a file.
    #[error(
        "there is no private key in {0}; it must hold one as PEM, in PKCS #8, PKCS #1 or SEC1, without a password"
    )]
    NoKey(PathBuf),
    /// A private key cannot be used.
    #[error(
        "the private key in {path} cannot be used ({source}); give an RSA key of 2048 bits or more, an ECDSA key on P-256 or P-384, or an Ed25519 key"
    )]
    Key {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: rustls::Error,
    },
    /// A private key belongs to another certificate.
    #[error(
        "the private key in {key} does not belong to the first certificate in {chain}; name files that belong together"
    )]
    Mismatch {
        /// The file with the certificate.
        chain: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// Who is to be believed cannot be set up.
    #[error("cannot set up the check of certificates: {0}")]
    Verifier(VerifierBuilderError),
    /// The library refuses.
    #[error("cannot set up TLS: {0}")]
    Setup(rustls::Error),
}

/// Reads a certificate with its key.
pub(super) fn certified_key(
    files: &Certificate,
    provider: &CryptoProvider,
) -> Result<(CertifiedKey, Expiry), TlsError> {
    let chain = certificates(&files.chain)?;
    let expiry = expiry(&files.chain, &chain[0])?;
    let key = private_key(&files.key)?;
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|source| match source {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::Mismatch {
            chain: files.chain.clone(),
            key: files.key.clone(),
        },
        source => TlsError::Key {
            path: files.key.clone(),
            source,
        },
    })?;
    Ok((key, expiry))
}

/// Reads the certificates of those who are believed.
pub(super) fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        let unusable = |source: rustls::Error| TlsError::Certificate {
            path: path.to_owned(),
            reason: source.to_string(),
        };
        roots.add(certificate).map_err(unusable)?;
    }
    Ok(roots)
}

/// The certificates in a file, one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path, File::open(path))?;
    let certificates = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem {
            path: path.to_owned(),
            source,
        })?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate(path.to_owned()));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let file = File::open(path).and_then(|file| {
        // Of the open file: the path may name another one by now.
        let mode = file.metadata()?.permissions().mode() & 0o7777;
        Ok((file, mode))
    });
    if let Ok((_, mode)) = file
        && mode & FOREIGN_ACCESS != 0
    {
        return Err(TlsError::Access {
            path: path.to_owned(),
            mode,
        });
    }
    let text = read(path, file.map(|(file, _)| file))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|source| match source {
        pem::Error::NoItemsFound => TlsError::NoKey(path.to_owned()),
        source => TlsError::Pem {
            path: path.to_owned(),
            source,
        },
    })
}

fn read(path: &Path, file: io::Result<File>) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let fault = |source| TlsError::Read {
        path: path.to_owned(),
        source,
    };
    let file = file.map_err(fault)?;
    let size = file.metadata().map_err(fault)?.len();
    if size > LONGEST {
        let source = io::Error::other(format!("{size} bytes are more than {LONGEST}"));
        return Err(fault(source));
    }
    // All the room at once: growing would leave parts of a key behind.
    let mut text = Zeroizing::new(Vec::with_capacity(size as usize + 1));
    file.take(LONGEST).read_to_end(&mut text).map_err(fault)?;
    Ok(text)
}

/// Whom a certificate is for, and until when.
fn expiry(path: &Path, certificate: &CertificateDer<'_>) -> Result<Expiry, TlsError> {
    let unusable = |reason: String| TlsError::Certificate {
        path: path.to_owned(),
        reason,
    };
    let names = EndEntityCert::try_from(certificate)
        .map_err(|error| unusable(error.to_string()))?
        .valid_dns_names()
        .map(str::to_owned)
        .collect();
    let (_, read) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| unusable(error.to_string()))?;
    Ok(Expiry {
        chain: path.to_owned(),
        names,
        at: system_time(read.validity().not_after.timestamp()),
    })
}

/// A time that is given in seconds since 1970.
fn system_time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.max(0).unsigned_abs())
}
