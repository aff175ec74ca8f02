//! Connections that are not as they should be: authorities with a scheme, clients that stand still, halves of connections,
//! and very many of them. Nobody else is disturbed, memory is bounded, and nothing stays behind.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::member::{LIMIT, Member, get};
use crate::support::peers::{ETCD_3_5, program};
use crate::support::run::{Process, Run, wait_until};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// How long a member without a sign of life waits: long enough for a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(4);
/// Megabytes of values in these tests.
const MEGABYTES: usize = 40;
/// A request for all of them.
const ALL_VALUES: &[u8] = b"\x0a\x04key-\x12\x04key.";
/// So little of an answer the system takes from a slow reader's member.
const RECEIVED_BYTES_MAX: usize = 256 << 10;
/// More than that a member with those values, and with clients that stand still, does not hold.
const MEMORY_BYTES: f64 = 450e6;

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A request over gRPC, written by hand: `authority` as the bytes of its field.
fn call(stream: u32, path: &str, authority: &[u8], message: &[u8]) -> Vec<u8> {
    let text = |text: &[u8]| [&[u8::try_from(text.len()).unwrap()], text].concat();
    let fields = [
        b"\x83\x86\x04".to_vec(),
        text(path.as_bytes()),
        authority.to_vec(),
        b"\x0f\x10".to_vec(),
        text(b"application/grpc"),
        b"\x00\x02te\x08trailers".to_vec(),
    ];
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = [&[0], &length[..], message].concat();
    [frame(HEADERS, END_HEADERS, stream, &fields.concat()), frame(DATA, END_STREAM, stream, &body)].concat()
}

/// A connection that has greeted, with windows so large that the server never waits for one.
fn greeted(member: &Member) -> TcpStream {
    let mut stream = TcpStream::connect(member.client.address()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let windows = [&[0, 4][..], &i32::MAX.to_be_bytes()].concat();
    let update = frame(WINDOW_UPDATE, 0, 0, &0x3fff_ffff_u32.to_be_bytes());
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &windows), &update].concat()).unwrap();
    stream
}

/// Frames of a stream until it ends; their kinds.
fn answer(connection: &mut TcpStream, stream: u32) -> Vec<u8> {
    let mut kinds = vec![];
    loop {
        let mut head = [0; 9];
        connection.read_exact(&mut head).unwrap();
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        connection.read_exact(&mut payload).unwrap();
        assert_ne!(head[3], GOAWAY, "{payload:?}");
        if u32::from_be_bytes(head[5..].try_into().unwrap()) == stream {
            kinds.push(head[3]);
            if head[3] == RST_STREAM || (matches!(head[3], DATA | HEADERS) && head[4] & END_STREAM != 0) {
                return kinds;
            }
        }
    }
}

