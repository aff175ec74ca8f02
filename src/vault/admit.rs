//! Admission: from a point that somebody selected to a manifest that may be used.
//!
//! A listing shows every point and marks those that nobody trusted has signed. Whoever uses data passes through here
//! instead. `latest` that was forged is refused and not skipped: nobody is to be handed an older state without hearing of
//! it. So the refusal names the newest point that could be used.

use crate::base::error::{Error, Result};
use crate::vault::catalog::{Catalog, Point, is_damage};
use crate::vault::layout::PointName;
use crate::vault::manifest::Manifest;
use crate::vault::repository::Repository;

/// How many points are passed over in search of one that may be used: who can write to a bucket can put any number there.
pub const PASSED_OVER_MAX: usize = 100;

/// A manifest that may be used.
#[derive(Debug)]
pub struct Admitted {
    /// It.
    pub manifest: Manifest,
    /// What is to be said of it: it is used because the operator allows it.
    pub doubt: Option<String>,
}

/// The manifest of a point of `catalog`. One that may not be used is an error, which names the newest that may.
pub async fn admit(repository: &Repository, catalog: &Catalog, name: &PointName) -> Result<Admitted> {
    let (manifest, standing) = repository.stored_manifest(name).await?;
    let signers = repository.signers();
    let Err(error) = signers.check(&format!("point {} of cluster {}", name.attempt, name.cluster), standing) else {
        return Ok(Admitted { manifest, doubt: signers.doubt(standing) });
    };
    let others = catalog.points.iter().rev().filter(|point| point.name != *name);
    let newest = match newest(repository, others).await? {
        Some(newest) => {
            let PointName { attempt, revision, .. } = newest.name();
            format!("the newest point that can be used is {attempt} (revision {revision})")
        }
        None => "no other point that can be used was found".to_owned(),
    };
    let hint = format!("{newest}; {}", error.hint_text().unwrap_or_default());
    Err(error.hint(hint))
}

/// The manifest of the first of `points` that may be used, newest first; none: there is none among the first of them.
pub async fn newest<'a>(repository: &Repository, points: impl Iterator<Item = &'a Point>) -> Result<Option<Manifest>> {
    for point in points.take(PASSED_OVER_MAX) {
        match repository.manifest(&point.name).await {
            Ok(manifest) => return Ok(Some(manifest)),
            Err(error) if is_damage(&error) => {}
            Err(error) => return Err(Error::during(error, "look for a point that can be used")),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Kind;
    use crate::vault::sign::{PublicKey, Signers};
    use crate::vault::testing;

    /// A point at this revision, signed with key `n`; 0: by nobody.
    async fn add(repository: &Repository, revision: i64, n: u8) -> PointName {
        let key = (n > 0).then(|| testing::signing_key(n));
        let writer = testing::reopened(repository, key, Signers::default()).await;
        let manifest = testing::manifest("prod", &[testing::entry("prod", 1, revision)]);
        writer.put_manifest(&manifest).await.unwrap();
        manifest.name()
    }

    async fn reader(repository: &Repository, trusted: &[u8], allow_unsigned: bool) -> (Repository, Catalog) {
        let keys: Vec<PublicKey> = trusted.iter().map(|n| testing::signing_key(*n).public()).collect();
        let (key, signers) = (Some(testing::signing_key(7)), Signers::new(keys, allow_unsigned));
        let reader = testing::reopened(repository, key, signers).await;
        let catalog = Catalog::load(&reader, "prod").await.unwrap();
        (reader, catalog)
    }

    #[tokio::test]
    async fn what_may_be_used_depends_on_whom_one_trusts() {
        let (_dir, repository) = testing::repository().await;
        let unsigned = add(&repository, 10, 0).await;
        let (ours, theirs) = (add(&repository, 20, 1).await, add(&repository, 30, 2).await);
        for (trusted, allow, used, doubted) in [
            (&[][..], false, [true, false, false], [false; 3]),
            (&[1], false, [false, true, false], [false; 3]),
            (&[1, 2], false, [false, true, true], [false; 3]),
            (&[1], true, [true; 3], [true, false, true]),
            (&[], true, [true; 3], [true; 3]),
        ] {
            let (reader, catalog) = reader(&repository, trusted, allow).await;
            for (n, name) in [&unsigned, &ours, &theirs].into_iter().enumerate() {
                let admitted = admit(&reader, &catalog, name).await;
                assert_eq!(
                    (admitted.is_ok(), reader.manifest(name).await.is_ok()),
                    (used[n], used[n]),
                    "{trusted:?} {n}"
                );
                assert_eq!(admitted.is_ok_and(|admitted| admitted.doubt.is_some()), doubted[n], "{trusted:?} {n}");
                // A listing shows all of them.
                assert_eq!(reader.stored_manifest(name).await.unwrap().0.name(), *name);
            }
        }
    }

    #[tokio::test]
    async fn a_refusal_names_the_newest_point_that_can_be_used() {
        let (_dir, repository) = testing::repository().await;
        let forged = add(&repository, 900, 2).await;
        let (reader_before, catalog) = reader(&repository, &[1], false).await;
        let error = admit(&reader_before, &catalog, &forged).await.unwrap_err();
        assert!(error.hint_text().unwrap().starts_with("no other point that can be used"), "{}", error.as_warning());
        let (_, newer) = (add(&repository, 10, 1).await, add(&repository, 20, 1).await);
        let (reader, catalog) = reader(&repository, &[1], false).await;
        let error = admit(&reader, &catalog, &forged).await.unwrap_err();
        let hint = error.hint_text().unwrap();
        assert_eq!(error.kind(), Kind::Damaged);
        assert!(error.to_string().contains(&forged.attempt.to_string()), "{error}");
        let key = testing::signing_key(2).public();
        for words in [format!("is {} (revision 20)", newer.attempt), format!("--trust-key {key}")] {
            assert!(hint.contains(&words), "{hint}");
        }
    }

    #[tokio::test]
    async fn so_many_forged_points_are_passed_over_and_no_more() {
        let (_dir, repository) = testing::repository().await;
        let believed = add(&repository, 10, 1).await;
        let mut last = believed.clone();
        for n in 0..PASSED_OVER_MAX {
            last = add(&repository, 100 + i64::try_from(n).unwrap(), 2).await;
            let (reader, catalog) = reader(&repository, &[1], false).await;
            if n % 50 == 48 {
                let found = newest(&reader, catalog.points.iter().rev()).await.unwrap();
                assert_eq!(found.map(|manifest| manifest.name()).as_ref(), Some(&believed), "{n}");
            }
        }
        let (reader, catalog) = reader(&repository, &[1], false).await;
        assert!(newest(&reader, catalog.points.iter().rev()).await.unwrap().is_none());
        assert!(admit(&reader, &catalog, &last).await.is_err());
    }
}
