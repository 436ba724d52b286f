//! Many connections: requests as fast as they go, and connections that do nothing.

use std::fmt;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tokio::runtime::Runtime;

use super::carrier::{Carrier, Socket};
use super::{Target, Transport};
use crate::flood::pin_thread;
use crate::lab::{Host, Lab};
use crate::messages::{Message, line_offset};

/// Digits of the number in a Call-ID.
const DIGITS: usize = 12;
/// Connections that are made at the same time; the kernel queues as many at the other side.
const AT_ONCE: usize = 64;
/// The pause while nothing is due.
const PAUSE: Duration = Duration::from_micros(50);

/// Connections of one host to one target. They stay until this is dropped.
pub struct Connections {
    runtime: Runtime,
    carriers: Vec<Carrier>,
    template: Vec<u8>,
    /// Where the Call-ID's number stands.
    number_at: usize,
    next: u64,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections")
            .field("count", &self.carriers.len())
            .finish_non_exhaustive()
    }
}

impl Connections {
    /// Makes so many, with all handshakes.
    pub fn open(lab: &Lab, host: Host, target: &Target, count: usize) -> Result<Self> {
        allow_files(count as u64 + 4_096)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut carriers = Vec::with_capacity(count);
        while carriers.len() < count {
            let now = AT_ONCE.min(count - carriers.len());
            let sockets = lab.enter(host, || {
                (0..now)
                    .map(|_| Socket::open_here(target))
                    .collect::<Result<Vec<_>>>()
            })??;
            let handshakes = sockets
                .into_iter()
                .map(|socket| Carrier::new(socket, target));
            let made = runtime.block_on(futures_util::future::join_all(handshakes));
            for carrier in made {
                carriers.push(carrier?);
            }
        }
        let (template, number_at) = template(target.transport)?;
        Ok(Self {
            runtime,
            carriers,
            template,
            number_at,
            next: 0,
        })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.carriers.len()
    }

    /// Has every connection do its share of the work of a message: an OPTIONS to the forwarder itself, and its answer.
    pub fn exchange_all(&mut self) -> Result<()> {
        let Self {
            runtime, carriers, ..
        } = self;
        runtime.block_on(async {
            for (number, carrier) in carriers.iter_mut().enumerate() {
                let ask = Message::request("OPTIONS")
                    .start_line("OPTIONS sip:10.210.255.1 SIP/2.0")
                    .call_id(&format!("idle-{number}@client"))
                    .build();
                carrier.writer.send(&ask).await?;
                let answered = tokio::time::timeout(ANSWER, carrier.reader.next()).await;
                let unit = answered.with_context(|| {
                    format!("connection {number} has no answer within {ANSWER:?}")
                })??;
                ensure!(unit.is_some(), "connection {number} was closed");
            }
            Ok(())
        })
    }

    /// Sends `rate` requests a second for so long, in turn over all connections, from this core. Tells how many were
    /// sent: fewer if this machine, or the other side, cannot take as many.
    pub fn send(&mut self, rate: f64, time: Duration, core: usize) -> Result<u64> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    pin_thread(0, core)?;
                    self.send_paced(rate, time)
                })
                .join()
                .map_err(|_| anyhow!("the generator panicked"))?
        })
    }

    fn send_paced(&mut self, rate: f64, time: Duration) -> Result<u64> {
        let Self {
            runtime,
            carriers,
            template,
            number_at,
            next,
        } = self;
        runtime.block_on(async {
            let start = Instant::now();
            let mut sent = 0;
            while start.elapsed() < time {
                let due = (start.elapsed().as_secs_f64() * rate) as u64;
                if sent >= due {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                *next += 1;
                let number = format!("{next:0DIGITS$}");
                template[*number_at..*number_at + DIGITS].copy_from_slice(number.as_bytes());
                let turn = (*next % carriers.len() as u64) as usize;
                // Whatever does not take it in time is full, and so is the time.
                let left = time.saturating_sub(start.elapsed());
                match tokio::time::timeout(left, carriers[turn].writer.send(template)).await {
                    Ok(result) => result?,
                    Err(_) => break,
                }
                sent += 1;
            }
            Ok(sent)
        })
    }
}

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);

fn template(transport: Transport) -> Result<(Vec<u8>, usize)> {
    let via = format!(
        "SIP/2.0/{} 10.210.0.2:5061;branch=z9hG4bK-4711-1-0",
        transport.in_via()
    );
    let call_id = format!("{}@client", "0".repeat(DIGITS));
    let template = Message::invite().vias(&[&via]).call_id(&call_id).build();
    let line = line_offset(&template, "Call-ID: ").context("the message has no Call-ID")?;
    Ok((template, line + "Call-ID: ".len()))
}

/// Lets this process have so many files open.
pub fn allow_files(count: u64) -> Result<()> {
    // SAFETY: a limit of zeros is one; getrlimit writes it, setrlimit reads it, and both return before it goes.
    let result = unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        if limit.rlim_cur >= count {
            return Ok(());
        }
        limit.rlim_cur = count;
        limit.rlim_max = limit.rlim_max.max(count);
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    };
    ensure!(
        result == 0,
        "cannot have {count} files open: {}; raise it with `ulimit -n {count}`",
        io::Error::last_os_error()
    );
    Ok(())
}
