//! Holdfast's own members on 127.0.0.1, run by the built binary, and the pages that they answer.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

use super::http::read_response;
use super::peers::{ETCD_3_5, program};
use super::ports::Port;
use super::run::{Outcome, Process, Run};

/// How long a member may take to answer or to end, on a busy machine.
pub const LIMIT: Duration = Duration::from_mins(1);

/// A member under test; gone, with its files, when dropped.
#[derive(Debug)]
pub struct Member {
    /// While it runs.
    pub process: Option<Process>,
    /// Flags beside where to listen and what to keep.
    pub args: Vec<String>,
    /// Where clients reach it.
    pub client: Port,
    /// Plain or with TLS.
    pub scheme: &'static str,
    /// What etcdctl needs then.
    pub client_tls: Vec<String>,
    /// Its folder.
    pub dir: TempDir,
}

impl Member {
    /// A plain one with these flags beside where to listen and what to keep.
    pub fn start(args: &[&str]) -> Member {
        let mut member = Member::prepared(args);
        member.launch(|run| run);
        member.wait();
        member
    }

    /// The same, not started yet.
    pub fn prepared(args: &[&str]) -> Member {
        let dir = TempDir::with_prefix_in("serve-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Member { process: None, args, client: Port::claim(), scheme: "http", client_tls: vec![], dir }
    }

    /// Starts it; `with` may change what it is started with.
    pub fn launch(&mut self, with: impl FnOnce(Run) -> Run) {
        let url = self.endpoint();
        let own = [
            "serve".to_owned(),
            format!("--data-dir={}", self.data_dir().display()),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
        ];
        let run = with(Run::holdfast().args(&own).args(&self.args));
        self.process = Some(run.start(self.dir.path().join("log")));
    }

    /// Waits until it answers.
    pub fn wait(&mut self) {
        let deadline = Instant::now() + LIMIT;
        while self.etcdctl(&["endpoint", "health"]).code() != 0 {
            let process = self.process.as_mut().unwrap();
            if let Some(status) = process.ended() {
                panic!("it ended ({status}): {}", process.said());
            }
            assert!(Instant::now() < deadline, "not healthy: {}", process.said());
        }
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.client.address())
    }

    /// etcd's client, on this member.
    pub fn etcdctl(&self, args: &[&str]) -> Outcome {
        let flags = [format!("--endpoints={}", self.endpoint()), "--command-timeout=10s".to_owned()];
        let run = Run::new(program(ETCD_3_5, "etcdctl")).env("ETCDCTL_API", "3");
        run.args(&flags).args(&self.client_tls).args(args).run()
    }

    /// Ends it in good order.
    pub fn stop(&mut self) -> i32 {
        self.process.take().expect("it runs").terminate(LIMIT).code().unwrap_or(-1)
    }

    /// Everything it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

/// An answer over HTTP/1.1: its status, head and body.
#[derive(Debug)]
pub struct Page {
    /// The status.
    pub status: u16,
    /// Status and headers, in lower case.
    pub head: String,
    /// The body.
    pub body: String,
}

/// Asks for a page.
pub fn ask(address: &str, method: &str, target: &str, host: &str) -> Page {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = vec![];
    stream.read_to_end(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer);
    let (head, _) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer from {address}: {text:?}"));
    let response = read_response(&mut answer.as_slice(), method).unwrap();
    let body = String::from_utf8(response.body).unwrap();
    Page { status: response.status, head: head.to_lowercase(), body }
}

/// Gets a page.
pub fn get(address: &str, target: &str) -> Page {
    ask(address, "GET", target, address)
}
