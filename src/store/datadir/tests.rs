//! Directories in every state, and what a start does with them.

use super::*;
use crate::base::id::EtcdId;
use crate::store::datadir::identity::Members;
use std::collections::BTreeMap;
use tempfile::TempDir;

/// The steps of a bootstrap at which it can be cut off.
const STEPS: u32 = 7;

fn members() -> Box<Members> {
    Box::new([("m1".to_owned(), vec!["http://127.0.0.1:2380".to_owned()])])
}

fn identity() -> Identity {
    Identity::first("m1", "t", &members()).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "files of a test")]
fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Stands for state and log.
fn fill(places: &Places) -> Result<()> {
    write(&places.state, b"state");
    write(&places.wal.join("1.log"), b"log");
    Ok(())
}

/// Every file below, with what it holds; folders with nothing.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut tree(&path));
            found.insert(path, vec![]);
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

/// What opening says of a directory that it must leave as it is.
fn refused(root: &Path, wal: Option<&Path>) -> Error {
    let before = tree(root.parent().unwrap());
    let error = Datadir::open(root, wal).unwrap_err();
    assert!(error.hint_text().is_some(), "{}", error.chain());
    let mut after = tree(root.parent().unwrap());
    // The lock is nobody's data.
    after.remove(&root.join(LOCK));
    let mut before = before;
    before.remove(&root.join(LOCK));
    assert_eq!(before, after, "{}", error.chain());
    error
}

#[test]
fn a_member_is_there_after_its_birth_and_belongs_to_one_process() {
    for separate in [false, true] {
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("a/data");
        let wal = dir.path().join("b/wal");
        let wal = separate.then_some(wal.as_path());
        let (datadir, found) = Datadir::open(&root, wal).unwrap();
        assert!(found.is_none() && !datadir.is_wide());
        datadir.bootstrap(&identity(), fill).unwrap();
        let error = refused(&root, wal);
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(error.to_string().starts_with("another process uses the data directory"));
        drop(datadir);
        let (datadir, found) = Datadir::open(&root, wal).unwrap();
        assert_eq!(found, Some(identity()));
        assert_eq!(std::fs::read(datadir.places().wal.join("1.log")).unwrap(), b"log");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(&root), mode(&root.join("member/snap"))], [0o700; 2]);
        assert_eq!(mode(&root.join("member/identity.json")), 0o600);
        assert!(!root.join(MAKING).exists() && !wal.is_some_and(|wal| wal.join(MARKER).exists()));
    }
}

#[test]
fn a_birth_that_is_cut_off_anywhere_leaves_no_member_or_a_whole_one() {
    let mut whole = 0;
    for separate in [false, true] {
        for until in 1..=STEPS {
            let dir = TempDir::new().unwrap();
            let (root, wal) = (dir.path().join("data"), dir.path().join("wal"));
            let wal = separate.then_some(wal.as_path());
            let (datadir, _) = Datadir::open(&root, wal).unwrap();
            assert_eq!(datadir.bootstrap_until(&identity(), fill, until).unwrap_err().kind(), Kind::Interrupted);
            drop(datadir);
            let (datadir, found) = Datadir::open(&root, wal).unwrap();
            assert!(!root.join(MAKING).exists(), "step {until}");
            match found {
                Some(found) => {
                    assert_eq!(found, identity());
                    whole += 1;
                }
                None => datadir.bootstrap(&identity(), fill).unwrap(),
            }
            drop(datadir);
            assert_eq!(Datadir::open(&root, wal).unwrap().1, Some(identity()), "step {until}");
            assert!(!wal.is_some_and(|wal| wal.join(MARKER).exists()), "step {until}");
        }
        let (dir, mut filled) = (TempDir::new().unwrap(), false);
        let (datadir, _) = Datadir::open(&dir.path().join("data"), None).unwrap();
        datadir
            .bootstrap_until(
                &identity(),
                |places| {
                    filled = true;
                    fill(places)
                },
                STEPS + 1,
            )
            .unwrap();
        assert!(filled, "there are {STEPS} steps and no more");
    }
    assert_eq!(whole, 2, "the last step alone comes after the member has its name");
}

