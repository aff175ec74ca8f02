//! Members that are started on a copy of the frozen directory (tests/fixtures/member-1): what it held they answer, and what
//! is broken in it ends them. tests/compat/member.rs says what is in it, and how it was made.

use std::collections::BTreeMap;
use std::path::PathBuf;

use redb::{ReadableDatabase, ReadableTableMetadata, TableDefinition};
use serde_json::{Value, json};

use crate::place::Place;
use crate::support::member::{LIMIT, Member};
use crate::support::run::wait_until;
use crate::thaw::{NEWEST, thaw};

const REVISIONS: &str = "revisions";
const INDEX: &str = "index";
const HINT: &str = "replace this member's directory";

/// A member on a copy of the frozen directory, not started yet.
fn thawed() -> Member {
    let member = Member::prepared(&[]);
    thaw(NEWEST, &member.data_dir());
    member
}

fn state(member: &Member) -> PathBuf {
    member.data_dir().join("member/snap/db")
}

/// Starts it; its alarm makes etcdctl call it unhealthy, so it is asked for something.
fn start(member: &mut Member) {
    member.launch(|run| run);
    wait_until("it answers", LIMIT, || {
        let process = member.process.as_mut().unwrap();
        assert!(process.ended().is_none(), "{}", process.said());
        member.etcdctl(&["get", "nothing"]).code() == 0
    });
}

fn answer(member: &Member, args: &[&str]) -> Value {
    member.etcdctl(&[args, &["-w", "json"]].concat()).success().json()
}

/// Keys with their values and create revision, revision, version and lease.
fn keys(member: &Member, args: &[&str]) -> Vec<(String, String, [i64; 4])> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    let kv = |kv: &Value| {
        let numbers = ["create_revision", "mod_revision", "version", "lease"].map(|name| number(&kv[name]));
        (text(&kv["key"]), text(&kv["value"]), numbers)
    };
    let answer = answer(member, args);
    answer["kvs"].as_array().map(|kvs| kvs.iter().map(kv).collect()).unwrap_or_default()
}

fn base64(bytes: &[u8]) -> String {
    holdfast::base::digest::base64(bytes)
}

fn kv(key: &[u8], value: &[u8], numbers: [i64; 4]) -> (String, String, [i64; 4]) {
    (base64(key), base64(value), numbers)
}

fn everything() -> Vec<(String, String, [i64; 4])> {
    vec![
        kv(b"\0\xff", b"", [7, 7, 1, 0]),
        kv(b"a", b"three", [9, 9, 1, 0]),
        kv(b"c", &[b'y'; 9000], [4, 11, 3, 0]),
        kv(b"later", b"one", [13, 13, 1, 0x77]),
        kv(b"leased", b"", [5, 5, 1, 0x1234]),
    ]
}

/// What it was before the state said its digest is worked out once, and then said.
#[test]
fn a_state_from_before_the_digest_gets_it_and_a_backup_holds_it_against_the_records() {
    let (mut member, place) = (thawed(), Place::new());
    place.policy_at(&member.client.address());
    let mut backup = || {
        start(&mut member);
        let outcome = place.with_policy(&["backup", "--kind", "full", "-o", "json"]);
        assert!([0, 5].contains(&outcome.code()), "{outcome}");
        assert_eq!(member.stop(), 0);
        outcome.json()["manifest"].clone()
    };
    let [first, again] = [backup(), backup()];
    assert_eq!((&first["proofs"]["digest_at_source"], &first["counts"]["alarms"]), (&json!("equal"), &json!(1)));
    assert_eq!(first["proofs"], again["proofs"]);
}

#[test]
fn a_member_of_the_first_format_answers_what_it_held() {
    let mut member = thawed();
    start(&mut member);
    let all = ["get", "", "--from-key"];
    assert_eq!(keys(&member, &all), everything());
    let at = |revision| keys(&member, &[&all[..], &[&format!("--rev={revision}")]].concat());
    let names = |kvs: Vec<(String, String, [i64; 4])>| kvs.into_iter().map(|kv| kv.0).collect::<Vec<_>>();
    let named = |keys: &[&[u8]]| keys.iter().map(|key| base64(key)).collect::<Vec<_>>();
    assert_eq!(names(at(5)), named(&[b"b", b"c", b"leased"]));
    assert_eq!(names(at(7)), named(&[b"\0\xff", b"b", b"c", b"large", b"leased"]));
    assert_eq!(names(at(9)), named(&[b"\0\xff", b"a", b"c", b"large", b"leased"]));
    assert_eq!(at(10)[2], kv(b"c", b"two", [4, 10, 2, 0]));
    let compacted = member.etcdctl(&["get", "a", "--rev=4"]);
    assert!(compacted.code() != 0 && compacted.stderr.contains("has been compacted"), "{compacted}");

    let leases = answer(&member, &["lease", "list"]);
    assert_eq!(leases["leases"], json!([{ "id": 0x1234 }, { "id": 0x77 }]), "{leases}");
    let lease = answer(&member, &["lease", "timetolive", "1234", "--keys"]);
    // It goes on from its checkpoint, the other one from the beginning.
    assert_eq!((&lease["granted-ttl"], &lease["keys"]), (&json!(3600), &json!([base64(b"leased")])));
    assert!((1..=1800).contains(&lease["ttl"].as_i64().unwrap()), "{lease}");
    let lease = answer(&member, &["lease", "timetolive", "77", "--keys"]);
    assert_eq!((&lease["granted-ttl"], &lease["keys"]), (&json!(7200), &json!([base64(b"later")])));
    assert!((1801..=7200).contains(&lease["ttl"].as_i64().unwrap()), "{lease}");

    let refused = member.etcdctl(&["put", "a", "four"]);
    assert!(refused.code() != 0 && refused.stderr.contains("database space exceeded"), "{refused}");
    assert!(member.etcdctl(&["alarm", "list"]).success().stdout().contains("alarm:NOSPACE"));
    member.etcdctl(&["alarm", "disarm"]).success();
    member.etcdctl(&["put", "a", "four"]).success();
    member.etcdctl(&["lease", "revoke", "1234"]).success();
    // All of it is in the file after an orderly end, and is read from there alone.
    assert_eq!(member.stop(), 0);
    start(&mut member);
    let mut left = everything();
    left.truncate(4);
    left[1] = kv(b"a", b"four", [9, 14, 2, 0]);
    assert_eq!(keys(&member, &all), left);
    assert_eq!(member.stop(), 0);
}