/// Streams that end in a way that the server has to end them too: whatever a client's library makes of calls that are given
/// up, its connection stays.
#[test]
fn a_client_may_give_up_as_many_streams_as_it_likes() {
    const STREAMS: u32 = 3000;
    let member = Member::start(&[]);
    let authority = [&[0x41, 9][..], b"127.0.0.1"].concat();
    let range = |stream| call(stream, "/etcdserverpb.KV/Range", &authority, b"\x0a\x01a");
    let mut connection = greeted(&member);
    let mut stream = 1;
    // The server has answered, and hears more of a call that is over.
    for _ in 0..STREAMS {
        connection.write_all(&range(stream)).unwrap();
        answer(&mut connection, stream);
        connection.write_all(&frame(DATA, END_STREAM, stream, &[])).unwrap();
        stream += 2;
    }
    // Hundreds of calls in one write, each given up before it is looked at.
    for _ in 0..10 {
        let mut burst = vec![];
        for _ in 0..300 {
            burst.extend([range(stream), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat());
            stream += 2;
        }
        connection.write_all(&burst).unwrap();
        connection.write_all(&range(stream)).unwrap();
        assert!(answer(&mut connection, stream).ends_with(&[HEADERS]), "the next call is answered");
        stream += 2;
    }
}

/// The value of a metric.
fn metric(member: &Member, name: &str) -> f64 {
    let page = get(&member.client.address(), "/metrics").body;
    let line = page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line.unwrap_or_else(|| panic!("no {name}")).rsplit_once(' ').unwrap().1.parse().unwrap()
}

fn etcdctl(member: &Member, args: &[&str]) -> Run {
    let flags = [format!("--endpoints={}", member.endpoint()), "--command-timeout=20s".to_owned()];
    Run::new(program(ETCD_3_5, "etcdctl")).env("ETCDCTL_API", "3").args(&flags).args(args)
}

/// Writes values of a megabyte each.
fn fill(member: &Member) {
    for i in 0..MEGABYTES {
        etcdctl(member, &["put", &format!("key-{i:02}")]).stdin("v".repeat(1_000_000)).run().success();
    }
}

/// A member that asks for a sign of life so often, and soon misses it, with values.
fn impatient(interval: &str) -> Member {
    let (interval, timeout) =
        (format!("--grpc-keepalive-interval={interval}"), format!("--grpc-keepalive-timeout={}s", PATIENCE.as_secs()));
    let member = Member::start(&[&interval, &timeout]);
    fill(&member);
    member
}

#[test]
fn an_authority_with_a_scheme_is_no_reason_to_refuse_a_client() {
    let member = Member::start(&[]);
    let address = member.client.address();
    for scheme in ["http", "https"] {
        let authority = format!("{scheme}://{address}");
        let field = [&[0x41, u8::try_from(authority.len()).unwrap()], authority.as_bytes()].concat();
        let mut connection = greeted(&member);
        let path = "/etcdserverpb.Maintenance/Status";
        connection.write_all(&call(1, path, &field, b"")).unwrap();
        assert_eq!(answer(&mut connection, 1), [HEADERS, DATA, HEADERS]);
        // By its place in the table of fields, as every later request names it.
        connection.write_all(&call(3, path, &[0xbe], b"")).unwrap();
        assert_eq!(answer(&mut connection, 3), [HEADERS, DATA, HEADERS]);
    }
    // What is no authority for another reason is refused as before.
    let mut connection = greeted(&member);
    connection.write_all(&call(1, "/etcdserverpb.Maintenance/Status", b"\x41\x03a/b", b"")).unwrap();
    assert_eq!(answer(&mut connection, 1), [RST_STREAM]);
}

/// Waits for a client to be cut off, by name; the line that says so.
fn cut_off(member: &Member, doing: &str) -> String {
    let line =
        || member.log().lines().find(|line| line.contains("was cut off") && line.contains(doing)).map(str::to_owned);
    wait_until("a client is cut off", LIMIT, || line().is_some());
    line().unwrap()
}

/// Others are served while somebody stands still.
fn others_are_served(member: &Member) {
    etcdctl(member, &["put", "other", "client"]).run().success();
    assert_eq!(etcdctl(member, &["get", "other"]).run().success().stdout(), "other\nclient\n");
    let resident = metric(member, "process_resident_memory_bytes");
    assert!(resident < MEMORY_BYTES, "{resident} bytes");
}

/// The client's side of its only connection to a member, as the system tells it.
fn address_of(process: &Process, member: &Member) -> String {
    let hex = format!("0100007F:{:04X}", member.client.number());
    let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", process.pid())).unwrap();
    let mut own = vec![];
    for fd in std::fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap() {
        let Ok(target) = std::fs::read_link(fd.unwrap().path()) else { continue };
        own.extend(target.to_str().and_then(|t| t.strip_prefix("socket:[")?.strip_suffix(']').map(str::to_owned)));
    }
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut found = fields.filter(|fields| fields[2] == hex && own.iter().any(|inode| inode == fields[9]));
    let local = found.next().expect("it is connected")[1].split_once(':').unwrap().1.to_owned();
    format!("127.0.0.1:{}", u16::from_str_radix(&local, 16).unwrap())
}

#[test]
fn a_watcher_and_a_reader_of_a_snapshot_that_stand_still_are_cut_off_by_name() {
    let member = impatient("1s");
    let (watch_log, dir) = (member.dir.path().join("watch"), member.dir.path());
    let watch = etcdctl(&member, &["watch", "key-", "--prefix", "--rev=2"]).start(&watch_log);
    wait_until("the watcher reads", LIMIT, || std::fs::metadata(&watch_log).unwrap().len() > 1_000_000);
    watch.pause();
    let address = address_of(&watch, &member);
    let (saved, part) = (dir.join("saved.db"), dir.join("saved.db.part"));
    let read_bytes = || std::fs::metadata(&part).map_or(0, |part| part.len());
    // One that is paused half-way; one that was too quick is done with.
    let half_way = (0..20).find_map(|_| {
        drop(std::fs::remove_file(&saved));
        let save = etcdctl(&member, &["snapshot", "save", saved.to_str().unwrap()]).start(dir.join("save"));
        wait_until("the snapshot is read", LIMIT, || read_bytes() > 0 || saved.exists());
        save.pause();
        (1..MEGABYTES as u64 * 800_000).contains(&read_bytes()).then_some(save)
    });
    let save = half_way.expect("a reader is paused in time");
    others_are_served(&member);
    let line = cut_off(&member, "x Watch");
    assert!(line.contains(&address) && line.contains("\"level\":\"warn\""), "{address}: {line}");
    others_are_served(&member);
    let line = cut_off(&member, "x Snapshot");
    assert!(line.contains("\"remote_addr\":\"127.0.0.1:"), "{line}");
    wait_until("nothing is left of them", LIMIT, || metric(&member, "etcd_debugging_mvcc_watch_stream_total") == 0.0);
    others_are_served(&member);
    drop((watch, save));
}

#[test]
fn a_client_that_takes_nothing_of_a_huge_answer_is_cut_off_by_name() {
    let member = impatient("1s");
    let before = metric(&member, "process_open_fds");
    let mut silent = vec![];
    for _ in 0..3 {
        let mut connection = greeted(&member);
        connection.write_all(&call(1, "/etcdserverpb.KV/Range", b"\x41\x01a", ALL_VALUES)).unwrap();
        silent.push(connection);
    }
    for connection in &silent {
        let line = cut_off(&member, &connection.local_addr().unwrap().to_string());
        assert!(line.contains("1 x Range"), "{line}");
    }
    wait_until("nothing is left of them", LIMIT, || metric(&member, "process_open_fds") <= before);
    etcdctl(&member, &["put", "other", "client"]).run().success();
    let resident = metric(&member, "process_resident_memory_bytes");
    assert!(resident < MEMORY_BYTES, "{resident} bytes");
}

/// It sends no questions: one waits behind whatever the system still holds for the reader, and this one takes longer than
/// the member's patience to come to it.
#[test]
fn a_client_that_reads_a_huge_answer_slowly_is_answered_to_the_end() {
    let member = impatient("2h");
    let mut connection = greeted(&member);
    // Most of the answer waits in the member, and not in the system.
    set_socket_recv_buffer_size(&connection, RECEIVED_BYTES_MAX).unwrap();
    connection.write_all(&call(1, "/etcdserverpb.KV/Range", b"\x41\x01a", ALL_VALUES)).unwrap();
    let (mut taken, mut piece, begun) = (0, vec![0; 4 << 20], Instant::now());
    while taken < MEGABYTES * 1_000_000 {
        let wanted = piece.len().min(MEGABYTES * 1_000_000 - taken);
        connection.read_exact(&mut piece[..wanted]).unwrap();
        taken += wanted;
        thread::sleep(PATIENCE / 6);
    }
    assert!(begun.elapsed() > PATIENCE * 3 / 2, "it was slower than a client that stands still may be");
}

#[test]
fn halves_of_connections_and_a_thousand_idle_ones_leave_nothing_behind() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let member = Member::start(&[]);
    let address = member.client.address();
    let look = || (metric(&member, "process_open_fds"), metric(&member, "process_resident_memory_bytes"));
    let before = look();
    let idle: Vec<TcpStream> =
        (0..1000).map(|i| if i % 2 == 0 { greeted(&member) } else { TcpStream::connect(&address).unwrap() }).collect();
    wait_until("they are taken", LIMIT, || look().0 >= before.0 + 1000.0);
    let during = look();
    assert!(during.1 - before.1 < 100e6, "{} bytes for a thousand", during.1 - before.1);
    member.etcdctl(&["put", "a", "1"]).success();
    drop(idle);
    wait_until("they are gone", LIMIT, || look().0 <= before.0);

    // Whoever has said everything is answered; what has no end of its own ends with its client.
    for _ in 0..50 {
        let mut page = TcpStream::connect(&address).unwrap();
        page.write_all(format!("GET /version HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).unwrap();
        page.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        page.read_to_string(&mut text).unwrap();
        assert!(text.contains("etcdserver"), "{text:?}");
    }
    let mut half = vec![];
    for i in 0..50_u8 {
        let mut connection = greeted(&member);
        let create = b"\x0a\x05\x0a\x03key";
        let mut request = call(1, "/etcdserverpb.Watch/Watch", b"\x41\x01a", create);
        if i % 2 == 0 {
            request.truncate(request.len() - 4);
        }
        connection.write_all(&request).unwrap();
        half.push(connection);
    }
    half.iter().for_each(|connection| connection.shutdown(Shutdown::Write).unwrap());
    wait_until("they are gone", LIMIT, || look().0 <= before.0);
    assert_eq!(metric(&member, "etcd_debugging_mvcc_watch_stream_total"), 0.0);
    assert!(look().1 - before.1 < 100e6);
    drop(half);
}
