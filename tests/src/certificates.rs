//! Certificates for the lab: an authority, and what it issues to servers and clients. All files lie in one folder,
//! the lab's usually, and go with it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// An authority that only the lab trusts.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
    file: PathBuf,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub chain: PathBuf,
    /// Its private key (PKCS #8).
    pub key: PathBuf,
    /// The certificate's bytes, to be compared with what a server shows.
    pub der: Vec<u8>,
}

impl Authority {
    /// Makes an authority whose files lie in this folder; `stem` tells it from others there.
    pub fn new(folder: &Path, stem: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::default())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, stem);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.self_signed(&key)?;
        let file = folder.join(format!("{stem}.pem"));
        write(&file, &certificate.pem())?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            folder: folder.to_owned(),
            file,
        })
    }

    /// Its own certificate, for whoever is to trust it.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A server's certificate for these names and addresses. The same stem again replaces the files.
    pub fn server(&self, stem: &str, names: &[&str]) -> Result<Issued> {
        self.issue(stem, names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's certificate.
    pub fn client(&self, stem: &str, name: &str) -> Result<Issued> {
        self.issue(stem, &[name], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(&self, stem: &str, names: &[&str], usage: ExtendedKeyUsagePurpose) -> Result<Issued> {
        // A name that reads as an address becomes one.
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names.clone())
            .with_context(|| format!("{names:?} cannot stand in a certificate"))?;
        params.distinguished_name.push(
            DnType::CommonName,
            names.first().map_or(stem, String::as_str),
        );
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let issued = Issued {
            chain: self.folder.join(format!("{stem}.crt")),
            key: self.folder.join(format!("{stem}.key")),
            der: certificate.der().to_vec(),
        };
        write(&issued.chain, &certificate.pem())?;
        write(&issued.key, &key.serialize_pem())?;
        // A key that others may read is no key.
        fs::set_permissions(&issued.key, fs::Permissions::from_mode(0o600))
            .with_context(|| format!("cannot protect {}", issued.key.display()))?;
        Ok(issued)
    }
}

impl Issued {
    /// Its entry below a service, as the forwarder's configuration has it.
    #[must_use]
    pub fn as_toml(&self) -> String {
        format!(
            "[[service.tls.certificate]]\nchain = {}\nkey = {}\n",
            in_toml(&self.chain),
            in_toml(&self.key)
        )
    }
}

/// A path as a value in a configuration: a JSON string is a TOML basic string.
#[must_use]
pub fn in_toml(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
