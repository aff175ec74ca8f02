//! A place to keep a repository, of each kind, with a proxy before it where there is a network.

use holdfast::base::clock::Clock;
use holdfast::policy;
use holdfast::vault::repository::{BucketOptions, Environment, RepositoryOptions};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;

use crate::support::bucket::{Bucket, Dialect};
use crate::support::moto;
use crate::support::run::{Outcome, Run};
use crate::support::weather::Proxy;

/// What a repository can be kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A folder.
    Directory,
    /// A bucket of moto.
    S3,
    /// Our own bucket, speaking S3: it checks checksums, which moto does not.
    StrictS3,
    /// Our own bucket, speaking Google's XML API.
    Google,
}

/// All kinds.
pub(crate) const KINDS: [Kind; 4] = [Kind::Directory, Kind::S3, Kind::StrictS3, Kind::Google];
/// Those with a network.
pub(crate) const BUCKETS: [Kind; 3] = [Kind::S3, Kind::StrictS3, Kind::Google];

/// A service account that Google does not know; `disable_oauth`, or a server off the machine would be asked.
const KEY: &str = r#"{"type": "service_account", "private_key": "", "private_key_id": "", "client_email": "test@test",
    "disable_oauth": true}"#;

/// No byte for this long is a failed request, in these tests.
const STALL: Duration = Duration::from_secs(1);

/// A place for one test, gone when dropped.
pub(crate) struct Site {
    pub(crate) kind: Kind,
    dir: TempDir,
    name: String,
    /// The bucket itself, when it is ours.
    pub(crate) bucket: Option<Bucket>,
    proxy: Option<Proxy>,
    /// How long a request is tried again.
    pub(crate) patience: Duration,
    /// More lines for `[repository]`.
    pub(crate) more: String,
}

impl Site {
    /// An empty one.
    pub(crate) fn new(kind: Kind) -> Site {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("bucket-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = TempDir::with_prefix_in("stores-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::create_dir(dir.path().join("scratch")).unwrap();
        fs::write(dir.path().join("key.json"), KEY).unwrap();
        let (bucket, server) = match kind {
            Kind::Directory => (None, None),
            Kind::S3 => (None, Some(moto::bucket(&name))),
            Kind::StrictS3 => (Some(Bucket::start(Dialect::S3, &name)), None),
            Kind::Google => (Some(Bucket::start(Dialect::Google, &name)), None),
        };
        let server = server.or_else(|| bucket.as_ref().map(Bucket::address));
        let proxy = server.map(Proxy::before);
        Site { kind, dir, name, bucket, proxy, patience: Duration::from_secs(30), more: String::new() }
    }

    /// The proxy before the bucket.
    pub(crate) fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("a directory has no network")
    }

    /// Our own bucket.
    pub(crate) fn bucket(&self) -> &Bucket {
        self.bucket.as_ref().expect("it is one of ours")
    }

    /// The repository's address.
    pub(crate) fn url(&self) -> String {
        match self.kind {
            Kind::Directory => format!("file://{}/repository", self.dir.path().display()),
            Kind::S3 | Kind::StrictS3 => format!("s3://{}/some/folder", self.name),
            Kind::Google => format!("gs://{}/some/folder", self.name),
        }
    }

    /// A path in its own folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The same as text.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The variables of a user with keys for S3, and nobody to ask for others.
    fn environment() -> [(&'static str, &'static str); 3] {
        [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_EC2_METADATA_DISABLED", "true")]
    }

    /// How the library opens it.
    pub(crate) fn options(&self) -> RepositoryOptions {
        let environment = Self::environment().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let said = policy::Bucket {
            endpoint: self.proxy.as_ref().map(|proxy| format!("http://{}", proxy.address())),
            credentials_file: (self.kind == Kind::Google).then(|| self.path("key.json")),
            stall: Some(STALL),
            patience: Some(self.patience),
            ..policy::Bucket::default()
        };
        let bucket = BucketOptions { said, environment: Environment::new(environment) };
        RepositoryOptions { url: self.url(), clock: Clock::System, bucket, ..RepositoryOptions::default() }
    }

    /// Writes `policy.toml` with this `[cluster]` table.
    pub(crate) fn policy(&self, cluster: &str) {
        let mut table = format!("\n[repository]\nurl = {:?}\nencryption = \"none\"\n", self.url());
        if let Some(proxy) = &self.proxy {
            let patience = self.patience.as_millis();
            table +=
                &format!("endpoint = \"http://{}\"\nstall = \"1s\"\npatience = \"{patience}ms\"\n", proxy.address());
        }
        if self.kind == Kind::Google {
            table += "credentials_file = \"key.json\"\n";
        }
        fs::write(self.path("policy.toml"), format!("{cluster}{table}{}", self.more)).unwrap();
    }

    /// The built binary with the policy of this place.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        let mut run = Run::holdfast()
            .env("HOLDFAST_SCRATCH", self.path("scratch"))
            .env("HOLDFAST_TEST_OBJECT_BYTES", "1048576")
            .env("HOME", self.dir.path())
            .env("XDG_CACHE_HOME", self.path("cache"))
            .dir(self.dir.path());
        for (name, value) in Self::environment() {
            run = run.env(name, value);
        }
        run.args(args).args(&["--policy", &self.text("policy.toml")])
    }

    /// Runs it.
    pub(crate) fn holdfast(&self, args: &[&str]) -> Outcome {
        self.run(args).run()
    }

    /// Ids of the points, oldest first; an empty repository has none.
    pub(crate) fn points(&self) -> Vec<String> {
        let outcome = self.holdfast(&["list", "-o", "json"]);
        if outcome.code() == 4 {
            return vec![];
        }
        let listed = outcome.success().json();
        listed["points"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    }
}
