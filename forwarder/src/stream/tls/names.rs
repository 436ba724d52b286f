//! The certificate for the server name that a client gives (SNI, RFC 6066 section 3).

use std::{collections::HashMap, sync::Arc};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// Certificates by their names.
#[derive(Debug, Default)]
pub(super) struct ByName {
    /// For clients that give no name, or an unknown one.
    first: Option<Arc<CertifiedKey>>,
    /// In lower case; a wildcard begins with `*.`.
    names: HashMap<String, Arc<CertifiedKey>>,
}

impl ByName {
    /// Adds a certificate for its names. Of two with one name, the first added has it.
    pub(super) fn add(&mut self, key: CertifiedKey, names: &[String]) {
        let key = Arc::new(key);
        self.first.get_or_insert_with(|| Arc::clone(&key));
        for name in names {
            self.names
                .entry(name.to_ascii_lowercase())
                .or_insert_with(|| Arc::clone(&key));
        }
    }

    fn get(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        self.names.get(name).or_else(|| {
            // A wildcard stands for one label (RFC 6125 section 6.4.3).
            let (_, parent) = name.split_once('.')?;
            self.names.get(&format!("*.{parent}"))
        })
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.get(name));
        named.or(self.first.as_ref()).cloned()
    }
}
