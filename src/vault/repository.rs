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
use std::sync::Arc;
use tokio::sync::OnceCell;

use crate::base::clock::Clock;
use crate::base::digest::Sha256;
use crate::base::error::{Error, Kind, Result};
use crate::base::id;
use crate::base::stop::blocking;
pub use crate::vault::config::{Config, Encryption};
use crate::vault::config::{Settled, numbers, settle, unwrap_all};
use crate::vault::encryption::{Identities, Passphrases, Recipients, Wanted};
use crate::vault::layout::{Location, ObjectName, PointName, folder};
use crate::vault::manifest::{Manifest, Tool};
use crate::vault::sealed::{self, Document};
use crate::vault::sign::{PublicKey, Signers, SigningKey, Standing};
use crate::vault::store::{Address, Store};
pub use crate::vault::store::{BucketOptions, Environment, Listed, PATIENCE, STALL, Stored};

/// How often a writer looks again at a config that others change.
const SETTLE_TURNS_MAX: usize = 8;
/// Small documents that are loaded at the same time.
pub const LOADS_MAX: usize = 4;

/// Where a repository is.
#[derive(Clone, Debug, Default)]
pub struct RepositoryOptions {
    /// `file:///path`, `s3://bucket/prefix` or `gs://bucket/prefix`.
    pub url: String,
    /// Dates the documents written.
    pub clock: Clock,
    /// How a bucket is reached.
    pub bucket: BucketOptions,
    /// What seals and opens data.
    pub keys: Keys,
}

/// What seals and opens data objects, what signs manifests, and whose signatures count.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// For whom new data is sealed; none when nobody said, and then nothing is written where data is encrypted.
    pub wanted: Option<Wanted>,
    /// What opens it.
    pub identities: Option<Identities>,
    /// Opens the identities that lie in the repository.
    pub passphrases: Option<Passphrases>,
    /// Signs the manifests of new points.
    pub signing: Option<SigningKey>,
    /// Whose manifests are believed.
    pub signers: Signers,
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
    keys: Keys,
    /// What opens data, once somebody needed it: a passphrase takes its time.
    identities: OnceCell<Option<Identities>>,
    /// For whom data is sealed, once a writer has settled it.
    sealing: Option<Sealing>,
}

