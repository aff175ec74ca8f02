//! The log by itself: what survives, what is cut off, what is refused.

use super::*;
use crate::base::durable::replace;
use crate::base::rng::Seeded;
use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const ME: Identity = Identity { cluster_id: 7, member_id: 9 };
/// Room for a handful of frames.
const SMALL_BYTES: u64 = 2048;

fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    let data = Bytes::from(vec![u8::try_from(index % 251).unwrap(); bytes]);
    Entry { place: Place { index, term }, kind: EntryKind::Commands, data }
}

fn state(term: u64, commit: u64) -> HardState {
    HardState { term, vote: 9, commit }
}

fn log(folder: &Path) -> Log {
    Log::create(folder, ME, Place::default(), HardState::default(), SMALL_BYTES).unwrap()
}

fn opened(folder: &Path) -> Opened {
    Log::open(folder, ME, SMALL_BYTES).unwrap()
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_appended_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = log(dir.path());
    first.append(&[entry(1, 1, 10), entry(2, 1, 0)], Some(state(1, 0))).unwrap();
    first.append(&[], Some(state(2, 2))).unwrap();
    first.append(&[entry(3, 2, 700)], None).unwrap();
    drop(first);
    let again = opened(dir.path());
    assert_eq!(again.entries, [entry(1, 1, 10), entry(2, 1, 0), entry(3, 2, 700)]);
    assert_eq!((again.previous, again.hard_state, again.torn), (Place::default(), state(2, 2), false));
    // The end was replaced, as a new leader does.
    let mut log = again.log;
    log.append(&[entry(2, 3, 5)], Some(state(3, 2))).unwrap();
    drop(log);
    assert_eq!(opened(dir.path()).entries, [entry(1, 1, 10), entry(2, 3, 5)]);
}

#[test]
fn segments_follow_one_another_and_are_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log(dir.path());
    for index in 1..40 {
        log.append(&[entry(index, 1, 400)], Some(state(1, index))).unwrap();
    }
    // One larger than a segment has one of its own.
    log.append(&[entry(40, 1, 5000)], None).unwrap();
    let before = files(dir.path()).len();
    assert!(before > 8, "{:?}", files(dir.path()));
    log.end_housework().unwrap();
    log.compact(20).unwrap();
    log.end_housework().unwrap();
    let after = files(dir.path());
    assert!(after.len() <= before - 4 && after.contains(&"spare".to_owned()), "{after:?}");
    drop(log);
    let again = opened(dir.path());
    assert!(again.previous.index <= 20 && again.previous.index > 14, "{:?}", again.previous);
    let expected: Vec<_> =
        (again.previous.index + 1..40).map(|index| entry(index, 1, 400)).chain([entry(40, 1, 5000)]).collect();
    assert_eq!((again.entries, again.hard_state), (expected, state(1, 39)));
    let mut log = again.log;
    for index in 41..80 {
        log.append(&[entry(index, 1, 400)], None).unwrap();
        log.end_housework().unwrap();
        log.compact(index - 1).unwrap();
    }
    log.end_housework().unwrap();
    assert!(files(dir.path()).len() <= 4, "{:?}", files(dir.path()));
    drop(log);
    let again = opened(dir.path());
    assert_eq!((again.entries.last().unwrap(), again.torn), (&entry(79, 1, 400), false));
}

/// Every place where a power cut can tear the last frame: it is cut off, everything before it stays, and what is written
/// afterwards stays too.
#[test]
fn a_torn_end_is_cut_off_wherever_it_is_torn() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = log(dir.path());
    first.append(&[entry(1, 1, 30)], Some(state(1, 1))).unwrap();
    let path = segment::path_of(dir.path(), 1);
    let before = fs::read(&path).unwrap();
    first.append(&[entry(2, 1, 60)], None).unwrap();
    drop(first);
    let after = fs::read(&path).unwrap();
    let changed: Vec<usize> = (0..after.len()).filter(|at| before[*at] != after[*at]).collect();
    let (start, end) = (changed[0], changed[changed.len() - 1] + 1);
    for cut in start..=end {
        // What was written up to here, or only from here on: a disk writes sectors in any order.
        for (head, tail, begun) in [(&after, &before, true), (&before, &after, false)] {
            let torn = [&head[..cut], &tail[cut..]].concat();
            replace(&path, &torn).unwrap();
            let whole = torn == after;
            let again = opened(dir.path());
            assert_eq!(again.entries.len(), if whole { 2 } else { 1 }, "cut at {cut}");
            // Without a head nothing tells that something was begun, and nothing of it was acknowledged.
            assert!(
                if begun { again.torn == (!whole && torn != before) } else { !(again.torn && whole) },
                "cut at {cut}"
            );
            let mut log = again.log;
            let next = again.entries.len() as u64 + 1;
            log.append(&[entry(next, 2, 9)], None).unwrap();
            drop(log);
            let again = opened(dir.path());
            assert_eq!((again.entries.last(), again.torn), (Some(&entry(next, 2, 9)), false), "cut at {cut}");
        }
    }
}

