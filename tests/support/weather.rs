//! An HTTP proxy that is as bad as a network and a provider can be: seeded, counted, message by message.
//!
//! Each request meets at most one fault, drawn by its number from the seed, so that a run repeats. Whatever strikes is
//! counted by kind, so that a test can prove that it was really there. Listings are never altered: no provider gives them
//! a checksum, and TLS protects them.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use holdfast::base::rng::Seeded;

use super::http::{Request, Response, read_request, read_response, write_request, write_response};

/// How bad it is. Chances are per thousand requests.
#[derive(Clone, Debug, Default)]
pub struct Weather {
    /// Answered 500, 502 or 503 without asking the server.
    pub errors: u64,
    /// Answered 429 or 503 SlowDown, with Retry-After.
    pub throttling: u64,
    /// Closed before the server was asked.
    pub resets: u64,
    /// Closed after the server has done it.
    pub lost_replies: u64,
    /// The answer's body ends half-way.
    pub cut: u64,
    /// One bit of an object is changed on its way to the client.
    pub corrupt_down: u64,
    /// One bit of an object is changed on its way to the server.
    pub corrupt_up: u64,
    /// Nothing comes, and nothing is closed.
    pub silent: u64,
    /// Each answer waits this long.
    pub delay: Duration,
    /// Everything is answered 403 from this request on.
    pub denied_from: Option<u64>,
    /// Connections are closed at once.
    pub down: bool,
    /// Drawn from.
    pub seed: u64,
}

/// The proxy, gone when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: String,
    weather: Mutex<Weather>,
    requests: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    counts: Mutex<BTreeMap<String, u64>>,
    gone: AtomicBool,
}

impl Proxy {
    /// A proxy before `server`, in fair weather.
    pub fn before(server: impl Into<String>) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for the proxy");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            server: server.into(),
            weather: Mutex::default(),
            requests: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            counts: Mutex::default(),
            gone: AtomicBool::new(false),
        });
        let for_accept = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if for_accept.gone.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                let shared = for_accept.clone();
                thread::spawn(move || {
                    shared.carry(&client);
                    drop(client.shutdown(Shutdown::Both));
                });
            }
        });
        Proxy { address, shared }
    }

    /// Where clients connect: `127.0.0.1:...`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on, and counted anew.
    pub fn set(&self, weather: Weather) {
        *self.shared.weather.lock().unwrap() = weather;
        self.shared.counts.lock().unwrap().clear();
        self.shared.requests.store(0, Ordering::SeqCst);
        self.shared.sent.store(0, Ordering::SeqCst);
        self.shared.received.store(0, Ordering::SeqCst);
    }

    /// How often something happened: a fault by its name, or a request by its kind (`GET`, `LIST`, ...).
    pub fn count(&self, what: &str) -> u64 {
        self.shared.counts.lock().unwrap().get(what).copied().unwrap_or(0)
    }

    /// All requests.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Bytes of bodies that clients sent.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Bytes of bodies that the server answered with.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
    }
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fair,
    Error,
    Throttled,
    Reset,
    LostReply,
    Cut,
    CorruptDown,
    CorruptUp,
    Silent,
    Denied,
}

impl Fate {
    fn name(self) -> &'static str {
        match self {
            Fate::Fair => "fair",
            Fate::Error => "error",
            Fate::Throttled => "throttled",
            Fate::Reset => "reset",
            Fate::LostReply => "lost reply",
            Fate::Cut => "cut",
            Fate::CorruptDown => "corrupt down",
            Fate::CorruptUp => "corrupt up",
            Fate::Silent => "silent",
            Fate::Denied => "denied",
        }
    }
}

/// What a request is: a listing is a GET without an object.
fn kind(request: &Request) -> &str {
    match request.method.as_str() {
        "GET" if request.target.contains("list-type=") => "LIST",
        method => method,
    }
}

impl Shared {
    fn note(&self, what: &str) {
        *self.counts.lock().unwrap().entry(what.to_owned()).or_default() += 1;
    }

