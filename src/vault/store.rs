//! The store under a repository: one small surface over `object_store`, and what a directory needs beyond it.
//!
//! What was checked of `LocalFileSystem` (object_store 0.14) and relied on:
//! - A create-only put writes `<name>#<n>`, fsyncs it, hard-links it to `<name>` (which fails if that exists), fsyncs the
//!   folder and removes the staging name. Killed anywhere in between it leaves a staging name at most; listings skip
//!   every name that ends in `#` and digits, and no name of this format holds a `#`.
//! - It fsyncs the folders that it creates itself, but not one that it finds: a folder left by a killed run, or made by
//!   another thread a moment ago, may not be durable yet. So `Folders` makes and fsyncs the whole way down once per
//!   run, before the first object goes in.
//! - A create that finds the name taken fsyncs nothing: an equal object is fsynced here before it counts as stored.
//! - Listing a missing folder gives nothing; an unreadable one gives an error.

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path as StorePath;
use object_store::{GetResult, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::clock::Time;
use crate::base::error::{Error, IoContext, Kind, Result};
use crate::base::stop::blocking;

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
    folders: Arc<Folders>,
}

impl Store {
    /// The objects below an existing directory.
    pub(crate) fn directory(root: &Path) -> Result<Self> {
        let objects = LocalFileSystem::new_with_prefix(root)
            .map_err(|error| failed(format!("open directory {}", root.display()), error))?
            .with_fsync(true);
        let folders = Folders { root: root.to_owned(), durable: Mutex::default() };
        Ok(Store { objects: Arc::new(objects), folders: Arc::new(folders) })
    }

    /// Creates `path` with `content`, or finds it there with the same content.
    pub(crate) async fn put_new(&self, path: &str, content: Bytes) -> Result<Stored> {
        let during = || format!("store {path}");
        let folders = Arc::clone(&self.folders);
        let owned = path.to_owned();
        blocking(move || folders.make(&owned)).await.during(during)?;
        let key = key(path)?;
        match self.objects.put_opts(&key, PutPayload::from(content.clone()), PutMode::Create.into()).await {
            Ok(_) => Ok(Stored::Created),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                self.resolve(path, content).await
            }
            Err(error) => Err(failed(during(), error)),
        }
    }

    /// Decides what an occupied name means.
    async fn resolve(&self, path: &str, content: Bytes) -> Result<Stored> {
        let there = self.open(path).await?;
        if there.meta.size == content.len() as u64 && self.read(path, there).await? == content {
            let folders = Arc::clone(&self.folders);
            let owned = path.to_owned();
            blocking(move || folders.sync_object(&owned)).await.during(|| format!("store {path}"))?;
            return Ok(Stored::AlreadyThere);
        }
        Err(Error::new(Kind::Conflict, format!("{path} exists already, with other content"))
            .hint("nothing was overwritten; `holdfast verify` tells whether what is there is whole"))
    }

    /// Puts `content` in the place of what is there, in one step: a crash leaves either the old bytes or the new ones.
    /// Whether that may be done is for the caller to know.
    pub(crate) async fn replace(&self, path: &str, content: Bytes) -> Result<()> {
        let put = self.objects.put_opts(&key(path)?, PutPayload::from(content), PutMode::Overwrite.into()).await;
        put.map(|_| ()).map_err(|error| failed(format!("replace {path}"), error))
    }

    /// A whole object of at most `bytes_max`.
    pub(crate) async fn get(&self, path: &str, bytes_max: u64) -> Result<Bytes> {
        let there = self.open(path).await?;
        if there.meta.size > bytes_max {
            let text = format!("{path} has {} bytes, more than the {bytes_max} it may have", there.meta.size);
            return Err(
                Error::damaged(text).hint("it was replaced or is no object of this repository: see what put it there")
            );
        }
        self.read(path, there).await
    }

    async fn open(&self, path: &str) -> Result<GetResult> {
        self.objects.get(&key(path)?).await.map_err(|error| failed(format!("read {path}"), error))
    }

    async fn read(&self, path: &str, object: GetResult) -> Result<Bytes> {
        object.bytes().await.map_err(|error| failed(format!("read {path}"), error))
    }

    /// Size and time of an object.
    pub(crate) async fn head(&self, path: &str) -> Result<Listed> {
        let meta = self.objects.head(&key(path)?).await.map_err(|error| failed(format!("look at {path}"), error))?;
        Ok(Listed { path: path.to_owned(), bytes: meta.size, modified: meta.last_modified })
    }

    /// Every object below `folder`, in no particular order.
    pub(crate) fn list(&self, folder: &str) -> BoxStream<'static, Result<Listed>> {
        let during = format!("list {folder}");
        self.objects
            .list(Some(&StorePath::from(folder)))
            .map(move |meta| match meta {
                Ok(meta) => {
                    Ok(Listed { path: meta.location.to_string(), bytes: meta.size, modified: meta.last_modified })
                }
                Err(error) => Err(failed(during.clone(), error)),
            })
            .boxed()
    }

    /// The names directly below `folder` (the root when empty): folders, then objects.
    pub(crate) async fn children(&self, folder: &str) -> Result<(Vec<String>, Vec<String>)> {
        let prefix = StorePath::from(folder);
        let listed = self.objects.list_with_delimiter(Some(&prefix)).await;
        let listed = listed.map_err(|error| failed(format!("list {folder}"), error))?;
        let name = |path: &StorePath| path.filename().unwrap_or_default().to_owned();
        let mut folders: Vec<String> = listed.common_prefixes.iter().map(name).collect();
        let mut objects: Vec<String> = listed.objects.iter().map(|meta| name(&meta.location)).collect();
        folders.sort();
        objects.sort();
        Ok((folders, objects))
    }

    /// Deletes an object.
    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        self.objects.delete(&key(path)?).await.map_err(|error| failed(format!("delete {path}"), error))
    }
}

