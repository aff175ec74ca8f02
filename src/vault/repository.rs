//! A repository: opened by URL, recognised by its `config` documents, used through a handful of verbs.
//!
//! Invariants:
//! - A directory that holds anything else is refused, untouched.
//! - A reader creates nothing; only the first backup turns an empty or missing directory into a repository.
//! - Nothing is overwritten, with one exception: a data object's name says which bytes it stands for, so bytes that are
//!   not those are damage, and whoever holds the right ones puts them there. Nobody can write wrong ones that way.
//! - `config/<n>.json` is created only once per number; the highest number wins. Two first backups at once agree on one
//!   repository.

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use url::Url;

use crate::base::clock::{Clock, Time};
use crate::base::digest::Sha256;
use crate::base::error::{Error, Kind, Result};
use crate::base::id;
use crate::vault::layout::{Location, ObjectName, PointName, folder};
use crate::vault::manifest::{Manifest, Tool};
use crate::vault::sealed::{self, Document, HINT_DAMAGED};
pub use crate::vault::store::{Listed, Stored};
use crate::vault::store::{Store, create_root};

/// Small documents that are loaded at the same time.
pub const LOADS_MAX: usize = 4;

/// Where a repository is.
#[derive(Clone, Debug)]
pub struct RepositoryOptions {
    /// `file:///path`.
    pub url: String,
    /// Dates the documents written.
    pub clock: Clock,
}

/// The documents of a folder: those that can be believed, and what else lies there.
#[derive(Debug)]
pub struct Documents<D> {
    /// By place.
    pub read: Vec<(Location, D)>,
    /// The places of documents that cannot be believed, and why.
    pub damaged: Vec<(Location, Error)>,
    /// Names that Holdfast gives to nothing: leftovers of editors and file managers.
    pub strays: Vec<Error>,
}

/// What a repository is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Which of the repository's descriptions this is.
    pub n: u32,
    /// The repository's own id, 16 hexadecimal digits; never changes.
    pub repository: String,
    /// When this description was written.
    #[serde(with = "sealed::rfc3339")]
    pub created: Time,
    /// Who wrote it.
    pub tool: Tool,
    /// How data objects are encrypted: `none`.
    pub encryption: String,
}

impl Document for Config {
    const NAME: &'static str = "config";
}

/// An open repository. Clones share everything.
#[derive(Clone, Debug)]
pub struct Repository {
    store: Store,
    about: Arc<About>,
}

#[derive(Debug)]
struct About {
    url: String,
    clock: Clock,
    config: Option<Config>,
}

impl Repository {
    /// Opens a repository that exists.
    pub async fn open(options: &RepositoryOptions) -> Result<Self> {
        let opened = Self::attach(options).await?;
        if opened.about.config.is_some() {
            return Ok(opened);
        }
        Err(Error::new(Kind::NotFound, format!("{} is empty: no backup was ever made there", options.url))
            .hint("check the URL, or make the first backup with `holdfast backup`"))
    }

    /// Opens a repository, or makes one where there is nothing: what the first backup does.
    pub async fn create_or_open(options: &RepositoryOptions) -> Result<Self> {
        let root = parse_url(&options.url)?;
        if !root.exists() {
            create_root(&root)?;
        }
        let opened = Self::attach(options).await?;
        if opened.about.config.is_some() {
            return Ok(opened);
        }
        let config = Config {
            n: 1,
            repository: id::random()?,
            created: options.clock.now(),
            tool: Tool::this(),
            encryption: "none".to_owned(),
        };
        match opened.put_document(&Location::Config(1), &config).await {
            // Another first backup was faster: its repository is ours.
            Err(error) if error.kind() == Kind::Conflict => {}
            result => {
                result.map_err(|error| error.during(format!("create the repository {}", options.url)))?;
            }
        }
        Self::open(options).await
    }

