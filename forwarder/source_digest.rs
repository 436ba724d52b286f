// Shared by this package's build script, which embeds the XDP program, and by `xtask`, which builds
// it: both must mean the same by "the sources at hand".

/// A digest of every source file, in the order of their names; `xtask` computes the same.
fn source_digest(sources: &Path) -> String {
    let mut files = Vec::new();
    collect(sources, &mut files);
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.strip_prefix(sources).unwrap_or(&file).hash(&mut hasher);
        fs::read(&file).unwrap_or_default().hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}