fn key(path: &str) -> Result<StorePath> {
    StorePath::parse(path)
        .map_err(|error| Error::damaged(format!("{path:?} cannot be the name of an object")).source(error))
}

/// A failed request, under the kind that its cause stands for.
fn failed(message: String, error: object_store::Error) -> Error {
    use object_store::Error as E;
    match &error {
        E::NotFound { .. } => Error::new(Kind::NotFound, message).source(error),
        E::AlreadyExists { .. } | E::Precondition { .. } => Error::new(Kind::Conflict, message).source(error),
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => Error::new(Kind::Denied, message)
            .source(error)
            .hint("the credentials must allow to list, read and create objects in the repository"),
        _ => match io_kind(&error) {
            // The system's own code says more than "generic"; its hint comes with it.
            Some(kind) => Error::io(message, io::Error::from(kind)).source(error),
            None => Error::new(Kind::Failed, message).source(error),
        },
    }
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

/// The folders of a directory repository, made durable before anything is put into them.
#[derive(Debug)]
struct Folders {
    root: PathBuf,
    durable: Mutex<HashSet<PathBuf>>,
}

impl Folders {
    fn make(&self, path: &str) -> io::Result<()> {
        let object = self.root.join(path);
        let folder = object.parent().unwrap_or(&self.root).to_owned();
        if self.durable.lock().unwrap_or_else(PoisonError::into_inner).contains(&folder) {
            return Ok(());
        }
        std::fs::create_dir_all(&folder)?;
        for part in folder.ancestors().take_while(|part| part.starts_with(&self.root)) {
            sync_folder(part)?;
        }
        self.durable.lock().unwrap_or_else(PoisonError::into_inner).insert(folder);
        Ok(())
    }

    fn sync_object(&self, path: &str) -> io::Result<()> {
        let object = self.root.join(path);
        File::open(&object)?.sync_all()?;
        sync_folder(object.parent().unwrap_or(&self.root))
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Creates the directory of a new repository, readable by its owner only: backups hold secrets.
pub(crate) fn create_root(root: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let during = || format!("create directory {}", root.display());
    let old = root.ancestors().find(|part| part.exists()).unwrap_or(root).to_owned();
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root).during(during)?;
    for part in root.ancestors().take_while(|part| part.starts_with(&old)) {
        sync_folder(part).during(during)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::directory(dir.path()).unwrap();
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
