//! A member's directory as the first release writes it, frozen (tests/fixtures/member-1), and read byte by byte as
//! docs/formats/state.md and docs/formats/log.md say: of the program's code, only the messages that those name are used.
//!
//! The member that was frozen had been stopped once and then killed: its state ends where it was stopped, and its log has
//! what came after. `facts.txt` says what is in both.
//!
//! `HOLDFAST_TEST_FREEZE=write cargo test --test compat member` freezes it anew. That is for a format that no release wrote
//! yet: afterwards a new format gets a folder of its own, and this one stays as it is.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use holdfast::api::etcdserverpb::alarm_request::AlarmAction;
use holdfast::api::etcdserverpb::request_op::Request;
use holdfast::api::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RequestOp,
    TxnRequest,
};
use holdfast::api::holdfast::v1::command::Operation;
use holdfast::api::holdfast::v1::lease_checkpoints::Checkpoint;
use holdfast::api::holdfast::v1::{Commands, LeaseCheckpoints, LogFrame, LogHeader};
use holdfast::api::mvccpb::KeyValue;
use holdfast::api::{Message, leasepb};
use holdfast::store::backend::{Backend, SideChange, Space};
use holdfast::store::datadir::Datadir;
use holdfast::store::datadir::identity::Identity;
use holdfast::store::node::{Handle, Member, Paths, create};
use holdfast::store::options::Tuning;
use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

use crate::thaw::{NEWEST, folder, thaw};

const FREEZE_VARIABLE: &str = "HOLDFAST_TEST_FREEZE";
/// What a frozen directory may weigh.
const FROZEN_BYTES_MAX: u64 = 200 << 10;
/// Small, so that the log has two of them.
const SEGMENT_BYTES: u64 = 16 << 10;

const LEASE: i64 = 0x1234;
const LATER_LEASE: i64 = 0x77;

// The member that is frozen.

fn tuning(flush_interval: Duration) -> Tuning {
    let heartbeat = Duration::from_millis(10);
    Tuning { segment_bytes: SEGMENT_BYTES, flush_interval, disk_reserve_bytes: 0, heartbeat, ..Tuning::default() }
}

fn put(key: &[u8], value: &[u8], lease: i64) -> PutRequest {
    PutRequest { key: key.to_vec().into(), value: value.to_vec().into(), lease, ..PutRequest::default() }
}

fn delete(key: &[u8]) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.to_vec().into(), ..DeleteRangeRequest::default() }
}

/// What its state holds: revisions 2 to 10.
fn first_life() -> Vec<Operation> {
    let op = |request| RequestOp { request: Some(request) };
    let success = vec![
        op(Request::RequestPut(put(b"b", b"one", 0))),
        op(Request::RequestPut(put(b"c", b"one", 0))),
        op(Request::RequestDeleteRange(delete(b"a"))),
    ];
    vec![
        Operation::Put(put(b"a", b"one", 0)),
        Operation::Put(put(b"a", b"two", 0)),
        Operation::Txn(TxnRequest { success, ..TxnRequest::default() }),
        Operation::LeaseGrant(LeaseGrantRequest { id: LEASE, ttl: 3600 }),
        Operation::Put(put(b"leased", b"", LEASE)),
        Operation::Put(put(b"large", &[b'x'; 9000], 0)),
        Operation::Put(put(b"\0\xff", b"", 0)),
        Operation::DeleteRange(delete(b"b")),
        Operation::Compaction(CompactionRequest { revision: 5, physical: false }),
        Operation::Put(put(b"a", b"three", 0)),
        Operation::LeaseCheckpoints(LeaseCheckpoints { checkpoints: vec![Checkpoint { id: LEASE, remaining: 1800 }] }),
        Operation::Put(put(b"c", b"two", 0)),
    ]
}

/// What its log alone holds: revisions 11 to 13.
fn second_life(member_id: u64) -> Vec<Operation> {
    let (action, alarm) = (AlarmAction::Activate as i32, AlarmType::Nospace as i32);
    vec![
        Operation::Put(put(b"c", &[b'y'; 9000], 0)),
        Operation::DeleteRange(delete(b"large")),
        Operation::LeaseGrant(LeaseGrantRequest { id: LATER_LEASE, ttl: 7200 }),
        Operation::Put(put(b"later", b"one", LATER_LEASE)),
        Operation::Alarm(AlarmRequest { action, member_id, alarm }),
    ]
}

