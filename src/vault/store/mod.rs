//! The store under a repository: one small surface over `object_store`, whatever is below.
//!
//! ```text
//!  Store ── put_new, get, head, list, children, delete
//!    |
//!    +-- directory   a folder of this machine                     fsync, hard links
//!    +-- s3          a bucket that speaks S3        \
//!    +-- gcs         a bucket of Google's            +-- http      limits, silence, retries; one place for all of it
//!                                                          answer  what a status and a code mean
//! ```
//!
//! Every implementation keeps the same promises, and one suite (tests/stores) asks all of them:
//! - An object is created once. A create that finds the name taken compares content: equal is success (our own lost
//!   reply, or another writer of the same), anything else is a conflict.
//! - What was stored is read and listed at once, whole; a listing shows everything or is an error.
//! - An error has the kind of its cause, and no secret.

mod address;
mod answer;
mod credentials;
mod directory;
mod gcs;
mod http;
mod options;
mod right;
mod s3;
mod throttle;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path as StorePath;
use object_store::prefix::PrefixStore;
use object_store::{
    Attribute, Attributes, GetOptions, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    PutPayload, RetryConfig,
};
use std::io;
use std::sync::Arc;

pub(crate) use crate::vault::store::address::Address;
pub use crate::vault::store::options::{BucketOptions, Environment, PATIENCE, STALL};

use crate::base::clock::Time;
use crate::base::error::{Error, IoContext, Kind, Result};
use crate::base::stop::blocking;
use crate::vault::store::answer::Refusal;
use crate::vault::store::directory::Folders;
use crate::vault::store::http::{Altered, BytesMax};
use crate::vault::store::right::{Provider, Right};

/// How a create-only put ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It was created.
    Created,
    /// The same bytes were there already, from another writer or from our own lost reply.
    AlreadyThere,
    /// Its name was taken by bytes that are not the object, and it stands there now.
    Repaired,
}

/// An object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its path, still to be parsed.
    pub path: String,
    /// Stored bytes.
    pub bytes: u64,
    /// When the store says it was written.
    pub modified: Time,
}

/// A store of objects.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    objects: Arc<dyn ObjectStore>,
    /// What a directory needs; none for a bucket.
    folders: Option<Arc<Folders>>,
    attributes: Attributes,
    provider: Provider,
}

/// The system's number for an error of the device below a file.
const EIO: i32 = 5;
/// Times that an object is read over a network before it is called wrong: what came wrong may have been sent right.
const READS_MAX: u32 = 3;

impl Store {
    /// The objects at an address; nothing is changed there, and a bucket is not asked yet.
    pub(crate) fn open(address: &Address, url: &str, options: &BucketOptions) -> Result<Self> {
        let place = match address {
            Address::Directory(root) => {
                let (objects, folders) = directory::open(root, url)?;
                let (objects, folders) = (Arc::new(objects), Some(Arc::new(folders)));
                let attributes = Attributes::new();
                return Ok(Store { objects, folders, attributes, provider: Provider::Directory });
            }
            Address::S3(place) | Address::Gcs(place) => place,
        };
        let objects: Arc<dyn ObjectStore> = match address {
            Address::S3(_) => Arc::new(s3::open(place, options)?),
            _ => Arc::new(gcs::open(place, options)?),
        };
        let objects = match place.prefix.as_str() {
            "" => objects,
            prefix => Arc::new(PrefixStore::new(objects, prefix)),
        };
        let mut attributes = Attributes::new();
        if let Some(class) = &options.said.storage_class {
            attributes.insert(Attribute::StorageClass, class.clone().into());
        }
        Ok(Store { objects, folders: None, attributes, provider: Provider::of(address) })
    }

    /// Makes the directory of a new repository; a bucket is made by its owner.
    pub(crate) fn create(address: &Address) -> Result<()> {
        match address {
            Address::Directory(root) => directory::create_root(root),
            Address::S3(_) | Address::Gcs(_) => Ok(()),
        }
    }

    /// How often an object is read before it is called damaged: once from a disk, more often over a network.
    pub(crate) fn reads_max(&self) -> u32 {
        if self.is_remote() { READS_MAX } else { 1 }
    }

    /// Whether objects travel over a network.
    pub(crate) fn is_remote(&self) -> bool {
        self.folders.is_none()
    }

