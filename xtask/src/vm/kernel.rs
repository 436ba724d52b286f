//! Debian's kernel packages: the newest of a series, unpacked once and kept between clones.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

use crate::{
    setup,
    shell::{output, run, say},
};

/// The flavour of Debian's kernels for virtual machines: small, with the drivers that the tests use.
const FLAVOUR: &str = "-cloud-amd64";
const PACKAGE: &str = "linux-image-";

/// One unpacked kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    /// As `uname -r` tells it, such as `6.1.0-56-cloud-amd64`.
    pub(super) version: String,
    folder: PathBuf,
}

impl Kernel {
    /// Returns the newest kernel of a series (`6.1`) that apt knows, else the newest that was unpacked before.
    pub(super) fn newest(series: &str) -> anyhow::Result<Self> {
        let kept = setup::cache()?.join("kernels");
        let mut known = known_to_apt(series)?;
        if known.is_empty() {
            setup::refresh_package_lists()?;
            known = known_to_apt(series)?;
        }
        let newest = newest_of(known).or_else(|| newest_of(unpacked(&kept, series)));
        let version = newest.with_context(|| {
            format!(
                "apt knows no {PACKAGE}{series}*{FLAVOUR}; Debian 12 has Linux 6.1, and 6.12 in bookworm-backports: \
                 add these to /etc/apt/sources.list"
            )
        })?;
        let folder = kept.join(&version);
        if !folder.is_dir() {
            unpack(&version, &kept, &folder)?;
        }
        Ok(Self { version, folder })
    }

    /// The file that the virtual machine boots.
    pub(super) fn image(&self) -> PathBuf {
        self.folder
            .join("boot")
            .join(format!("vmlinuz-{}", self.version))
    }

    /// Returns the files of modules and of what they depend on, in the order in which they must be inserted.
    pub(super) fn modules(&self, names: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for name in names {
            let lines = output(Command::new("modprobe").arg("-d").arg(&self.folder).args([
                "-S",
                &self.version,
                "--show-depends",
                name,
            ]))
            .with_context(|| format!("Linux {} has no module {name}", self.version))?;
            for line in lines.lines() {
                // `insmod FILE`, or `builtin NAME`
                let file = line
                    .strip_prefix("insmod ")
                    .map(|file| PathBuf::from(file.trim()));
                files.extend(file.filter(|file| !files.contains(file)));
            }
        }
        Ok(files)
    }
}

/// Reads a module's file, which may be compressed.
pub(super) fn read_module(file: &Path) -> anyhow::Result<Vec<u8>> {
    let unpacker = match file.extension().and_then(OsStr::to_str) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(file).with_context(|| format!("cannot read {}", file.display())),
    };
    let output = Command::new(unpacker)
        .arg("-dc")
        .arg(file)
        .output()
        .with_context(|| format!("cannot start {unpacker}"))?;
    if !output.status.success() {
        bail!("{unpacker} cannot unpack {}", file.display());
    }
    Ok(output.stdout)
}

/// The versions of a series for which apt knows a package.
fn known_to_apt(series: &str) -> anyhow::Result<Vec<String>> {
    let pattern = format!("^{PACKAGE}{}[.].*{FLAVOUR}$", series.replace('.', "[.]"));
    let lines = output(Command::new("apt-cache").args(["search", "--names-only", &pattern]))
        .context("kernels come from Debian's packages; run this on Debian")?;
    Ok(lines
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.strip_prefix(PACKAGE))
        .map(str::to_owned)
        .collect())
}

/// The versions of a series that were unpacked before.
fn unpacked(kept: &Path, series: &str) -> Vec<String> {
    let prefix = format!("{series}.");
    let entries = fs::read_dir(kept).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix) && name.ends_with(FLAVOUR))
        .collect()
}

fn newest_of(versions: Vec<String>) -> Option<String> {
    versions.into_iter().max_by_key(|version| numbers(version))
}

/// The numbers in a version, which are compared one by one: `6.1.0-9` is older than `6.1.0-56`.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

fn unpack(version: &str, kept: &Path, folder: &Path) -> anyhow::Result<()> {
    say(&format!("downloading Linux {version}"));
    let fresh = kept.join(format!("{version}.new-{}", std::process::id()));
    let tree = fresh.join("tree");
    fs::create_dir_all(&tree).with_context(|| format!("cannot create {}", tree.display()))?;
    let done = fill(version, &fresh, &tree)
        .and_then(|()| fs::rename(&tree, folder).context("cannot rename it into its place"))
        .with_context(|| format!("cannot unpack Linux {version} into {}", folder.display()));
    let _ = fs::remove_dir_all(&fresh);
    done
}

fn fill(version: &str, fresh: &Path, tree: &Path) -> anyhow::Result<()> {
    // As root, apt downloads in the name of a user who may not write here.
    run(Command::new("apt-get")
        .args(["-o", "APT::Sandbox::User=root", "download", "-q"])
        .arg(format!("{PACKAGE}{version}"))
        .current_dir(fresh))?;
    let entries = fs::read_dir(fresh)?.flatten().map(|entry| entry.path());
    let package = entries
        .into_iter()
        .find(|path| path.extension() == Some(OsStr::new("deb")))
        .context("apt-get left no package")?;
    run(Command::new("dpkg").arg("-x").arg(&package).arg(tree))?;
    run(Command::new("depmod").arg("-b").arg(tree).arg(version))
}

#[cfg(test)]
mod tests {
    use super::newest_of;

    #[test]
    fn newest_is_by_number() {
        let versions = [
            "6.1.0-9-cloud-amd64",
            "6.1.0-56-cloud-amd64",
            "6.1.0-47-cloud-amd64",
        ];
        let newest = newest_of(versions.map(str::to_owned).to_vec());
        assert_eq!(newest.as_deref(), Some(versions[1]));
        assert_eq!(newest_of(Vec::new()), None);
    }
}
