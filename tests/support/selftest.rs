//! Tests of the harness itself: a proxy that does not break what it should, or a process that outlives its test, would
//! make every other test worthless.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests fail by panicking, and read the clock")]

#[path = "buckets.rs"]
mod buckets;

#[path = "mod.rs"]
mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::etcd::{Etcd, Tls};
use support::load::{self, Load, LoadOptions};
use support::objects;
use support::peers;
use support::ports::Port;
use support::proxy::{Fault, Proxy};
use support::run::{Run, holdfast, wait_until};

const SECOND: Duration = Duration::from_secs(1);
/// What the test server sends to everybody.
const SENT: usize = 200_000;

/// A server that sends `SENT` bytes of 7 to everybody and closes.
fn sender() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that was cut off has gone; the next one is served all the same.
            thread::spawn(move || drop(stream.unwrap().write_all(&[7; SENT])));
        }
    });
    address
}

/// Everything that arrives through `proxy` until the end or an error, and that error.
fn receive(proxy: &Proxy) -> (Vec<u8>, Option<ErrorKind>) {
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(SECOND / 5)).unwrap();
    let (mut all, mut buffer) = (vec![], [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (all, None),
            Ok(n) => all.extend_from_slice(&buffer[..n]),
            Err(error) => return (all, Some(error.kind())),
        }
    }
}

#[test]
fn a_proxy_without_a_fault_changes_nothing() {
    let proxy = Proxy::before(sender());
    assert_eq!(receive(&proxy), (vec![7; SENT], None));
    assert_eq!((proxy.fired(), proxy.connections(), proxy.bytes()), (0, 1, SENT as u64));
}

#[test]
fn a_proxy_cuts_where_it_was_told() {
    let proxy = Proxy::before(sender());
    for at in [0, 1, 65_536, 65_537, SENT as u64 - 1] {
        let before = proxy.fired();
        proxy.set(Fault::CutAfter(at));
        let (bytes, _) = receive(&proxy);
        assert_eq!((bytes.len() as u64, proxy.fired()), (at, before + 1));
    }
    proxy.set(Fault::CutAfter(SENT as u64));
    assert_eq!(receive(&proxy).0.len(), SENT, "a cut behind the end cuts nothing");
}

#[test]
fn a_proxy_stalls_without_closing() {
    let proxy = Proxy::before(sender());
    proxy.set(Fault::StallAfter(1000));
    assert_eq!(receive(&proxy), (vec![7; 1000], Some(ErrorKind::WouldBlock)));
    assert_eq!(proxy.fired(), 1);
}

#[test]
fn a_proxy_flips_one_bit_of_one_byte() {
    let proxy = Proxy::before(sender());
    for at in [0, 99_999, SENT - 1] {
        proxy.set(Fault::FlipAt(at as u64));
        let (bytes, error) = receive(&proxy);
        let wrong: Vec<_> =
            bytes.iter().enumerate().filter(|(_, byte)| **byte != 7).map(|(i, byte)| (i, *byte)).collect();
        assert_eq!((wrong, bytes.len(), error), (vec![(at, 7 ^ 0x20)], SENT, None));
    }
}

#[test]
fn a_proxy_replaces_words() {
    let proxy = Proxy::before(sender());
    proxy.set(Fault::Replace(&[7; 10], &[8; 10]));
    let (bytes, error) = receive(&proxy);
    // What comes in two pieces stays as it was.
    let replaced = bytes.iter().filter(|byte| **byte == 8).count();
    assert!(replaced > SENT / 2 && replaced.is_multiple_of(10) && bytes.len() == SENT && error.is_none(), "{replaced}");
    assert!(proxy.fired() >= (SENT / 20) as u64);
}

#[test]
fn a_proxy_delays_and_refuses() {
    let proxy = Proxy::before(sender());
    proxy.set(Fault::Delay(SECOND / 10));
    let started = Instant::now();
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    let mut bytes = vec![];
    stream.read_to_end(&mut bytes).unwrap();
    assert!(bytes.len() == SENT && started.elapsed() >= SECOND / 10);
    proxy.set(Fault::Refuse);
    assert!(receive(&proxy).0.is_empty());
    let nobody = Proxy::before(Port::claim().address());
    assert!(receive(&nobody).0.is_empty(), "a proxy before no server closes");
}

#[test]
fn a_claimed_port_is_nobody_elses() {
    let ports: Vec<_> = (0..50).map(|_| Port::claim()).collect();
    let mut numbers: Vec<_> = ports.iter().map(Port::number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), ports.len());
    TcpListener::bind(ports[0].address()).unwrap();
}

