//! What every store must do, asked through the repository's own door, with the cost of each answer.

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;
use holdfast::base::error::Kind as ErrorKind;
use holdfast::vault::layout::{Attempt, Location, folder};
use holdfast::vault::repository::{Listed, Repository, Stored};

use crate::site::{BUCKETS, KINDS, Kind, Site};
use crate::support::weather::Weather;

fn probe() -> Location {
    Location::Probe(Attempt::random().unwrap())
}

async fn repository(site: &Site) -> Repository {
    Repository::create_or_open(&site.options()).await.unwrap()
}

async fn listed(repository: &Repository, folder: &str) -> Vec<String> {
    let mut listed: Vec<Listed> = repository.list(folder).try_collect().await.unwrap();
    listed.sort_by(|a, b| a.path.cmp(&b.path));
    listed.into_iter().map(|listed| listed.path).collect()
}

#[tokio::test]
async fn a_name_is_created_once_and_reads_back() {
    for kind in KINDS {
        let site = Site::new(kind);
        let repository = repository(&site).await;
        let at = probe();
        let put = |content: &'static [u8]| repository.put_new(&at, Bytes::from_static(content));
        assert_eq!(put(b"one").await.unwrap(), Stored::Created, "{kind:?}");
        assert_eq!(put(b"one").await.unwrap(), Stored::AlreadyThere, "{kind:?}");
        for other in [&b"two"[..], b"longer", b""] {
            assert_eq!(put(other).await.unwrap_err().kind(), ErrorKind::Conflict, "{kind:?}");
        }
        assert_eq!(repository.get(&at, 3).await.unwrap(), &b"one"[..]);
        assert_eq!(repository.get(&at, 2).await.unwrap_err().kind(), ErrorKind::Damaged);
        let head = repository.head(&at).await.unwrap();
        assert_eq!((head.path, head.bytes), (at.to_string(), 3));
    }
}

#[tokio::test]
async fn racing_creators_agree_on_one_winner() {
    for kind in KINDS {
        let site = Site::new(kind);
        let repository = repository(&site).await;
        let at = probe();
        let puts = (0..8_u8).map(|n| repository.put_new(&at, Bytes::from(vec![n; 1000])));
        let results = join_all(puts).await;
        let created = results.iter().filter(|r| matches!(r, Ok(Stored::Created))).count();
        let refused = results.iter().filter(|r| matches!(r, Err(e) if e.kind() == ErrorKind::Conflict)).count();
        assert_eq!((created, refused), (1, 7), "{kind:?}: {results:?}");
    }
}

#[tokio::test]
async fn objects_of_every_size_come_back_whole() {
    for kind in KINDS {
        let site = Site::new(kind);
        let repository = repository(&site).await;
        for size in [0, 1, 65_535, 65_536, 65_537, 3 << 20] {
            let at = probe();
            let content: Bytes = (0..size).map(|n: usize| n.to_le_bytes()[n % 3]).collect::<Vec<u8>>().into();
            repository.put_new(&at, content.clone()).await.unwrap();
            assert!(repository.get(&at, content.len() as u64).await.unwrap() == content, "{kind:?} {size}");
        }
    }
}

#[tokio::test]
async fn a_listing_shows_everything_at_once_page_after_page() {
    for kind in KINDS {
        let site = Site::new(kind);
        if let Some(bucket) = &site.bucket {
            bucket.page(7);
        }
        let repository = repository(&site).await;
        assert_eq!(listed(&repository, folder::PROBE).await, Vec::<String>::new(), "{kind:?}");
        let mut names = vec![];
        for _ in 0..25 {
            let at = probe();
            repository.put_new(&at, Bytes::from_static(b"x")).await.unwrap();
            names.push(at.to_string());
        }
        names.sort();
        assert_eq!(listed(&repository, folder::PROBE).await, names, "{kind:?}");
        // What begins alike is another folder.
        assert_eq!(listed(&repository, "prob").await, Vec::<String>::new(), "{kind:?}");
        for cluster in ["a.b_c-1", "prod", "prod-2"] {
            let at = Location::Epoch(cluster.to_owned(), 1);
            repository.put_new(&at, Bytes::from_static(b"x")).await.unwrap();
        }
        assert_eq!(repository.clusters().await.unwrap(), ["a.b_c-1", "prod", "prod-2"], "{kind:?}");
        assert_eq!(listed(&repository, &folder::epochs("prod")).await, ["clusters/prod/epochs/00000001.json"]);
    }
}

