//! A machine room in network namespaces: one client, one forwarder, some proxies, joined by veth pairs; and, where it
//! is asked for, a callee on a link of its own, which the proxies relay calls to.
//!
//! Everything is made inside the namespaces; the root namespace never sees an interface. Addresses, MACs and
//! names are fixed (see [`address`]), neighbours are permanent and duplicate address detection is off, so two runs
//! of a test see the same packets.
//!
//! A lab goes when its last handle does, also when a test panics and on Ctrl-C or SIGTERM. What a killed process left
//! behind is removed when the next lab is made. `lab up` makes one that stays until `lab down`.

pub mod address;
pub mod cards;
pub mod cgroup;
pub mod daemon;
pub mod namespace;
mod napi;
pub mod nat;
mod peers;
pub mod process;
pub mod process_tree;
pub mod redirect;
mod registry;
mod shortcut;
mod teardown;

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

pub use address::{Family, Host, Mac, vip};
use address::{Links, Plan};
pub use cgroup::CpuGroup;
pub use daemon::{Backend, Daemon, DaemonSpec, Service};
pub use namespace::Namespace;
pub use napi::NapiThreads;
use peers::PeerPrograms;
pub use process::Process;
pub use redirect::Redirect;
pub use shortcut::Shortcut;

/// How many proxies a lab can have: their number is one byte of their address, 254 is the callee's and 255 the VIP's.
pub const MAX_PROXIES: u8 = 253;

/// How long copying the files of a lab may take.
const COPY: Duration = Duration::from_secs(30);

/// A running lab. Clones are handles to the same one; it is torn down with the last of them.
#[derive(Clone, Debug)]
pub struct Lab {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: String,
    plan: Plan,
    namespaces: BTreeMap<Host, Namespace>,
    place: Place,
    lifetime: Lifetime,
    peers: Mutex<Option<PeerPrograms>>,
    /// Both directions of every cable.
    cables: Mutex<Vec<Redirect>>,
}

/// Where the hosts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Each in a network namespace of its own.
    Namespaces,
    /// All on this machine's loopback, each with an address of its own. Nothing of it needs root.
    Loopback,
}

/// Who takes a lab down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lifetime {
    /// The last handle, or a signal.
    Handle,
    /// Only [`Lab::down`].
    UntilDown,
}

impl Lab {
    /// Makes a lab with `proxies` proxies that lives as long as its handles.
    pub fn new(proxies: u8) -> Result<Self> {
        Self::of_handle(Plan {
            proxies,
            callee: false,
            phone: false,
            links: Links::Veth,
        })
    }

    /// The same with a phone behind the client, which translates its address.
    pub fn with_phone(proxies: u8) -> Result<Self> {
        Self::of_handle(Plan {
            proxies,
            callee: false,
            phone: true,
            links: Links::Veth,
        })
    }

    /// The same with a callee, which the proxies reach through the forwarder's namespace.
    pub fn with_callee(proxies: u8) -> Result<Self> {
        Self::of_handle(Plan {
            proxies,
            callee: true,
            phone: false,
            links: Links::Veth,
        })
    }

    /// The same with links on which frames arrive as they do from a network card whose driver knows XDP: in pages of
    /// their own, with room before them. Out of a plain veth comes what the sender's stack made, and that must be
    /// copied before an XDP program may see it; here the copy is made on the way, at the host's end, by XDP programs
    /// out of this object file that redirect from one veth pair to another.
    pub fn cabled(proxies: u8, object: &Path) -> Result<Self> {
        let lab = Self::of_handle(Plan {
            proxies,
            callee: false,
            phone: false,
            links: Links::Cable,
        })?;
        let cables = redirect::cables(&lab, object)?;
        *lab.inner
            .cables
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = cables;
        Ok(lab)
    }

    /// The same with links that are pairs of network cards, joined outside of the machine (see [`cards`]).
    pub fn on_cards(proxies: u8) -> Result<Self> {
        Self::of_handle(Plan {
            proxies,
            callee: false,
            phone: false,
            links: Links::Cards,
        })
    }

    /// The same without namespaces and without root: every host is an address of the loopback. IPv4 only, since
    /// IPv6 has one address there.
    pub fn on_loopback(proxies: u8) -> Result<Self> {
        check_proxies(proxies)?;
        let id = next_id();
        let plan = Plan {
            proxies,
            callee: false,
            phone: false,
            links: Links::Veth,
        };
        registry::add(&id)?;
        make_dir(&teardown::lab_dir(&id))
            .inspect_err(|_| teardown::destroy(&id, &registry::remove(&id)))?;
        let place = (Place::Loopback, BTreeMap::new());
        Ok(Self::wrap(id, plan, place, Lifetime::Handle))
    }

    fn of_handle(plan: Plan) -> Result<Self> {
        Self::create(&next_id(), plan, Lifetime::Handle)
    }

