//! A member at work, with limits so small that each path is taken.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::api::etcdserverpb::alarm_request::AlarmAction;
use crate::api::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest,
};
use crate::base::clock::Stopwatch;
use crate::base::error::{Error, Kind};
use crate::base::steps::{Edge, Steps};
use crate::base::stop::{Stop, blocking};
use crate::store::machine::command::Operation;
use crate::store::machine::refusal::Refusal;
use crate::store::machine::{Reply, range};
use crate::store::node::testing::{self, paths};
use crate::store::node::{Fault, Handle, Member, Paths, create};
use crate::store::options::Tuning;

fn small() -> Tuning {
    Tuning {
        flush_bytes: 2000,
        flush_interval: Duration::from_millis(20),
        unflushed_bytes_max: 20_000,
        segment_bytes: 16 << 10,
        entry_bytes_max: 500,
        cache_bytes: 1 << 20,
        lease_scan: Duration::from_millis(20),
        heartbeat: Duration::from_millis(10),
        disk_reserve_bytes: 0,
        ..Tuning::default()
    }
}

fn member() -> Member {
    Member { cluster_id: 7, member_id: 8, name: "one".to_owned(), ..Member::default() }
}

async fn begin(dir: &Path, tuning: Tuning) -> Handle {
    testing::begin(dir, member(), tuning).await
}

fn put(key: &str, value: &str) -> Operation {
    Operation::Put(PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..PutRequest::default() })
}

fn revision(reply: &Reply) -> i64 {
    match reply {
        Reply::Put(reply) => reply.header.unwrap().revision,
        Reply::DeleteRange(reply) => reply.header.unwrap().revision,
        _ => panic!("{reply:?}"),
    }
}