/// A flip anywhere but in the last frame is damage. In the last one it looks like a tear.
#[test]
fn a_flipped_byte_is_damage_unless_it_is_in_the_last_frame() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = log(dir.path());
    for index in 1..12 {
        first.append(&[entry(index, 1, 300)], None).unwrap();
    }
    drop(first);
    let mut found = BTreeMap::<&str, u64>::new();
    let mut rng = Seeded::new(5);
    let numbers = segment::numbers(dir.path()).unwrap();
    assert!(numbers.len() > 1);
    for number in &numbers {
        let path = segment::path_of(dir.path(), *number);
        let whole = fs::read(&path).unwrap();
        for _ in 0..300 {
            let at = usize::try_from(rng.below(whole.len() as u64)).unwrap();
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << rng.below(8);
            replace(&path, &bytes).unwrap();
            let what = match Log::open(dir.path(), ME, SMALL_BYTES) {
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Damaged, "{}", error.chain());
                    assert!(error.chain().contains(path.to_str().unwrap()) && error.hint_text().is_some());
                    "damage"
                }
                Ok(opened) if opened.torn => {
                    assert!(*number == numbers[numbers.len() - 1] && opened.entries.len() >= 10);
                    "a tear"
                }
                Ok(opened) => {
                    assert_eq!(opened.entries.len(), 11);
                    "nothing there"
                }
            };
            *found.entry(what).or_default() += 1;
        }
        replace(&path, &whole).unwrap();
    }
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), ["a tear", "damage", "nothing there"], "{found:?}");
    fs::remove_file(segment::path_of(dir.path(), numbers[0])).unwrap();
    let rest = Log::open(dir.path(), ME, SMALL_BYTES).unwrap();
    assert!(rest.previous.index > 0, "what was compacted is not missed");
    if numbers.len() > 2 {
        fs::remove_file(segment::path_of(dir.path(), numbers[1])).unwrap();
    }
}

#[test]
fn what_is_not_this_members_log_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let kind = |error: Error| {
        assert!(error.hint_text().is_some(), "{}", error.chain());
        error.kind()
    };
    assert_eq!(kind(Log::open(dir.path(), ME, SMALL_BYTES).unwrap_err()), Kind::NotFound);
    drop(log(dir.path()));
    assert_eq!(
        kind(Log::create(dir.path(), ME, Place::default(), HardState::default(), 1).unwrap_err()),
        Kind::Conflict
    );
    let other = Identity { cluster_id: 8, ..ME };
    assert_eq!(kind(Log::open(dir.path(), other, SMALL_BYTES).unwrap_err()), Kind::Usage);
    replace(&dir.path().join("notes.txt"), b"mine").unwrap();
    assert_eq!(kind(Log::open(dir.path(), ME, SMALL_BYTES).unwrap_err()), Kind::Usage);
}

/// A log that cannot be written to is not written to again: what is behind a failed write is not known.
#[test]
fn after_a_failure_nothing_is_appended() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log(dir.path());
    // No room for the next segment: its file cannot be made where a folder is.
    fs::create_dir(dir.path().join("spare")).unwrap();
    let mut index = 1;
    while log.append(&[entry(index, 1, 400)], None).is_ok() {
        index += 1;
    }
    fs::remove_dir(dir.path().join("spare")).unwrap();
    assert!(log.append(&[entry(index, 1, 1)], None).unwrap_err().chain().contains("failed before"));
    drop(log);
    assert_eq!(opened(dir.path()).entries.len() as u64, index - 1);
}

/// What takes room is told that there is none, what helps still fits, and with room the log goes on as if nothing had been.
#[test]
fn a_log_without_room_for_a_segment_keeps_some_and_goes_on_when_there_is_more() {
    let dir = tempfile::tempdir().unwrap();
    let is_full = Arc::new(AtomicBool::new(true));
    let steps = Steps::heard_by({
        let is_full = Arc::clone(&is_full);
        move |step| match step.name == "prepare a segment" && is_full.load(Ordering::SeqCst) {
            true => Err(Error::io("prepare", std::io::Error::from(std::io::ErrorKind::StorageFull))),
            false => Ok(()),
        }
    });
    let mut log = log(dir.path());
    log.announce(&steps);
    let mut index = 0;
    let mut append = |log: &mut Log, bytes| {
        index += 1;
        log.append(&[entry(index, 1, bytes)], None).unwrap();
        index
    };
    while log.has_room(200, Keep::ForRelief) {
        append(&mut log, 200);
        log.look_ahead().unwrap();
    }
    assert!(!log.make_room(200).unwrap() && log.lacks_room());
    assert!(log.has_room(10, Keep::ForRaft), "less fits");
    while log.has_room(10, Keep::ForRaft) {
        append(&mut log, 10);
    }
    assert!(!log.make_room(10).unwrap());
    // What raft says by itself.
    append(&mut log, 0);
    assert_eq!(files(dir.path()), ["0000000000000001.log"], "nothing was begun");
    is_full.store(false, Ordering::SeqCst);
    while log.lacks_room() {
        log.look_ahead().unwrap();
    }
    assert_eq!(files(dir.path()), ["0000000000000001.log", "spare"]);
    assert!(log.make_room(3000).unwrap(), "more than a segment has");
    let last = append(&mut log, 3000);
    drop(log);
    let again = opened(dir.path());
    assert_eq!(again.entries.len() as u64, last);
    assert_eq!(again.entries.last(), Some(&entry(last, 1, 3000)));
}