    /// Makes a lab that stays when this process ends, until [`Lab::down`] with the same word.
    ///
    /// The word is up to 20 letters, digits and dashes and begins with a letter.
    pub fn up(word: &str, proxies: u8) -> Result<Self> {
        check_word(word)?;
        let plan = Plan {
            proxies,
            callee: false,
            phone: false,
            links: Links::Veth,
        };
        Self::create(word, plan, Lifetime::UntilDown)
    }

    /// A handle to a lab that [`Lab::up`] made, in this process or another.
    pub fn attach(word: &str) -> Result<Self> {
        check_word(word)?;
        let names = namespace::names_of(word)?;
        ensure!(
            !names.is_empty(),
            "no lab is up under the name {word}; make one with `cargo xtask lab up`"
        );
        let proxies = u8::try_from(names.len().saturating_sub(2))?;
        let plan = Plan {
            proxies,
            callee: false,
            phone: false,
            links: Links::Veth,
        };
        let namespaces = open_namespaces(word, plan)?;
        Ok(Self::wrap(
            word.to_owned(),
            plan,
            (Place::Namespaces, namespaces),
            Lifetime::UntilDown,
        ))
    }

    /// Takes down the lab [`Lab::up`] made, with everything that runs in it. `false` if there was none.
    pub fn down(word: &str) -> Result<bool> {
        check_word(word)?;
        require_root()?;
        let found = !namespace::names_of(word)?.is_empty();
        teardown::destroy(word, &[]);
        Ok(found)
    }

    /// Removes the labs of processes that no longer live. Labs made by [`Lab::up`] stay.
    pub fn clean_leftovers() -> Result<()> {
        for id in namespace::leftover_ids(&teardown::directory_names())? {
            teardown::destroy(&id, &[]);
        }
        Ok(())
    }

    fn create(id: &str, plan: Plan, lifetime: Lifetime) -> Result<Self> {
        require_root()?;
        let proxies = plan.proxies;
        check_proxies(proxies)?;
        Self::clean_leftovers()?;
        if !namespace::names_of(id)?.is_empty() {
            bail!("the lab {id} is already up; `cargo xtask lab down` takes it down");
        }
        // A directory may be left of a lab of the same name that a reboot ended.
        teardown::destroy(id, &[]);
        if lifetime == Lifetime::Handle {
            registry::add(id)?;
        }
        build(id, plan)
            .map(|namespaces| {
                let place = (Place::Namespaces, namespaces);
                Self::wrap(id.to_owned(), plan, place, lifetime)
            })
            .inspect_err(|_| teardown::destroy(id, &registry::remove(id)))
            .with_context(|| format!("making the lab {id} with {proxies} proxies failed"))
    }

    fn wrap(
        id: String,
        plan: Plan,
        (place, namespaces): (Place, BTreeMap<Host, Namespace>),
        lifetime: Lifetime,
    ) -> Self {
        let inner = Inner {
            id,
            plan,
            namespaces,
            place,
            lifetime,
            peers: Mutex::new(None),
            cables: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Makes the far end of every link take what XDP sends to it, with a program out of this object
    /// file; for as long as the lab has handles in this process.
    pub fn accept_xdp(&self, object: &Path) -> Result<()> {
        let programs = peers::attach(self, object)?;
        *self
            .inner
            .peers
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(programs);
        Ok(())
    }

    /// The word between `sipfw-` and the host in this lab's namespace names.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// How many proxies there are.
    #[must_use]
    pub fn proxies(&self) -> u8 {
        self.inner.plan.proxies
    }

    /// All hosts: client, forwarder, the proxies, then the callee.
    #[must_use]
    pub fn hosts(&self) -> Vec<Host> {
        self.inner.namespaces.keys().copied().collect()
    }

    /// The address of a host in this lab.
    #[must_use]
    pub fn address(&self, host: Host, family: Family) -> IpAddr {
        match self.inner.place {
            Place::Namespaces => host.address(family),
            Place::Loopback => address::on_loopback(host.address(Family::V4)),
        }
    }

    /// The address of a host in this lab, with a port.
    #[must_use]
    pub fn socket(&self, host: Host, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(host, family), port)
    }

    /// The VIP in this lab.
    #[must_use]
    pub fn vip(&self, family: Family) -> IpAddr {
        match self.inner.place {
            Place::Namespaces => vip(family),
            Place::Loopback => address::on_loopback(vip(Family::V4)),
        }
    }

    /// The namespace of a host. Fails for a proxy this lab does not have.
    pub fn namespace(&self, host: Host) -> Result<&Namespace> {
        self.inner
            .namespaces
            .get(&host)
            .with_context(|| format!("the lab {} has no host {host}", self.id()))
    }

    /// A command that will run in the host's network namespace. Mounts stay those of this process, so that
    /// `/sys/fs/bpf` is visible (`ip netns exec` would hide it).
    pub fn command(&self, host: Host, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        match self.inner.place {
            Place::Namespaces => Ok(self.namespace(host)?.command(program)),
            Place::Loopback => Ok(Command::new(program)),
        }
    }

    /// Runs `work` on a thread of its own inside the host's namespace, and returns what it returned. Sockets opened
    /// there stay in the namespace wherever they are used later.
    pub fn enter<T: Send>(&self, host: Host, work: impl FnOnce() -> T + Send) -> Result<T> {
        match self.inner.place {
            Place::Namespaces => self.namespace(host)?.enter(work),
            Place::Loopback => Ok(work()),
        }
    }

    /// A directory (mode 0700) that goes with the lab: logs, configurations, statistics.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        teardown::lab_dir(self.id())
    }

