//! The root file system of the virtual machine: a folder filled on this machine and packed by cpio.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

use crate::shell::{output, run};

/// A root file system in the making.
pub(super) struct Initramfs {
    root: PathBuf,
}

impl Initramfs {
    /// Starts an empty one in a folder, whose contents are removed.
    pub(super) fn new(root: PathBuf) -> anyhow::Result<Self> {
        if root.exists() {
            fs::remove_dir_all(&root)
                .with_context(|| format!("cannot empty {}", root.display()))?;
        }
        let made = Self { root };
        for folder in [
            "bin", "dev", "etc", "modules", "proc", "root", "run", "sbin", "sys", "tmp",
        ] {
            made.folder(Path::new(folder))?;
        }
        Ok(made)
    }

    /// Writes a file.
    pub(super) fn write(&self, path: &str, content: impl AsRef<[u8]>) -> anyhow::Result<()> {
        let file = self.place(Path::new(path))?;
        fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Writes a script that can be run.
    pub(super) fn script(&self, path: &str, text: &str) -> anyhow::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        self.write(path, text)?;
        let file = self.inside(Path::new(path));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot make {} executable", file.display()))
    }

    /// Copies a file of this machine to the same path.
    pub(super) fn copy(&self, file: &Path) -> anyhow::Result<()> {
        self.copy_to(file, file)
    }

    /// Copies a program of this machine to the same path, without debug information, and its libraries.
    pub(super) fn program(&self, file: &Path) -> anyhow::Result<()> {
        let copy = self.place(file)?;
        run(Command::new("strip").arg("-o").arg(&copy).arg(file))?;
        for library in libraries(file)? {
            if !self.inside(&library).exists() {
                self.copy(&library)?;
            }
        }
        Ok(())
    }

    /// Copies a program that is found by its name.
    pub(super) fn named_program(&self, name: &str) -> anyhow::Result<()> {
        let file = on_path(name).with_context(|| {
            format!("there is no program {name}; `cargo xtask setup` installs it")
        })?;
        self.program(&file)
    }

    /// Packs it into a file and returns its size in bytes. It is not compressed: unpacking takes longer in an
    /// emulated processor than reading.
    pub(super) fn pack(&self, file: &Path) -> anyhow::Result<u64> {
        let shown = file.display();
        let archive = fs::File::create(file).with_context(|| format!("cannot write {shown}"))?;
        let mut find = Command::new("find")
            .arg(".")
            .current_dir(&self.root)
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start find")?;
        let names = find.stdout.take().context("find has no stdout")?;
        let status = Command::new("cpio")
            .args(["-o", "-H", "newc", "--quiet"])
            .current_dir(&self.root)
            .stdin(names)
            .stdout(archive)
            .status()
            .context("cannot start cpio")?;
        let found = find.wait().context("find was lost")?;
        if !status.success() || !found.success() {
            bail!("cpio cannot write {shown}");
        }
        Ok(fs::metadata(file)?.len())
    }

    fn copy_to(&self, from: &Path, to: &Path) -> anyhow::Result<()> {
        let copy = self.place(to)?;
        fs::copy(from, &copy)
            .map(drop)
            .with_context(|| format!("cannot copy {} to {}", from.display(), copy.display()))
    }

    /// The path of a file of the virtual machine on this machine, whose folder is there.
    fn place(&self, path: &Path) -> anyhow::Result<PathBuf> {
        if let Some(parent) = path.parent() {
            self.folder(parent)?;
        }
        Ok(self.inside(path))
    }

    fn folder(&self, path: &Path) -> anyhow::Result<()> {
        let folder = self.inside(path);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))
    }

    fn inside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// The shared libraries of a program, with the dynamic linker. A static program has none.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let printed = Command::new("ldd")
        .arg(program)
        .output()
        .context("cannot start ldd")?;
    if !printed.status.success() {
        return Ok(Vec::new());
    }
    let text = String::from_utf8_lossy(&printed.stdout).into_owned();
    if let Some(missing) = text.lines().find(|line| line.contains("not found")) {
        bail!("{} lacks a library: {}", program.display(), missing.trim());
    }
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}

/// Finds a program on the path, or where root's programs are.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Tells the size of a file for people.
pub(super) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Prints a list of what a test program holds, one name a line.
pub(super) fn names_in(program: &Path) -> anyhow::Result<Vec<String>> {
    let listed = output(Command::new(program).arg("--list"))?;
    Ok(listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect())
}
