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
    backend.write(&mut messages.iter().map(|(main, message)| revision(*main, message)), &[], &[]).unwrap();
}

/// A revision whose key are the first bytes of its message, and whose numbers tell its revision.
fn revision(main: i64, message: &[u8]) -> Revision<'_> {
    let stored = Stored { rev: Rev::of(main), tombstone: main % 5 == 0, message };
    let key = &message[..message.len().min(40)];
    Revision { stored, brief: Brief { key, created: main - 1, number: main + 1, lease: -main } }
}

/// The main revisions in the index.
fn listed(backend: &Backend) -> Result<Vec<i64>> {
    let mut found = vec![];
    backend.list(&mut |listed| {
        let (main, bytes) = (listed.rev.main, usize::try_from(listed.message_bytes).unwrap());
        assert_eq!(listed, revision(main, &message(main, bytes)).listed());
        found.push(main);
        Ok(())
    })?;
    Ok(found)
}

fn scanned(backend: &Backend, from: i64, until: i64) -> Vec<i64> {
    let mut found = vec![];
    let mut sink = |stored: Stored<'_>| {
        assert_eq!(stored.tombstone, stored.rev.main % 5 == 0);
        assert_eq!(stored.message, message(stored.rev.main, stored.message.len()));
        found.push(stored.rev.main);
        Ok(())
    };
    backend.scan(Rev::of(from), Rev::of(until), Witness::Index, &mut sink).unwrap();
    found
}

/// Whoever reads while the file is written anew reads on in the old one, to the end of their transaction.
#[test]
fn a_reader_outlives_the_file_that_it_reads() {
    let dir = tempfile::tempdir().unwrap();
    // A cache for a few pages: the next ones are read from the file.
    let backend = Backend::create(&dir.path().join("db"), 64 << 10).unwrap();
    write(&backend, 2..302, 3 * SCAN_BYTES / 300);
    let mut found = vec![];
    let mut sink = |stored: Stored<'_>| {
        if found.len() % 90 == 1 {
            backend.defragment(&mut |_| Ok(())).map_err(Unfinished::into_error)?;
        }
        found.push(stored.rev.main);
        Ok(())
    };
    backend.scan(Rev::default(), Rev::of(i64::MAX), Witness::Index, &mut sink).unwrap();
    assert_eq!(found, (2..302).collect::<Vec<_>>());
    let mut listed = 0;
    let mut sink = |_: Listed<'_>| {
        if listed == 7 {
            backend.defragment(&mut |_| Ok(())).map_err(Unfinished::into_error)?;
        }
        listed += 1;
        Ok(())
    };
    backend.list(&mut sink).unwrap();
    assert_eq!(listed, 300);
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

/// Pages that a write frees are there for the next one but one at the latest.
#[test]
fn a_file_whose_rows_come_and_go_does_not_grow() {
    let (_dir, backend) = backend();
    let mut sizes = vec![];
    for round in 0..300 {
        let from = 2 + round * 10;
        let gone: Vec<Rev> = (from - 10..from).filter(|main| *main > 1).map(Rev::of).collect();
        write(&backend, from..from + 10, 20_000);
        backend.write(&mut std::iter::empty(), &[], &gone).unwrap();
        sizes.push(backend.file_bytes().unwrap());
    }
    assert_eq!(scanned(&backend, 0, i64::MAX).len(), 10);
    assert!(sizes[299] <= sizes[30], "{} bytes became {}", sizes[30], sizes[299]);
}