#[test]
fn a_state_that_cannot_be_made_is_no_member() {
    let dir = TempDir::new().unwrap();
    let (datadir, _) = Datadir::open(dir.path(), None).unwrap();
    let full = |_: &Places| Err(Error::new(Kind::Full, "no space").hint("make room"));
    assert_eq!(datadir.bootstrap(&identity(), full).unwrap_err().kind(), Kind::Full);
    assert!(!dir.path().join(MAKING).exists());
    drop(datadir);
    assert!(Datadir::open(dir.path(), None).unwrap().1.is_none());
}

#[test]
fn what_is_etcds_is_left_alone() {
    let mut page = vec![0; 8192];
    page[16..20].copy_from_slice(&ETCD_MAGIC);
    let mut torn = vec![0; 8192];
    torn[4112..4116].copy_from_slice(&ETCD_MAGIC);
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/etcd/etcd-3.5-auth.db");
    let log = b"frames".to_vec();
    let name = "member/wal/0000000000000000-0000000000000000.wal";
    for (name, bytes) in [
        ("member/snap/db", page),
        ("member/snap/db", torn),
        ("member/snap/db", std::fs::read(fixture).unwrap()),
        (name, log),
    ] {
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("data");
        write(&root.join(name), &bytes);
        let error = refused(&root, None);
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(error.to_string().ends_with("is the data directory of an etcd"));
        assert!(error.hint_text().unwrap().contains("holdfast restore --file"));
        assert!(!root.join(LOCK).exists(), "not even locked");
    }
    let dir = TempDir::new().unwrap();
    let (root, wal) = (dir.path().join("data"), dir.path().join("wal"));
    write(&wal.join("0000000000000001-00000000000f4240.wal"), b"frames");
    assert_eq!(refused(&root, Some(&wal)).kind(), Kind::Conflict);
    assert!(!root.exists());
}

#[test]
fn a_member_that_lacks_a_part_is_not_served() {
    let cases: [(&str, &str); 5] = [
        ("member/identity.json", "identity.json: No such file"),
        ("member/snap/db", "the state of this member is missing"),
        ("member/snap", "the state of this member is missing"),
        ("member/wal/1.log", "the log of this member is missing"),
        ("member/wal", "the log of this member is missing"),
    ];
    for (part, text) in cases {
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("data");
        Datadir::open(&root, None).unwrap().0.bootstrap(&identity(), fill).unwrap();
        let part = root.join(part);
        if part.is_dir() {
            std::fs::remove_dir_all(part).unwrap();
        } else {
            std::fs::remove_file(part).unwrap();
        }
        let error = refused(&root, None);
        assert!(error.kind() == Kind::Damaged && error.chain().contains(text), "{}", error.chain());
    }
}

#[test]
fn a_damaged_or_newer_identity_is_not_served() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("data");
    Datadir::open(&root, None).unwrap().0.bootstrap(&identity(), fill).unwrap();
    let path = root.join("member/identity.json");
    let document = std::fs::read(&path).unwrap();
    let mut flipped = document.clone();
    flipped[200] ^= 1;
    for wrong in [flipped, vec![], vec![b' '; BYTES_MAX + 1]] {
        write(&path, &wrong);
        assert_eq!(refused(&root, None).kind(), Kind::Damaged);
    }
}

#[test]
fn a_log_that_is_not_ours_is_neither_used_nor_removed() {
    let dir = TempDir::new().unwrap();
    let (root, wal) = (dir.path().join("data"), dir.path().join("wal"));
    write(&wal.join("log/1.log"), b"precious");
    let error = refused(&root, Some(&wal));
    assert!(error.kind() == Kind::Conflict && error.to_string().contains("holds something"));
    assert!(!root.exists());
}

#[test]
fn what_others_may_look_into_is_told() {
    let dir = TempDir::new().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o750)).unwrap();
    assert!(Datadir::open(dir.path(), None).unwrap().0.is_wide());
}

#[test]
fn a_path_that_is_no_directory_is_a_mistake() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    write(&file, b"");
    assert_eq!(refused(&file, None).kind(), Kind::Usage);
    assert_eq!(identity().cluster_id, crate::base::id::cluster_id(&[EtcdId(identity().member_id.0)]));
}
