//! What a flow token opens: the way to the phone it was made for, to the backends of its service, for a while. And
//! what it does not.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    lab::{Host, Lab, process::poll, vip},
    messages::{Message, answer_to, header, headers},
    phone::Phone,
    proxy::{Arrived, ScriptedProxy},
    stream::Transport,
};

use super::room::{CONNECTED, FAMILY, Room, edge};
use crate::{
    cluster::NOTICE,
    support::{ARRIVAL, as_root, socket, vip_socket},
};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for transport in CONNECTED {
        trials.push(as_root(
            &format!("transports::a_flow_that_is_gone_is_430_over_{transport}"),
            move || gone(transport),
        ));
    }
    trials.extend([
        as_root("transports::a_forged_token_relays_nothing", forged),
        as_root(
            "transports::a_token_counts_from_backends_alone",
            from_a_stranger,
        ),
        as_root(
            "transports::a_token_of_a_dialog_is_good_for_that_alone",
            another_dialog,
        ),
        as_root("transports::an_expired_token_relays_nothing", expired),
    ]);
    trials
}

/// A forwarder as an edge in front of one proxy that does as the test says.
struct Scene {
    proxy: ScriptedProxy,
    /// What arrived there and was not looked at.
    arrived: Mutex<VecDeque<Arrived>>,
    room: Room,
}

impl Scene {
    fn start() -> Result<Self> {
        let lab = Lab::new(1)?;
        let proxy = ScriptedProxy::start(&lab, Host::Proxy(1), FAMILY)?;
        let room = Room::in_lab(lab, Transport::Udp, edge)?;
        Ok(Self {
            proxy,
            arrived: Mutex::default(),
            room,
        })
    }

    fn phone(&self, user: &str, transport: Transport) -> Result<Phone> {
        self.phone_at(Host::Client, user, transport)
    }

    fn phone_at(&self, host: Host, user: &str, transport: Transport) -> Result<Phone> {
        let target = self.room.target(transport);
        Phone::new(&self.room.lab, host, user, &target)
    }

    /// What reaches the proxy next.
    fn arrival(&self) -> Result<String> {
        let came = poll(ARRIVAL, || {
            let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
            arrived.extend(self.proxy.take());
            Ok(arrived.pop_front())
        })?;
        let Arrived { payload, .. } = came.context("nothing reached the proxy")?;
        Ok(String::from_utf8_lossy(&payload).into_owned())
    }

    /// Registers a phone, and gives its Path.
    fn register(&self, phone: &Phone) -> Result<String> {
        std::thread::scope(|scope| {
            let registering = scope.spawn(|| phone.register());
            let request = self.arrival()?;
            let paths = headers(&request, "Path");
            ensure!(paths.len() == 1, "{} Paths in\n{request}", paths.len());
            self.say(&answer_to(request.as_bytes(), "200 OK", ""))?;
            registering
                .join()
                .map_err(|_| anyhow::anyhow!("the phone panicked"))??;
            Ok(paths[0].to_owned())
        })
    }

    /// Sends a message from the proxy to the forwarder.
    fn say(&self, message: &[u8]) -> Result<()> {
        self.proxy.send(message, vip_socket(FAMILY))
    }

    /// Sends a request from the proxy by this route, which must be refused with this status.
    fn refused(&self, phone: &Phone, route: &str, call_id: &str, status: u16) -> Result<()> {
        self.say(&to_phone(phone, route, call_id))?;
        let answer = self
            .arrival()
            .with_context(|| format!("the answer to a request by {route}"))?;
        ensure!(
            answer.starts_with(&format!("SIP/2.0 {status} ")),
            "not {status} but\n{answer}"
        );
        Ok(())
    }

    /// The way to the phone is open, and nothing came by it before.
    fn only_this_arrives(&self, phone: &Phone, route: &str, call_id: &str) -> Result<()> {
        self.say(&to_phone(phone, route, call_id))?;
        let came = phone.expect("INVITE")?;
        ensure!(
            header(&came, "Call-ID") == Some(call_id),
            "another request came by:\n{came}"
        );
        ensure!(
            headers(&came, "Route").is_empty(),
            "our Route is left in\n{came}"
        );
        Ok(())
    }
}

/// A call of a proxy to a phone, by this route.
fn to_phone(phone: &Phone, route: &str, call_id: &str) -> Vec<u8> {
    let via = format!(
        "SIP/2.0/UDP {};branch=z9hG4bK-proxy-{call_id}",
        Host::Proxy(1).socket(FAMILY, 5060)
    );
    Message::invite()
        .start_line(&format!("INVITE {} SIP/2.0", phone.contact()))
        .vias(&[&via])
        .route(route)
        .call_id(call_id)
        .build()
}

fn gone(transport: Transport) -> Result<()> {
    let scene = Scene::start()?;
    let phone = scene.phone("bob", transport)?;
    let path = scene.register(&phone)?;
    scene.only_this_arrives(&phone, &path, "before@proxy")?;
    phone.link().close()?;
    phone.link().wait_closed(ARRIVAL)?;
    let begin = Instant::now();
    // The forwarder may hear of the end a moment after the phone.
    for n in 0.. {
        scene.say(&to_phone(&phone, &path, &format!("after-{n}@proxy")))?;
        if let Ok(answer) = scene.arrival()
            && answer.starts_with("SIP/2.0 430 ")
        {
            break;
        }
        ensure!(begin.elapsed() < NOTICE, "the answer is never 430");
    }
    // The phone comes again, and is reached by its new Path.
    let phone = scene.phone("bob", transport)?;
    let path = scene.register(&phone)?;
    scene.only_this_arrives(&phone, &path, "again@proxy")
}