#[test]
fn a_run_has_an_end_and_is_read_whole() {
    let outcome = Run::new("sh").args(&["-c", "cat; echo wrong >&2; exit 3"]).stdin(vec![b'x'; 1 << 20]).run().exits(3);
    assert_eq!((outcome.stdout_bytes.len(), outcome.stderr.as_str()), (1 << 20, "wrong\n"));
    let endless = thread::spawn(|| Run::new("sleep").args(&["600"]).limit(SECOND / 10).run());
    let words = *endless.join().unwrap_err().downcast::<String>().unwrap();
    assert!(words.contains("`sleep 600` was still running"), "{words}");
    assert!(thread::spawn(|| holdfast(&["--version"]).exits(99)).join().is_err(), "the wrong exit code is a failure");
}

/// Run by the two tests below in a binary of their own, which dies in the way they want.
#[test]
fn a_child_for_the_tests_of_the_guard() {
    let Ok(mode) = std::env::var("HARNESS_CHILD_MODE") else { return };
    let log = tempfile::NamedTempFile::new().unwrap();
    let process = Run::new("sleep").args(&["600"]).start(log.path());
    println!("\npid {}", process.pid());
    std::io::stdout().flush().unwrap();
    assert!(mode == "wait", "the owner panics");
    drop(process.said());
    thread::sleep(Duration::from_mins(5));
}

/// Runs that test in a process of its own; the process, and the pid of the child it started.
fn harness_child(mode: &str) -> (std::process::Child, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "a_child_for_the_tests_of_the_guard", "--nocapture"]).env("HARNESS_CHILD_MODE", mode);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let pid = std::iter::from_fn(|| {
        let mut line = String::new();
        (std::io::BufRead::read_line(&mut stdout, &mut line).unwrap() > 0).then_some(line)
    });
    let pid = pid.filter_map(|line| Some(line.strip_prefix("pid ")?.trim().to_owned())).next().expect("a pid");
    (child, pid)
}

fn is_alive(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !status.is_empty() && !status.contains(") Z ")
}

#[test]
fn a_child_dies_with_a_binary_that_is_killed() {
    let (mut binary, pid) = harness_child("wait");
    assert!(is_alive(&pid));
    binary.kill().unwrap();
    binary.wait().unwrap();
    wait_until("the guard killed the child", 10 * SECOND, || !is_alive(&pid));
}

#[test]
fn a_child_dies_with_a_test_that_panics() {
    let (mut binary, pid) = harness_child("panic");
    assert!(!binary.wait().unwrap().success());
    assert!(!is_alive(&pid));
}

#[test]
fn pods_compress_as_real_ones_do() {
    let (mut raw, mut keys) = (vec![], std::collections::BTreeSet::new());
    for n in 0..4000 {
        let (key, value) = objects::pod(1, n);
        assert!((2_400..3_200).contains(&value.len()), "{} bytes", value.len());
        raw.extend_from_slice(&value);
        keys.insert(key);
    }
    assert_eq!(keys.len(), 4000);
    assert_eq!(objects::pod(1, 7), objects::pod(1, 7));
    assert_ne!(objects::pod(1, 7), objects::pod(2, 7));
    assert_ne!(objects::pod_update(1, 7, 1), objects::pod_update(1, 7, 2));
    let stored = zstd::bulk::compress(&raw, 1).unwrap().len();
    let ratio = raw.len() as f64 / stored as f64;
    assert!((5.0..6.5).contains(&ratio), "ratio {ratio}, {} bytes each", raw.len() / 4000);
}

#[test]
fn a_cluster_of_three_survives_its_members() {
    let mut etcd = Etcd::options().members(3).start();
    etcd.etcdctl(&["put", "a", "1"]).success();
    let put = |etcd: &Etcd, i: usize, value: &str| {
        // The first attempts meet an election when it was the leader that went.
        wait_until("the other two elected a leader", 20 * SECOND, || {
            etcd.etcdctl(&["--endpoints", &etcd.endpoint(i), "put", "a", value]).code() == 0
        });
    };
    etcd.kill(0);
    put(&etcd, 1, "2");
    etcd.restart(0);
    etcd.stop(1);
    etcd.restart(1);
    etcd.process(2).pause();
    put(&etcd, 0, "3");
    etcd.process(2).resume();
    wait_until("three members agree", 20 * SECOND, || {
        let hashes = etcd.hash_kv();
        hashes.iter().all(|hash| *hash == hashes[0])
    });
    assert!(etcd.data_dir(0).join("member/snap/db").is_file());
}

