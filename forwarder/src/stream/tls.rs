//! TLS: who we are to clients, and whom we believe to be a backend.
//!
//! All of it is read from files once, and again at a reload. What replaces the present contents was
//! loaded whole before; connections that are up keep what they began with.

mod files;
mod names;

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::WebPkiServerVerifier,
    crypto::{CryptoProvider, ring},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::config::{self, ClientCertificates};

pub use files::TlsError;
use names::ByName;

/// When a certificate ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The file that the certificate is the first of.
    pub chain: PathBuf,
    /// The host names it is for; one may begin with `*.`.
    pub names: Vec<String>,
    /// The end.
    pub at: SystemTime,
}

/// The side of a service's listeners.
#[derive(Debug)]
pub struct ServerTls {
    contents: ArcSwap<ServerContents>,
}

#[derive(Debug)]
struct ServerContents {
    config: Arc<ServerConfig>,
    expires: Vec<Expiry>,
}

impl ServerTls {
    /// Reads all files.
    pub fn load(tls: &config::Tls) -> Result<Arc<Self>, TlsError> {
        let contents = ArcSwap::from_pointee(ServerContents::load(tls)?);
        Ok(Arc::new(Self { contents }))
    }

    /// Reads all files anew, for handshakes that begin from now on. If one of them is no good, nothing
    /// changes.
    pub fn reload(&self, tls: &config::Tls) -> Result<(), TlsError> {
        self.contents.store(Arc::new(ServerContents::load(tls)?));
        Ok(())
    }

    /// Takes over what `other` has loaded, for handshakes that begin from now on. So several services can
    /// be loaded first, and change once all are known to be good.
    pub fn adopt(&self, other: &Self) {
        self.contents.store(other.contents.load_full());
    }

    /// Shakes hands with a client that connected.
    pub async fn accept<S>(&self, stream: S) -> io::Result<server::TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = Arc::clone(&self.contents.load().config);
        TlsAcceptor::from(config).accept(stream).await
    }

    /// When each certificate ends, in the order of the configuration.
    #[must_use]
    pub fn expires(&self) -> Vec<Expiry> {
        self.contents.load().expires.clone()
    }
}

impl ServerContents {
    fn load(tls: &config::Tls) -> Result<Self, TlsError> {
        let provider = provider();
        let mut by_name = ByName::default();
        let mut expires = Vec::new();
        for files in &tls.certificates {
            let (key, expiry) = files::certified_key(files, &provider)?;
            by_name.add(key, &expiry.names);
            expires.push(expiry);
        }
        let verifier = client_verifier(&tls.clients, &provider)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(by_name));
        // Sessions are resumed by tickets, so that phones that all come back at once cost no memory here.
        config.ticketer = ring::Ticketer::new().map_err(TlsError::Setup)?;
        Ok(Self {
            config: Arc::new(config),
            expires,
        })
    }
}

fn client_verifier(
    clients: &ClientCertificates,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let builder = |ca: &Path| {
        let roots = Arc::new(files::roots(ca)?);
        let provider = Arc::clone(provider);
        Ok(WebPkiClientVerifier::builder_with_provider(roots, provider))
    };
    let builder = match clients {
        ClientCertificates::None => return Ok(WebPkiClientVerifier::no_client_auth()),
        ClientCertificates::Optional { ca } => builder(ca)?.allow_unauthenticated(),
        ClientCertificates::Required { ca } => builder(ca)?,
    };
    builder.build().map_err(TlsError::Verifier)
}

/// The side of connections to backends: a backend is believed if one of the roots signed its certificate,
/// and the certificate is for the name or the address that was asked for.
#[derive(Debug)]
pub struct ClientTls {
    config: ArcSwap<ClientConfig>,
}

impl ClientTls {
    /// Reads the roots.
    pub fn load(ca: &Path) -> Result<Arc<Self>, TlsError> {
        let config = ArcSwap::from_pointee(client_config(files::roots(ca)?)?);
        Ok(Arc::new(Self { config }))
    }

    /// Reads the roots anew, for connections that are made from now on. If the file is no good, nothing
    /// changes.
    pub fn reload(&self, ca: &Path) -> Result<(), TlsError> {
        let config = client_config(files::roots(ca)?)?;
        self.config.store(Arc::new(config));
        Ok(())
    }

    /// Takes over what `other` has loaded; see [`ServerTls::adopt`].
    pub fn adopt(&self, other: &Self) {
        self.config.store(other.config.load_full());
    }

    /// Shakes hands with `peer`, to which `stream` is connected. Its certificate must be for `name`, or
    /// for its address if that is empty.
    pub async fn connect<S>(
        &self,
        name: &str,
        peer: SocketAddr,
        stream: S,
    ) -> io::Result<client::TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = if name.is_empty() {
            ServerName::from(peer.ip())
        } else {
            ServerName::try_from(name.to_owned())
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?
        };
        let connector = TlsConnector::from(self.config.load_full());
        connector.connect(name, stream).await
    }
}

fn client_config(roots: RootCertStore) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(TlsError::Verifier)?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_webpki_verifier(verifier)
        .with_no_client_auth();
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

#[cfg(test)]
mod tests;