fn everything(handle: &Handle) -> Vec<(String, String, i64)> {
    let request = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..RangeRequest::default() };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let found = range(&handle.state(), &request).unwrap();
    found.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value), kv.mod_revision)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_and_stays_there() {
    let dir = tempfile::tempdir().unwrap();
    let handle = begin(dir.path(), small()).await;
    let count = AtomicU64::default();
    for round in 0..3 {
        let clients = (0..16).map(|client| {
            let (handle, count) = (&handle, &count);
            async move {
                let mut last = 0;
                for n in 0..40 {
                    let value = format!("{round} {n} {}", "x".repeat(50));
                    let reply = handle.propose(put(&format!("{client:02}"), &value)).await.unwrap();
                    assert!(revision(&reply) > last, "revisions only grow");
                    last = revision(&reply);
                    count.fetch_add(1, Ordering::Relaxed);
                    let found = everything(handle).into_iter().find(|(key, ..)| *key == format!("{client:02}"));
                    assert_eq!(found.unwrap(), (format!("{client:02}"), value, last), "a reader sees its own writes");
                }
            }
        });
        futures::future::join_all(clients).await;
    }
    let written = i64::try_from(count.load(Ordering::Relaxed)).unwrap();
    assert_eq!(handle.state().view.revision(), written + 1);
    let status = handle.status();
    assert_eq!((status.leader, status.term, status.committed), (8, 1, status.applied));
    // Fewer entries than commands: they are agreed on together.
    assert!(status.applied < count.load(Ordering::Relaxed), "{status:?}");
    let before = everything(&handle);
    handle.stop().await;
    assert_eq!(handle.propose(put("a", "")).await, Err(Fault::Stopped));
    drop(handle);
    // The log was cut off behind the state: some segments are gone, and the last is not the first.
    let mut segments: Vec<_> =
        std::fs::read_dir(dir.path().join("wal")).unwrap().map(|e| e.unwrap().file_name()).collect();
    segments.sort();
    assert!(segments.len() < 6, "{segments:?}");
    assert!(!format!("{:?}", segments[0]).contains("0000000001"), "{segments:?}");
    let again = Handle::start(&paths(dir.path()), member(), small()).await.unwrap();
    assert_eq!((everything(&again), again.status().term), (before, 2));
    assert_eq!(revision(&again.propose(put("a", "")).await.unwrap()), written + 2);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_end_in_time_and_not_while_they_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let handle = begin(dir.path(), small()).await;
    for id in [1, 2] {
        handle.propose(Operation::LeaseGrant(LeaseGrantRequest { id, ttl: 1 })).await.unwrap();
        let key = format!("key {id}").into();
        handle.propose(Operation::Put(PutRequest { key, lease: id, ..PutRequest::default() })).await.unwrap();
    }
    assert_eq!(handle.leases().await.unwrap().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2]);
    let mut published = handle.published();
    let mut kept = 0;
    while everything(&handle).len() == 2 {
        assert_eq!(handle.keep_alive(2).await, Ok(1));
        kept += 1;
        let _ = tokio::time::timeout(Duration::from_millis(50), published.changed()).await;
    }
    assert!(kept >= 15, "a second has passed: {kept}");
    assert_eq!((handle.keep_alive(1).await, handle.time_left(1).await), (Ok(0), Ok(None)));
    assert_eq!(everything(&handle)[0].0, "key 2");
    assert!(handle.time_left(2).await.unwrap().unwrap() > 0);
    handle.stop().await;
    drop((handle, published));
    // It begins again in full after a start.
    let again = Handle::start(&paths(dir.path()), member(), small()).await.unwrap();
    assert!(again.time_left(2).await.unwrap().unwrap() > 800);
    let mut published = again.published();
    published.wait_for(|revision| *revision == 5).await.unwrap();
    assert_eq!(everything(&again), []);
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_quota_raises_the_alarm_and_there_is_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let tuning = Tuning { quota_bytes: Some(3 << 20), unflushed_bytes_max: 4 << 20, ..small() };
    let handle = begin(dir.path(), tuning).await;
    let value = "v".repeat(100_000);
    let mut revisions = 0;
    let refused = loop {
        match handle.propose(put("key", &value)).await {
            Ok(_) => revisions += 1,
            Err(fault) => break fault,
        }
        assert!(revisions < 100, "no end");
    };
    assert_eq!(refused, Fault::Refused(Refusal::NoSpace));
    assert!(handle.state().alarms.is_active(AlarmType::Nospace));
    let before = handle.status();
    let at = handle.state().view.revision();
    handle.propose(Operation::Compaction(CompactionRequest { revision: at, physical: true })).await.unwrap();
    handle.removed().await.unwrap();
    assert!(handle.status().used_bytes < 200_000, "{:?}", handle.status());
    handle.defragment().await.unwrap();
    let after = handle.status();
    assert!(after.file_bytes < before.file_bytes / 2, "{before:?} {after:?}");
    handle.propose(disarm()).await.unwrap();
    handle.propose(put("key", &value)).await.unwrap();
    handle.stop().await;
    drop(handle);
    let again = Handle::start(&paths(dir.path()), member(), small()).await.unwrap();
    assert_eq!(everything(&again), [("key".to_owned(), value, at + 1)]);
    again.stop().await;
}

/// What was acknowledged is there, and a member ends that does not know which file is its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_name_is_not_durable_ends_the_member() {
    let dir = tempfile::tempdir().unwrap();
    begin(dir.path(), small()).await.stop().await;
    let steps = Steps::heard_by(|step| match (step.name, step.edge) {
        ("put the copy in place", Edge::After) => Err(Error::new(Kind::Failed, "the disk failed")),
        _ => Ok(()),
    });
    let handle = Handle::start_heard(&paths(dir.path()), member(), small(), &steps).await.unwrap();
    handle.propose(put("key", "1")).await.unwrap();
    handle.defragment().await.unwrap_err();
    let mut last = 1;
    while handle.propose(put("key", &format!("{}", last + 1))).await.is_ok() {
        last += 1;
        assert!(last < 100_000, "it goes on with a file that the next start may not find");
    }
    assert!(handle.ended().await.unwrap_err().to_string().contains("the disk failed"));
    drop(handle);
    let again = Handle::start(&paths(dir.path()), member(), small()).await.unwrap();
    let found: i64 = everything(&again)[0].1.parse().unwrap();
    assert!(found >= last, "{found} {last}");
    again.stop().await;
}