    /// Opens a repository, or a place where one could be made, and changes nothing: what a check of the store needs.
    pub async fn attach(options: &RepositoryOptions) -> Result<Self> {
        let root = parse_url(&options.url)?;
        if !root.is_dir() {
            let (kind, what) = match root.exists() {
                true => (Kind::Usage, "is not a directory"),
                false => (Kind::NotFound, "does not exist"),
            };
            return Err(Error::new(kind, format!("repository {} {what}", options.url))
                .hint("check the URL; the first `holdfast backup` creates the directory"));
        }
        let store = Store::directory(&root)?;
        let config = newest_config(&store, &options.url).await?;
        if config.is_none() {
            refuse_strangers(&store, &options.url).await?;
        }
        let about = About { url: options.url.clone(), clock: options.clock, config };
        Ok(Repository { store, about: Arc::new(about) })
    }

    /// The address it was opened by.
    pub fn url(&self) -> &str {
        &self.about.url
    }

    /// What it is; none when it was attached to before the first backup.
    pub fn config(&self) -> Option<&Config> {
        self.about.config.as_ref()
    }

    /// The clock that dates documents.
    pub fn clock(&self) -> Clock {
        self.about.clock
    }

    /// Creates an object that must not exist with other content.
    pub async fn put_new(&self, at: &Location, content: Bytes) -> Result<Stored> {
        self.store.put_new(&at.to_string(), content).await
    }

    /// Creates a data object, or repairs it where its name is taken by other bytes: every point that lists it is whole
    /// again.
    pub async fn put_data(&self, name: &ObjectName, content: Bytes) -> Result<Stored> {
        let at = Location::Data(name.clone());
        match self.put_new(&at, content.clone()).await {
            Err(error) if error.kind() == Kind::Conflict => {}
            stored => return stored,
        }
        // The proof: what we have is what the name says, so what is there is not.
        assert_eq!(Sha256::of(&content), name.digest, "a data object is named after its content");
        self.store.replace(&at.to_string(), content.clone()).await?;
        let read_back = self.get(&at, content.len() as u64).await;
        if read_back.as_ref().is_ok_and(|there| *there == content) {
            return Ok(Stored::Repaired);
        }
        let error = Error::damaged(format!("{at} was damaged, and reads back damaged again after it was repaired"));
        let error = read_back.err().into_iter().fold(error, Error::source);
        Err(error.hint("the disk under the repository, or what is between, is broken: make the next backup elsewhere"))
    }

    /// Creates a document.
    pub async fn put_document<D: Document>(&self, at: &Location, document: &D) -> Result<Stored> {
        self.put_new(at, sealed::seal(document)?.into()).await
    }

    /// A whole object of at most `bytes_max`.
    pub async fn get(&self, at: &Location, bytes_max: u64) -> Result<Bytes> {
        self.store.get(&at.to_string(), bytes_max).await
    }

    /// A document, its checksum and version checked.
    pub async fn get_document<D: Document>(&self, at: &Location) -> Result<D> {
        let path = at.to_string();
        let bytes = self.store.get(&path, D::BYTES_MAX).await?;
        sealed::open(&path, &bytes)
    }

    /// A restore point's manifest, checked in all that does not need its objects.
    pub async fn manifest(&self, name: &PointName) -> Result<Manifest> {
        let manifest: Manifest = self.get_document(&Location::Point(name.clone())).await?;
        manifest.validate(name)?;
        Ok(manifest)
    }

    /// Size and time of an object.
    pub async fn head(&self, at: &Location) -> Result<Listed> {
        self.store.head(&at.to_string()).await
    }