    /// Creates `path` with `content`, or finds it there with the same content.
    pub(crate) async fn put_new(&self, path: &str, content: Bytes) -> Result<Stored> {
        self.make_folders(path).await?;
        match self.create_object(path, content.clone(), false).await {
            Ok(()) => Ok(Stored::Created),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                self.resolve(path, content).await
            }
            Err(error) => Err(self.provider.name(Right::Create, failed(format!("store {path}"), error))),
        }
    }

    /// Sends `content` to a new object and changes it on the way: the store must refuse it. A directory has no way.
    pub(crate) async fn put_altered(&self, path: &str, content: Bytes) -> Result<()> {
        let stored = self.create_object(path, content, true).await;
        stored.map_err(|error| self.provider.name(Right::Create, failed(format!("store {path}"), error)))
    }

    async fn create_object(&self, path: &str, content: Bytes, altered: bool) -> object_store::Result<()> {
        let mut options = PutOptions { attributes: self.attributes.clone(), ..PutMode::Create.into() };
        if altered {
            options.extensions.insert(Altered);
        }
        self.objects.put_opts(&StorePath::parse(path)?, PutPayload::from(content), options).await.map(|_| ())
    }

    async fn make_folders(&self, path: &str) -> Result<()> {
        let Some(folders) = self.folders.clone() else { return Ok(()) };
        let owned = path.to_owned();
        blocking(move || folders.make(&owned)).await.during(|| format!("store {path}"))
    }

    /// Decides what an occupied name means.
    async fn resolve(&self, path: &str, content: Bytes) -> Result<Stored> {
        for _ in 0..self.reads_max() {
            let there = match self.open_object(path, content.len() as u64).await {
                Err(error) if error.kind() == Kind::Damaged => break,
                there => there?,
            };
            let same = match there.meta.size == content.len() as u64 {
                true => self.read(path, there).await.map(|there| there == content),
                false => Ok(false),
            };
            // What the disk cannot give any more is not the same.
            if same.or_else(|error| if is_unreadable(&error) { Ok(false) } else { Err(error) })? {
                if let Some(folders) = self.folders.clone() {
                    let owned = path.to_owned();
                    blocking(move || folders.sync_object(&owned)).await.during(|| format!("store {path}"))?;
                }
                return Ok(Stored::AlreadyThere);
            }
        }
        Err(Error::new(Kind::Conflict, format!("{path} exists already, with other content"))
            .hint("nothing was overwritten; `holdfast verify` tells whether what is there is whole"))
    }

    /// Puts `content` in the place of what is there, in one step: a crash leaves either the old bytes or the new ones.
    /// Whether that may be done is for the caller to know.
    pub(crate) async fn replace(&self, path: &str, content: Bytes) -> Result<()> {
        let options = PutOptions { attributes: self.attributes.clone(), ..PutMode::Overwrite.into() };
        let put = self.objects.put_opts(&key(path)?, PutPayload::from(content), options).await;
        put.map(|_| ()).map_err(|error| self.provider.name(Right::Create, failed(format!("replace {path}"), error)))
    }

    /// A whole object of at most `bytes_max`.
    pub(crate) async fn get(&self, path: &str, bytes_max: u64) -> Result<Bytes> {
        let there = self.open_object(path, bytes_max).await?;
        if there.meta.size > bytes_max {
            let text = format!("{path} has {} bytes, more than the {bytes_max} it may have", there.meta.size);
            return Err(
                Error::damaged(text).hint("it was replaced or is no object of this repository: see what put it there")
            );
        }
        self.read(path, there).await
    }

    async fn open_object(&self, path: &str, bytes_max: u64) -> Result<GetResult> {
        let mut options = GetOptions::default();
        options.extensions.insert(BytesMax(bytes_max));
        let object = self.objects.get_opts(&key(path)?, options).await;
        object.map_err(|error| self.provider.name(Right::Read, unread(format!("read {path}"), error)))
    }

    async fn read(&self, path: &str, object: GetResult) -> Result<Bytes> {
        object.bytes().await.map_err(|error| unread(format!("read {path}"), error))
    }

    /// Size and time of an object.
    pub(crate) async fn head(&self, path: &str) -> Result<Listed> {
        let meta = self.look(path).await?;
        Ok(Listed { path: path.to_owned(), bytes: meta.size, modified: meta.last_modified })
    }

    /// The version that the store gave an object, where it says.
    pub(crate) async fn version(&self, path: &str) -> Result<Option<String>> {
        Ok(self.look(path).await?.version)
    }

    async fn look(&self, path: &str) -> Result<ObjectMeta> {
        let meta = self.objects.head(&key(path)?).await;
        meta.map_err(|error| self.provider.name(Right::Read, failed(format!("look at {path}"), error)))
    }

    /// Every object below `folder`, in no particular order.
    pub(crate) fn list(&self, folder: &str) -> BoxStream<'static, Result<Listed>> {
        let (during, provider, remote) = (format!("list {folder}"), self.provider, self.is_remote());
        self.objects
            .list(Some(&StorePath::from(folder)))
            .try_filter(move |meta| std::future::ready(!(remote && is_marker(meta))))
            .map(move |meta| match meta {
                Ok(meta) => {
                    Ok(Listed { path: meta.location.to_string(), bytes: meta.size, modified: meta.last_modified })
                }
                Err(error) => Err(provider.name(Right::List, failed(during.clone(), error))),
            })
            .boxed()
    }

    /// The names directly below `folder` (the root when empty): folders, then objects.
    pub(crate) async fn children(&self, folder: &str) -> Result<(Vec<String>, Vec<String>)> {
        let prefix = StorePath::from(folder);
        let listed = self.objects.list_with_delimiter(Some(&prefix)).await;
        let listed =
            listed.map_err(|error| self.provider.name(Right::List, failed(format!("list {folder}"), error)))?;
        let name = |path: &StorePath| path.filename().unwrap_or_default().to_owned();
        let mut folders: Vec<String> = listed.common_prefixes.iter().map(name).collect();
        let objects = listed.objects.iter().filter(|meta| !(self.is_remote() && is_marker(meta)));
        let mut objects: Vec<String> = objects.map(|meta| name(&meta.location)).collect();
        folders.sort();
        objects.sort();
        Ok((folders, objects))
    }

    /// Deletes an object.
    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        let deleted = self.objects.delete(&key(path)?).await;
        deleted.map_err(|error| self.provider.name(Right::Delete, failed(format!("delete {path}"), error)))
    }
}