/// A member that is to end does not copy gigabytes first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_member_ends_its_defragmentation() {
    let dir = tempfile::tempdir().unwrap();
    begin(dir.path(), small()).await.stop().await;
    let (begun, begins) = std::sync::mpsc::channel();
    let steps = Steps::heard_by(move |step| {
        if (step.name, step.edge) == ("copy the state", Edge::Before) {
            begun.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    });
    let handle = Handle::start_heard(&paths(dir.path()), member(), small(), &steps).await.unwrap();
    handle.propose(put("key", "1")).await.unwrap();
    let (asking, stopping) = (handle.clone(), handle.clone());
    let asked = tokio::spawn(async move { asking.defragment().await });
    blocking(move || begins.recv().unwrap()).await;
    stopping.stop().await;
    assert_eq!(asked.await.unwrap().unwrap_err().kind(), Kind::Interrupted);
    handle.ended().await.unwrap();
    drop((handle, stopping));
    let again = Handle::start(&paths(dir.path()), member(), small()).await.unwrap();
    assert_eq!(everything(&again).len(), 1);
    again.stop().await;
}

/// While somebody looks at what a compaction made superfluous, it stays; and a file written anew is the same state.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_outlive_compactions_flushes_and_a_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let handle = begin(dir.path(), small()).await;
    for n in 0..200 {
        handle.propose(put(&format!("{:02}", n % 20), &format!("{n}"))).await.unwrap();
    }
    let (old, at) = (handle.state(), handle.state().view.revision());
    let seen = everything(&handle);
    let delete = DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), ..DeleteRangeRequest::default() };
    let reply = handle.propose(Operation::DeleteRange(delete)).await.unwrap();
    assert_eq!(revision(&reply), at + 1);
    let compact = CompactionRequest { revision: at + 1, physical: false };
    handle.propose(Operation::Compaction(compact)).await.unwrap();
    let waiting = tokio::spawn({
        let handle = handle.clone();
        async move { handle.removed().await }
    });
    for n in 0..50 {
        handle.propose(put("new", &format!("{n}"))).await.unwrap();
    }
    handle.defragment().await.unwrap();
    let request = RangeRequest { key: "\0".into(), range_end: "\0".into(), ..RangeRequest::default() };
    let found = range(&old, &request).unwrap();
    assert_eq!(
        found.kvs.iter().map(|kv| kv.mod_revision).collect::<Vec<_>>(),
        seen.iter().map(|s| s.2).collect::<Vec<_>>()
    );
    assert!(!waiting.is_finished(), "the view holds it");
    drop(old);
    waiting.await.unwrap().unwrap();
    // There is nothing left to wait for.
    handle.removed().await.unwrap();
    let used = handle.status().used_bytes;
    handle.defragment().await.unwrap();
    assert_eq!((handle.status().used_bytes, everything(&handle).len()), (used, 1));
    handle.stop().await;
}

/// Answers each byte with itself; before a `p` it has something written.
async fn answer(mut stream: tokio::net::TcpStream, handle: Handle) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).await.is_ok() {
        if byte == *b"p" {
            handle.propose(put("key", "v")).await.unwrap();
        }
        stream.write_all(&byte).await.unwrap();
    }
}

