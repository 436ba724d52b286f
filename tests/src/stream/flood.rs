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
    /// Makes so many, with all handshakes. Nothing is sent, so the first message must come soon: the forwarder closes
    /// a connection from which none comes within `message_timeout`.
    pub fn open(lab: &Lab, host: Host, target: &Target, count: usize) -> Result<Self> {
        let mut connections = Self::none(target)?;
        connections.add(lab, (host, target), count, false)?;
        Ok(connections)
    }

    /// Makes so many, each of which has done its share of the work of a message before the next ones are made: an
    /// OPTIONS to the forwarder itself, and its answer. However long all take, none waits for its first message.
    pub fn open_used(lab: &Lab, host: Host, target: &Target, count: usize) -> Result<Self> {
        let mut connections = Self::none(target)?;
        connections.add(lab, (host, target), count, true)?;
        Ok(connections)
    }

    fn none(target: &Target) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (template, number_at) = template(target.transport)?;
        Ok(Self {
            runtime,
            carriers: Vec::new(),
            template,
            number_at,
            next: 0,
        })
    }

    fn add(
        &mut self,
        lab: &Lab,
        (host, target): (Host, &Target),
        count: usize,
        used: bool,
    ) -> Result<()> {
        allow_files(count as u64 + 4_096)?;
        while self.carriers.len() < count {
            let first = self.carriers.len();
            let now = AT_ONCE.min(count - first);
            let sockets = lab.enter(host, || {
                (0..now)
                    .map(|_| Socket::open_here(target))
                    .collect::<Result<Vec<_>>>()
            })??;
            let made = (first..).zip(sockets).map(|(number, socket)| async move {
                let made = async {
                    let mut carrier = Carrier::new(socket, target).await?;
                    if used {
                        exchange(&mut carrier, number).await?;
                    }
                    anyhow::Ok(carrier)
                };
                made.await
                    .with_context(|| format!("connection {number} of {count}"))
            });
            for carrier in self.runtime.block_on(futures_util::future::join_all(made)) {
                self.carriers.push(carrier?);
            }
        }
        Ok(())
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.carriers.len()
    }

    /// Sends `rate` requests a second for so long, in turn over all connections, from this core. Returns how many were
    /// sent, fewer if this machine, or the other side, cannot take as many; and how long that took, which is more if
    /// the other side was slow to take the last one.
    pub fn send(&mut self, rate: f64, time: Duration, core: usize) -> Result<(u64, Duration)> {
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

    fn send_paced(&mut self, rate: f64, time: Duration) -> Result<(u64, Duration)> {
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
                // A message is sent to its end, also after the time: half of one would be read as the beginning of the
                // next, and the forwarder would close the connection.
                let written = carriers[turn].writer.send(template);
                tokio::time::timeout(time + STUCK, written)
                    .await
                    .with_context(|| format!("connection {turn} took no message in {STUCK:?}"))??;
                sent += 1;
            }
            Ok((sent, start.elapsed().max(time)))
        })
    }
}

/// Sends an OPTIONS for the forwarder itself and waits for the answer.
async fn exchange(carrier: &mut Carrier, number: usize) -> Result<()> {
    let ask = Message::request("OPTIONS")
        .start_line("OPTIONS sip:10.210.255.1 SIP/2.0")
        .call_id(&format!("idle-{number}@client"))
        .build();
    carrier.writer.send(&ask).await?;
    let answered = tokio::time::timeout(ANSWER, carrier.reader.next()).await;
    let unit = answered.with_context(|| format!("no answer within {ANSWER:?}"))??;
    ensure!(
        unit.is_some(),
        "the other side closed it instead of an answer"
    );
    Ok(())
}

/// How long the other side may take no message at all.
const STUCK: Duration = Duration::from_secs(20);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);

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