/// What a restore leaves beside them.
fn kept() -> Vec<SideChange> {
    let set = |space, key: &[u8], value: &[u8]| SideChange { space, key: key.to_vec(), value: Some(value.to_vec()) };
    vec![
        set(Space::Auth, b"authEnabled", &[0]),
        set(Space::Auth, b"authRevision", &7_u64.to_be_bytes()),
        set(Space::User, b"root", b"\x0a\x04root"),
        set(Space::Role, b"root", b"\x0a\x04root"),
        set(Space::Extra, b"\0\x05other\x01key", b"value"),
        set(Space::Extra, b"\0\x05empty\0", b""),
    ]
}

/// Lets it live in `data_dir`; when this returns, that is what a kill leaves there.
async fn live(data_dir: &Path) {
    let living = data_dir.with_extension("living");
    let identity =
        Identity::first("default", "etcd-cluster", &[("default".into(), vec!["http://localhost:2380".into()])])
            .unwrap();
    let (cluster_id, member_id) = (identity.cluster_id.0, identity.member_id.0);
    let member = Member { cluster_id, member_id, name: "default".into(), ..Member::default() };
    let soon = tuning(Duration::from_millis(10));
    let (datadir, found) = Datadir::open(&living, None).unwrap();
    assert!(found.is_none());
    let paths = |state: &Path, log: &Path| Paths { state: state.to_owned(), log: log.to_owned() };
    datadir
        .bootstrap(&identity, |places| {
            create(&paths(&places.state, &places.wal), &member, &soon)?;
            Backend::open(&places.state, soon.cache_bytes)?.write(&mut std::iter::empty(), &kept(), &[])
        })
        .unwrap();
    let places = datadir.places();
    let paths = paths(&places.state, &places.wal);
    let handle = Handle::start(&paths, member.clone(), soon).await.unwrap();
    for operation in first_life() {
        handle.propose(operation).await.unwrap();
    }
    // What the compaction made superfluous is deleted.
    handle.removed().await.unwrap();
    handle.stop().await;
    drop(handle);
    let handle = Handle::start(&paths, member, tuning(Duration::from_secs(3600))).await.unwrap();
    for operation in second_life(member_id) {
        handle.propose(operation).await.unwrap();
    }
    for folder in ["", "member", "member/snap", "member/wal"] {
        fs::create_dir(data_dir.join(folder)).unwrap();
        for entry in fs::read_dir(living.join(folder)).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            // The lock and the log's next segment, which is nothing yet.
            if entry.path().is_file() && name != "spare" && name != "holdfast.lock" {
                fs::copy(entry.path(), data_dir.join(folder).join(name)).unwrap();
            }
        }
    }
    handle.stop().await;
}

/// Puts a directory among the fixtures.
fn freeze(data_dir: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(data_dir).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if path.is_dir() {
            freeze(&path, &to.join(name));
        } else if name.ends_with(".json") {
            fs::copy(&path, to.join(name)).unwrap();
        } else {
            let packed = zstd::encode_all(fs::File::open(&path).unwrap(), 19).unwrap();
            fs::write(to.join(format!("{name}.zst")), packed).unwrap();
        }
    }
}

// The formats, by the word of their documents.

/// CRC-32C, bit by bit.
fn crc32c(parts: &[&[u8]]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    !parts.concat().iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

/// The next bytes of a row or frame.
fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (taken, rest) = bytes.split_first_chunk().expect("it is long enough");
    *bytes = rest;
    *taken
}

fn text(bytes: &[u8]) -> String {
    let whole = bytes.escape_ascii().to_string();
    if bytes.len() > 60 {
        format!("{} bytes of crc {:08x}", bytes.len(), crc32c(&[bytes]))
    } else {
        format!("'{whole}'")
    }
}

/// A row's value without its checksum, which must be right.
fn row<'a>(key: &[u8], value: &'a [u8]) -> &'a [u8] {
    let (value, crc) = value.split_last_chunk::<4>().unwrap();
    assert_eq!(u32::from_le_bytes(*crc), crc32c(&[key, value]), "the checksum of {}", key.escape_ascii());
    value
}

fn revision(key: &[u8; 16]) -> String {
    let mut key = &key[..];
    format!("{}/{}", i64::from_be_bytes(take(&mut key)), i64::from_be_bytes(take(&mut key)))
}

fn form(byte: [u8; 1]) -> &'static str {
    match byte {
        [0] => "value",
        [1] => "tombstone",
        other => panic!("{other:?} is no form"),
    }
}