/// For whom a writer seals; none: data is stored as it is.
pub(crate) type Sealing = Option<Recipients>;

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

    /// Opens a repository to write data into it, or makes one where there is nothing: what the first backup does.
    pub async fn create_or_open(options: &RepositoryOptions) -> Result<Self> {
        refuse_unbelieved(options)?;
        Store::create(&Address::parse(&options.url)?)?;
        Self::attach(options).await?.into_writable(options).await
    }

    /// The same repository, to write data into it as the options say. Where data is to be sealed for somebody else than
    /// before, or there is no config, the next config is written.
    pub async fn into_writable(self, options: &RepositoryOptions) -> Result<Self> {
        refuse_unbelieved(options)?;
        let mut opened = self;
        // Each turn finds a newer config, or ends: nobody writes configs but whoever changes recipients.
        for _ in 0..SETTLE_TURNS_MAX {
            let (now, n) = match &opened.about.config {
                Some(config) => (config.encryption.clone(), config.n),
                None => (Encryption::NONE, 0),
            };
            refuse_downgrade(options, &now, n)?;
            let (wanted, url) = (options.keys.wanted.clone(), options.url.clone());
            let encryption = match blocking(move || settle(&now, wanted.as_ref(), &url)).await? {
                Settled::Ready(sealing, identities) if n > 0 => return Ok(opened.settled(sealing, identities)),
                Settled::Ready(..) => Encryption::NONE,
                Settled::Write(encryption) => encryption,
            };
            let repository = match &opened.about.config {
                Some(config) => config.repository.clone(),
                None => id::random()?,
            };
            let n = opened.about.config.as_ref().map_or(Ok(1), Config::next)?;
            let config = Config { n, repository, created: options.clock.now(), tool: Tool::this(), encryption };
            match opened.put_document(&Location::Config(n), &config).await {
                // Somebody else was faster: what they wrote is looked at as if it had been there.
                Err(error) if error.kind() == Kind::Conflict => {}
                result => {
                    let what = if n == 1 { "create the repository" } else { "write the next config of" };
                    result.map_err(|error| error.during(format!("{what} {}", options.url)))?;
                }
            }
            opened = Self::open(options).await?;
        }
        Err(Error::new(Kind::Conflict, format!("others keep changing for whom {} is encrypted", options.url))
            .hint("give every policy of this repository the same recipients"))
    }

    /// The same repository, with data to be sealed so.
    fn settled(self, sealing: Sealing, identities: Option<Identities>) -> Self {
        let About { url, clock, config, keys, .. } = &*self.about;
        let identities = identities.map(|identities| Some(identities.and(keys.identities.as_ref())));
        let about = About {
            url: url.clone(),
            clock: *clock,
            config: config.clone(),
            keys: keys.clone(),
            identities: OnceCell::new_with(identities),
            sealing: Some(sealing),
        };
        Repository { store: self.store, about: Arc::new(about) }
    }

    /// For whom data is sealed. Only whoever opened the repository to write may ask.
    pub(crate) fn sealing(&self) -> &Sealing {
        self.about.sealing.as_ref().expect("writers open a repository with create_or_open")
    }

    /// For whom new data is sealed; nobody when it is stored as it is.
    pub fn recipients(&self) -> Vec<String> {
        self.about.sealing.iter().flatten().flat_map(|recipients| recipients.names().to_vec()).collect()
    }

    /// What the repository was and is, newest first.
    async fn configs(&self) -> Result<Vec<Config>> {
        let mut configs = vec![];
        for n in numbers(&self.store, || stranger(&self.about.url)).await? {
            configs.push(self.get_document::<Config>(&Location::Config(n)).await?);
        }
        Ok(configs)
    }

    /// Takes over how the data of `from` is encrypted, so that what is copied from there can be opened here: what its
    /// configs say and none of ours does becomes our next config.
    pub(crate) async fn adopt_encryption(&self, from: &Repository) -> Result<()> {
        let ours = self.configs().await?;
        let repository = ours.first().map(|config| config.repository.clone()).unwrap_or_default();
        let mut newest = ours.first().cloned();
        for Config { encryption, .. } in from.configs().await?.into_iter().rev() {
            let known = ours.iter().any(|config| config.encryption == encryption);
            if known || encryption == Encryption::NONE {
                continue;
            }
            let n = newest.as_ref().map_or(Ok(1), Config::next)?;
            let (created, tool) = (self.clock().now(), Tool::this());
            let config = Config { n, repository: repository.clone(), created, tool, encryption };
            self.put_document(&Location::Config(n), &config).await?;
            newest = Some(config);
        }
        Ok(())
    }

    /// What opens data objects; none on a host that may not read.
    pub(crate) async fn identities(&self) -> Result<Option<Identities>> {
        let found = self.about.identities.get_or_try_init(|| async {
            let given = self.about.keys.identities.clone();
            let Some(passphrases) = self.about.keys.passphrases.clone() else { return Ok(given) };
            let configs = self.configs().await?;
            let url = self.about.url.clone();
            let unwrapped = blocking(move || unwrap_all(&configs, &passphrases, &url)).await?;
            Ok(match (unwrapped, given) {
                (Some(unwrapped), given) => Some(unwrapped.and(given.as_ref())),
                (None, given) => given,
            })
        });
        found.await.cloned()
    }

    /// Why data that is sealed cannot be read here.
    pub(crate) fn unreadable(&self, object: &str) -> Error {
        const IDENTITY: &str =
            "run this on a host that has the identity: identity = \"/path\" in [repository], or --identity FILE";
        const PASSPHRASE: &str = "give the passphrase: encryption = { passphrase_file = \"/path\" } in [repository] of a \
                                  policy, or --passphrase-file FILE";
        let (whose, hint) = match self.config().map(|config| &config.encryption) {
            Some(Encryption::Age(age)) if age.wrapped_identity.is_some() => {
                (" with a passphrase".to_owned(), PASSPHRASE)
            }
            Some(Encryption::Age(age)) => (format!(" (new data is for {})", age.recipients.join(", ")), IDENTITY),
            _ => (String::new(), IDENTITY),
        };
        Error::new(Kind::Denied, format!("{object} is encrypted{whose}, and no key was given that reads it")).hint(hint)
    }

    /// Opens a repository, or a place where one could be made, and changes nothing: what a check of the store needs.
    pub async fn attach(options: &RepositoryOptions) -> Result<Self> {
        let store = Store::open(&Address::parse(&options.url)?, &options.url, &options.bucket)?;
        let mut config = newest_config(&store, &options.url).await?;
        if config.is_none() && is_unlisted(&store).await? {
            // Another first backup may have made it just now.
            config = newest_config(&store, &options.url).await?;
            if config.is_none() {
                return Err(blind(&options.url));
            }
        }
        if config.is_none() {
            refuse_strangers(&store, &options.url).await?;
        }
        let about = About {
            url: options.url.clone(),
            clock: options.clock,
            config,
            keys: options.keys.clone(),
            identities: OnceCell::new(),
            sealing: None,
        };
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

    /// The same into a buffer that was used before.
    pub(crate) async fn get_into(&self, at: &Location, bytes_max: u64, buffer: Vec<u8>) -> Result<Vec<u8>> {
        self.store.get_into(&at.to_string(), bytes_max, buffer).await
    }

    /// A document, its checksum and version checked.
    pub async fn get_document<D: Document>(&self, at: &Location) -> Result<D> {
        let path = at.to_string();
        read_document(&self.store, &path).await
    }

    /// How often an object is read before it is called damaged: once from a disk, more often over a network.
    pub fn reads_max(&self) -> u32 {
        self.store.reads_max()
    }

    /// A restore point's manifest, checked in all that does not need its objects. One that nobody signed who is believed
    /// here is an error.
    pub async fn manifest(&self, name: &PointName) -> Result<Manifest> {
        let (manifest, standing) = self.stored_manifest(name).await?;
        self.signers().check(&format!("the manifest {}", Location::Point(name.clone())), standing)?;
        Ok(manifest)
    }

    /// The same whoever signed it, and what that signature is worth: for those who only tell of points.
    pub async fn stored_manifest(&self, name: &PointName) -> Result<(Manifest, Standing)> {
        let path = Location::Point(name.clone()).to_string();
        let (manifest, signer): (Manifest, _) = read_signed(&self.store, &path).await?;
        manifest.validate(name)?;
        Ok((manifest, self.signers().standing(signer)))
    }

    /// Publishes a manifest, signed where there is a key.
    pub async fn put_manifest(&self, manifest: &Manifest) -> Result<Stored> {
        let bytes = match &self.about.keys.signing {
            Some(key) => sealed::seal_signed(manifest, key)?,
            None => sealed::seal(manifest)?,
        };
        self.put_new(&Location::Point(manifest.name()), bytes.into()).await
    }

    /// Whose manifests are believed here.
    pub fn signers(&self) -> &Signers {
        &self.about.keys.signers
    }

    /// Size and time of an object.
    pub async fn head(&self, at: &Location) -> Result<Listed> {
        self.store.head(&at.to_string()).await
    }

    /// Creates an object and changes its last byte on the way, for a check: none when there is no way to travel.
    pub async fn put_altered(&self, at: &Location, content: Bytes) -> Option<Result<()>> {
        if self.store.is_remote() { Some(self.store.put_altered(&at.to_string(), content).await) } else { None }
    }

    /// Whether the store keeps what is deleted, where it says so.
    pub async fn keeps_versions(&self, at: &Location) -> Result<bool> {
        // Google numbers every object, kept or not; a directory keeps nothing.
        if !self.about.url.starts_with("s3") {
            return Ok(false);
        }
        Ok(self.store.version(&at.to_string()).await?.is_some())
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

    /// Deletes an object that may be gone already; a run that goes on where another was killed finds many.
    pub(crate) async fn delete_if_there(&self, at: &Location) -> Result<()> {
        match self.delete(at).await {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            deleted => deleted,
        }
    }
}

/// A writer whose points its own host would not use makes none.
fn refuse_unbelieved(options: &RepositoryOptions) -> Result<()> {
    let Keys { signing, signers, .. } = &options.keys;
    if signing.is_some() || signers.admits(Standing::Unsigned) {
        return Ok(());
    }
    let url = &options.url;
    let text = format!("points made here would not be believed: signers are trusted for {url}, and none signs");
    Err(Error::new(Kind::Usage, text)
        .hint("give the host that makes points a key of its own: signing_key = \"/path/signing.pem\" in [repository]"))
}

/// Data does not go back to the clear: only the first config says so, and a later one that does was put there to have a
/// writer that nobody told for whom to encrypt store what anybody reads.
fn refuse_downgrade(options: &RepositoryOptions, now: &Encryption, n: u32) -> Result<()> {
    if n <= 1 || *now != Encryption::NONE || options.keys.wanted.is_some() {
        return Ok(());
    }
    let text = format!("{} says that data is not encrypted any more, which Holdfast never writes", Location::Config(n));
    Err(Error::damaged(text).hint("give the policy that says for whom to encrypt, and see who wrote that file"))
}

/// A document; read again when its checksum is wrong and the wire may be to blame.
async fn read_document<D: Document>(store: &Store, path: &str) -> Result<D> {
    read_signed(store, path).await.map(|(document, _)| document)
}

async fn read_signed<D: Document>(store: &Store, path: &str) -> Result<(D, Option<PublicKey>)> {
    let mut reads = store.reads_max();
    loop {
        reads -= 1;
        match sealed::open_signed(path, &store.get(path, D::BYTES_MAX).await?) {
            Err(error) if error.kind() == Kind::Damaged && reads > 0 => {}
            result => return result,
        }
    }
}

/// What to do about a name that Holdfast gives to nothing.
pub(crate) fn stray(error: Error) -> Error {
    error.or_hint("Holdfast did not put it there: move that file out of the repository")
}

async fn newest_config(store: &Store, url: &str) -> Result<Option<Config>> {
    let Some(n) = numbers(store, || stranger(url)).await?.into_iter().next() else { return Ok(None) };
    let path = Location::Config(n).to_string();
    let config: Config = read_document(store, &path).await?;
    config.check(n)?;
    if let Encryption::Unknown(_) = config.encryption {
        let text = format!("repository {url} is encrypted in a way that this version does not know");
        return Err(Error::new(Kind::Usage, text).hint("use a version of Holdfast that knows this encryption"));
    }
    Ok(Some(config))
}

/// Whether there is a first config after all. An empty listing of a bucket is believed only when that cannot be read
/// either: one that is denied, or late, must not look like a place where nothing was ever stored.
async fn is_unlisted(store: &Store) -> Result<bool> {
    if !store.is_remote() {
        return Ok(false);
    }
    match store.head(&Location::Config(1).to_string()).await {
        Err(error) if error.kind() == Kind::NotFound => Ok(false),
        // Without the right to list, a provider denies what is not there.
        Err(error) => Err(error),
        Ok(_) => Ok(true),
    }
}

fn blind(url: &str) -> Error {
    Error::new(Kind::Failed, format!("{url} holds a repository, but its listing shows nothing"))
        .hint("allow the credentials to list the bucket; `holdfast check` says what is missing")
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
    Address::parse(url).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::testing;
    use std::fs;

    fn options(path: &std::path::Path) -> RepositoryOptions {
        RepositoryOptions {
            url: format!("file://{}", path.display()),
            clock: Clock::System,
            ..RepositoryOptions::default()
        }
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
    async fn whoever_would_not_believe_what_he_makes_makes_nothing() {
        use crate::vault::sign::Signers;
        let dir = tempfile::tempdir().unwrap();
        let key = testing::signing_key(1);
        let with = |signing, allow| {
            let signers = Signers::new(vec![key.public()], allow);
            RepositoryOptions { keys: Keys { signing, signers, ..Keys::default() }, ..options(&dir.path().join("new")) }
        };
        let error = Repository::create_or_open(&with(None, false)).await.unwrap_err();
        assert_eq!((error.kind(), error.hint_text().is_some()), (Kind::Usage, true));
        assert!(!dir.path().join("new").exists());
        Repository::create_or_open(&with(Some(key.clone()), false)).await.unwrap();
        let opened = Repository::open(&with(None, false)).await.unwrap();
        assert_eq!(opened.into_writable(&with(None, false)).await.unwrap_err().kind(), Kind::Usage);
        Repository::create_or_open(&with(None, true)).await.unwrap();
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
        config.encryption = Encryption::Unknown("rot13".into());
        config.n = 3;
        repository.put_document(&Location::Config(3), &config).await.unwrap();
        assert_eq!(Repository::open(&options).await.unwrap_err().kind(), Kind::Usage);
        // A number that has none after it.
        config.n = u32::MAX;
        repository.put_document(&Location::Config(u32::MAX), &config).await.unwrap();
        let error = Repository::open(&options).await.unwrap_err();
        assert!(error.kind() == Kind::Damaged && error.hint_text().is_some(), "{error}");
        fs::remove_file(dir.path().join(Location::Config(u32::MAX).to_string())).unwrap();
        testing::damage(&dir.path().join("config/00000003.json"));
        assert_eq!(Repository::open(&options).await.unwrap_err().kind(), Kind::Damaged);
    }

    /// The options of a writer to a repository in `dir`, with a config of this number and content behind its own.
    async fn with_config(dir: &std::path::Path, change: impl FnOnce(&mut Config), n: u32) -> RepositoryOptions {
        let options = options(&dir.join("r"));
        let repository = Repository::create_or_open(&options).await.unwrap();
        let mut config = Config { n, ..repository.config().unwrap().clone() };
        change(&mut config);
        repository.put_document(&Location::Config(n), &config).await.unwrap();
        options
    }

    #[tokio::test]
    async fn an_id_that_is_none_names_no_folder_of_ours() {
        for id in ["", "..", "../../../../tmp/x", "/etc/cron.d", "0123456789abcdeF", "0123456789abcdef0", "0\0"] {
            let dir = tempfile::tempdir().unwrap();
            let options = with_config(dir.path(), |config| config.repository = id.to_owned(), 2).await;
            for opened in [Repository::open(&options).await, Repository::create_or_open(&options).await] {
                let error = opened.unwrap_err();
                assert_eq!((error.kind(), error.hint_text().is_some()), (Kind::Damaged, true), "{id:?}: {error}");
            }
        }
    }

    #[tokio::test]
    async fn a_config_beyond_all_numbers_is_named_and_followed_by_none() {
        use crate::vault::encryption::Passphrases;
        let wanted = Wanted::Passphrase(Passphrases::parse("file", "one").unwrap());
        for (n, read) in [(1_000_000, true), (1_000_001, false), (u32::MAX, false)] {
            let dir = tempfile::tempdir().unwrap();
            let plain = with_config(dir.path(), |_| (), n).await;
            assert_eq!(Repository::open(&plain).await.is_ok(), read, "{n}");
            let keys = Keys { wanted: Some(wanted.clone()), ..Keys::default() };
            let error = Repository::create_or_open(&RepositoryOptions { keys, ..plain }).await.unwrap_err();
            assert_eq!((error.kind(), error.hint_text().is_some()), (Kind::Damaged, true), "{error}");
            assert!(error.to_string().contains(&n.to_string()), "{error}");
            assert_eq!(fs::read_dir(dir.path().join("r/config")).unwrap().count(), 2);
        }
    }

    #[tokio::test]
    async fn nobody_talks_a_writer_without_a_policy_out_of_encryption() {
        let dir = tempfile::tempdir().unwrap();
        let flags = with_config(dir.path(), |config| config.encryption = Encryption::NONE, 2).await;
        let error = Repository::create_or_open(&flags).await.unwrap_err();
        assert_eq!((error.kind(), error.hint_text().is_some()), (Kind::Damaged, true), "{error}");
        // Readers read what there is, and whose policy says so goes on.
        assert!(Repository::open(&flags).await.is_ok());
        let keys = Keys { wanted: Some(Wanted::Plain), ..Keys::default() };
        assert!(Repository::create_or_open(&RepositoryOptions { keys, ..flags }).await.is_ok());
    }

    #[tokio::test]
    async fn two_first_backups_agree_on_one_repository() {
        let dir = tempfile::tempdir().unwrap();
        let options = options(&dir.path().join("new"));
        let both = futures::future::join_all((0..4).map(|_| Repository::create_or_open(&options))).await;
        let ids: Vec<String> = both.into_iter().map(|r| r.unwrap().config().unwrap().repository.clone()).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }
}
