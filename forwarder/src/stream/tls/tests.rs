use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::{Duration, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::{client, server};

use super::*;
use crate::config::Certificate;

/// Someone who signs certificates, and a folder for them.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "lab");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self {
            folder: tempfile::tempdir().unwrap(),
            issuer,
        };
        authority.write("ca.pem", &authority.issuer.pem());
        authority
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.path(file);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Makes a certificate for `names` and its key.
    fn certify(&self, file: &str, names: &[&str]) -> Certificate {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(2100, 1, 2);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certificate {
            chain: self.write(&format!("{file}.pem"), &certificate.pem()),
            key: self.write(&format!("{file}.key"), &key.serialize_pem()),
        }
    }
}

fn tls(certificates: Vec<Certificate>) -> config::Tls {
    config::Tls {
        certificates,
        clients: ClientCertificates::None,
    }
}

fn first_certificate(files: &Certificate) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(&files.chain).unwrap()
}

type Ends = (
    client::TlsStream<DuplexStream>,
    server::TlsStream<DuplexStream>,
);

/// A connection, as far as both sides agree to it.
async fn connect(server: &ServerTls, client: &ClientTls, name: &str) -> std::io::Result<Ends> {
    let peer = "198.51.100.11:5061".parse().unwrap();
    let (near, far) = duplex(65_536);
    let (client, server) = tokio::join!(client.connect(name, peer, near), server.accept(far));
    Ok((client?, server?))
}

fn client(config: ClientConfig) -> ClientTls {
    ClientTls {
        config: ArcSwap::from_pointee(config),
    }
}

/// The certificate that a client sees which asks for `name`.
async fn shown(server: &ServerTls, ca: &Path, name: &str) -> CertificateDer<'static> {
    // Whom it is for is not the question here.
    let mut config = client_config(files::roots(ca).unwrap()).unwrap();
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(anyone::Anyone));
    let (client, _server) = connect(server, &client(config), name).await.unwrap();
    let certificates = client.get_ref().1.peer_certificates().unwrap();
    certificates[0].clone().into_owned()
}

#[tokio::test]
async fn the_certificate_is_chosen_by_the_name_that_the_client_asks_for() {
    let authority = Authority::new();
    let one = authority.certify("one", &["sip.one.example", "*.wild.example"]);
    let two = authority.certify(
        "two",
        &["sip.two.example", "SIP.one.example", "a.wild.example"],
    );
    let server = ServerTls::load(&tls(vec![one.clone(), two.clone()])).unwrap();
    for (name, files) in [
        ("sip.one.example", &one),
        ("SIP.Two.example", &two),
        ("a.wild.example", &two),
        ("b.wild.example", &one),
        ("unknown.example", &one),
        ("192.0.2.1", &one),
    ] {
        let seen = shown(&server, &authority.path("ca.pem"), name).await;
        assert_eq!(seen, first_certificate(files), "{name}");
    }
    let second_first = ServerTls::load(&tls(vec![two.clone(), one])).unwrap();
    for name in ["unknown.example", "a.b.wild.example", "wild.example"] {
        let seen = shown(&second_first, &authority.path("ca.pem"), name).await;
        assert_eq!(seen, first_certificate(&two), "{name}");
    }
}

#[tokio::test]
async fn a_backend_must_have_the_name_or_the_address_and_be_signed_by_the_right_one() {
    let authority = Authority::new();
    let both = authority.certify("backend", &["p1.example", "198.51.100.11"]);
    let server = ServerTls::load(&tls(vec![both])).unwrap();
    let other_address = authority.certify("other", &["p1.example", "198.51.100.12"]);
    let elsewhere = ServerTls::load(&tls(vec![other_address])).unwrap();
    let client = ClientTls::load(&authority.path("ca.pem")).unwrap();
    for (name, good) in [
        ("p1.example", true),
        ("198.51.100.11", true),
        ("", true),
        ("p2.example", false),
        ("198.51.100.12", false),
    ] {
        let made = connect(&server, &client, name).await;
        assert_eq!(made.is_ok(), good, "{name}: {made:?}");
    }
    assert!(connect(&elsewhere, &client, "p1.example").await.is_ok());
    assert!(connect(&elsewhere, &client, "").await.is_err());
    let other = Authority::new();
    client.reload(&other.path("ca.pem")).unwrap();
    assert!(connect(&server, &client, "p1.example").await.is_err());
    client.adopt(&ClientTls::load(&authority.path("ca.pem")).unwrap());
    assert!(connect(&server, &client, "p1.example").await.is_ok());
}

