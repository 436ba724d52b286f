//! Programs of an older revision of this repository, built with today's toolchain and kept in
//! `target/revisions/<commit id>`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};

use sip_forwarder_tests::revisions;

use crate::{
    digest, program,
    setup::{self, Toolchain},
    shell::{cargo, output, root, run, say},
};

/// The file names of what is kept.
const OBJECT: &str = "sip-forwarder-xdp";
const DAEMON: &str = "sip-forwarder";
/// How build script and `xtask` tell whether an object belongs to its sources.
const DIGEST: &str = include_str!("../../forwarder/source_digest.rs");

/// A revision of this repository.
#[derive(Debug)]
pub(crate) struct Revision {
    /// The full commit id.
    commit: String,
    /// Where its sources and programs are kept.
    folder: PathBuf,
}

impl Revision {
    /// Finds a revision by any name that git knows: a commit id, a tag, a branch.
    pub(crate) fn find(name: &str) -> anyhow::Result<Self> {
        let commit = git(&[
            "rev-parse",
            "--verify",
            "--end-of-options",
            &format!("{name}^{{commit}}"),
        ])
        .with_context(|| {
            format!(
                "there is no revision `{name}` in this repository; `git log` lists those there are"
            )
        })?;
        let commit = commit.trim().to_owned();
        let folder = folder().join(&commit);
        Ok(Self { commit, folder })
    }

    /// The full commit id.
    pub(crate) fn commit(&self) -> &str {
        &self.commit
    }

    /// The first characters of the commit id.
    pub(crate) fn short(&self) -> &str {
        self.commit.get(..12).unwrap_or(&self.commit)
    }

    /// Returns the version of the map layout, `ABI_VERSION`, that the revision's sources name.
    pub(crate) fn map_layout(&self) -> anyhow::Result<u32> {
        let file = self.sources()?.join("forwarder-ebpf/src/abi.rs");
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        layout_in(&text).with_context(|| {
            format!(
                "{} names no ABI_VERSION: revision {} is too old to be loaded",
                file.display(),
                self.short()
            )
        })
    }

    /// Builds the XDP program unless it is there already, and returns its object file.
    pub(crate) fn object(&self) -> anyhow::Result<PathBuf> {
        let toolchain = setup::toolchain()?;
        self.kept(OBJECT, &description(&toolchain)?, || {
            program::compile(&toolchain, OBJECT, (&self.sources()?, &build_folder("bpf")))
        })
    }

    /// Builds the daemon with the XDP program inside unless it is there already, and returns its file. That takes minutes.
    pub(crate) fn daemon(&self) -> anyhow::Result<PathBuf> {
        let object = self.object()?;
        let made_with = description(&setup::toolchain()?)?
            + &output(Command::new("rustc").arg("-vV")).context("cannot ask the Rust compiler")?;
        self.kept(DAEMON, &made_with, || {
            let sources = self.sources()?;
            embed(&sources, &object)
                .with_context(|| format!("cannot build the daemon of revision {}", self.short()))?;
            let build = build_folder("daemon");
            run(cargo()
                .current_dir(&sources)
                .args(["build", "--quiet", "--release", "--locked"])
                .args(["--package", DAEMON, "--target-dir"])
                .arg(&build))?;
            Ok(build.join("release").join(DAEMON))
        })
    }

    /// Returns the kept file of this name, which is built and copied here if it is not there or was made with another
    /// toolchain.
    fn kept(
        &self,
        name: &str,
        made_with: &str,
        build: impl FnOnce() -> anyhow::Result<PathBuf>,
    ) -> anyhow::Result<PathBuf> {
        let file = self.folder.join(name);
        let stamp = self.folder.join(format!("{name}.made-with"));
        let there = fs::read_to_string(&stamp).unwrap_or_default();
        if file.is_file() && there == made_with {
            return Ok(file);
        }
        say(&format!("building {name} of revision {}", self.short()));
        let made = build()?;
        fs::copy(&made, &file)
            .with_context(|| format!("cannot copy {} to {}", made.display(), file.display()))?;
        fs::write(&stamp, made_with)
            .with_context(|| format!("cannot write {}", stamp.display()))?;
        Ok(file)
    }

