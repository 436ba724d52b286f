//! Embeds the XDP program if `cargo xtask build` has compiled it from the very sources at hand.
//!
//! A stale object would be a program that does not match the daemon, so the object is taken only if
//! the digest beside it is that of the sources.

use std::{
    collections::hash_map::DefaultHasher,
    env, fs,
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

include!("source_digest.rs");

fn main() {
    println!("cargo::rustc-check-cfg=cfg(xdp_object)");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = root
        .parent()
        .expect("the package lies in the workspace")
        .to_owned();
    let sources = root.join("forwarder-ebpf");
    let object = root.join("target/bpf/sip-forwarder-xdp");
    let digest = object.with_extension("digest");
    let shared = root.join("forwarder/source_digest.rs");
    for path in [&sources, &object, &digest, &shared] {
        println!("cargo::rerun-if-changed={}", path.display());
    }
    let built_from = fs::read_to_string(&digest).unwrap_or_default();
    if object.is_file() && built_from.trim() == source_digest(&sources) {
        println!("cargo::rustc-cfg=xdp_object");
        println!("cargo::rustc-env=SIP_FORWARDER_XDP={}", object.display());
    }
}