#[test]
fn auth_and_mutual_tls_let_in_only_who_may() {
    let etcd = Etcd::options().tls(Tls::Mutual).auth("root", "secret").start();
    etcd.etcdctl(&["put", "a", "1"]).success();
    let certs = etcd.certs().unwrap();
    let etcdctl =
        || Run::new(peers::program(peers::ETCD_3_5, "etcdctl")).args(&["--command-timeout=1s", "--dial-timeout=1s"]);
    let endpoint = etcd.endpoint(0);
    let ca = certs.ca.to_str().unwrap();
    let outcome = etcdctl().args(&["--endpoints", &endpoint, "--cacert", ca, "get", "a"]).run();
    assert_ne!(outcome.code(), 0, "without a certificate: {outcome}");
    let outcome = etcd.etcdctl_run(&["get", "a"]).args(&["--user=root:wrong"]).run();
    assert!(outcome.code() != 0 && outcome.stderr.contains("invalid user ID or password"), "{outcome}");
    let table = etcd.policy_table("prod");
    assert!(
        table.contains("name = \"prod\"") && table.contains("user = \"root\"") && table.contains("key = "),
        "{table}"
    );
    let expired =
        Etcd::options().tls(Tls::Server).server_cert(|certs| (&certs.expired_cert, &certs.expired_key)).start();
    let outcome = expired.etcdctl_run(&["get", "a"]).args(&["--command-timeout=1s"]).run();
    assert_ne!(outcome.code(), 0, "an expired certificate: {outcome}");
}

#[test]
fn a_restored_cluster_has_the_state_of_its_source() {
    let source = Etcd::options().auth("root", "secret").start();
    let lease = source.etcdctl_json(&["lease", "grant", "3600"])["ID"].as_i64().unwrap();
    source.etcdctl(&["put", "leased", "1", &format!("--lease={lease:x}")]).success();
    source.etcdctl(&["put", "kept", "1"]).success();
    source.etcdctl(&["put", "kept", "2"]).success();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("snapshot.db");
    source.etcdctl(&["snapshot", "save", file.to_str().unwrap()]).success();
    let restored = Etcd::options().members(3).auth("root", "secret").restored_from(&file).start();
    assert_eq!(restored.state(), source.state());
    assert_eq!(restored.state().leases.len(), 1);
    let (ours, theirs) = (source.hash_kv()[0], restored.hash_kv());
    assert!(theirs.iter().all(|hash| *hash == ours), "{ours:?} {theirs:?}");
    assert_eq!(restored.revision(), source.revision());
    source.etcdctl(&["put", "kept", "3"]).success();
    assert_ne!(restored.state(), source.state());
}

#[test]
fn a_written_state_repeats_with_its_seed() {
    let options = LoadOptions { keys: 40, ..LoadOptions::default() };
    let states: Vec<_> = [3, 3, 4]
        .into_iter()
        .map(|seed| {
            let etcd = Etcd::start();
            let written = load::write(&etcd, LoadOptions { seed, ..options }, 400);
            assert_eq!(
                (written.errors, &written.first_error, written.kinds.len()),
                (0, &None, 8),
                "{:?}",
                written.kinds
            );
            etcd.state().kvs
        })
        .collect();
    let values = |state: &serde_json::Value| {
        state["kvs"].as_array().unwrap().iter().map(|kv| kv["value"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(values(&states[0]), values(&states[1]));
    assert_ne!(values(&states[0]), values(&states[2]));
}

#[test]
fn writers_go_on_until_they_are_stopped() {
    let etcd = Etcd::options().members(3).tls(Tls::Mutual).auth("root", "secret").start();
    let load = Load::start(&etcd, LoadOptions::default());
    wait_until("a thousand writes were made", 60 * SECOND, || load.total() > 1000);
    let written = load.stop();
    assert_eq!((written.errors, &written.first_error), (0, &None));
    assert_eq!(written.kinds.len(), 8, "{:?}", written.kinds);
    assert!(written.percentile(99) >= written.percentile(50) && written.percentile(50) > Duration::ZERO);
    let revision = etcd.revision();
    assert!(u64::try_from(revision).unwrap() > written.total() / 2);
    assert_eq!(etcd.revision(), revision, "nobody writes any more");
}

#[test]
fn a_cluster_is_filled_with_pods() {
    let etcd = Etcd::start();
    assert_eq!(load::fill(&etcd, 1, 0, 1050), 12, "eleven transactions after revision 1");
    let counted = etcd.etcdctl(&["get", "/registry/pods/", "--prefix", "--count-only", "-w", "fields"]).success();
    assert!(counted.stdout().contains("\"Count\" : 1050\n"), "{counted}");
    let (key, value) = objects::pod(1, 1049);
    let got = etcd.etcdctl(&["get", &key, "--print-value-only"]).success();
    assert_eq!(got.stdout_bytes[..value.len()], value);
}