/// While the disk takes its time, sockets are looked after. Whoever asks is outside of the runtime, all of whose workers
/// sleep: one is woken to write, and must not be the last.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn whoever_does_not_wait_for_the_disk_does_not_wait() {
    const SLOW: Duration = Duration::from_millis(600);
    let (dir, writing) = (tempfile::tempdir().unwrap(), Arc::new(AtomicBool::new(false)));
    let disk = Arc::clone(&writing);
    let steps = Steps::heard_by(move |step| {
        if step.name == "append to the log" && step.edge == Edge::Before && disk.load(Ordering::SeqCst) {
            std::thread::sleep(SLOW);
        }
        Ok(())
    });
    std::fs::create_dir_all(dir.path().join("wal")).unwrap();
    create(&paths(dir.path()), &member(), &small()).unwrap();
    let handle = Handle::start_heard(&paths(dir.path()), member(), small(), &steps).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, serving) = (listener.local_addr().unwrap(), handle.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, serving.clone()));
        }
    });
    let (done, waits) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let (mut writer, mut reader) = (TcpStream::connect(address).unwrap(), TcpStream::connect(address).unwrap());
        let ask = |stream: &mut TcpStream, what: &[u8]| {
            stream.write_all(what).unwrap();
            stream.read_exact(&mut [0]).unwrap();
        };
        ask(&mut writer, b"?");
        let waits: Vec<Duration> = (0..4)
            .map(|_| {
                writing.store(false, Ordering::SeqCst);
                ask(&mut reader, b"p");
                // Until everybody sleeps.
                std::thread::sleep(Duration::from_millis(100));
                writing.store(true, Ordering::SeqCst);
                writer.write_all(b"p").unwrap();
                std::thread::sleep(Duration::from_millis(30));
                let waited = Stopwatch::start();
                ask(&mut reader, b"?");
                let waited = waited.elapsed();
                writer.read_exact(&mut [0]).unwrap();
                waited
            })
            .collect();
        done.send(waits).unwrap();
    });
    let waits = waits.await.unwrap();
    assert!(waits.iter().all(|wait| *wait < SLOW / 3), "{waits:?}");
    handle.stop().await;
}

/// On one thread: the core has its turn when everybody has asked.
#[tokio::test]
async fn too_much_is_refused_and_nothing_waits_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let tuning = Tuning { queue_max: 4, queue_bytes_max: 3000, request_bytes_max: 1000, ..small() };
    let handle = begin(dir.path(), tuning).await;
    assert_eq!(handle.propose(put("key", &"v".repeat(1000))).await, Err(Fault::TooLarge));
    let many = (0..64).map(|n| handle.propose(put(&format!("{n}"), "")));
    let replies = futures::future::join_all(many).await;
    let refused = replies.iter().filter(|reply| **reply == Err(Fault::TooManyRequests)).count();
    assert_eq!(refused, 60, "by their number");
    assert_eq!(replies.iter().filter(|reply| reply.is_ok()).count(), 64 - refused);
    let large = (0..4).map(|n| handle.propose(put(&format!("{n}"), &"v".repeat(900))));
    let refused = futures::future::join_all(large).await.into_iter().filter(Result::is_err).count();
    assert_eq!(refused, 1, "by their bytes");
    assert!(handle.propose(put("key", "")).await.is_ok(), "those who waited have made room");
    handle.stop().await;
}

/// Log and state that are not of one piece are refused, and so is a log that is another member's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_belong_together_is_not_started() {
    let dir = tempfile::tempdir().unwrap();
    let handle = begin(dir.path(), small()).await;
    let fresh = dir.path().join("fresh");
    let other = begin(&fresh, small()).await;
    for n in 0..300 {
        handle.propose(put(&format!("{n}"), &"v".repeat(100))).await.unwrap();
    }
    handle.stop().await;
    other.stop().await;
    drop((handle, other));
    // A young state with an old log: the log's beginning is gone.
    let (mine, young) = (paths(dir.path()), paths(&fresh));
    for (paths, text) in [
        (Paths { state: young.state.clone(), log: mine.log.clone() }, "the log begins after entry"),
        (Paths { state: mine.state.clone(), log: young.log.clone() }, "the log ends at entry"),
    ] {
        let error = Handle::start(&paths, member(), small()).await.unwrap_err();
        assert!(error.to_string().contains(text) && error.kind() == Kind::Damaged, "{error}");
    }
    let stranger = Member { member_id: 9, ..member() };
    let error = Handle::start(&mine, stranger, small()).await.unwrap_err();
    assert!(error.to_string().contains("belongs to member 8 of cluster 7"), "{error}");
}

