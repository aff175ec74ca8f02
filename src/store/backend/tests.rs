//! The state database by itself: order, atomicity, and bytes that are flipped.

use super::*;
use crate::base::durable::replace;
use crate::base::rng::Seeded;

fn backend() -> (tempfile::TempDir, Backend) {
    let dir = tempfile::tempdir().unwrap();
    let backend = Backend::create(&dir.path().join("db"), CACHE_BYTES).unwrap();
    (dir, backend)
}

fn message(main: i64, bytes: usize) -> Vec<u8> {
    main.wrapping_mul(0x1e37_79b9_7f4a_7c15).to_be_bytes().iter().map(|byte| byte | 1).cycle().take(bytes).collect()
}

fn write(backend: &Backend, mains: std::ops::Range<i64>, bytes: usize) {
    let messages: Vec<_> = mains.map(|main| (main, message(main, bytes))).collect();
    let stored = |(main, message): &(i64, Vec<u8>)| (Rev::of(*main), main % 5 == 0, message.clone());
    let all: Vec<_> = messages.iter().map(stored).collect();
    let mut revisions =
        all.iter().map(|(rev, tombstone, message)| Stored { rev: *rev, tombstone: *tombstone, message });
    backend.write(&mut revisions, &[], &[]).unwrap();
}

fn scanned(backend: &Backend, from: i64, until: i64) -> Vec<i64> {
    let mut found = vec![];
    let mut sink = |stored: Stored<'_>| {
        assert_eq!(stored.tombstone, stored.rev.main % 5 == 0);
        assert_eq!(stored.message, message(stored.rev.main, stored.message.len()));
        found.push(stored.rev.main);
        Ok(())
    };
    backend.scan(Rev::of(from), Rev::of(until), &mut sink).unwrap();
    found
}

#[test]
fn revisions_come_back_in_order_across_transactions_and_after_opening_again() {
    let (dir, backend) = backend();
    // Three times what one transaction of a scan reads.
    write(&backend, 2..302, 3 * SCAN_BYTES / 300);
    assert_eq!(scanned(&backend, 0, i64::MAX), (2..302).collect::<Vec<_>>());
    assert_eq!(scanned(&backend, 7, 9), [7, 8]);
    assert_eq!(scanned(&backend, 9, 9), [0_i64; 0]);
    assert_eq!(backend.last().unwrap(), Some(Rev::of(301)));
    drop(backend);
    let backend = Backend::open(&dir.path().join("db"), CACHE_BYTES).unwrap();
    assert_eq!(scanned(&backend, 300, 400), [300, 301]);
    assert!(!backend.get(Rev::of(6)).unwrap().unwrap().0);
    assert_eq!(backend.get(Rev::of(302)).unwrap(), None);
    let gone: Vec<Rev> = (2..300).map(Rev::of).collect();
    backend.write(&mut std::iter::empty(), &[], &gone).unwrap();
    assert_eq!(scanned(&backend, 0, i64::MAX), [300, 301]);
}

#[test]
fn an_error_of_the_reader_ends_the_scan_and_comes_out() {
    let (_dir, backend) = backend();
    write(&backend, 2..20, 10);
    let mut seen = 0;
    let error = backend.scan(Rev::of(0), Rev::of(99), &mut |_| {
        seen += 1;
        if seen == 3 { Err(Error::new(Kind::Interrupted, "enough")) } else { Ok(()) }
    });
    assert_eq!((error.unwrap_err().kind(), seen), (Kind::Interrupted, 3));
}

#[test]
fn side_tables_are_apart_and_change_with_the_revisions_or_not_at_all() {
    let (_dir, backend) = backend();
    let set = |space, key: &[u8], value: &[u8]| SideChange { space, key: key.to_vec(), value: Some(value.to_vec()) };
    let changes = [
        set(Space::Meta, b"b", b"2"),
        set(Space::Meta, b"a", b"1"),
        set(Space::Lease, b"", b"empty key"),
        set(Space::Extra, b"\xff", b""),
    ];
    backend.write(&mut std::iter::empty(), &changes, &[]).unwrap();
    assert_eq!(backend.side(Space::Meta).unwrap(), [(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"2".to_vec())]);
    assert_eq!(backend.side(Space::Lease).unwrap(), [(vec![], b"empty key".to_vec())]);
    assert_eq!(backend.side(Space::Extra).unwrap(), [(vec![0xff], vec![])]);
    assert_eq!(backend.side(Space::User).unwrap(), []);
    let end = SideChange { space: Space::Meta, key: b"a".to_vec(), value: None };
    backend.write(&mut std::iter::empty(), &[end], &[]).unwrap();
    assert_eq!(backend.side(Space::Meta).unwrap(), [(b"b".to_vec(), b"2".to_vec())]);
}

#[test]
fn what_exists_is_not_replaced_and_what_is_no_database_is_named() {
    let (dir, backend) = backend();
    let path = dir.path().join("db");
    assert_eq!(Backend::create(&path, CACHE_BYTES).unwrap_err().kind(), Kind::Conflict);
    let error = Backend::open(&path, CACHE_BYTES).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.hint_text().unwrap().contains("stop the member"));
    drop(backend);
    assert_eq!(Backend::open(&dir.path().join("none"), CACHE_BYTES).unwrap_err().kind(), Kind::NotFound);
    replace(&dir.path().join("other"), &[7; 100_000]).unwrap();
    let error = Backend::open(&dir.path().join("other"), CACHE_BYTES).unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged, "{}", error.chain());
}

/// Every flipped byte is found or changes nothing: what is read is what was written, or an error.
#[test]
fn a_flipped_byte_is_never_served() {
    let (dir, backend) = backend();
    write(&backend, 2..60, 300);
    drop(backend);
    let path = dir.path().join("db");
    let whole = std::fs::read(&path).unwrap();
    let mut rng = Seeded::new(7);
    let (mut found, mut harmless, mut wrong) = (0, 0, vec![]);
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|panic| {
        // The engine's own are caught and mean damage.
        if panic.location().is_none_or(|location| !location.file().contains("redb")) {
            eprintln!("{panic}");
        }
    }));
    for _ in 0..400 {
        let mut bytes = whole.clone();
        // Where something is: the rest of the file is room.
        let at = loop {
            let at = usize::try_from(rng.below(whole.len() as u64)).unwrap();
            if whole[at] != 0 {
                break at;
            }
        };
        bytes[at] ^= 1 << rng.below(8);
        let copy = dir.path().join("copy");
        replace(&copy, &bytes).unwrap();
        let read = Backend::open(&copy, CACHE_BYTES).and_then(|backend| {
            let mut all = vec![];
            backend.scan(Rev::of(0), Rev::of(99), &mut |stored| {
                all.push((stored.rev.main, stored.message == message(stored.rev.main, 300)));
                Ok(())
            })?;
            Ok(all)
        });
        match read {
            Ok(all) if all == (2..60).map(|main| (main, true)).collect::<Vec<_>>() => harmless += 1,
            // The commit before, as a whole: whoever has a log sees by the position in it that this is not the last one.
            Ok(all) if all.is_empty() => found += 1,
            Ok(all) => wrong.push((at, all)),
            Err(_) => found += 1,
        }
    }
    std::panic::set_hook(quiet);
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(found > 50 && harmless > 0, "{found} found, {harmless} harmless");
}
