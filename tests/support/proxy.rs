//! A TCP proxy that breaks things on the way from the server to the client: the side on which backups arrive.
//!
//! Bytes are counted from the server, per connection. A fault is set before or during a run and meets every connection
//! from then on; `fired` counts how often it struck, so that a test can prove that it was really there.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const BUFFER_BYTES: usize = 64 * 1024;
/// How often a stalled connection asks whether the proxy is gone.
const POLL: Duration = Duration::from_millis(5);

/// What happens to the bytes that the server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// They arrive.
    None,
    /// New connections are closed at once.
    Refuse,
    /// After this many bytes both sides are closed.
    CutAfter(u64),
    /// After this many bytes nothing more arrives, and nothing is closed.
    StallAfter(u64),
    /// Each piece waits this long.
    Delay(Duration),
    /// The byte at this position has one bit changed.
    FlipAt(u64),
    /// The first bytes arrive as the second ones, which are as many, wherever they come in one piece.
    Replace(&'static [u8], &'static [u8]),
}

/// A proxy before one server, gone when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: String,
    fault: Mutex<Fault>,
    fired: AtomicU64,
    connections: AtomicU64,
    bytes: AtomicU64,
    gone: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// A proxy before `server`, an address like `127.0.0.1:2379`.
    pub fn before(server: impl Into<String>) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for the proxy");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            server: server.into(),
            fault: Mutex::new(Fault::None),
            fired: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            open: Mutex::new(vec![]),
        });
        let for_accept = shared.clone();
        thread::spawn(move || accept(&listener, &for_accept));
        Proxy { address, shared }
    }

    /// Where clients connect: `127.0.0.1:...`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Sets what happens from now on.
    pub fn set(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap() = fault;
    }

    /// How often a fault struck.
    pub fn fired(&self) -> u64 {
        self.shared.fired.load(Ordering::SeqCst)
    }

    /// How many connections clients made.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many bytes the server sent, over all connections.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }

    /// Closes every open connection.
    pub fn cut_all(&self) {
        self.shared.close_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::SeqCst);
        self.shared.close_all();
        // Wakes the thread that accepts, so that it sees that it is over.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn fault(&self) -> Fault {
        *self.fault.lock().unwrap()
    }

    fn strike(&self) {
        self.fired.fetch_add(1, Ordering::SeqCst);
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    fn close_all(&self) {
        self.open.lock().unwrap().drain(..).for_each(|stream| close(&stream));
    }
}

fn close(stream: &TcpStream) {
    // It may be closed already.
    drop(stream.shutdown(Shutdown::Both));
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.is_gone() {
            return;
        }
        let Ok(client) = client else { continue };
        shared.connections.fetch_add(1, Ordering::SeqCst);
        if shared.fault() == Fault::Refuse {
            shared.strike();
            close(&client);
            continue;
        }
        // A server that is down closes the client's connection, as if the proxy were not there.
        let Ok(server) = TcpStream::connect(&shared.server) else {
            close(&client);
            continue;
        };
        let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        shared.open.lock().unwrap().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
        let for_server = shared.clone();
        thread::spawn(move || {
            drop(std::io::copy(&mut from_client, &mut to_server));
            drop(to_server.shutdown(Shutdown::Write));
        });
        thread::spawn(move || {
            carry(&for_server, &server, &client);
            close(&client);
            close(&server);
        });
    }
}

/// Carries bytes from the server to the client until one of them ends or the fault says so.
fn carry(shared: &Shared, mut server: &TcpStream, mut client: &TcpStream) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut position = 0;
    while let Ok(n @ 1..) = server.read(&mut buffer) {
        let (piece, fault) = (&mut buffer[..n], shared.fault());
        let end = position + n as u64;
        shared.bytes.fetch_add(n as u64, Ordering::SeqCst);
        let pass = match fault {
            Fault::CutAfter(at) | Fault::StallAfter(at) if end > at => at.saturating_sub(position),
            _ => n as u64,
        };
        match fault {
            Fault::Delay(time) => {
                shared.strike();
                thread::sleep(time);
            }
            Fault::FlipAt(at) if (position..end).contains(&at) => {
                shared.strike();
                piece[usize::try_from(at - position).unwrap()] ^= 0x20;
            }
            Fault::Replace(what, with) => {
                for at in 0..piece.len() {
                    if piece[at..].starts_with(what) {
                        shared.strike();
                        piece[at..at + what.len()].copy_from_slice(with);
                    }
                }
            }
            _ => {}
        }
        let pass = usize::try_from(pass).unwrap();
        if client.write_all(&piece[..pass]).is_err() {
            return;
        }
        if pass < n {
            shared.strike();
            while matches!(fault, Fault::StallAfter(_)) && !shared.is_gone() && shared.fault() == fault {
                thread::sleep(POLL);
            }
            return;
        }
        position = end;
    }
}