/// Whether this stands for a folder: consoles and mounts of buckets make empty objects called `folder/` when somebody makes a
/// folder. No object of a repository is empty, and none but markers lacks a dot and is.
fn is_marker(meta: &ObjectMeta) -> bool {
    meta.size == 0 && !meta.location.filename().unwrap_or_default().contains('.')
}

fn key(path: &str) -> Result<StorePath> {
    StorePath::parse(path)
        .map_err(|error| Error::damaged(format!("{path:?} cannot be the name of an object")).source(error))
}

/// `object_store`'s own retries are off: `http` has them, in one place for all requests.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

/// A failed request, under the kind that its cause stands for.
fn failed(message: String, error: object_store::Error) -> Error {
    use object_store::Error as E;
    if let Some(refusal) = refusal(&error) {
        return refusal.error().during(message);
    }
    match &error {
        E::NotFound { .. } => Error::new(Kind::NotFound, message).source(error),
        E::AlreadyExists { .. } | E::Precondition { .. } => Error::new(Kind::Conflict, message).source(error),
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Error::new(Kind::Denied, message)
            .source(error)
            .hint("the credentials must allow to list, read and create objects in the repository"),
        E::InvalidPath { .. } => Error::new(Kind::Failed, message)
            .source(error)
            .hint("Holdfast gives no object such a name: move that one out of the repository"),
        _ => match io_kind(&error) {
            // The system's own code says more than "generic"; its hint comes with it.
            Some(kind) => Error::io(message, io::Error::from(kind)).source(error),
            None => Error::new(Kind::Failed, message).source(error),
        },
    }
}

/// A read that failed. A disk that cannot give what it was given to keep has damaged it; to say that it could not be looked
/// at would be to say so for ever.
fn unread(message: String, error: object_store::Error) -> Error {
    if !is_io_error(&error) {
        return failed(message, error);
    }
    Error::damaged(message).source(error).hint(
        "the disk under the repository is failing (see `dmesg`): copy the repository elsewhere with `holdfast copy`, which \
         leaves out what is damaged, and replace it",
    )
}

/// Whether an error of a read says that the disk could not give the bytes.
pub(crate) fn is_unreadable(error: &Error) -> bool {
    error.kind() == Kind::Damaged && is_io_error(error)
}

/// The system's own word for it (EIO) is among the causes.
fn is_io_error(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|io| io.raw_os_error() == Some(EIO)))
}

/// What the transport found, from under `object_store`'s own words: those hold URLs.
fn refusal(error: &object_store::Error) -> Option<&Refusal> {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(refusal) = error.downcast_ref::<Refusal>() {
            return Some(refusal);
        }
        cause = error.source();
    }
    None
}

