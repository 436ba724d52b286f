//! The whole agent, against a receiver over loopback.

use std::{fs, path::Path, process::Command as Program};

use tokio::time::timeout;

use super::*;
use crate::{
    agent::{config, control},
    heartbeat::{MasterKey, Receiver, Report},
};

/// A forwarder, and the agent's file for it.
struct Lab {
    folder: tempfile::TempDir,
    receiver: Receiver,
    reports: mpsc::UnboundedReceiver<Report>,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let master = MasterKey::random().unwrap();
        let key = master.agent_key("carrier", "p1");
        key.save(&folder.path().join("key")).unwrap();
        let (sender, reports) = mpsc::unbounded_channel();
        let known = [("carrier".to_owned(), "p1".to_owned())];
        let listen = "127.0.0.1:0".parse().unwrap();
        let deliver = move |batch: &mut Vec<Report>| {
            for report in batch.drain(..) {
                let _ = sender.send(report);
            }
        };
        Self {
            receiver: Receiver::start(listen, "sfw1", vec![master], &known, deliver).unwrap(),
            folder,
            reports,
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn config(&self, more: &str) -> Config {
        let folder = self.path().display();
        let address = self.receiver.local_addr();
        let text = format!(
            "[agent]\nservice = 'carrier'\nbackend = 'p1'\nkey_file = '{folder}/key'\n\
             control_socket = '{folder}/sock'\ninterval = '20ms'\ncpu = 'host'\n{more}\n\
             [[agent.forwarder]]\nname = 'sfw1'\naddress = '{address}'\n"
        );
        config::parse(&text).unwrap()
    }

    /// Waits for a report of this state.
    async fn until(&mut self, state: State) -> Report {
        let wait = async {
            loop {
                let report = self.reports.recv().await.unwrap();
                if report.state == state {
                    return report;
                }
            }
        };
        timeout(Duration::from_secs(2), wait).await.unwrap()
    }
}

#[test]
fn the_worst_is_what_is_reported() {
    let state = |stopped, unwell, drained| {
        Condition {
            stopped,
            unwell,
            drained,
        }
        .state()
    };
    assert_eq!(state(false, false, false), State::Running);
    assert_eq!(state(false, false, true), State::Draining);
    assert_eq!(state(false, true, true), State::Unwell);
    assert_eq!(state(true, true, true), State::Stopped);
}

#[tokio::test]
async fn an_agent_is_believed_measures_and_drains_when_told() {
    let mut lab = Lab::new();
    let agent = tokio::spawn(run(lab.config("")));
    lab.until(State::Running).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    while lab.until(State::Running).await.cpu.is_none() {}
    for (command, state) in [
        (Command::Drain, State::Draining),
        (Command::Undrain, State::Running),
    ] {
        let socket = lab.path().join("sock");
        let answer = tokio::task::spawn_blocking(move || control::ask(&socket, command));
        assert!(
            answer
                .await
                .unwrap()
                .unwrap()
                .starts_with("the proxy is reported as")
        );
        lab.until(state).await;
    }
    let counts = lab.receiver.counts();
    assert_eq!(
        (counts.replayed, counts.forged, counts.malformed),
        (0, 0, 0)
    );
    agent.abort();
}

#[tokio::test]
async fn the_end_of_the_proxy_is_reported_at_once_and_three_times() {
    let mut lab = Lab::new();
    let pid_file = lab.path().join("pid");
    let mut proxy = Program::new("sleep").arg("60").spawn().unwrap();
    fs::write(&pid_file, proxy.id().to_string()).unwrap();
    let more = format!("[agent.watch]\npid_file = '{}'", pid_file.display());
    let mut config = lab.config(&more);
    config.interval = Duration::from_secs(1);
    let agent = tokio::spawn(run(config));
    lab.until(State::Running).await;
    let start = std::time::Instant::now();
    proxy.kill().unwrap();
    for _ in 0..REPEATS {
        lab.until(State::Stopped).await;
    }
    assert!(
        start.elapsed() < Duration::from_millis(200),
        "{:?}",
        start.elapsed()
    );
    proxy.wait().unwrap();
    agent.abort();
}

#[test]
fn a_signal_announces_draining_and_a_second_one_ends() {
    let (news, mut heard) = watch::channel(News {
        cpu: None,
        state: State::Running,
    });
    let mut agent = Agent {
        condition: Condition::default(),
        is_known: true,
        meter: Meter::new(config::Cpu::Host),
        cpu: None,
        news,
        repeats: 0,
        again: None,
        end: None,
        is_over: false,
    };
    agent.signalled(Duration::from_secs(2));
    assert_eq!(heard.borrow_and_update().state, State::Draining);
    assert!(agent.end.is_some() && !agent.is_done());
    agent.signalled(Duration::from_secs(2));
    assert!(agent.is_done(), "the second signal");
    agent.is_over = false;
    agent.follow(None);
    assert!(!agent.is_done(), "it is still to be repeated");
    agent.report();
    agent.report();
    assert!(agent.is_done());
}
