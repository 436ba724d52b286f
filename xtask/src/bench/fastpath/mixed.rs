//! Many different packets: each in a run of its own, as all cases are timed; and in turn, so that none finds
//! the processor's predictions made for it.

use std::{net::SocketAddr, path::Path};

use anyhow::ensure;
use sip_forwarder_tests::{
    baseline::Baseline,
    frame_source::{FrameSource, Kernel},
    frames::UdpFrame,
    lab::Family,
    messages::Message,
};

use super::{
    packets::{client, service},
    subject::Subject,
};

/// How many there are in each family.
const COUNT: u32 = 128;
/// `XDP_TX`.
const SENT_BACK: u32 = 3;

/// One family's packets, given in turn to each program under test and to the baseline.
///
/// Each is copied into the frame before, which all pay for: the difference between the two, and what
/// the baseline costs by itself, is what the program costs.
pub(super) struct InTurn {
    subjects: Vec<FrameSource>,
    baseline: FrameSource,
}

impl InTurn {
    /// Loads the rotation for each program. Fails if the fast path does not take each packet.
    pub(super) fn load(
        object: &Path,
        frames: &[Vec<u8>],
        subjects: &[Subject],
        baseline: &Baseline,
    ) -> anyhow::Result<Self> {
        let mut unread = FrameSource::of_rotation(object, frames)?;
        unread.give_to(baseline.fd()?)?;
        let subjects = subjects
            .iter()
            .map(|subject| {
                let mut source = FrameSource::of_rotation(object, frames)?;
                subject.take_from(&mut source)?;
                for n in 0..frames.len() {
                    let action = source.action(Kernel::RotateAndGive)?;
                    ensure!(
                        action == SENT_BACK,
                        "packet {n} of {}: the fast path did not take it (action {action})",
                        frames.len()
                    );
                }
                Ok(source)
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Self {
            subjects,
            baseline: unread,
        })
    }

    /// Returns the nanoseconds of a packet with the program at this place, copying included.
    pub(super) fn time(&self, subject: usize, packets: u32) -> anyhow::Result<f64> {
        nanoseconds(&self.subjects[subject], packets)
    }

    /// Returns the same with the baseline.
    pub(super) fn baseline(&self, packets: u32) -> anyhow::Result<f64> {
        nanoseconds(&self.baseline, packets)
    }
}

fn nanoseconds(source: &FrameSource, packets: u32) -> anyhow::Result<f64> {
    Ok(source.time(Kernel::RotateAndGive, packets)?.as_nanos() as f64)
}

/// Frames to the VIP as they come from many clients: requests and responses with Vias, Routes, names and
/// Call-IDs of all lengths, long and compact headers, with and without a body.
pub(super) fn frames(family: Family) -> Vec<Vec<u8>> {
    let client = client(family).ip();
    (1_024..)
        .zip(messages())
        .map(|(port, (_, message))| {
            UdpFrame::new(SocketAddr::new(client, port), service(family), message)
                .hop_limit(255)
                .build()
        })
        .collect()
}

/// Call-IDs of all packets.
pub(super) fn call_ids() -> impl Iterator<Item = String> {
    messages().into_iter().map(|(call_id, _)| call_id)
}

/// Call-IDs and messages: the same ones every time.
fn messages() -> Vec<(String, Vec<u8>)> {
    let mut dice = Dice(2_026);
    (0..COUNT).map(|n| message(n, &mut dice)).collect()
}

fn message(n: u32, dice: &mut Dice) -> (String, Vec<u8>) {
    let call_id = format!("{}@{}", dice.text(8, 40), dice.text(4, 24));
    let message = match n % 8 {
        0 | 1 => Message::invite(),
        2 => Message::request("ACK").to_tag("a73kszlfl"),
        3 => Message::bye(),
        4 => Message::ok(),
        5 => Message::response(180, "Ringing", "INVITE"),
        6 => Message::invite().to_tag("1928301774"),
        _ => Message::request("REGISTER"),
    };
    let mut message = message
        .call_id(&call_id)
        .from(&format!(
            "\"{}\" <sip:{}@example.org>;tag={}",
            dice.text(3, 30),
            dice.text(3, 20),
            dice.text(6, 16)
        ))
        .to(&format!("<sip:{}@example.org>", dice.text(3, 20)));
    // Half come from phones; the others passed one to three proxies, not all of which stay in the way.
    let proxies = [0, 0, 0, 0, 1, 1, 2, 3][dice.roll(8) as usize];
    for _ in 0..proxies {
        let via = format!(
            "SIP/2.0/UDP 198.51.100.{}:5060;branch=z9hG4bK{};rport",
            dice.roll(255),
            dice.text(10, 40)
        );
        message = message.top_via(&via);
    }
    for _ in 0..dice.roll(proxies + 1) {
        let name = dice.text(4, 12);
        message = message.record_route(&format!("<sip:{name}.example.org;lr>"));
    }
    if n % 8 == 3 {
        message = message.route("<sip:edge.example.org;lr>");
    }
    message = message
        .header("User-Agent", &dice.text(5, 60))
        .header("Allow", "INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE");
    if dice.roll(6) == 0 {
        message = message.compact();
    }
    (call_id, message.build())
}

/// Numbers that look random, and are the same every time (`SplitMix64`).
#[derive(Default)]
pub(super) struct Dice(u64);

impl Dice {
    /// Puts elements into another order (Fisher and Yates).
    pub(super) fn shuffle<T>(&mut self, elements: &mut [T]) {
        for last in (1..elements.len()).rev() {
            let other = self.roll(last as u32 + 1) as usize;
            elements.swap(last, other);
        }
    }

    /// A number below `sides`.
    fn roll(&mut self, sides: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((mixed >> 32) * u64::from(sides)) >> 32) as u32
    }

    /// Letters and digits, from `least` to fewer than `most`.
    fn text(&mut self, least: u32, most: u32) -> String {
        const FROM: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let length = least + self.roll(most - least);
        (0..length)
            .map(|_| char::from(FROM[self.roll(FROM.len() as u32) as usize]))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Dice;

    #[test]
    fn each_element_comes_to_each_place_equally_often() {
        let mut dice = Dice::default();
        let mut first = [0_u32; 3];
        for _ in 0..3_000 {
            let mut elements = [0, 1, 2];
            dice.shuffle(&mut elements);
            first[elements[0]] += 1;
        }
        assert!(
            first.iter().all(|count| (900..=1_100).contains(count)),
            "{first:?}"
        );
    }
}