    /// Takes the revision's sources out of the repository unless they are there already, and returns their folder.
    fn sources(&self) -> anyhow::Result<PathBuf> {
        let folder = self.folder.join("sources");
        if folder.is_dir() {
            return Ok(folder);
        }
        // Unpacked under another name first: a folder with the right name is complete.
        let unpacked = self.folder.join("sources.part");
        let archive = self.folder.join("sources.tar");
        let _ = fs::remove_dir_all(&unpacked);
        fs::create_dir_all(&unpacked)
            .with_context(|| format!("cannot create {}", unpacked.display()))?;
        run(Command::new("git")
            .current_dir(root())
            .args(["archive", "--format=tar", "--output"])
            .arg(&archive)
            .arg(&self.commit))?;
        run(Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(&unpacked))?;
        let _ = fs::remove_file(&archive);
        fs::rename(&unpacked, &folder)
            .with_context(|| format!("cannot rename {}", unpacked.display()))?;
        Ok(folder)
    }
}

/// Builds the daemons that tests upgrade from, unless they are there already, and returns the folder in which tests find
/// them by [`revisions::FOLDER`].
pub(crate) fn daemons_to_upgrade_from() -> anyhow::Result<PathBuf> {
    for (_, commit) in revisions::PINNED {
        Revision::find(commit)?.daemon()?;
    }
    Ok(folder())
}

/// Returns where the programs of all revisions are kept.
fn folder() -> PathBuf {
    root().join("target/revisions")
}

/// Returns where dependencies of all revisions are built, so that each is built once.
fn build_folder(name: &str) -> PathBuf {
    folder().join("build").join(name)
}

/// Puts an object where the build script of these sources looks for it.
fn embed(sources: &Path, object: &Path) -> anyhow::Result<()> {
    let theirs = fs::read_to_string(sources.join("forwarder/source_digest.rs"))
        .context("cannot read its source_digest.rs")?;
    ensure!(
        theirs == DIGEST,
        "its build script computes the digest of the sources differently, and would leave the XDP program out; \
         check the revision out and build it there with `cargo xtask build`"
    );
    let place = sources.join("target/bpf");
    fs::create_dir_all(&place).with_context(|| format!("cannot create {}", place.display()))?;
    let there = place.join(OBJECT);
    fs::copy(object, &there).with_context(|| format!("cannot write {}", there.display()))?;
    let stamp = there.with_extension("digest");
    fs::write(&stamp, digest::of(&sources.join("forwarder-ebpf")))
        .with_context(|| format!("cannot write {}", stamp.display()))
}

/// Describes what an object depends on beside its sources.
fn description(toolchain: &Toolchain) -> anyhow::Result<String> {
    let compiler = output(Command::new(&toolchain.rustc).arg("-vV"))?;
    let linker = output(Command::new(&toolchain.linker).arg("--version"))?;
    Ok(format!("{compiler}{linker}{}\n", program::FLAGS))
}

/// Finds `pub const ABI_VERSION: u32 = N;`.
fn layout_in(text: &str) -> anyhow::Result<u32> {
    const BEFORE: &str = "pub const ABI_VERSION: u32 = ";
    let Some(rest) = text.lines().find_map(|line| line.strip_prefix(BEFORE)) else {
        bail!("no line begins with `{BEFORE}`");
    };
    let number = rest.trim_end_matches(';');
    number
        .parse()
        .with_context(|| format!("ABI_VERSION is `{number}`, which is no number"))
}

fn git(arguments: &[&str]) -> anyhow::Result<String> {
    output(Command::new("git").current_dir(root()).args(arguments))
}

#[cfg(test)]
mod tests {
    use super::{Revision, layout_in};

    #[test]
    fn the_layout_is_read_from_the_sources() {
        let text = "//! Keys.\npub const ABI_VERSION: u32 = 17;\n";
        assert_eq!(layout_in(text).unwrap(), 17);
        assert!(layout_in("const OTHER: u32 = 1;").is_err());
        assert!(layout_in("pub const ABI_VERSION: u32 = N;").is_err());
    }

    #[test]
    fn an_unknown_revision_is_named() {
        let error = Revision::find("no-such-revision").unwrap_err();
        assert!(
            error.to_string().contains("`no-such-revision`"),
            "{error:#}"
        );
    }
}