/// Each character of a token counts.
fn forged() -> Result<()> {
    let scene = Scene::start()?;
    let phone = scene.phone("bob", Transport::Tcp)?;
    let other = scene.phone("mallory", Transport::Tcp)?;
    let path = scene.register(&phone)?;
    let others = scene.register(&other)?;
    let (begin, end) = token_in(&path)?;
    // The first characters say that it is a token at all.
    for at in begin + 2..end {
        let mut forged = path.clone().into_bytes();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged)?;
        scene
            .refused(&phone, &forged, &format!("forged-{at}@proxy"), 403)
            .with_context(|| format!("character {} changed", at - begin))?;
    }
    // Half of one and half of the other.
    let middle = usize::midpoint(begin, end);
    let spliced = format!("{}{}", &path[..middle], &others[middle..]);
    scene.refused(&phone, &spliced, "spliced@proxy", 403)?;
    scene.only_this_arrives(&phone, &path, "good@proxy")?;
    ensure!(other.link().left().is_empty(), "Mallory got something");
    Ok(())
}

/// Where the user part of a Path stands.
fn token_in(path: &str) -> Result<(usize, usize)> {
    let begin = path.find("sip:").context("no URI in the Path")? + "sip:".len();
    let end = path.find('@').context("no token in the Path")?;
    Ok((begin, end))
}

/// Whoever has seen a token can do nothing with it, by whatever transport he comes.
fn from_a_stranger() -> Result<()> {
    let scene = Scene::start()?;
    let phone = scene.phone("bob", Transport::Tls)?;
    let path = scene.register(&phone)?;
    let stranger = socket(&scene.room.lab, Host::Client, FAMILY, 5099)?;
    stranger.send_to(
        &to_phone(&phone, &path, "stranger@client"),
        vip_socket(FAMILY),
    )?;
    let by_stream = scene.phone("mallory", Transport::Tcp)?;
    by_stream
        .link()
        .send(&to_phone(&phone, &path, "stranger-tcp@client"))?;
    // They are clients' requests like others: a backend has them, or they are refused.
    for call_id in ["stranger@client", "stranger-tcp@client"] {
        let came = scene.arrival()?;
        ensure!(came.starts_with("INVITE "), "{call_id}: {came}");
    }
    scene.only_this_arrives(&phone, &path, "good@proxy")
}

/// A Record-Route leads back to the caller, for its own call.
fn another_dialog() -> Result<()> {
    let scene = Scene::start()?;
    let phone = scene.phone("alice", Transport::Tls)?;
    let via = format!(
        "SIP/2.0/TLS {};branch=z9hG4bK-own-call",
        phone.link().local()
    );
    let invite = Message::invite()
        .vias(&[&via])
        .call_id("own-call@client")
        .build();
    phone.link().send(&invite)?;
    let came = scene.arrival()?;
    let routes = headers(&came, "Record-Route");
    let route = routes.first().context("no Record-Route")?;
    let (begin, end) = token_in(route)?;
    ensure!(end > begin + 16, "no token in {route}");
    let by = |call_id: &str| {
        let text = String::from_utf8_lossy(&to_phone(&phone, route, call_id)).into_owned();
        text.replace("INVITE", "BYE").replacen(
            "To: service",
            "To: <sip:alice@client>;tag=t\r\nX-To: ",
            1,
        )
    };
    scene.say(by("other-call@client").as_bytes())?;
    let answer = scene.arrival()?;
    ensure!(answer.starts_with("SIP/2.0 403 "), "not 403 but\n{answer}");
    scene.say(by("own-call@client").as_bytes())?;
    let bye = phone.expect("BYE")?;
    ensure!(
        header(&bye, "Call-ID") == Some("own-call@client"),
        "another call's:\n{bye}"
    );
    Ok(())
}

/// A token that was made three days ago, by a daemon whose clock went after.
fn expired() -> Result<()> {
    let lab = Lab::with_phone(1)?;
    let proxy = ScriptedProxy::start(&lab, Host::Proxy(1), FAMILY)?;
    let room = Room::in_lab(lab, Transport::Udp, |spec| {
        edge(spec);
        spec.clock_behind = Some("3d");
    })?;
    let mut scene = Scene {
        proxy,
        arrived: Mutex::default(),
        room,
    };
    // Behind a NAT a datagram needs a token, and has no connection that could be gone.
    let phone = scene.phone_at(Host::Phone, "bob", Transport::Udp)?;
    let path = scene.register(&phone)?;
    scene.only_this_arrives(&phone, &path, "fresh@proxy")?;
    let daemon = &mut scene.room.daemon;
    daemon.terminate()?;
    daemon.set_clock(None);
    daemon.start_again()?;
    scene.refused(&phone, &path, "stale@proxy", 403)?;
    let path = scene.register(&phone)?;
    scene.only_this_arrives(&phone, &path, "good@proxy")?;
    ensure!(path.contains(&vip(FAMILY).to_string()), "{path}");
    Ok(())
}