/// Makes a member whose log cannot have another segment while that is switched on.
async fn tight(dir: &Path, tuning: Tuning) -> (Handle, Arc<AtomicBool>) {
    let is_full = Arc::new(AtomicBool::new(true));
    let disk = Arc::clone(&is_full);
    let steps = Steps::heard_by(move |step| match step.name == "prepare a segment" && disk.load(Ordering::SeqCst) {
        true => Err(Error::io("prepare", std::io::Error::from(std::io::ErrorKind::StorageFull))),
        false => Ok(()),
    });
    std::fs::create_dir_all(dir.join("wal")).unwrap();
    create(&paths(dir), &member(), &tuning).unwrap();
    (Handle::start_heard(&paths(dir), member(), tuning, &steps).await.unwrap(), is_full)
}

fn disarm() -> Operation {
    let (action, alarm) = (AlarmAction::Deactivate as i32, AlarmType::Nospace as i32);
    Operation::Alarm(AlarmRequest { action, member_id: 8, alarm })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_room_refuses_what_takes_some_and_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (handle, is_full) = tight(dir.path(), small()).await;
    let mut revisions = 1;
    let refused = loop {
        match handle.propose(put("key", &"v".repeat(100))).await {
            Ok(_) => revisions += 1,
            Err(fault) => break fault,
        }
        assert!(revisions < 1000, "no end");
    };
    assert_eq!(refused, Fault::Refused(Refusal::NoSpace));
    let lease = Operation::LeaseGrant(LeaseGrantRequest { id: 1, ttl: 100 });
    let mut published = handle.published();
    while !handle.state().alarms.is_active(AlarmType::Nospace) {
        let _ = tokio::time::timeout(Duration::from_millis(20), published.changed()).await;
    }
    assert_eq!(handle.propose(lease.clone()).await, Err(Fault::Refused(Refusal::NoSpace)), "as small as it is");
    // What helps is let through, until there is no room for that either: then it waits, and nothing ends.
    let nothing = DeleteRangeRequest { key: "none".into(), ..DeleteRangeRequest::default() };
    let mut deleted = 0;
    let late = loop {
        let mut asked = Box::pin(handle.propose(Operation::DeleteRange(nothing.clone())));
        match tokio::time::timeout(Duration::from_millis(500), &mut asked).await {
            Ok(reply) => assert_eq!(revision(&reply.unwrap()), revisions),
            Err(_) => break asked,
        }
        deleted += 1;
        assert!(deleted < 1000, "no end");
    };
    assert!(deleted > 0);
    assert_eq!(everything(&handle).len(), 1, "reading goes on");
    is_full.store(false, Ordering::SeqCst);
    late.await.unwrap();
    // The alarm stays until it is disarmed.
    assert_eq!(handle.propose(put("key", "")).await, Err(Fault::Refused(Refusal::NoSpace)));
    handle.propose(disarm()).await.unwrap();
    handle.propose(lease).await.unwrap();
    for _ in 0..300 {
        handle.propose(put("key", &"v".repeat(100))).await.unwrap();
    }
    assert!(!handle.state().alarms.is_active(AlarmType::Nospace));
    handle.stop().await;
    handle.ended().await.unwrap();
    drop(handle);
    let again = Handle::start(&paths(dir.path()), member(), small()).await.unwrap();
    assert_eq!(everything(&again)[0].2, revisions + 300);
    again.stop().await;
}