/// Every row of the state; and the position it stands for.
fn state(path: &Path) -> (String, u64) {
    const REVISIONS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("revisions");
    const INDEX: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("index");
    const SIDE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("side");
    let db = redb::Builder::new().open(path).unwrap();
    let transaction = db.begin_read().unwrap();
    let (revisions, index) = (transaction.open_table(REVISIONS).unwrap(), transaction.open_table(INDEX).unwrap());
    assert_eq!(revisions.len().unwrap(), index.len().unwrap());
    let (mut said, mut used, mut position) = (String::new(), 0, None);
    for (stored, listed) in revisions.iter().unwrap().zip(index.iter().unwrap()) {
        let ((key, value), (index_key, listed)) = (stored.unwrap(), listed.unwrap());
        used += [value.value(), listed.value()].iter().map(|value| 16 + value.len()).sum::<usize>();
        let (key, mut message) = (key.value(), row(key.value(), value.value()));
        let kind = form(take(&mut message));
        let kv = KeyValue::decode(message).unwrap();
        assert_eq!(kv.encode_to_vec(), message);
        let (name, value) = (text(&kv.key), text(&kv.value));
        writeln!(
            said,
            "revision {} {kind} {name} = {value}, {} by lease {:x}",
            revision(key),
            kv.mod_revision,
            kv.lease
        )
        .unwrap();
        let mut listed = row(index_key.value(), listed.value());
        let kind = form(take(&mut listed));
        let bytes = u32::from_be_bytes(take(&mut listed));
        let [created, number, lease] = [(); 3].map(|()| i64::from_be_bytes(take(&mut listed)));
        let told = format!("{name} created {created} version {number} lease {lease:x}");
        writeln!(said, "   index {} {kind} of {bytes} bytes, {told}", revision(index_key.value())).unwrap();
        assert_eq!((index_key.value(), bytes as usize, listed), (key, message.len(), &*kv.key));
        assert_eq!((created, number, lease), (kv.create_revision, kv.version, kv.lease));
    }
    for entry in transaction.open_table(SIDE).unwrap().iter().unwrap() {
        let (key, value) = entry.unwrap();
        let (key, value) = (key.value(), row(key.value(), value.value()));
        let (space, name) = key.split_first().unwrap();
        match (space, name) {
            (0, b"") => assert_eq!(u64::from_be_bytes(value.try_into().unwrap()), used as u64),
            (1, b"position") => position = Some(u64::from_be_bytes(value[..8].try_into().unwrap())),
            (2, id) => {
                let lease = leasepb::Lease::decode(value).unwrap();
                assert_eq!(id, lease.id.to_be_bytes());
            }
            _ => {}
        }
        writeln!(said, "side {space} {} = {}", text(name), text(value)).unwrap();
    }
    (said, position.unwrap())
}

/// A frame's payload, and where the next frame would be; none where the log ends.
fn frame(segment: &[u8], seed: u64, at: usize) -> Option<(&[u8], usize)> {
    let mut head = &segment[at..];
    let (length, payload_crc, head_crc) = (take::<4>(&mut head), take::<4>(&mut head), take::<4>(&mut head));
    let zero = take::<4>(&mut head);
    if length == [0; 4] {
        assert_eq!((payload_crc, head_crc, zero), ([0; 4], [0; 4], [0; 4]), "zeros stand behind the last frame");
        return None;
    }
    let bound = [&seed.to_le_bytes()[..], &(at as u64).to_le_bytes(), &length, &payload_crc];
    assert_eq!((u32::from_le_bytes(head_crc), zero), (crc32c(&bound), [0; 4]));
    let payload = &head[..u32::from_le_bytes(length) as usize];
    assert_eq!(u32::from_le_bytes(payload_crc), crc32c(&[payload]));
    let end = at + 16 + payload.len();
    let next = end.next_multiple_of(8);
    assert!(segment[end..next].iter().all(|byte| *byte == 0));
    Some((payload, next))
}

