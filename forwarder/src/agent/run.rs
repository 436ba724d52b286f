//! What all parts say, put together and reported.

use std::{io, time::Duration};

use thiserror::Error;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

use super::{
    config::Config,
    control::{Command, ControlError, Listener, Order},
    cpu::Meter,
    link::{News, link},
    priority, probe, process,
};
use crate::heartbeat::{AgentKey, Announcer, State, announcer::new_boot_id, keys::KeyError};

/// How often a change of state is sent: a datagram may be lost.
const REPEATS: u32 = 3;
/// Time between two of them.
const REPEAT_PAUSE: Duration = Duration::from_millis(5);
/// Time for the last report to leave.
const FAREWELL: Duration = Duration::from_millis(5);

/// Why the agent does not run.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Its key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Its socket cannot be used.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Signals cannot be handled.
    #[error("cannot handle signals: {0}; raise the limit on open files")]
    Signal(io::Error),
    /// A part of it broke.
    #[error(
        "a part of the agent broke: {0}; the log above says where. Report it, and restart the agent"
    )]
    Broken(String),
}

/// Reports until SIGTERM or SIGINT.
///
/// These announce draining for `drain_grace`, or until the proxy's process has ended. A second signal
/// ends it at once. Silence follows, not `stopped`, unless the proxy has stopped: an agent that starts
/// again within the forwarders' patience costs nothing.
pub async fn run(config: Config) -> Result<(), AgentError> {
    let key = AgentKey::load(&config.key_file)?;
    let listener = Listener::open(&config.control_socket)?;
    let mut signals = Signals::open()?;
    priority::raise();
    let (mut agent, mut inputs) = start(&config, &key, listener)?;
    let mut ticks = interval(config.interval);
    // Ticks stay where they are in time, and those that were missed are not made up for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    tracing::info!(
        service = config.service,
        backend = config.backend,
        "reporting"
    );
    while !agent.is_done() {
        tokio::select! {
            biased;
            () = signals.next() => agent.signalled(config.drain_grace),
            Some(ended) = inputs.tasks.join_next() => return Err(broken(ended)),
            Some(process) = inputs.process.recv() => agent.follow(process),
            Some(unwell) = inputs.unwell.recv() => agent.unwell(unwell),
            Some(order) = inputs.orders.recv() => agent.ordered(order),
            () = at(agent.again) => agent.report(),
            () = at(agent.end) => agent.is_over = true,
            _ = ticks.tick() => agent.tick(),
        }
    }
    sleep(FAREWELL).await;
    Ok(())
}