fn io_kind(error: &object_store::Error) -> Option<io::ErrorKind> {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::Directory(dir.path().to_owned());
        let store = Store::open(&address, "file:///x", &BucketOptions::default()).unwrap();
        (dir, store)
    }

    #[tokio::test]
    async fn a_name_is_created_once() {
        let (_dir, store) = store();
        let put = |content: &'static [u8]| store.put_new("config/x", Bytes::from_static(content));
        assert_eq!(put(b"one").await.unwrap(), Stored::Created);
        assert_eq!(put(b"one").await.unwrap(), Stored::AlreadyThere);
        for other in [&b"two"[..], b"longer", b""] {
            assert_eq!(put(other).await.unwrap_err().kind(), Kind::Conflict);
        }
        assert_eq!(store.get("config/x", 3).await.unwrap(), &b"one"[..]);
        assert_eq!(store.get("config/x", 2).await.unwrap_err().kind(), Kind::Damaged);
    }

    #[test]
    fn what_a_disk_cannot_give_is_damaged_and_nothing_else_of_the_kind() {
        let failing = |number| object_store::Error::Generic {
            store: "x",
            source: Box::new(object_store::Error::NotFound {
                path: "x".into(),
                source: io::Error::from_raw_os_error(number).into(),
            }),
        };
        let error = unread("read x".into(), failing(EIO));
        assert!(is_unreadable(&error) && error.hint_text().is_some(), "{error:?}");
        let error = unread("read x".into(), failing(13));
        assert!(!is_unreadable(&error) && error.kind() == Kind::Denied, "{error:?}");
        // A write that fails this way damages nothing that was stored.
        assert!(!is_unreadable(&failed("store x".into(), failing(EIO))));
    }

    #[tokio::test]
    async fn a_replaced_object_is_a_new_file_under_the_same_name() {
        use std::os::unix::fs::MetadataExt;
        let (dir, store) = store();
        store.put_new("config/x", Bytes::from_static(b"one")).await.unwrap();
        let path = dir.path().join("config/x");
        // What a killed replacement left.
        File::create(dir.path().join("config/x#1")).unwrap();
        let (kept, before) = (File::open(&path).unwrap(), std::fs::metadata(&path).unwrap().ino());
        store.replace("config/x", Bytes::from_static(b"two")).await.unwrap();
        assert_eq!(store.get("config/x", 3).await.unwrap(), &b"two"[..]);
        // Who has the old one open still reads it: nothing was written over it.
        assert_ne!(std::fs::metadata(&path).unwrap().ino(), before);
        assert_eq!(std::io::read_to_string(kept).unwrap(), "one");
    }

    #[tokio::test]
    async fn what_a_kill_leaves_is_invisible_and_in_nobodys_way() {
        let (dir, store) = store();
        std::fs::create_dir(dir.path().join("config")).unwrap();
        for n in 1..4 {
            File::create(dir.path().join(format!("config/x#{n}"))).unwrap();
        }
        let listed: Vec<Listed> = store.list("config").try_collect().await.unwrap();
        assert_eq!(listed, []);
        assert_eq!(store.put_new("config/x", Bytes::from_static(b"one")).await.unwrap(), Stored::Created);
        let listed: Vec<Listed> = store.list("config").try_collect().await.unwrap();
        assert_eq!(listed.iter().map(|l| (l.path.as_str(), l.bytes)).collect::<Vec<_>>(), [("config/x", 3)]);
        let (folders, objects) = store.children("config").await.unwrap();
        assert_eq!((folders.len(), objects), (0, vec!["x".to_owned()]));
    }

    #[tokio::test]
    async fn errors_keep_the_systems_kind() {
        let (dir, store) = store();
        assert_eq!(store.get("nothing", 1).await.unwrap_err().kind(), Kind::NotFound);
        assert_eq!(store.head("nothing").await.unwrap_err().kind(), Kind::NotFound);
        let none: Vec<Listed> = store.list("nothing").try_collect().await.unwrap();
        assert_eq!(none, []);
        File::create(dir.path().join("file")).unwrap();
        assert!(store.put_new("file/x", Bytes::new()).await.is_err());
        // A store that is full says so however deep the system's code is buried.
        let full = object_store::Error::Generic {
            store: "test",
            source: Box::new(Error::new(Kind::Failed, "x").source(io::Error::from(io::ErrorKind::StorageFull))),
        };
        let full = failed("store x".into(), full);
        assert_eq!(full.kind(), Kind::Full);
        assert!(full.hint_text().is_some());
    }

    #[tokio::test]
    async fn racing_creators_agree_on_one_winner() {
        let (_dir, store) = store();
        let puts = (0..16_u8).map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.put_new("config/x", Bytes::from(vec![n; 1000])).await })
        });
        let results = futures::future::join_all(puts).await;
        let created = results.iter().filter(|r| matches!(r, Ok(Ok(Stored::Created)))).count();
        let refused = results.iter().filter(|r| matches!(r, Ok(Err(e)) if e.kind() == Kind::Conflict)).count();
        assert_eq!((created, refused), (1, 15));
    }
}
