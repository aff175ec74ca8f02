//! A web server that remembers what it was asked, and answers as it is told.

use std::io::BufReader;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;

use super::http::{Request, Response, read_request, write_response};

/// The server; it listens until the test binary ends.
pub struct Sink {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Sink {
    /// Starts one that answers each request with what `answer` says of it and of how many came before.
    pub fn start(answer: impl Fn(&Request, usize) -> u16 + Send + 'static) -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let notes = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut to) = stream else { continue };
                let mut from = BufReader::new(to.try_clone().unwrap());
                let Ok(Some(request)) = read_request(&mut from) else { continue };
                let method = request.method.clone();
                let status = {
                    let mut notes = notes.lock().unwrap();
                    let status = answer(&request, notes.len());
                    notes.push(request);
                    status
                };
                // One request for each connection, one after the other: what was asked has an order.
                drop(write_response(&mut to, &Response::new(status), &method, usize::MAX));
            }
        });
        Sink { address, seen }
    }

    /// The address of `path` here.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What was asked so far; forgotten afterwards.
    pub fn take(&self) -> Vec<Request> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}