/// A task only ends by a fault: whatever it watched would stay as it was last seen.
fn broken(ended: Result<(), tokio::task::JoinError>) -> AgentError {
    AgentError::Broken(
        ended
            .err()
            .map_or_else(|| "a task ended".to_owned(), |error| error.to_string()),
    )
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn open() -> Result<Self, AgentError> {
        let open = |kind| signal(kind).map_err(AgentError::Signal);
        Ok(Self {
            terminate: open(SignalKind::terminate())?,
            interrupt: open(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Where the tasks say what they saw.
struct Inputs {
    tasks: JoinSet<()>,
    process: mpsc::Receiver<Option<u32>>,
    unwell: mpsc::Receiver<bool>,
    orders: mpsc::Receiver<Order>,
}

fn start(
    config: &Config,
    key: &AgentKey,
    listener: Listener,
) -> Result<(Agent, Inputs), AgentError> {
    let condition = Condition::default();
    let (news, _) = watch::channel(News {
        cpu: None,
        state: condition.state(),
    });
    let boot = new_boot_id()?;
    let mut tasks = JoinSet::new();
    for to in &config.forwarders {
        let announcer = Announcer::new(&config.service, &config.backend, key, boot, &to.name);
        tasks.spawn(link(to.clone(), announcer, news.subscribe()));
    }
    let (sender, process) = mpsc::channel(4);
    if let Some(what) = &config.watch {
        tasks.spawn(process::watch(what.clone(), config.interval, sender));
    }
    let (sender, unwell) = mpsc::channel(4);
    if let Some(probe) = config.probe {
        tasks.spawn(probe::probe(probe, sender));
    }
    let (sender, orders) = mpsc::channel(4);
    tasks.spawn(listener.serve(sender));
    let agent = Agent {
        condition,
        is_known: config.watch.is_none(),
        meter: Meter::new(config.cpu.clone()),
        cpu: None,
        news,
        repeats: 0,
        again: None,
        end: None,
        is_over: false,
    };
    let inputs = Inputs {
        tasks,
        process,
        unwell,
        orders,
    };
    Ok((agent, inputs))
}

/// What is known of the proxy.
#[derive(Clone, Copy, Debug, Default)]
struct Condition {
    /// A process is watched, and is not there.
    stopped: bool,
    /// It does not answer.
    unwell: bool,
    /// It is to get no new calls.
    drained: bool,
}

impl Condition {
    /// What is worse hides what is better: whoever does not answer does not keep its calls either.
    fn state(self) -> State {
        match self {
            Self { stopped: true, .. } => State::Stopped,
            Self { unwell: true, .. } => State::Unwell,
            Self { drained: true, .. } => State::Draining,
            _ => State::Running,
        }
    }
}

struct Agent {
    condition: Condition,
    /// Nothing is reported before the process was looked for: an agent that starts anew beside a proxy
    /// that runs must not say that it stopped.
    is_known: bool,
    meter: Meter,
    cpu: Option<f64>,
    news: watch::Sender<News>,
    /// How often the state is still to be repeated, and when next.
    repeats: u32,
    again: Option<Instant>,
    /// When the agent ends.
    end: Option<Instant>,
    is_over: bool,
}

impl Agent {
    fn tick(&mut self) {
        self.cpu = self.meter.measure(Instant::now().into_std());
        self.send();
    }

    fn send(&self) {
        if !self.is_known {
            return;
        }
        let state = self.condition.state();
        self.news.send_replace(News {
            cpu: self.cpu,
            state,
        });
    }

    /// Reports a change of state, or repeats it.
    fn report(&mut self) {
        self.send();
        self.repeats = self.repeats.saturating_sub(1);
        self.again = (self.repeats > 0).then(|| Instant::now() + REPEAT_PAUSE);
    }

    fn change(&mut self, change: impl FnOnce(&mut Condition)) {
        let before = self.condition.state();
        change(&mut self.condition);
        let state = self.condition.state();
        if state != before {
            tracing::info!(?state, "the state reported has changed");
            self.repeats = REPEATS;
            self.report();
        }
    }

    fn follow(&mut self, process: Option<u32>) {
        self.is_known = true;
        if process.is_some() {
            self.meter.follow(process);
        }
        self.change(|condition| condition.stopped = process.is_none());
    }

    fn unwell(&mut self, unwell: bool) {
        self.change(|condition| condition.unwell = unwell);
    }

    fn ordered(&mut self, (command, reply): Order) {
        let ending = self.end.is_some();
        self.change(|condition| condition.drained = ending || command == Command::Drain);
        let answer = match self.condition.state() {
            State::Running => "the proxy is reported as running",
            State::Draining => "the proxy is reported as draining",
            State::Stopped => "the proxy is reported as stopped: its process is not there",
            State::Unwell => "the proxy is reported as unwell: it does not answer OPTIONS",
        };
        // Whoever asked may be gone.
        let _ = reply.send(answer.to_owned());
    }

    fn signalled(&mut self, grace: Duration) {
        if self.end.is_some() {
            self.is_over = true;
            return;
        }
        self.end = Some(Instant::now() + grace);
        self.change(|condition| condition.drained = true);
    }

    /// Nothing more to announce.
    fn is_done(&self) -> bool {
        let said = self.condition.state() == State::Stopped && self.repeats == 0;
        self.is_over || (self.end.is_some() && said)
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