/// What waits for the file counts as if it were there: nothing that is reported changes when it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_to_be_written_counts_with_all_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let never = Tuning {
        flush_interval: Duration::from_secs(3600),
        flush_bytes: 1 << 30,
        unflushed_bytes_max: 1 << 30,
        segment_bytes: 1 << 20,
        ..small()
    };
    let handle = begin(dir.path(), never.clone()).await;
    let empty = handle.status();
    for n in 0..500 {
        // Keys that take more than values do.
        handle.propose(put(&format!("{n:0200}"), "v")).await.unwrap();
    }
    handle.propose(Operation::LeaseGrant(LeaseGrantRequest { id: 1, ttl: 100 })).await.unwrap();
    let waiting = handle.status();
    // The key stands in both rows.
    assert!(waiting.used_bytes > empty.used_bytes + 500 * 400, "{waiting:?}");
    assert!(waiting.file_bytes - empty.file_bytes > waiting.used_bytes - empty.used_bytes, "{waiting:?}");
    handle.defragment().await.unwrap();
    let written = handle.status();
    assert_eq!(written.used_bytes, waiting.used_bytes);
    assert_eq!(written.file_bytes, std::fs::metadata(dir.path().join("db")).unwrap().len());
    handle.stop().await;
    drop(handle);
    // The alarm comes before the file is too large, though nothing of it was written yet.
    let quota = Tuning { quota_bytes: Some(written.file_bytes + 100_000), ..never };
    let handle = Handle::start(&paths(dir.path()), member(), quota).await.unwrap();
    let (before, mut accepted) = (handle.status(), 0);
    while handle.propose(put(&format!("more {accepted:0200}"), "v")).await.is_ok() {
        accepted += 1;
    }
    let after = handle.status();
    let each = (after.file_bytes - before.file_bytes) / accepted;
    assert!((450..550).contains(&each), "{each} bytes each");
    // As it is reported; the one that crosses it is let through.
    let quota = written.file_bytes + 100_000;
    assert!(after.file_bytes + each > quota && after.file_bytes <= quota + each, "{before:?} {after:?} {accepted}");
    handle.stop().await;
}

/// A member that nobody has any more ends, with its threads and its files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_ends_with_its_last_handle() {
    let dir = tempfile::tempdir().unwrap();
    let handle = begin(dir.path(), small()).await;
    handle.propose(put("key", "v")).await.unwrap();
    let open = || {
        let files =
            std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        files.filter(|path| path.starts_with(dir.path())).count()
    };
    assert!(open() >= 2, "state and log");
    let (copy, end) = (handle.clone(), Arc::clone(&handle.shared.end));
    drop(handle);
    copy.propose(put("key", "w")).await.unwrap();
    drop(copy);
    end.wait().await;
    while open() > 0 {
        tokio::task::yield_now().await;
    }
    let again = Handle::start(&paths(dir.path()), member(), small()).await.unwrap();
    assert_eq!(everything(&again)[0].1, "w");
    again.stop().await;
}

/// Bytes change on the disk that nobody reads: the member finds out by itself, says so with an alarm that outlives it, and
/// ends. What is read from it afterwards is read only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_reads_is_read_now_and_then() {
    let dir = tempfile::tempdir().unwrap();
    let often = Tuning {
        scrub_interval: Duration::from_millis(50),
        scrub_bytes_per_s: 64 << 20,
        cache_bytes: 64 << 10,
        ..small()
    };
    let handle = begin(dir.path(), often).await;
    for n in 0..300 {
        handle.propose(put(&format!("{n:03}"), &format!("{n:03}").repeat(500))).await.unwrap();
    }
    let scrubs = |handle: &Handle| handle.counters().scrubs.get();
    let before = scrubs(&handle);
    while scrubs(&handle) < before + 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(handle.counters().scrubbed_bytes.get() > 300 * 1500 && handle.counters().scrubs_failed.get() == 0);
    assert!(handle.counters().scrubbed_at_ms.get() > 0);
    let path = paths(dir.path()).state;
    let bytes = std::fs::read(&path).unwrap();
    let wanted = "123".repeat(500).into_bytes();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    for (at, _) in bytes.windows(wanted.len()).enumerate().filter(|(_, window)| *window == wanted) {
        std::os::unix::fs::FileExt::write_all_at(&file, b"!", at as u64 + 700).unwrap();
    }
    let error = handle.ended().await.unwrap_err();
    assert!(error.to_string().contains("does not match its checksum"), "{error}");
    assert_eq!(handle.counters().scrubs_failed.get(), 1);
    drop(handle);
    let again = Handle::start(&paths(dir.path()), member(), small()).await.unwrap();
    assert!(again.state().alarms.is_active(AlarmType::Corrupt));
    assert_eq!(again.propose(put("a", "")).await, Err(Fault::Refused(Refusal::Corrupt)));
    let error = again.scrub(&Stop::new()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    again.stop().await;
}
