//! A directory with a policy, a repository, a scratch folder and room for targets, and a look at what stands in it.

use holdfast::base::digest::Sha256;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

use crate::support::etcd::Etcd;
use crate::support::load;
use crate::support::run::{Outcome, Run};

/// Raw bytes of an object in these tests: the smallest there can be, so that small clusters have several.
pub(crate) const OBJECT_BYTES: &str = "1048576";
/// Makes backups cut objects that small.
pub(crate) const OBJECT_VARIABLE: &str = "HOLDFAST_TEST_OBJECT_BYTES";
/// Pods in a cluster whose points have several objects of that size.
pub(crate) const PODS: u64 = 1_500;

/// Files by path, with their sizes and digests.
pub(crate) type Tree = BTreeMap<String, (u64, String)>;

/// A directory for one test, gone when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    dir: TempDir,
}

impl Place {
    /// An empty one, with a folder `scratch` and a folder `out`.
    pub(crate) fn new() -> Place {
        let dir = TempDir::with_prefix_in("e2e-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::create_dir(dir.path().join("scratch")).unwrap();
        fs::create_dir(dir.path().join("out")).unwrap();
        Place { dir }
    }

    /// Its own path.
    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as text, for arguments.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a file; its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).unwrap();
        self.text(name)
    }

    /// The folder of the repository that the policies of this place name.
    pub(crate) fn repository(&self) -> PathBuf {
        self.path("repository")
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.text("repository"))
    }

    /// Writes `policy.toml` with this `[cluster]` table; its path.
    pub(crate) fn policy(&self, cluster: &str) -> String {
        let table = format!("\n[repository]\nurl = {:?}\nencryption = \"none\"\n", self.url());
        self.write("policy.toml", format!("{cluster}{table}"))
    }

    /// The policy of a cluster `prod` behind `address`.
    pub(crate) fn policy_at(&self, address: &str) -> String {
        self.policy(&format!("[cluster]\nname = \"prod\"\nendpoints = [\"http://{address}\"]\n"))
    }

    /// The built binary in this place: its scratch is here, and small objects are cut.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        let scratch = self.path("scratch");
        Run::holdfast().env("HOLDFAST_SCRATCH", scratch).env(OBJECT_VARIABLE, OBJECT_BYTES).dir(self.root()).args(args)
    }

    /// Runs it with the policy of this place.
    pub(crate) fn with_policy(&self, args: &[&str]) -> Outcome {
        self.run(args).args(&["--policy", &self.text("policy.toml")]).run()
    }

    /// Every file below `folder`.
    pub(crate) fn tree(&self, folder: &str) -> Tree {
        let mut tree = Tree::new();
        walk(&self.path(folder), &self.path(folder), &mut tree);
        tree
    }

    /// Ids of the points that `list` shows, oldest first. Panics unless there are some or there is nothing at all.
    pub(crate) fn points(&self) -> Vec<String> {
        let outcome = self.with_policy(&["list", "-o", "json"]);
        if outcome.code() == 4 {
            return vec![];
        }
        self.points_of(&outcome.success())
    }

    /// The same of a list that was asked for already.
    pub(crate) fn points_of(&self, listed: &Outcome) -> Vec<String> {
        let listed = listed.json();
        listed["points"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Fails unless every point verifies at level 3; how many there are.
    #[track_caller]
    pub(crate) fn verify_all(&self) -> usize {
        let points = self.points().len();
        if points > 0 {
            let verdicts = self.with_policy(&["verify", "--level", "3", "-o", "json"]).success().json();
            assert_eq!(verdicts["verdicts"].as_array().unwrap().len(), points);
        }
        points
    }

    /// Fails when anything lies in the scratch folder or in `out`.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.tree("scratch"), Tree::new(), "scratch");
        assert_eq!(self.tree("out"), Tree::new(), "targets");
    }
}

fn walk(root: &Path, dir: &Path, tree: &mut Tree) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(root, &path, tree);
        } else {
            let bytes = fs::read(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            tree.insert(name, (bytes.len() as u64, Sha256::of(&bytes).to_string()));
        }
    }
}

/// A cluster with enough in it for points of several objects.
pub(crate) fn loaded() -> Etcd {
    let etcd = Etcd::start();
    load::fill(&etcd, 7, 0, PODS);
    etcd
}