    /// Copies what lies in [`Lab::dir`] to a folder that may not exist yet and outlives the lab.
    pub fn keep_files(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let mut command = Command::new("cp");
        command
            .arg("--recursive")
            .arg(self.dir().join("."))
            .arg(folder);
        let output = process::output_within(command, COPY)?;
        ensure!(
            output.status.success(),
            "cannot copy the lab's files to {}: {}",
            folder.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// Where a forwarder in this lab pins its maps.
    #[must_use]
    pub fn bpf_dir(&self) -> PathBuf {
        teardown::bpf_dir(self.id())
    }

    /// Cuts a host off: its end of the link to the forwarder goes down.
    pub fn cut(&self, host: Host) -> Result<()> {
        let interface = host
            .interface()
            .with_context(|| format!("{host} has no link of its own"))?;
        self.namespace(host)?
            .ip_batch(&[format!("link set {interface} down")])
    }

    /// The forwarder's interfaces, `to-client` first.
    #[must_use]
    pub fn forwarder_interfaces(&self) -> Vec<String> {
        self.hosts()
            .into_iter()
            .filter_map(Host::forwarder_interface)
            .collect()
    }

    /// All interfaces of a host that carry its traffic.
    fn interfaces(&self, host: Host) -> Vec<String> {
        let Some(own) = host.interface() else {
            return self.forwarder_interfaces();
        };
        let cable = host
            .cable()
            .filter(|_| self.inner.plan.links == Links::Cable);
        let ends = cable.map(|cable| [cable.card, cable.plug]);
        std::iter::once(own)
            .chain(ends.into_iter().flatten())
            .collect()
    }

    fn track(&self, pid: u32) {
        if self.inner.lifetime == Lifetime::Handle {
            registry::track(self.id(), pid);
        }
    }

    fn untrack(&self, pid: u32) {
        registry::untrack(self.id(), pid);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Handle {
            teardown::destroy(&self.id, &registry::remove(&self.id));
        }
    }
}

fn build(id: &str, plan: Plan) -> Result<BTreeMap<Host, Namespace>> {
    make_dir(&teardown::lab_dir(id))?;
    let names: Vec<_> = address::hosts(plan)
        .map(|host| namespace::name(id, host))
        .collect();
    namespace::add(&names)?;
    let namespaces = open_namespaces(id, plan)?;
    for (host, namespace) in &namespaces {
        namespace.set_sysctls(&address::sysctls(*host, plan))?;
    }
    let links = match plan.links {
        Links::Cards => cards::moves(id, plan)?,
        Links::Veth | Links::Cable => address::links(id, plan),
    };
    namespace::ip_batch(&links)?;
    for (host, namespace) in &namespaces {
        namespace.ip_batch(&address::addresses(*host, plan))?;
        namespace.set_offloads(*host, plan)?;
    }
    if plan.phone {
        let client = namespaces.get(&Host::Client);
        nat::translate(client.context("a lab without a client")?)?;
    }
    Ok(namespaces)
}

fn open_namespaces(id: &str, plan: Plan) -> Result<BTreeMap<Host, Namespace>> {
    address::hosts(plan)
        .map(|host| Ok((host, Namespace::open(&namespace::name(id, host))?)))
        .collect()
}

fn next_id() -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{}-{number}", std::process::id())
}

fn check_proxies(proxies: u8) -> Result<()> {
    ensure!(
        (1..=MAX_PROXIES).contains(&proxies),
        "a lab has 1 to {MAX_PROXIES} proxies, not {proxies}"
    );
    Ok(())
}

fn make_dir(path: &Path) -> Result<()> {
    // Not recursive: fails on anything that is already there, a link laid by somebody else included.
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot create {}", path.display()))
}

fn require_root() -> Result<()> {
    // SAFETY: geteuid has no preconditions and cannot fail.
    let uid = unsafe { libc::geteuid() };
    ensure!(
        uid == 0,
        "the lab makes network namespaces and needs root; run it again with sudo"
    );
    Ok(())
}

fn check_word(word: &str) -> Result<()> {
    let good = word.len() <= 20
        && word.starts_with(|c: char| c.is_ascii_alphabetic())
        && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    ensure!(
        good,
        "`{word}` cannot name a lab: use up to 20 letters, digits and dashes, a letter first"
    );
    Ok(())
}
