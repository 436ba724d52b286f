use crate::config::{
    BackendTransport, Certificate, ClientCertificates, Config, Connections, ListenTransport,
    Listener, parse,
};

const GOOD: &str = r#"
    [forwarder]
    dataplane = "userspace"
    api_listen = "127.0.0.1:8060"
    [connections]
    total = 10000
    idle_timeout = "30m"
    [[service]]
    name = "edge"
    address = "192.0.2.10"
    port = 5070
    mode = "proxy"
    transport = "tls"
    backend_ca = "/ca.pem"
    [[service.listen]]
    transport = "tcp"
    [[service.listen]]
    transport = "tls"
    [[service.listen]]
    transport = "ws"
    [[service.listen]]
    transport = "wss"
    port = 8443
    [service.tls]
    client_certificates = "optional"
    client_ca = "/clients.pem"
    [[service.tls.certificate]]
    chain = "/a.pem"
    key = "/a.key"
    [[service.tls.certificate]]
    chain = "/b.pem"
    key = "/b.key"
    [[service.backend]]
    name = "p1"
    address = "198.51.100.11"
    server_name = "p1.example"
    [[service.backend]]
    name = "p2"
    address = "198.51.100.12"
"#;

/// The shortest service, to which lines are added.
fn service(lines: &str) -> Result<Config, String> {
    let text = format!(
        "forwarder.dataplane = \"userspace\"\n[[service]]\nname = \"s\"\naddress = \"192.0.2.10\"\nmode = \"proxy\"\n{lines}\n\
        [[service.backend]]\nname = \"p1\"\naddress = \"198.51.100.11\"\n"
    );
    parse(&text).map_err(|error| error.to_string())
}

fn fault(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "{from}");
    let message = parse(&GOOD.replace(from, to)).unwrap_err().to_string();
    assert_eq!(message.lines().count(), 1, "one line: {message}");
    message
}

#[test]
fn everything_is_read() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.connections.total, 10_000);
    assert_eq!(
        config.connections.per_source,
        Connections::default().per_source
    );
    let service = &config.services[0];
    assert_eq!(service.transport, BackendTransport::Tls);
    assert_eq!(service.backend_ca.as_deref(), Some("/ca.pem".as_ref()));
    let listener = |transport, port| Listener { transport, port };
    assert_eq!(
        service.listeners,
        [
            listener(ListenTransport::Tcp, 5070),
            listener(ListenTransport::Tls, 5061),
            listener(ListenTransport::Ws, 80),
            listener(ListenTransport::Wss, 8443),
        ]
    );
    let tls = service.tls.as_ref().unwrap();
    let ca = "/clients.pem".into();
    assert_eq!(tls.clients, ClientCertificates::Optional { ca });
    let certificate = |chain: &str, key: &str| Certificate {
        chain: chain.into(),
        key: key.into(),
    };
    assert_eq!(
        tls.certificates,
        [
            certificate("/a.pem", "/a.key"),
            certificate("/b.pem", "/b.key")
        ]
    );
    assert_eq!(service.backends[0].server_name, "p1.example");
    assert_eq!(service.backends[1].server_name, "198.51.100.12");
    assert!(service.edge);
}

#[test]
fn without_listeners_a_service_is_as_before_and_no_edge_unless_told() {
    let config = service("").unwrap();
    assert_eq!(config.connections, Connections::default());
    let plain = &config.services[0];
    assert_eq!(plain.transport, BackendTransport::Udp);
    assert!(plain.listeners.is_empty() && plain.tls.is_none());
    assert!(!plain.edge && !plain.large_by_tcp);
    assert!(service("edge = true").unwrap().services[0].edge);
    assert!(service("large_by_tcp = true").unwrap().services[0].large_by_tcp);
    let listens = "edge = false\n[[service.listen]]\ntransport = \"tcp\"";
    assert!(!service(listens).unwrap().services[0].edge);
}

#[test]
fn mode_nat_knows_none_of_it() {
    let nat = |service: &str, backend: &str| {
        let text = format!(
            "forwarder.interfaces = [\"eth0\"]\n[[service]]\nname = \"s\"\naddress = \"192.0.2.10\"\n{service}\n\
            [[service.backend]]\nname = \"p1\"\naddress = \"198.51.100.11\"\n{backend}\n"
        );
        parse(&text).map_err(|error| error.to_string())
    };
    assert!(nat("edge = false", "").is_ok());
    for (lines, backend, key) in [
        ("transport = \"tcp\"", "", "transport"),
        ("large_by_tcp = true", "", "large_by_tcp"),
        ("edge = true", "", "edge"),
        ("backend_ca = \"/x\"", "", "backend_ca"),
        ("[[service.listen]]\ntransport = \"ws\"\n", "", "edge"),
        (
            "edge = false\n[[service.listen]]\ntransport = \"ws\"\n",
            "",
            "[[service.listen]]",
        ),
        ("", "server_name = \"p1.example\"", "server_name"),
    ] {
        let message = nat(lines, backend).unwrap_err();
        let expected = format!("service `s`: {key} is for mode \"proxy\"");
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    for (from, to, expected) in [
        ("backend_ca = \"/ca.pem\"", "", "there is no backend_ca"),
        (
            "transport = \"tls\"\n    backend_ca",
            "backend_ca",
            "backend_ca is for transport \"tls\"",
        ),
        (
            "transport = \"tls\"\n    backend_ca = \"/ca.pem\"",
            "transport = \"tcp\"",
            "`p1`: server_name is for transport \"tls\"",
        ),
        (
            "mode = \"proxy\"",
            "mode = \"proxy\"\nlarge_by_tcp = true",
            "large_by_tcp is for transport \"udp\"",
        ),
        (
            "\"p1.example\"",
            "\"p1 example\"",
            "server_name is `p1 example`",
        ),
        (
            "client_ca = \"/clients.pem\"",
            "",
            "client_certificates is \"optional\"",
        ),
        (
            "\"optional\"",
            "\"none\"",
            "client_ca is for client_certificates",
        ),
        (
            "port = 8443",
            "port = 5061",
            "both listen on TCP 192.0.2.10:5061",
        ),
        ("port = 8443", "port = 0", "port 0 is not allowed"),
        ("127.0.0.1:8060", "0.0.0.0:8443", "forwarder.api_listen"),
        (
            "total = 10000",
            "total = 0",
            "connections.total is 0; give 1 to 1000000",
        ),
        ("\"30m\"", "\"1ms\"", "connections.idle_timeout is 1ms"),
        (
            "total = 10000",
            "max_message = 1000",
            "less than connections.max_headers",
        ),
        (
            "total = 10000",
            "write_buffer = 5000",
            "less than connections.max_message",
        ),
        (
            "transport = \"wss\"",
            "transport = \"sctp\"",
            "expected one of `tcp`, `tls`, `ws`, `wss`",
        ),
    ] {
        let message = fault(from, to);
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn tls_needs_a_listener_and_a_certificate() {
    let listen = "[[service.listen]]\ntransport = \"tls\"\n";
    for (lines, expected) in [
        (listen.to_owned(), "has no [service.tls]"),
        (
            format!("{listen}[service.tls]\n"),
            "has no [[service.tls.certificate]]",
        ),
        (
            "[[service.tls.certificate]]\nchain = \"/a\"\nkey = \"/b\"\n".to_owned(),
            "no [[service.listen]] for \"tls\" or \"wss\"",
        ),
    ] {
        let message = service(&lines).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
}
