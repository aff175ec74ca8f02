//! Who may read what is written: the user who ran the command, whatever the umask and the folder that was there.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::files::fixture;
use crate::place::Place;
use crate::support::etcd::Etcd;
use crate::support::run::{Outcome, Run};

/// Runs the binary under an umask.
fn under(umask: &str, place: &Place, args: &[&str]) -> Outcome {
    let script = format!("umask {umask} && exec {:?} \"$@\"", env!("CARGO_BIN_EXE_holdfast"));
    let run = Run::new("sh").env("HOLDFAST_SCRATCH", place.path("scratch")).dir(place.root());
    run.args(&["-c", &script, "sh"]).args(args).run()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Fails unless every file below `dir` has mode 0600 and every folder 0700; how many of each.
fn assert_private(dir: &Path) -> (usize, usize) {
    let (mut files, mut folders) = (0, 0);
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_eq!(mode(&path), 0o700, "{}", path.display());
            let below = assert_private(&path);
            (files, folders) = (files + below.0, folders + below.1 + 1);
        } else {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            files += 1;
        }
    }
    (files, folders)
}

#[test]
fn what_is_written_can_be_read_by_its_owner_only() {
    let etcd = Etcd::start();
    etcd.etcdctl(&["put", "secret", "1"]).success();
    for umask in ["022", "000"] {
        let place = Place::new();
        let policy = place.policy_at(&etcd.address(0));
        // A folder that was there before stays as its owner made it; what goes into it does not.
        fs::create_dir(place.repository()).unwrap();
        fs::set_permissions(place.repository(), Permissions::from_mode(0o755)).unwrap();
        let file = place.write("auth.db", fixture("etcd-3.5-auth.db"));
        let address = etcd.address(0);
        for args in [
            &["backup", "--policy", &policy][..],
            &["import", &file, "--policy", &policy],
            &["verify", "--policy", &policy],
            &["check", "--policy", &policy],
            &["restore", "--etcd-snapshot", "out/r.db", "--yes", "--policy", &policy],
            &["export", "latest", "out/e.db", "--policy", &policy],
            &["snapshot", "save", "out/s.db", "--endpoints", &address],
        ] {
            under(umask, &place, args).success();
        }
        assert_eq!(mode(&place.repository()), 0o755);
        let (files, folders) = assert_private(&place.repository());
        // Config, 2 lineages, 2 points, 2 objects or more, 3 verdicts; config, clusters, prod, four kinds and more below.
        assert!(files >= 10 && folders >= 10, "{files} files, {folders} folders");
        assert_eq!(assert_private(&place.path("out")), (3, 0));
        // Manual pages hold nobody's secrets.
        under(umask, &place, &["man", "man1"]).success();
        let wanted = 0o666 & !u32::from_str_radix(umask, 8).unwrap();
        assert_eq!(mode(&place.path("man1/holdfast.1")), wanted);
    }
}
