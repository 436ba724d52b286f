//! How busy the proxies are, and how evenly.
//!
//! The measure is the OSLB thesis' load balance metric (chapter 5): over all samples `j`, the sum of the highest load of
//! any server divided by the sum of the servers' mean load. 1 is perfect, `n` is all load on one of `n` servers. A load
//! is the CPU time that all processes of a proxy had in one second, to the nanosecond.
//!
//! A server counts as long as it is in service: from the sample in which it fails, peak and mean are over the others.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::lab::{Host, process_tree};

/// How long a sample is.
pub const SAMPLE: Duration = Duration::from_secs(1);

/// A server whose processes are watched.
#[derive(Clone, Debug)]
pub struct Server {
    /// Where it runs.
    pub host: Host,
    /// All of its processes.
    pub pids: Vec<u32>,
}

/// The loads of all servers in one sample, as parts of one core; `None` for one that is out of service.
pub type Sample = Vec<Option<f64>>;

/// Takes samples until it is finished.
#[derive(Debug)]
pub struct Sampler {
    stop: Sender<()>,
    thread: JoinHandle<Vec<Sample>>,
    retired: Arc<Mutex<Vec<Host>>>,
}

impl Sampler {
    /// Begins with the first sample now.
    pub fn start(servers: Vec<Server>) -> Result<Self> {
        let (stop, stopped) = channel();
        let retired = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&retired);
        let thread = thread::Builder::new()
            .name("cpu-samples".to_owned())
            .spawn(move || sample_until(&stopped, &servers, &seen))
            .context("cannot start the thread that samples the CPU")?;
        Ok(Self {
            stop,
            thread,
            retired,
        })
    }

    /// From the present sample on, this server is out of service.
    pub fn retire(&self, host: Host) {
        self.retired
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(host);
    }

    /// Ends with the last whole sample.
    pub fn finish(self) -> Result<Vec<Sample>> {
        drop(self.stop);
        self.thread
            .join()
            .map_err(|_| anyhow!("the thread that samples the CPU panicked"))
    }
}

fn sample_until(
    stopped: &Receiver<()>,
    servers: &[Server],
    retired: &Mutex<Vec<Host>>,
) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut due = Instant::now();
    let mut last = Reading::of(servers);
    loop {
        due += SAMPLE;
        let wait = due.saturating_duration_since(Instant::now());
        if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
            return samples;
        }
        let now = Reading::of(servers);
        let out = retired.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sample = now.since(&last);
        for (load, server) in sample.iter_mut().zip(servers) {
            if out.contains(&server.host) {
                *load = None;
            }
        }
        samples.push(sample);
        last = now;
    }
}

/// The CPU time of every server at one instant.
struct Reading {
    at: Instant,
    times: Vec<Option<Duration>>,
}

impl Reading {
    fn of(servers: &[Server]) -> Self {
        let times = servers
            .iter()
            .map(|server| process_tree::cpu_time(&server.pids))
            .collect();
        Self {
            at: Instant::now(),
            times,
        }
    }

    fn since(&self, before: &Self) -> Sample {
        let passed = (self.at - before.at).as_secs_f64();
        self.times
            .iter()
            .zip(&before.times)
            .map(|(now, before)| Some((*now)?.saturating_sub((*before)?).as_secs_f64() / passed))
            .collect()
    }
}

/// The load balance metric; `None` if nobody did anything.
#[must_use]
pub fn balance(samples: &[Sample]) -> Option<f64> {
    let (mut peaks, mut means) = (0.0, 0.0);
    for sample in samples {
        let loads: Vec<f64> = sample.iter().copied().flatten().collect();
        if loads.is_empty() {
            continue;
        }
        peaks += loads.iter().copied().fold(0.0, f64::max);
        means += loads.iter().sum::<f64>() / loads.len() as f64;
    }
    (means > 0.0).then(|| peaks / means)
}

/// The mean load of each server over the samples in which it was in service.
#[must_use]
pub fn means(samples: &[Sample]) -> Vec<f64> {
    let servers = samples.first().map_or(0, Vec::len);
    (0..servers)
        .map(|server| {
            let loads: Vec<f64> = samples.iter().filter_map(|sample| sample[server]).collect();
            loads.iter().sum::<f64>() / loads.len().max(1) as f64
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metric_is_the_sum_of_peaks_over_the_sum_of_means() {
        let even = [vec![Some(0.2), Some(0.2)], vec![Some(0.4), Some(0.4)]];
        assert_eq!(balance(&even), Some(1.0));
        let uneven = [vec![Some(0.75), Some(0.25)], vec![Some(0.25), Some(0.75)]];
        assert_eq!(balance(&uneven), Some(1.5));
        assert_eq!(balance(&[vec![Some(0.0), None]]), None);
    }

    #[test]
    fn a_server_out_of_service_does_not_count() {
        let samples = [vec![Some(0.2), Some(0.2)], vec![None, Some(0.4)]];
        assert_eq!(balance(&samples), Some(1.0));
        assert!((means(&samples)[0] - 0.2).abs() < 1e-9);
    }
}