    /// Every object below a folder, streamed, in no particular order.
    pub fn list(&self, folder: &str) -> BoxStream<'static, Result<Listed>> {
        self.store.list(folder)
    }

    /// Every document below a folder that passes `check`. What does not is kept apart, so that each caller decides what
    /// it cannot do without; a folder that cannot be listed is an error.
    pub async fn documents<D: Document + Send>(
        &self,
        folder: &str,
        check: impl Fn(&Location, &D) -> Result<()> + Sync,
    ) -> Result<Documents<D>> {
        let (mut places, mut found) = (vec![], Documents { read: vec![], damaged: vec![], strays: vec![] });
        let mut listed = self.list(folder);
        while let Some(object) = listed.try_next().await? {
            match Location::parse(&object.path) {
                Ok(at) => places.push(at),
                Err(error) => found.strays.push(stray(error)),
            }
        }
        let load = |at: Location| {
            let check = &check;
            async move {
                let document = self.get_document(&at).await;
                let document = document.and_then(|document| check(&at, &document).map(|()| document));
                (at, document)
            }
        };
        let mut loaded = stream::iter(places.into_iter().map(load)).buffered(LOADS_MAX);
        while let Some((at, document)) = loaded.next().await {
            match document {
                Ok(document) => found.read.push((at, document)),
                // Gone since it was listed: as if it had never been there.
                Err(error) if error.kind() == Kind::NotFound => {}
                // Damaged, from a newer version, or not ours to read.
                Err(error) if matches!(error.kind(), Kind::Damaged | Kind::Usage | Kind::Denied) => {
                    found.damaged.push((at, error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// The clusters that have anything in the repository, in order of name.
    pub async fn clusters(&self) -> Result<Vec<String>> {
        let (mut names, _) = self.store.children(folder::CLUSTERS).await?;
        names.retain(|name| id::check_name("cluster", name).is_ok());
        Ok(names)
    }

    /// Deletes an object. Whether that may be done is for the caller to know.
    pub async fn delete(&self, at: &Location) -> Result<()> {
        self.store.delete(&at.to_string()).await
    }
}

/// What to do about a name that Holdfast gives to nothing.
pub(crate) fn stray(error: Error) -> Error {
    error.or_hint("Holdfast did not put it there: move that file out of the repository")
}

async fn newest_config(store: &Store, url: &str) -> Result<Option<Config>> {
    let mut newest = None;
    let mut listed = store.list(folder::CONFIG);
    while let Some(object) = listed.next().await {
        match Location::parse(&object?.path) {
            Ok(Location::Config(n)) => newest = newest.max(Some(n)),
            _ => return Err(stranger(url)),
        }
    }
    let Some(n) = newest else { return Ok(None) };
    let path = Location::Config(n).to_string();
    let config: Config = sealed::open(&path, &store.get(&path, Config::BYTES_MAX).await?)?;
    if config.n != n {
        return Err(Error::damaged(format!("{path} says that it is number {}", config.n)).hint(HINT_DAMAGED));
    }
    if config.encryption != "none" {
        let text = format!("repository {url} is encrypted ({:?}), which this version cannot read", config.encryption);
        return Err(Error::new(Kind::Usage, text).hint("use a version of Holdfast that knows this encryption"));
    }
    Ok(Some(config))
}

/// Without a config the place must be empty: what a killed first backup or a check leaves, and nothing else.
async fn refuse_strangers(store: &Store, url: &str) -> Result<()> {
    const HARMLESS: [&str; 3] = [folder::CONFIG, folder::PROBE, "lost+found"];
    let (folders, objects) = store.children("").await?;
    if objects.is_empty() && folders.iter().all(|name| HARMLESS.contains(&name.as_str())) {
        return Ok(());
    }
    Err(stranger(url))
}

fn stranger(url: &str) -> Error {
    Error::new(Kind::Usage, format!("{url} holds files but is not a Holdfast repository; nothing was touched"))
        .hint("give an empty directory, or the root of an existing repository (it has a folder `config`)")
}

/// Whether `url` could be a repository's, without looking at what is there: what a check of a policy asks.
pub fn check_url(url: &str) -> Result<()> {
    parse_url(url).map(|_| ())
}

/// The directory that a repository's URL names.
fn parse_url(text: &str) -> Result<PathBuf> {
    let wrong =
        |what: &str, hint: &str| Err(Error::new(Kind::Usage, format!("repository URL {text:?} {what}")).hint(hint));
    const EXAMPLE: &str = "write a repository in a directory as file:///absolute/path";
    if !text.contains("://") {
        return match text.starts_with('/') {
            true => wrong("is a path", &format!("write file://{text}")),
            false => wrong("is not a URL", EXAMPLE),
        };
    }
    let Ok(url) = Url::parse(text) else { return wrong("cannot be understood", EXAMPLE) };
    match url.scheme() {
        "file" => {}
        "s3" | "s3a" | "gs" => return wrong("names a bucket: S3 and GCS are not in this version", EXAMPLE),
        scheme => return wrong(&format!("has the unknown scheme {scheme:?}"), EXAMPLE),
    }
    if url.host_str().is_some_and(|host| host != "localhost") {
        return wrong("names a host; a path begins after the third slash", EXAMPLE);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return wrong("has a '?' or '#' part", "write such characters as %3F and %23");
    }
    match url.to_file_path() {
        Ok(path) if path.is_absolute() && path != std::path::Path::new("/") => Ok(path),
        _ => wrong("is not the path of a directory", EXAMPLE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::testing;
    use std::fs;

    fn options(path: &std::path::Path) -> RepositoryOptions {
        RepositoryOptions { url: format!("file://{}", path.display()), clock: Clock::System }
    }

    #[tokio::test]
    async fn the_first_backup_creates_and_readers_never_do() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(&dir.path().join("deep/er"));
        let error = Repository::open(&options).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(!dir.path().join("deep").exists());
        let created = Repository::create_or_open(&options).await.unwrap();
        let again = Repository::create_or_open(&options).await.unwrap();
        assert_eq!(created.config(), again.config());
        assert_eq!(Repository::open(&options).await.unwrap().config().unwrap().n, 1);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(dir.path().join("deep/er")).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[tokio::test]
    async fn an_empty_directory_is_no_repository_until_the_first_backup() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        fs::create_dir(dir.path().join("config")).unwrap();
        // What a first backup leaves when it is killed in the middle of its first write.
        fs::File::create(dir.path().join("config/00000001.json#1")).unwrap();
        let options = options(dir.path());
        assert_eq!(Repository::open(&options).await.unwrap_err().kind(), Kind::NotFound);
        assert!(Repository::attach(&options).await.unwrap().config().is_none());
        assert!(Repository::create_or_open(&options).await.unwrap().config().is_some());
    }

    #[tokio::test]
    async fn a_directory_with_other_files_is_refused_untouched() {
        for name in ["notes.txt", "config/app.json", ".git/HEAD"] {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::File::create(&file).unwrap();
            let error = Repository::create_or_open(&options(dir.path())).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{name}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
        let dir = tempfile::tempdir().unwrap();
        fs::File::create(dir.path().join("file")).unwrap();
        let error = Repository::create_or_open(&options(&dir.path().join("file"))).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
    }

    #[tokio::test]
    async fn the_highest_config_wins_and_damage_in_it_is_not_skipped() {
        let (dir, repository) = testing::repository().await;
        let mut config = repository.config().unwrap().clone();
        config.n = 2;
        repository.put_document(&Location::Config(2), &config).await.unwrap();
        let options = options(dir.path());
        assert_eq!(Repository::open(&options).await.unwrap().config().unwrap().n, 2);
        config.encryption = "age".into();
        config.n = 3;
        repository.put_document(&Location::Config(3), &config).await.unwrap();
        assert_eq!(Repository::open(&options).await.unwrap_err().kind(), Kind::Usage);
        testing::damage(&dir.path().join("config/00000003.json"));
        assert_eq!(Repository::open(&options).await.unwrap_err().kind(), Kind::Damaged);
    }

    #[tokio::test]
    async fn two_first_backups_agree_on_one_repository() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(&dir.path().join("new"));
        let both = futures::future::join_all((0..4).map(|_| Repository::create_or_open(&options))).await;
        let ids: Vec<String> = both.into_iter().map(|r| r.unwrap().config().unwrap().repository.clone()).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }

    #[test]
    fn urls_are_absolute_and_local_or_refused_with_what_to_write() {
        for (right, path) in
            [("file:///a/b", "/a/b"), ("file:///a%20b", "/a b"), ("file://localhost/a", "/a"), ("file:///a/", "/a/")]
        {
            assert_eq!(parse_url(right).unwrap(), PathBuf::from(path));
        }
        for (wrong, says) in [
            ("/a/b", "write file:///a/b"),
            ("backups", "absolute"),
            ("", "absolute"),
            ("file://a/b", "file:///absolute/path"),
            ("file:///", "absolute"),
            ("s3://bucket/x", "file:///"),
            ("gs://bucket/x", "file:///"),
            ("ftp://x/y", "file:///"),
            ("file:///a?b", "%3F"),
        ] {
            let error = check_url(wrong).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{wrong}");
            assert!(error.hint_text().unwrap().contains(says), "{wrong}: {:?}", error.hint_text());
        }
        assert!(parse_url("s3://b").unwrap_err().to_string().contains("S3 and GCS are not in this version"));
    }
}