#[test]
fn an_error_of_the_reader_ends_the_scan_and_comes_out() {
    let (_dir, backend) = backend();
    write(&backend, 2..20, 10);
    let mut seen = 0;
    let error = backend.scan(Rev::of(0), Rev::of(99), Witness::Index, &mut |_| {
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

/// The pages of a database that was read, changed, and put where another is.
fn changed(whole: &[u8], path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = whole.to_vec();
    change(&mut bytes);
    replace(path, &bytes).unwrap();
}

/// The engine's own panics are caught and mean damage: they are not to be read in what a test says.
fn without_the_engines_panics<T>(work: impl FnOnce() -> T) -> T {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|panic| {
        if panic.location().is_none_or(|location| !location.file().contains("redb")) {
            eprintln!("{panic}");
        }
    }));
    let done = work();
    std::panic::set_hook(quiet);
    done
}

/// Every flipped byte is found or changes nothing: what is read is what was written, or an error.
#[test]
fn a_flipped_byte_is_never_served() {
    let (dir, backend) = backend();
    write(&backend, 2..60, 300);
    drop(backend);
    let whole = std::fs::read(dir.path().join("db")).unwrap();
    let copy = dir.path().join("copy");
    let mut rng = Seeded::new(7);
    let (mut found, mut harmless, mut wrong) = (0, 0, vec![]);
    let all: Vec<i64> = (2..60).collect();
    without_the_engines_panics(|| {
        for _ in 0..400 {
            // Where something is: the rest of the file is room.
            let at = loop {
                let at = usize::try_from(rng.below(whole.len() as u64)).unwrap();
                if whole[at] != 0 {
                    break at;
                }
            };
            changed(&whole, &copy, |bytes| bytes[at] ^= 1 << rng.below(8));
            let read = Backend::open(&copy, CACHE_BYTES).and_then(|backend| {
                let mut stored = vec![];
                backend.scan(Rev::of(0), Rev::of(99), Witness::Index, &mut |row| {
                    let main = row.rev.main;
                    stored.push((main, row == revision(main, &message(main, 300)).stored));
                    Ok(())
                })?;
                Ok((stored, listed(&backend)?))
            });
            match read {
                Ok((stored, index))
                    if index == all && stored.iter().copied().eq(all.iter().map(|main| (*main, true))) =>
                {
                    harmless += 1;
                }
                // The commit before, as a whole: whoever has a log sees by the position in it that this is not the last one.
                Ok((stored, index)) if stored.is_empty() && index.is_empty() => found += 1,
                Ok(read) => wrong.push((at, read)),
                Err(_) => found += 1,
            }
        }
    });
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(found > 50 && harmless > 0, "{found} found, {harmless} harmless");
}

/// Every byte of a row of the index, flipped where it lies in the file: form, length, numbers, key and checksum, and the
/// row's own key. A start ends there, and says what to do.
#[test]
fn a_flipped_byte_of_an_index_row_ends_the_start() {
    let (dir, backend) = backend();
    write(&backend, 2..12, 300);
    drop(backend);
    let whole = std::fs::read(dir.path().join("db")).unwrap();
    let (key, mut row) = (key_of(Rev::of(7)), vec![]);
    let text = message(7, 300);
    rows::seal_listed(&key, &revision(7, &text).listed(), &mut row);
    assert_eq!(row.len(), 1 + 4 + 3 * 8 + 40 + 4);
    let places = |bytes: &[u8]| -> Vec<usize> {
        let windows = whole.windows(bytes.len()).enumerate();
        windows.filter(|(_, window)| *window == bytes).map(|(at, _)| at).collect()
    };
    let rows = places(&row);
    assert_eq!(rows.len(), 1, "one commit wrote it, in one place");
    let copy = dir.path().join("copy");
    for at in 0..row.len() {
        changed(&whole, &copy, |bytes| bytes[rows[0] + at] ^= 1 << (at % 8));
        let error = listed(&Backend::open(&copy, CACHE_BYTES).unwrap()).unwrap_err();
        assert!(error.to_string().contains("the index of revision 7/0 does not match"), "byte {at}: {error}");
        assert!(error.kind() == Kind::Damaged && error.hint_text() == Some(HINT_MEMBER_DAMAGED));
    }
    // The row's key in both tables: the index is refused, and the revision is not found where its index names it.
    let mut outcomes = vec![];
    for at in places(&key) {
        changed(&whole, &copy, |bytes| bytes[at + 7] ^= 0x40);
        let backend = Backend::open(&copy, CACHE_BYTES).unwrap();
        outcomes.push(match listed(&backend) {
            Ok(all) if all.contains(&7) => backend.get(Rev::of(7)).unwrap().map_or("missed", |_| "there"),
            Ok(all) => panic!("{all:?}"),
            Err(_) => "refused",
        });
    }
    outcomes.sort_unstable();
    assert_eq!(outcomes, ["missed", "refused"]);
}

/// Whole rows that changed places within a page: each matches its checksum, and the order is none.
#[test]
fn an_index_out_of_order_ends_the_start() {
    let (dir, backend) = backend();
    write(&backend, 2..12, 300);
    drop(backend);
    let whole = std::fs::read(dir.path().join("db")).unwrap();
    let places = |bytes: &[u8]| -> Vec<usize> {
        let windows = whole.windows(bytes.len()).enumerate();
        windows.filter(|(_, window)| *window == bytes).map(|(at, _)| at).collect()
    };
    let of = |main: i64| {
        let mut row = vec![];
        rows::seal_listed(&key_of(Rev::of(main)), &revision(main, &message(main, 300)).listed(), &mut row);
        (places(&key_of(Rev::of(main))), places(&row)[0], row.len())
    };
    let ((four, four_at, bytes), (nine, nine_at, _)) = (of(4), of(9));
    let copy = dir.path().join("copy");
    // The keys of one table or of the other: with those of the revisions, the rows of the index stand under wrong ones.
    let mut said: Vec<_> = four
        .iter()
        .zip(&nine)
        .map(|(four, nine)| {
            changed(&whole, &copy, |file| {
                for (one, other, bytes) in [(*four, *nine, 16), (four_at, nine_at, bytes)] {
                    let (before, after) = file.split_at_mut(other);
                    before[one..one + bytes].swap_with_slice(&mut after[..bytes]);
                }
            });
            listed(&Backend::open(&copy, CACHE_BYTES).unwrap())
                .unwrap_err()
                .to_string()
                .rsplit_once(": ")
                .unwrap()
                .1
                .to_owned()
        })
        .collect();
    said.sort();
    assert_eq!(
        said,
        ["its index is not that of its revisions", "the index of revision 4/0 does not match its checksum"]
    );
}

type Rows<'t> = redb::Table<'t, &'static RowKey, &'static [u8]>;

/// What an engine without our care might make of the tables.
fn meddle(path: &Path, meddle: impl FnOnce(&mut Rows<'_>)) {
    let db = redb::Builder::new().open(path).unwrap();
    let transaction = db.begin_write().unwrap();
    meddle(&mut transaction.open_table(INDEX).unwrap());
    transaction.commit().unwrap();
}

#[test]
fn an_index_that_is_not_that_of_the_revisions_is_refused() {
    let (dir, backend) = backend();
    write(&backend, 2..12, 300);
    drop(backend);
    let whole = std::fs::read(dir.path().join("db")).unwrap();
    let copy = dir.path().join("copy");
    let key = |main| key_of(Rev::of(main));
    let row = |main: i64| {
        let mut row = vec![];
        rows::seal_listed(&key(main), &revision(main, &message(main, 300)).listed(), &mut row);
        row
    };
    let outcome = |change: &dyn Fn(&mut Rows<'_>)| {
        changed(&whole, &copy, |_| {});
        meddle(&copy, change);
        let backend = Backend::open(&copy, CACHE_BYTES).unwrap();
        let scan = backend.scan(Rev::of(0), Rev::of(99), Witness::Index, &mut |_| Ok(()));
        let copied = backend.defragment(&mut |_| Ok(())).map_err(Unfinished::into_error);
        let errors = [listed(&backend).unwrap_err(), scan.unwrap_err(), copied.unwrap_err()];
        // What could not be copied leaves nothing, and everything as it was.
        assert!(!beside(&copy).exists() && listed(&backend).is_err());
        errors.map(|error| {
            assert!(error.kind() == Kind::Damaged && error.hint_text() == Some(HINT_MEMBER_DAMAGED), "{error}");
            error.to_string().rsplit_once(": ").unwrap().1.to_owned()
        })
    };
    let apart = "its index is not that of its revisions";
    let broken = |main: i64| format!("the index of revision {main}/0 does not match its checksum");
    // A row that is gone, first, last and between; one too many.
    for main in [2, 7, 11] {
        assert_eq!(outcome(&|index| drop(index.remove(&key(main)).unwrap())), [apart; 3]);
    }
    assert_eq!(outcome(&|index| drop(index.insert(&key(12), &*row(12)).unwrap())), [apart; 3]);
    // Two rows that changed places.
    let swapped = outcome(&|index| {
        index.insert(&key(4), &*row(9)).unwrap();
        index.insert(&key(9), &*row(4)).unwrap();
    });
    assert_eq!(swapped, [(); 3].map(|()| broken(4)));
    // No row at all, and one that is too short to be one.
    assert_eq!(outcome(&|index| drop(index.insert(&key(5), &[][..]).unwrap())), [(); 3].map(|()| broken(5)));
    let mut short = vec![0; 20];
    seal(&key(5), &mut short);
    assert_eq!(outcome(&|index| drop(index.insert(&key(5), &*short).unwrap())), [(); 3].map(|()| broken(5)));
    // As many rows as revisions and not the same: whoever reads the revisions sees it, and who asks for one that is not there.
    changed(&whole, &copy, |_| {});
    meddle(&copy, |index| {
        index.remove(&key(11)).unwrap();
        index.insert(&key(12), &*row(12)).unwrap();
    });
    let backend = Backend::open(&copy, CACHE_BYTES).unwrap();
    assert_eq!(listed(&backend).unwrap(), [2, 3, 4, 5, 6, 7, 8, 9, 10, 12]);
    assert!(backend.get(Rev::of(12)).unwrap().is_none());
    let scan = backend.scan(Rev::of(9), Rev::of(20), Witness::Index, &mut |_| Ok(()));
    assert!(scan.unwrap_err().to_string().contains(apart), "a reader of history passes nothing over");
    let copied = backend.defragment(&mut |_| Ok(())).map_err(Unfinished::into_error);
    assert!(copied.unwrap_err().to_string().contains(apart));
}

/// A scan goes from one transaction to the next at a revision: what only the index has between the two is seen, too.
#[test]
fn nothing_is_passed_over_between_two_transactions_of_a_scan() {
    let (dir, backend) = backend();
    write(&backend, 2..3, SCAN_BYTES);
    write(&backend, 4..5, SCAN_BYTES);
    assert_eq!(scanned(&backend, 0, 9), [2, 4]);
    drop(backend);
    let path = dir.path().join("db");
    let mut row = vec![];
    rows::seal_listed(&key_of(Rev::of(3)), &revision(3, &message(3, 300)).listed(), &mut row);
    meddle(&path, |index| drop(index.insert(&key_of(Rev::of(3)), &*row).unwrap()));
    let backend = Backend::open(&path, CACHE_BYTES).unwrap();
    let mut seen = vec![];
    let error = backend.scan(Rev::of(0), Rev::of(9), Witness::Index, &mut |stored| {
        seen.push(stored.rev.main);
        Ok(())
    });
    assert_eq!((error.unwrap_err().kind(), seen), (Kind::Damaged, vec![2]));
}

/// Both rows of a revision come and go together, and count.
#[test]
fn what_is_used_is_what_both_tables_hold() {
    let (dir, backend) = backend();
    let path = dir.path().join("db");
    let held = |backend: &Backend| {
        let of = |main: i64, bytes: usize| {
            // Row keys of 16 bytes; form, message and checksum; form, length, three numbers, key and checksum.
            let (stored, listed) = (16 + 1 + bytes + 4, 16 + 1 + 4 + 24 + bytes.min(40) + 4);
            assert_eq!(backend.get(Rev::of(main)).unwrap().unwrap().1.len(), bytes);
            (stored + listed) as u64
        };
        let all = listed(backend).unwrap();
        assert_eq!(scanned(backend, 0, i64::MAX), all);
        all.iter().map(|main| of(*main, if *main < 20 { 300 } else { 7 })).sum::<u64>()
    };
    assert_eq!((backend.used_bytes(), held(&backend)), (0, 0));
    write(&backend, 2..20, 300);
    write(&backend, 20..30, 7);
    // Again, as after a crash.
    write(&backend, 15..20, 300);
    write(&backend, 20..25, 7);
    let used = backend.used_bytes();
    assert!(used > 0 && used == held(&backend));
    let gone: Vec<Rev> = (4..23).map(Rev::of).collect();
    backend.write(&mut std::iter::empty(), &[], &gone).unwrap();
    // What is gone already is not missed.
    backend.write(&mut std::iter::empty(), &[], &gone).unwrap();
    let used = backend.used_bytes();
    assert!(used > 0 && used == held(&backend));
    backend.defragment(&mut |_| Ok(())).unwrap();
    assert_eq!((backend.used_bytes(), held(&backend)), (used, used));
    drop(backend);
    let backend = Backend::open(&path, CACHE_BYTES).unwrap();
    assert_eq!((backend.used_bytes(), held(&backend)), (used, used));
}

/// A copy that is ended leaves nothing, wherever it was.
#[test]
fn a_copy_can_be_given_up_at_any_step() {
    let (dir, backend) = backend();
    write(&backend, 2..102, 100_000);
    let mut given_up = 0;
    loop {
        let mut left = given_up;
        let ended = backend.defragment(&mut |_| {
            left -= 1;
            if left < 0 { Err(Error::new(Kind::Interrupted, "ended")) } else { Ok(()) }
        });
        let Err(unfinished) = ended else { break };
        assert!(matches!(&unfinished, Unfinished::AsBefore(error) if error.kind() == Kind::Interrupted));
        assert!(!beside(&dir.path().join("db")).exists());
        assert_eq!(scanned(&backend, 0, i64::MAX).len(), 100);
        given_up += 1;
    }
    assert!(given_up > 3, "{given_up}");
    assert_eq!(scanned(&backend, 0, i64::MAX).len(), 100);
}

/// The old file keeps all it has as long as somebody reads it, and is free soon after.
#[test]
fn the_room_of_the_old_file_is_given_back_after_its_last_reader() {
    let (dir, backend) = backend();
    // Several steps of the copy, and several of the end.
    let bytes = 100_000;
    write(&backend, 2..252, bytes);
    let old = std::fs::File::open(dir.path().join("db")).unwrap();
    let before = old.metadata().unwrap().len();
    let reader = backend.db();
    let mut steps = 0;
    let mut rest = |_| {
        steps += 1;
        Ok(())
    };
    backend.defragment(&mut rest).unwrap();
    assert!(steps >= 10, "{steps}");
    std::thread::sleep(std::time::Duration::from_millis(250));
    assert_eq!(old.metadata().unwrap().len(), before);
    let table = reader.begin_read().unwrap().open_table(REVISIONS).unwrap();
    assert_eq!(table.iter().unwrap().filter(std::result::Result::is_ok).count(), 250);
    drop((table, reader));
    let mut seen = vec![];
    while seen.last() != Some(&0) {
        let len = old.metadata().unwrap().len();
        if seen.last() != Some(&len) {
            seen.push(len);
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(seen.len() > 2 && seen.is_sorted_by(|a, b| a > b), "little by little: {seen:?}");
    assert_eq!(scanned(&backend, 0, i64::MAX).len(), 250);
}

#[test]
fn a_file_without_our_tables_is_refused() {
    let (dir, backend) = backend();
    drop(backend);
    let path = dir.path().join("db");
    let db = redb::Builder::new().open(&path).unwrap();
    let transaction = db.begin_write().unwrap();
    assert!(transaction.delete_table(INDEX).unwrap());
    transaction.commit().unwrap();
    drop(db);
    let error = listed(&Backend::open(&path, CACHE_BYTES).unwrap()).unwrap_err();
    assert!(error.kind() == Kind::Damaged && error.to_string().contains("no table index"), "{error}");
}
