//! Epochs: which collector may delete.
//!
//! A collector claims the next number before it condemns anything; whoever holds the highest number may delete, all
//! others stop. Writers never need one: they only add facts.

use futures::stream::TryStreamExt;

use crate::base::error::Result;
use crate::vault::layout::{Location, folder};
use crate::vault::repository::Repository;

/// The highest epoch claimed in a cluster; 0 before the first.
pub async fn highest(repository: &Repository, cluster: &str) -> Result<u32> {
    let folder = folder::epochs(cluster);
    repository
        .list(&folder)
        .try_fold(0, |highest, listed| async move {
            match Location::parse(&listed.path)? {
                Location::Epoch(_, epoch) => Ok(highest.max(epoch)),
                _ => Ok(highest),
            }
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::testing;

    #[tokio::test]
    async fn the_highest_claim_wins() {
        let (_dir, repository) = testing::repository().await;
        assert_eq!(highest(&repository, "prod").await.unwrap(), 0);
        for epoch in [9, 10, 2] {
            let at = Location::Epoch("prod".into(), epoch);
            repository.put_new(&at, "{}".into()).await.unwrap();
        }
        assert_eq!(highest(&repository, "prod").await.unwrap(), 10);
        assert_eq!(highest(&repository, "other").await.unwrap(), 0);
    }
}