type Rows = BTreeMap<[u8; 16], Vec<u8>>;
type Change = fn(&mut Rows);

fn key(main: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&main.to_be_bytes());
    key
}

/// Changes rows of a table behind the member's back.
fn meddle(member: &Member, table: &str, change: impl FnOnce(&mut Rows)) {
    let table: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new(table);
    let db = redb::Builder::new().open(state(member)).unwrap();
    let transaction = db.begin_write().unwrap();
    {
        let mut table = transaction.open_table(table).unwrap();
        let mut rows = Rows::new();
        table
            .retain(|key, value| {
                rows.insert(*key, value.to_vec());
                false
            })
            .unwrap();
        change(&mut rows);
        for (key, value) in rows {
            table.insert(&key, &*value).unwrap();
        }
    }
    transaction.commit().unwrap();
}

/// How many rows a table has.
fn rows(member: &Member, table: &str) -> u64 {
    let table: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new(table);
    let db = redb::Builder::new().open(state(member)).unwrap();
    db.begin_read().unwrap().open_table(table).unwrap().len().unwrap()
}

/// Waits for its end, which must be for damage; what it said.
fn ends(member: &mut Member) -> String {
    let mut process = member.process.take().unwrap();
    let mut status = None;
    wait_until("it ends", LIMIT, || {
        status = process.ended();
        status.is_some()
    });
    let said = process.said();
    assert_eq!(status.unwrap().code(), Some(3), "{said}");
    assert!(said.contains(HINT), "{said}");
    said
}

#[test]
fn a_state_that_is_not_of_one_piece_ends_the_start() {
    let wrong = "does not match its checksum";
    let apart = "its index is not that of its revisions";
    let cases: [(&str, Change, &str); 6] = [
        (INDEX, |rows| drop(rows.remove(&key(9))), apart),
        (REVISIONS, |rows| drop(rows.remove(&key(9))), apart),
        (INDEX, |rows| drop(rows.insert(key(99), rows[&key(9)].clone())), apart),
        (INDEX, |rows| rows.get_mut(&key(9)).unwrap()[0] ^= 1, wrong),
        (INDEX, |rows| *rows.get_mut(&key(9)).unwrap().last_mut().unwrap() ^= 1, wrong),
        (
            INDEX,
            |rows| {
                let (nine, ten) = (rows[&key(9)].clone(), rows[&key(10)].clone());
                rows.extend([(key(9), ten), (key(10), nine)]);
            },
            wrong,
        ),
    ];
    for (table, change, why) in cases {
        let mut member = thawed();
        meddle(&member, table, change);
        let before = [REVISIONS, INDEX].map(|table| rows(&member, table));
        member.launch(|run| run);
        let said = ends(&mut member);
        assert!(said.contains(why), "{said}");
        assert_eq!([REVISIONS, INDEX].map(|table| rows(&member, table)), before, "a start that fails changes nothing");
    }
}

/// The index names a revision, and its value is not there or broken: whoever asks for it gets no answer, no empty one
/// either, and the member ends.
#[test]
fn a_value_that_is_named_and_missing_ends_the_member() {
    let cases: [(Change, &str); 2] = [
        (
            |rows| {
                let nine = rows.remove(&key(9)).unwrap();
                rows.insert(key(99), nine);
            },
            "does not hold revision 9/0, which its index names",
        ),
        (|rows| rows.get_mut(&key(9)).unwrap()[3] ^= 1, "revision 9/0 does not match its checksum"),
    ];
    for (change, why) in cases {
        let mut member = thawed();
        meddle(&member, REVISIONS, change);
        start(&mut member);
        assert_eq!(keys(&member, &["get", "leased"]), [kv(b"leased", b"", [5, 5, 1, 0x1234])]);
        let refused = member.etcdctl(&["--command-timeout=2s", "get", "a"]);
        assert!(refused.code() != 0 && refused.stdout().is_empty(), "{refused}");
        let said = ends(&mut member);
        assert!(said.contains(why), "{said}");
    }
}
