//! The threads that own connections, one beside each worker.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use sip_forwarder_ebpf::abi::ServiceId;
use tokio::{
    runtime,
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        watch,
    },
    task::{LocalSet, spawn_local},
    time::sleep,
};

use super::{
    counters::Ending,
    hub::Hub,
    link::{self, Link, LinkKey},
    listener::{self, Bound, ListenError},
    service::{Listener, Service},
};
use crate::slowpath::flows::Outbound;

/// How long connections may take to end with the daemon.
const FAREWELL: Duration = Duration::from_millis(500);

/// Why connections cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StreamsError {
    /// A port cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A thread cannot be started.
    #[error("cannot start connection thread {number}: {source}; raise the limit on threads")]
    Spawn {
        /// Which.
        number: usize,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What a thread is to do.
pub(super) enum Task {
    /// Accept connections here.
    Listen(Bound),
    /// Open this link.
    Open(LinkKey, Arc<Link>),
    /// Try this message again after a while.
    TryAgain(Outbound, Duration),
    /// End, once all connections have.
    End,
}

/// What another configuration brings, checked and opened.
#[derive(Default)]
pub struct Prepared {
    services: Vec<Service>,
    wanted: Vec<(ServiceId, Listener)>,
    opened: Vec<Bound>,
    ends: Vec<(Listener, watch::Sender<bool>)>,
}

/// The threads, and where they listen.
pub struct Streams {
    hub: Arc<Hub>,
    threads: Vec<(UnboundedSender<Task>, JoinHandle<()>)>,
    /// Setting one true ends that listener on all threads.
    listeners: HashMap<Listener, watch::Sender<bool>>,
}

impl Streams {
    /// Starts so many threads, at least one. They listen nowhere yet.
    pub fn start(hub: &Arc<Hub>, threads: usize) -> Result<Self, StreamsError> {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let mut running = Self {
            hub: Arc::clone(hub),
            threads: Vec::new(),
            listeners: HashMap::new(),
        };
        for number in 0..threads.max(1) {
            let (sender, tasks) = unbounded_channel();
            let core = cores.get(number % cores.len().max(1)).copied();
            let hub = Arc::clone(hub);
            let thread = thread::Builder::new()
                .name(format!("sip-stream-{number}"))
                .spawn(move || {
                    if let Some(core) = core
                        && !core_affinity::set_for_current(core)
                    {
                        tracing::warn!(core = core.id, "cannot pin a thread to its core");
                    }
                    live(&hub, number, tasks);
                })
                .map_err(|source| StreamsError::Spawn { number, source })?;
            running.threads.push((sender, thread));
        }
        let senders = running.threads.iter().map(|(s, _)| s.clone()).collect();
        hub.set_threads(senders);
        Ok(running)
    }

    /// Opens the listeners that these services have and that are not open yet. Nothing is accepted there
    /// before [`Streams::commit`].
    pub fn prepare(&self, services: Vec<Service>) -> Result<Prepared, StreamsError> {
        let wanted: Vec<_> = services
            .iter()
            .flat_map(|s| s.listeners.iter().map(|&l| (s.id, l)))
            .collect();
        let mut opened = Vec::new();
        let mut ends = Vec::new();
        for &(service, listener) in &wanted {
            if !self.listeners.contains_key(&listener) {
                let (end, ended) = watch::channel(false);
                for _ in &self.threads {
                    opened.push(Bound {
                        service,
                        listener,
                        socket: listener::bind(listener)?,
                        end: ended.clone(),
                    });
                }
                ends.push((listener, end));
            }
        }
        Ok(Prepared {
            services,
            wanted,
            opened,
            ends,
        })
    }

    /// Serves these services from now on. Connections stay, but for those of services that are gone.
    pub fn commit(&mut self, prepared: Prepared) {
        let Prepared {
            services,
            wanted,
            opened,
            ends,
        } = prepared;
        self.listeners.extend(ends);
        let ids: HashSet<_> = services.iter().map(|s| s.id).collect();
        self.hub.set_services(
            services
                .into_iter()
                .map(|service| (service.id, Arc::new(service)))
                .collect(),
        );
        for (number, bound) in opened.into_iter().enumerate() {
            self.hub
                .run(number % self.threads.len(), Task::Listen(bound));
        }
        self.listeners.retain(|listener, end| {
            let stays = wanted.iter().any(|(_, l)| l == listener);
            if !stays {
                // All threads that listened there hear it.
                let _ = end.send(true);
            }
            stays
        });
        self.hub
            .registry
            .close(Ending::Shutdown, |handle| !ids.contains(&handle.service));
    }

    /// Ends all connections in good order, and the threads.
    pub fn stop(self) {
        for end in self.listeners.values() {
            let _ = end.send(true);
        }
        self.hub.registry.close(Ending::Shutdown, |_| true);
        for (thread, _) in &self.threads {
            let _ = thread.send(Task::End);
        }
        for (_, thread) in self.threads {
            if thread.join().is_err() {
                tracing::error!("a connection thread had panicked; the log above says where");
            }
        }
    }
}

/// A thread's life.
fn live(hub: &Arc<Hub>, worker: usize, tasks: UnboundedReceiver<Task>) {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .inspect_err(|error| tracing::error!(%error, "cannot serve connections; raise the limit on open files, and restart the daemon"));
    if let Ok(runtime) = runtime {
        LocalSet::new().block_on(&runtime, work(hub, worker, tasks));
    }
}

async fn work(hub: &Arc<Hub>, worker: usize, mut tasks: UnboundedReceiver<Task>) {
    while let Some(task) = tasks.recv().await {
        let hub = Arc::clone(hub);
        match task {
            Task::Listen(bound) => drop(spawn_local(listener::run(hub, worker, bound))),
            Task::Open(key, link) => drop(spawn_local(link::run(hub, key, link))),
            Task::TryAgain(message, after) => drop(spawn_local(async move {
                sleep(after).await;
                hub.try_again(worker, message);
            })),
            Task::End => break,
        }
    }
    let until = Instant::now() + FAREWELL;
    while !hub.registry.is_quiet() && Instant::now() < until {
        sleep(FAREWELL / 50).await;
    }
}