#[tokio::test]
async fn a_client_shows_a_certificate_if_it_must_and_a_good_one_if_it_does() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let files = authority.certify("server", &["sip.example"]);
    let good = authority.certify("client", &["phone.example"]);
    let bad = stranger.certify("client", &["phone.example"]);
    let ca = authority.path("ca.pem");
    let none = ClientCertificates::None;
    let optional = ClientCertificates::Optional { ca: ca.clone() };
    let required = ClientCertificates::Required { ca: ca.clone() };
    for (clients, shown, taken) in [
        (&none, None, true),
        (&none, Some(&bad), true),
        (&optional, None, true),
        (&optional, Some(&good), true),
        (&optional, Some(&bad), false),
        (&required, None, false),
        (&required, Some(&good), true),
        (&required, Some(&bad), false),
    ] {
        let server = ServerTls::load(&config::Tls {
            clients: clients.clone(),
            ..tls(vec![files.clone()])
        })
        .unwrap();
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(files::roots(&ca).unwrap());
        let config = match shown {
            None => builder.with_no_client_auth(),
            Some(files) => builder
                .with_client_auth_cert(
                    vec![first_certificate(files)],
                    PrivateKeyDer::from_pem_file(&files.key).unwrap(),
                )
                .unwrap(),
        };
        let made = connect(&server, &client(config), "sip.example").await;
        assert_eq!(made.is_ok(), taken, "{clients:?}, {shown:?}: {made:?}");
    }
}

#[tokio::test]
async fn a_reload_is_for_new_connections_and_one_that_fails_changes_nothing() {
    let authority = Authority::new();
    let files = authority.certify("server", &["sip.example"]);
    let settings = tls(vec![files.clone()]);
    let server = ServerTls::load(&settings).unwrap();
    let client = ClientTls::load(&authority.path("ca.pem")).unwrap();
    let ends = connect(&server, &client, "sip.example").await;
    let (mut near, mut far) = ends.unwrap();
    let before = first_certificate(&files);

    let key = fs::read(&files.key).unwrap();
    authority.certify("server", &["sip.example"]);
    let after = first_certificate(&files);
    assert_ne!(before, after);
    let ca = authority.path("ca.pem");
    assert_eq!(shown(&server, &ca, "sip.example").await, before);
    server.reload(&settings).unwrap();
    assert_eq!(shown(&server, &ca, "sip.example").await, after);

    fs::write(&files.key, key).unwrap();
    let error = server.reload(&settings).unwrap_err();
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
    assert_eq!(shown(&server, &ca, "sip.example").await, after);

    near.write_all(b"still there").await.unwrap();
    near.flush().await.unwrap();
    let mut text = [0; 11];
    far.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"still there");
}

#[test]
fn each_fault_names_its_file() {
    let authority = Authority::new();
    let one = authority.certify("one", &["one.example"]);
    let two = authority.certify("two", &["two.example"]);
    let empty = authority.write("empty", "no PEM\n");
    let torn = authority.write("torn", "-----BEGIN CERTIFICATE-----\nMIIB\n");
    let noise = authority.write(
        "noise",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let bad_key = authority.write(
        "bad-key",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    );
    let absent = authority.path("absent");
    let open = authority.write("open.key", &fs::read_to_string(&one.key).unwrap());
    fs::set_permissions(&open, fs::Permissions::from_mode(0o640)).unwrap();
    let (chain, key) = (&one.chain, &one.key);
    for (chain, key, culprit, words) in [
        (&absent, key, &absent, "cannot read"),
        (chain, &absent, &absent, "cannot read"),
        (&empty, key, &empty, "no certificate"),
        (key, key, key, "no certificate"),
        (&torn, key, &torn, "PEM"),
        (&noise, key, &noise, "cannot be used"),
        (chain, &empty, &empty, "no private key"),
        (chain, chain, chain, "no private key"),
        (chain, &bad_key, &bad_key, "cannot be used"),
        (chain, &open, &open, "mode 0640"),
        (chain, &two.key, &two.key, "does not belong"),
        (chain, &two.key, chain, "does not belong"),
    ] {
        let files = Certificate {
            chain: chain.clone(),
            key: key.clone(),
        };
        let text = ServerTls::load(&tls(vec![two.clone(), files]))
            .unwrap_err()
            .to_string();
        let culprit = culprit.display().to_string();
        assert!(text.contains(&culprit) && text.contains(words), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    for ca in [&absent, &empty, &torn, &noise] {
        let text = ClientTls::load(ca).unwrap_err().to_string();
        assert!(text.contains(&ca.display().to_string()), "{text}");
        let clients = ClientCertificates::Required { ca: ca.clone() };
        let settings = config::Tls {
            clients,
            ..tls(vec![one.clone()])
        };
        assert!(ServerTls::load(&settings).is_err(), "{text}");
    }
}

#[test]
fn it_is_known_when_certificates_end() {
    let authority = Authority::new();
    let files = authority.certify("one", &["one.example", "*.one.example", "192.0.2.1"]);
    let expires = ServerTls::load(&tls(vec![files.clone()]))
        .unwrap()
        .expires();
    let expected = Expiry {
        chain: files.chain,
        names: vec!["one.example".to_owned(), "*.one.example".to_owned()],
        at: UNIX_EPOCH + Duration::from_hours(24 * 47_483),
    };
    assert_eq!(expires, [expected]);
}

/// A client that believes anyone.
mod anyone {
    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    };
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    #[derive(Debug)]
    pub(super) struct Anyone;

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            super::provider()
                .signature_verification_algorithms
                .supported_schemes()
        }
    }
}