/// Every entry of the log; and the index of the last.
fn log(folder: &Path) -> (String, u64) {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let (mut said, mut last) = (String::new(), 0);
    for (number, name) in (1..).zip(&names) {
        assert_eq!(*name, format!("{number:016x}.log"));
        let segment = fs::read(folder.join(name)).unwrap();
        assert_eq!(segment.len() as u64, SEGMENT_BYTES);
        let (header, mut at) = frame(&segment, number, 0).unwrap();
        let header = LogHeader::decode(header).unwrap();
        let (index, term) = (header.previous_index, header.previous_term);
        assert_eq!(index, last);
        let whose = format!("member {:x} of {:x}", header.member_id, header.cluster_id);
        writeln!(said, "segment {number}: format {}, {whose}, after {index} of term {term}", header.format).unwrap();
        while let Some((payload, next)) = frame(&segment, header.seed, at) {
            at = next;
            for entry in LogFrame::decode(payload).unwrap().entries {
                assert_eq!(entry.index, last + 1);
                last = entry.index;
                let operation = |command: holdfast::api::holdfast::v1::Command| {
                    assert!(command.id != 0 && command.time_ms > 1_700_000_000_000);
                    told(command.operation.unwrap())
                };
                let commands = Commands::decode(&*entry.data).unwrap().commands.into_iter().map(operation);
                let commands = commands.collect::<Vec<_>>().join(", ");
                writeln!(said, "entry {} of term {} kind {}: {commands}", entry.index, entry.term, entry.kind).unwrap();
            }
        }
    }
    (said, last)
}

/// An operation in a few words.
fn told(operation: Operation) -> String {
    match operation {
        Operation::Put(put) => format!("put {} = {}, lease {:x}", text(&put.key), text(&put.value), put.lease),
        Operation::DeleteRange(delete) => format!("delete {}", text(&delete.key)),
        Operation::Txn(txn) => format!("txn of {}", txn.success.len()),
        Operation::Compaction(compaction) => format!("compact {}", compaction.revision),
        Operation::LeaseGrant(grant) => format!("grant {:x} for {} s", grant.id, grant.ttl),
        Operation::LeaseCheckpoints(all) => {
            all.checkpoints.iter().map(|one| format!("checkpoint {:x} at {} s", one.id, one.remaining)).collect()
        }
        Operation::Alarm(alarm) => format!("alarm {} of {:x}, {}", alarm.alarm, alarm.member_id, alarm.action),
        other => panic!("{other:?} was not asked for"),
    }
}

/// What a directory holds, for people to read.
fn facts(data_dir: &Path) -> String {
    let (state, position) = state(&data_dir.join("member/snap/db"));
    let (log, last) = log(&data_dir.join("member/wal"));
    // The second life: raft's own entry of its term, and what was agreed on.
    assert_eq!(last - position, 1 + second_life(0).len() as u64);
    state + &log
}

fn frozen_facts() -> String {
    let path = folder(NEWEST).join("facts.txt");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_frozen_member_is_what_the_formats_say() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    thaw(NEWEST, &data_dir);
    assert_eq!(facts(&data_dir), frozen_facts());
    let weight = |folder: &Path| -> u64 {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
        files.filter(fs::Metadata::is_file).map(|file| file.len()).sum()
    };
    let data = folder(NEWEST).join("data/member");
    let weight = weight(&data) + weight(&data.join("snap")) + weight(&data.join("wal"));
    assert!(weight < FROZEN_BYTES_MAX, "{weight} bytes");
}

/// How lines begin that tell where in the log the state stands, and what its digest is.
const POSITION: &str = "side 1 'position' = '";
const DIGEST: &str = "side 1 'digest' = '";

/// What is written today is what was frozen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_today_is_written_as_the_formats_say() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    live(&data_dir).await;
    if std::env::var_os(FREEZE_VARIABLE).is_some_and(|value| value == "write") {
        let to = folder(NEWEST);
        fs::remove_dir_all(to.join("data")).unwrap_or_default();
        // Reading it opens its state, which the engine takes for a reason to write.
        freeze(&data_dir, &to.join("data"));
        fs::write(to.join("facts.txt"), facts(&data_dir)).unwrap();
    }
    let (said, others): (Vec<_>, Vec<_>) =
        facts(&data_dir).lines().map(str::to_owned).partition(|line| line.starts_with(DIGEST));
    assert_eq!(others, frozen_facts().lines().collect::<Vec<_>>());
    // Since then the state says its digest, of the entry that its position names.
    let position = others.iter().find_map(|line| line.strip_prefix(POSITION)).unwrap();
    let index: String = position.split_inclusive("\\r").next().unwrap().to_owned();
    assert!(said.len() == 1 && said[0][DIGEST.len()..].starts_with(&index), "{said:?}");
}