#[tokio::test]
async fn what_is_not_there_and_what_was_deleted_is_not_found() {
    for kind in KINDS {
        let site = Site::new(kind);
        let repository = repository(&site).await;
        let at = probe();
        assert_eq!(repository.get(&at, 1).await.unwrap_err().kind(), ErrorKind::NotFound, "{kind:?}");
        assert_eq!(repository.head(&at).await.unwrap_err().kind(), ErrorKind::NotFound, "{kind:?}");
        repository.put_new(&at, Bytes::from_static(b"x")).await.unwrap();
        repository.delete(&at).await.unwrap();
        assert_eq!(repository.get(&at, 1).await.unwrap_err().kind(), ErrorKind::NotFound, "{kind:?}");
        assert_eq!(listed(&repository, folder::PROBE).await, Vec::<String>::new(), "{kind:?}");
    }
}

#[tokio::test]
async fn first_backups_at_once_agree_and_readers_create_nothing() {
    for kind in KINDS {
        let site = Site::new(kind);
        let options = site.options();
        assert_eq!(Repository::open(&options).await.unwrap_err().kind(), ErrorKind::NotFound, "{kind:?}");
        let both = join_all((0..4).map(|_| Repository::create_or_open(&options))).await;
        let ids: Vec<String> = both.into_iter().map(|r| r.unwrap().config().unwrap().repository.clone()).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{kind:?}: {ids:?}");
        assert_eq!(Repository::open(&options).await.unwrap().config().unwrap().repository, ids[0]);
    }
}

#[tokio::test]
async fn a_bucket_with_other_things_is_refused_untouched_and_its_neighbours_are_not_seen() {
    for kind in [Kind::StrictS3, Kind::Google] {
        let site = Site::new(kind);
        // Beside the repository's folder, and with a name that begins like it.
        site.bucket().put("some/other", b"x");
        site.bucket().put("some/folder2/config/app.json", b"x");
        repository(&site).await;
        let site = Site::new(kind);
        site.bucket().put("some/folder/notes.txt", b"x");
        let error = Repository::create_or_open(&site.options()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{kind:?}");
        assert_eq!(site.bucket().objects().len(), 1);
    }
}

/// Consoles make an empty object for each folder that somebody makes or looks into.
#[tokio::test]
async fn folders_that_a_console_made_are_nobodys_objects() {
    for kind in [Kind::StrictS3, Kind::Google] {
        let site = Site::new(kind);
        let mark = |folders: &[&str]| {
            folders.iter().for_each(|folder| site.bucket().put(&format!("some/folder/{folder}"), b""));
        };
        mark(&["", "config/", "probe/"]);
        let first = repository(&site).await;
        mark(&["clusters/", "clusters/prod/", "clusters/prod/points/"]);
        assert_eq!(listed(&first, "config").await, ["config/00000001.json"], "{kind:?}");
        assert_eq!(listed(&first, "clusters").await, Vec::<String>::new(), "{kind:?}");
        let again = repository(&site).await;
        assert_eq!(again.config(), first.config(), "{kind:?}");
        // What is empty and has the name of a document is not passed over.
        site.bucket().put("some/folder/config/00000002.json", b"");
        assert_eq!(Repository::open(&site.options()).await.unwrap_err().kind(), ErrorKind::Damaged, "{kind:?}");
    }
}

#[tokio::test]
async fn what_each_request_costs() {
    for kind in BUCKETS {
        let site = Site::new(kind);
        let repository = repository(&site).await;
        let proxy = site.proxy();
        let counts = || ["PUT", "GET", "HEAD", "LIST", "DELETE"].map(|request| proxy.count(request));
        let at = probe();
        proxy.set(Weather::default());
        repository.put_new(&at, Bytes::from_static(b"one")).await.unwrap();
        assert_eq!((counts(), proxy.sent()), ([1, 0, 0, 0, 0], 3), "{kind:?}: a create is one request");
        repository.put_new(&at, Bytes::from_static(b"one")).await.unwrap();
        assert_eq!(counts(), [2, 1, 0, 0, 0], "{kind:?}: a taken name is read once");
        proxy.set(Weather::default());
        repository.get(&at, 3).await.unwrap();
        assert_eq!(counts(), [0, 1, 0, 0, 0], "{kind:?}");
        proxy.set(Weather::default());
        repository.delete(&at).await.unwrap();
        assert_eq!(counts(), [0, 0, 0, 0, 1], "{kind:?}");
        proxy.set(Weather::default());
        Repository::open(&site.options()).await.unwrap();
        assert_eq!(counts(), [0, 1, 0, 1, 0], "{kind:?}: opening lists and reads the config");
    }
}
