//! The verbs that talk to a daemon: each asks its API and prints one answer.

use std::{fmt::Display, path::PathBuf};

use anyhow::Context as _;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{runtime, say};
use crate::{
    api::{self, Change, Changed, Reloaded, status::Status},
    cli::Daemon,
    config,
};

/// Prints the daemon's status.
pub fn status(daemon: &Daemon) -> anyhow::Result<()> {
    let body = runtime()?.block_on(api::get(&socket(daemon)?, "/status"))?;
    let status: Status = read(&body)?;
    tell(daemon, &status, || status.to_text())
}

/// Changes a backend, and prints what is now the case.
pub fn change(service: &str, backend: &str, change: Change, daemon: &Daemon) -> anyhow::Result<()> {
    let (verb, body) = match change {
        Change::Weight(weight) => ("weight", json!({ "weight": weight })),
        Change::Drain => ("drain", json!({})),
        Change::Enable => ("enable", json!({})),
        Change::Disable => ("disable", json!({})),
    };
    let (service, backend) = (path_part(service), path_part(backend));
    let resource = format!("/services/{service}/backends/{backend}/{verb}");
    let changed: Changed = post(daemon, &resource, &body)?;
    tell(daemon, &changed, || line(&changed))
}

/// Has the daemon read its configuration again, and prints what changed.
pub fn reload(daemon: &Daemon) -> anyhow::Result<()> {
    let reloaded: Reloaded = post(daemon, "/reload", &json!({}))?;
    tell(daemon, &reloaded, || line(&reloaded))
}

fn post<T: DeserializeOwned>(daemon: &Daemon, resource: &str, body: &Value) -> anyhow::Result<T> {
    let answer = runtime()?.block_on(api::post(&socket(daemon)?, resource, body))?;
    read(&answer)
}

fn read<T: DeserializeOwned>(body: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(body).context("the daemon is of another version; restart it")
}

/// Prints one JSON object, or the text.
fn tell(
    daemon: &Daemon,
    answer: &impl Serialize,
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    say(&if daemon.json {
        serde_json::to_string(answer)? + "\n"
    } else {
        text()
    })
}

fn line(answer: &impl Display) -> String {
    format!("{answer}\n")
}

/// The socket that was named, or that of the configuration.
fn socket(daemon: &Daemon) -> anyhow::Result<PathBuf> {
    match &daemon.socket {
        Some(socket) => Ok(socket.clone()),
        None => config::api_socket(&daemon.file.config)
            .context("cannot tell the daemon's socket; name it with --socket"),
    }
}

/// A name as part of a path (RFC 3986 section 2.1), whatever was typed: the daemon can then say that
/// there is nothing of that name.
fn path_part(name: &str) -> String {
    use std::fmt::Write as _;
    name.bytes().fold(String::new(), |mut part, byte| {
        if byte.is_ascii_alphanumeric() || b"-_~:".contains(&byte) {
            part.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(part, "%{byte:02X}");
        }
        part
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_path_parts() {
        assert_eq!(path_part("p1-a_b:c"), "p1-a_b:c");
        assert_eq!(path_part("a/b c%é"), "a%2Fb%20c%25%C3%A9");
        assert_eq!(path_part(".."), "%2E%2E");
    }
}
