//! A worker of mode `proxy` allocates nothing for a message that it sends on: one that runs, over loopback, under an
//! allocator that counts.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    collections::HashMap,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sip_forwarder::{
    sip::proxy::{Proxy, Settings},
    slowpath::{
        Placer, canonical,
        counters::Counters,
        flows::{Flows, Unconnected},
        memory::{MemoryStore, Sizes},
        placement::Tables,
        worker::{Listen, Manner, Workers},
    },
};
use sip_forwarder_ebpf::{
    abi::{
        Backend, BackendFlags, BackendId, BackendRef, Key, Policy, RING_SLOTS, SentByKey, Service,
        ServiceId, Slot,
    },
    hash,
};
use sip_forwarder_tests::messages::{Message, answer_to};

/// The system's allocator, counting for all threads that are not exempt.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static EXEMPT: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    if !EXEMPT.get() {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: everything is the system's; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the promises, which are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SERVICE: ServiceId = ServiceId(0);
const HOME: BackendId = BackendId(1);
const KEY: [u64; 2] = [1, 2];
const RECENT: u32 = 1 << 12;
/// Long enough for a machine under load.
const PATIENCE: Duration = Duration::from_secs(20);
/// Messages of each kind: first until all buffers have grown, then again while it counts.
const ROUNDS: u32 = 100;

/// A service with one backend, one worker before it, and who talks through it.
struct Scene {
    client: UdpSocket,
    backend: UdpSocket,
    vip: SocketAddr,
    workers: Workers,
}

impl Scene {
    fn start() -> Self {
        let vip = socket().local_addr().unwrap();
        let (client, backend) = (socket(), socket());
        let tables = Arc::new(Placer::new(
            store(vip, backend.local_addr().unwrap()),
            Arc::new(Counters::new(8)),
            KEY,
            RECENT,
        ));
        let listen = Listen {
            service: SERVICE,
            vip,
            manner: Manner::Proxy(Arc::new(Proxy::new(Settings {
                record_route: true,
                ..Settings::new(vip, KEY)
            }))),
        };
        let tables: Arc<dyn Tables> = tables;
        let flows: Arc<dyn Flows> = Arc::new(Unconnected);
        let workers = Workers::start(&[listen], 1, &tables, &flows).unwrap();
        client.connect(vip).unwrap();
        Self {
            client,
            backend,
            vip,
            workers,
        }
    }

    /// A client's request reaches the backend, and the response the client.
    fn client_asks(&self, request: &Message) {
        self.client.send(&request.build()).unwrap();
        let arrived = received(&self.backend);
        let response = answer_to(&arrived, "200 OK", "");
        self.backend.send_to(&response, self.vip).unwrap();
        assert!(received(&self.client).starts_with(b"SIP/2.0 200 "));
    }

    /// A backend's request reaches the client, and the response the backend.
    fn backend_asks(&self, request: &Message) {
        self.backend.send_to(&request.build(), self.vip).unwrap();
        let arrived = received(&self.client);
        self.client
            .send(&answer_to(&arrived, "200 OK", ""))
            .unwrap();
        assert!(received(&self.backend).starts_with(b"SIP/2.0 200 "));
    }

    /// Each kind of message that is sent on, in calls of their own.
    fn round(&self, number: u32) {
        let (vip, backend) = (self.vip, self.backend.local_addr().unwrap());
        let client = self.client.local_addr().unwrap();
        let via = |of| format!("SIP/2.0/UDP {of};branch=z9hG4bK-{number};rport");
        let message = |message: Message, prefix: &str| {
            message
                .call_id(&format!("{prefix}-{number}@client.example"))
                .vias(&[&via(client)])
        };
        let in_dialog = |method: &str| {
            message(Message::request(method).to_tag("7"), "call")
                .route(&format!("<sip:{vip};lr>"))
                .route(&format!("<sip:{backend};lr>"))
        };
        self.client_asks(&message(Message::invite(), "call"));
        self.client_asks(&in_dialog("ACK"));
        self.client_asks(&in_dialog("INVITE"));
        self.client_asks(&in_dialog("BYE").route("<sip:10.0.0.9;lr>, <sip:[2001:db8::9];lr>"));
        for method in ["REGISTER", "OPTIONS", "MESSAGE"] {
            self.client_asks(&message(Message::request(method), method));
        }
        let line = format!("INVITE sip:phone@{client} SIP/2.0");
        let own = message(Message::invite(), "own").start_line(&line);
        self.backend_asks(&own.vias(&[&via(backend)]));
    }
}

/// A socket on any port of this machine's own.
fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn received(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer).expect("no message came");
    buffer.truncate(length);
    buffer
}

/// Tables in which all calls are at home with one backend. REGISTER is spread by To, so that this key is made, too.
fn store(vip: SocketAddr, backend: SocketAddr) -> MemoryStore {
    let store = MemoryStore::new(Sizes {
        services: 1,
        backends: 8,
        calls: 1024,
        recent_lines: RECENT,
    })
    .unwrap();
    let mut entry = Backend::new(backend.into(), SERVICE, 1);
    entry.flags = BackendFlags(BackendFlags::ALIVE);
    store.set_backend(HOME, entry);
    let service = Service {
        ring: 0,
        hints: 0,
        vip: vip.into(),
        key: Key::CALL_ID,
        register_key: Key::TO,
        id: SERVICE,
        policy: Policy::HASH,
        zero: [0; 3],
    };
    let to = |backend| BackendRef {
        service: SERVICE,
        backend,
    };
    let name = |address: SocketAddr, entry| {
        let host = hash::digest(KEY, &canonical(address.ip().to_string().as_bytes())).0;
        (SentByKey::new(host, address.port()), entry)
    };
    store.set_contents(
        vec![(
            service,
            vec![Slot::new(HOME, HOME, true); RING_SLOTS as usize],
        )],
        HashMap::from([name(vip, to(BackendId::NONE)), name(backend, to(HOME))]),
        HashMap::from([(backend, to(HOME))]),
    );
    store
}

#[test]
fn nothing_is_allocated_for_a_message() {
    EXEMPT.set(true);
    let scene = Scene::start();
    (0..ROUNDS).for_each(|number| scene.round(number));
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    (ROUNDS..2 * ROUNDS).for_each(|number| scene.round(number));
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    assert_eq!(allocations, 0, "in {ROUNDS} rounds");

    // What the worker says itself is made for the occasion: the counter does see it.
    let line = format!("OPTIONS sip:{} SIP/2.0", scene.vip);
    let via = "SIP/2.0/UDP client.example;branch=z9hG4bK-o;rport";
    let options = Message::request("OPTIONS").start_line(&line).vias(&[via]);
    scene.client.send(&options.build()).unwrap();
    received(&scene.client);
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > before);
    scene.workers.stop();
}
