//! What XDP leaves to the workers: the same backend, the client's address; keep-alives, STUN, OPTIONS.

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use sip_forwarder_tests::{
    lab::{Family, Host},
    messages::Message,
};

use crate::support::{
    CLIENT_PORT, arrival, as_root, forwarding_lab, proxy_sockets, socket, verdict, vip_socket,
};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (name, family) in [("v4", Family::V4), ("v6", Family::V6)] {
        trials.push(as_root(
            &format!("slow_path::odd_messages_{name}"),
            move || odd_messages(family),
        ));
        trials.push(as_root(
            &format!("slow_path::own_answers_{name}"),
            move || own_answers(family),
        ));
        trials.push(as_root(&format!("slow_path::spiral_{name}"), move || {
            spiral(family)
        }));
    }
    trials
}

/// A folded header, line feeds alone, an unknown method: the backend is that of the plain message.
fn odd_messages(family: Family) -> Result<()> {
    let (lab, daemon) = forwarding_lab(3, family)?;
    let proxies = proxy_sockets(&lab, family)?;
    let client = socket(&lab, Host::Client, family, CLIENT_PORT)?;
    for n in 0..8 {
        let call_id = format!("odd-{n}@client");
        client.send_to(
            &Message::invite().call_id(&call_id).build(),
            vip_socket(family),
        )?;
        let plain = arrival(&proxies)?;
        let bye = String::from_utf8(Message::bye().call_id(&call_id).build())?;
        let odd = [
            bye.replace("Call-ID: ", "Call-ID:\r\n "),
            bye.replace("\r\n", "\n"),
            bye.replace("BYE ", "FROB "),
            format!("\r\n\r\n{bye}"),
        ];
        for message in odd {
            client.send_to(message.as_bytes(), vip_socket(family))?;
            let got = arrival(&proxies).with_context(|| message.clone())?;
            ensure!(
                got.proxy == plain.proxy,
                "proxy {} and not {} got:\n{message}",
                got.proxy,
                plain.proxy
            );
            ensure!(
                got.payload == message.as_bytes(),
                "it arrived changed:\n{message}"
            );
            ensure!(
                got.from == client.local_addr()?,
                "it came from {}",
                got.from
            );
        }
    }
    let (_, slow) = verdict(&daemon, "home")?;
    ensure!(slow >= 24, "the workers sent on {slow} messages only");
    Ok(())
}

fn own_answers(family: Family) -> Result<()> {
    let (lab, daemon) = forwarding_lab(1, family)?;
    let client = socket(&lab, Host::Client, family, CLIENT_PORT)?;
    let vip = vip_socket(family);
    for keep_alive in [&b"\r\n\r\n"[..], b"\r\n", b"\0", b""] {
        client.send_to(keep_alive, vip)?;
    }
    let options = Message::request("OPTIONS")
        .start_line(&format!("OPTIONS sip:{vip} SIP/2.0"))
        .build();
    client.send_to(&options, vip)?;
    let mut buffer = vec![0; 2_048];
    let (length, from) = client
        .recv_from(&mut buffer)
        .context("no answer to OPTIONS")?;
    ensure!(from == vip, "the answer to OPTIONS came from {from}");
    ensure!(
        buffer[..length].starts_with(b"SIP/2.0 200 "),
        "{}",
        String::from_utf8_lossy(&buffer[..length])
    );

    // RFC 8489: type Binding request, length 0, magic cookie, transaction.
    let mut stun = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    stun.extend_from_slice(b"transaction!");
    client.send_to(&stun, vip)?;
    let (length, _) = client.recv_from(&mut buffer).context("no answer to STUN")?;
    ensure!(
        length > 20 && buffer[..2] == [1, 1] && buffer[8..20] == *b"transaction!",
        "no Binding success"
    );
    for (name, least) in [("keep-alive", 4), ("options", 1), ("stun", 1)] {
        let (_, count) = verdict(&daemon, name)?;
        ensure!(
            count == least,
            "{name} was counted {count} times, not {least}"
        );
    }
    Ok(())
}

/// A backend's request to the VIP goes to a backend as anybody's does, with the VIP as its source, by
/// the fast path and by the slow one; and the response finds the way back by its top Via.
fn spiral(family: Family) -> Result<()> {
    let (lab, _daemon) = forwarding_lab(2, family)?;
    let proxies = proxy_sockets(&lab, family)?;
    let vip = vip_socket(family);
    let sender = proxies[0].local_addr()?;
    for n in 0..8 {
        let message = Message::invite()
            .call_id(&format!("spiral-{n}@p1"))
            .top_via(&format!("SIP/2.0/UDP {sender};branch=z9hG4bK-{n}"));
        let plain = message.build();
        let odd = String::from_utf8(plain.clone())?
            .replace("\r\n", "\n")
            .into_bytes();
        for request in [plain, odd] {
            proxies[0].send_to(&request, vip)?;
            let got = arrival(&proxies)?;
            ensure!(
                got.from == vip,
                "the spiral came from {}, not from the VIP",
                got.from
            );
            ensure!(got.payload == request, "the spiral arrived changed");
            let response = Message::response(200, "OK", "INVITE")
                .call_id(&format!("spiral-{n}@p1"))
                .top_via(&format!(
                    "SIP/2.0/UDP {sender};branch=z9hG4bK-{n};received={}",
                    vip.ip()
                ))
                .build();
            proxies[got.proxy].send_to(&response, vip)?;
            let back = arrival(&proxies)?;
            ensure!(
                back.proxy == 0,
                "the response went to proxy {}, not back to the sender",
                back.proxy
            );
        }
    }
    Ok(())
}