    fn fate(&self, weather: &Weather, n: u64, request: &Request) -> (Fate, Seeded) {
        let mut rng = Seeded::new(weather.seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(n));
        if weather.denied_from.is_some_and(|from| n >= from) {
            return (Fate::Denied, rng);
        }
        let mut draw = rng.below(1000);
        let object = kind(request) != "LIST";
        let chances = [
            (weather.errors, Fate::Error),
            (weather.throttling, Fate::Throttled),
            (weather.resets, Fate::Reset),
            (weather.lost_replies, Fate::LostReply),
            (weather.cut, Fate::Cut),
            (if object { weather.corrupt_down } else { 0 }, Fate::CorruptDown),
            (if object { weather.corrupt_up } else { 0 }, Fate::CorruptUp),
            (weather.silent, Fate::Silent),
        ];
        for (chance, fate) in chances {
            if draw < chance {
                return (fate, rng);
            }
            draw -= chance;
        }
        (Fate::Fair, rng)
    }

    fn carry(&self, client: &TcpStream) {
        let mut from_client = BufReader::new(client);
        let mut server: Option<BufReader<TcpStream>> = None;
        while let Ok(Some(request)) = read_request(&mut from_client) {
            let weather = self.weather.lock().unwrap().clone();
            if weather.down || self.gone.load(Ordering::SeqCst) {
                self.note("down");
                return;
            }
            let n = self.requests.fetch_add(1, Ordering::SeqCst);
            self.note(kind(&request));
            self.sent.fetch_add(request.body.len() as u64, Ordering::SeqCst);
            let (fate, rng) = self.fate(&weather, n, &request);
            if self.meet(fate, rng, request, client, &mut server).is_none() {
                return;
            }
            thread::sleep(weather.delay);
        }
    }

    /// Lets a request meet its fate; none when the connection is over.
    fn meet(
        &self,
        fate: Fate,
        mut rng: Seeded,
        mut request: Request,
        mut client: &TcpStream,
        server: &mut Option<BufReader<TcpStream>>,
    ) -> Option<()> {
        let method = request.method.clone();
        let status = match fate {
            Fate::Error => Some([500, 502, 503][usize::try_from(rng.below(3)).unwrap()]),
            Fate::Throttled => Some([429, 503][usize::try_from(rng.below(2)).unwrap()]),
            Fate::Denied => Some(403),
            _ => None,
        };
        if let Some(status) = status {
            self.note(fate.name());
            let code = match fate {
                Fate::Denied => "AccessDenied",
                Fate::Throttled => "SlowDown",
                _ => "InternalError",
            };
            let body = format!("<Error><Code>{code}</Code><Message>by the weather</Message></Error>");
            let response = Response::new(status).with("retry-after", "0").body(body);
            return write_response(&mut client, &response, &method, usize::MAX).ok();
        }
        match fate {
            Fate::Reset => {
                self.note(fate.name());
                return None;
            }
            Fate::Silent => {
                self.note(fate.name());
                // Until the client gives up.
                let mut nothing = [0; 1];
                drop(std::io::Read::read(&mut client, &mut nothing));
                return None;
            }
            Fate::CorruptUp if !request.body.is_empty() => {
                self.note(fate.name());
                flip(&mut request.body, &mut rng);
            }
            _ => {}
        }
        let mut response = self.forward(&request, server)?;
        self.received.fetch_add(response.body.len() as u64, Ordering::SeqCst);
        let mut keep = usize::MAX;
        match fate {
            Fate::LostReply => {
                self.note(fate.name());
                return None;
            }
            Fate::CorruptDown if response.status == 200 && !response.body.is_empty() => {
                self.note(fate.name());
                flip(&mut response.body, &mut rng);
            }
            Fate::Cut if response.body.len() > 1 => {
                self.note(fate.name());
                keep = response.body.len() / 2;
            }
            _ => {}
        }
        write_response(&mut client, &response, &method, keep).ok()?;
        (keep == usize::MAX).then_some(())
    }

    /// Asks the server, over a connection that is kept while it lives.
    fn forward(&self, request: &Request, server: &mut Option<BufReader<TcpStream>>) -> Option<Response> {
        for _ in 0..2 {
            let fresh = server.is_none();
            if fresh {
                *server = Some(BufReader::new(TcpStream::connect(&self.server).ok()?));
            }
            let connection = server.as_mut()?;
            let asked = write_request(&mut connection.get_ref(), request);
            match asked.and_then(|()| read_response(connection, &request.method)) {
                Ok(response) => {
                    if response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                        *server = None;
                    }
                    return Some(response);
                }
                Err(_) => *server = None,
            }
            if fresh {
                return None;
            }
        }
        None
    }
}

fn flip(body: &mut [u8], rng: &mut Seeded) {
    let at = usize::try_from(rng.below(body.len() as u64)).unwrap();
    body[at] ^= 1 << rng.below(8);
}
