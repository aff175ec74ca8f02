//! Fixtures, and etcd files taken apart without help of the code under test's higher layers.

use holdfast::base::error::Result;
use holdfast::snapshot::bbolt::build::Builder;
use holdfast::snapshot::bbolt::page::META_BYTES;
use holdfast::snapshot::bbolt::read::{Db, Direction};
use holdfast::snapshot::bbolt::records::Source;
use holdfast::snapshot::bbolt::shape::Sizes;
use holdfast::snapshot::decode::Records;
use holdfast::snapshot::encode::Block;

/// An entry of an etcd file: bucket, its sequence number, key, value. An empty bucket has one entry without key.
pub(crate) type Entry = (Vec<u8>, u64, Option<Vec<u8>>, Vec<u8>);

/// The bytes of tests/fixtures/etcd/`name`.
pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/etcd").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every entry of every bucket.
pub(crate) fn entries(file: &[u8]) -> Result<Vec<Entry>> {
    let db = Db::open(file)?;
    let mut walk = db.walk();
    let mut all = vec![];
    for bucket in db.buckets(&mut walk)? {
        let before = all.len();
        let mut leaves = db.leaves(&bucket.root, Direction::Forward);
        while let Some(leaf) = leaves.next_leaf(&mut walk)? {
            for entry in leaf.entries() {
                all.push((bucket.name.clone(), bucket.sequence, Some(entry.key.to_vec()), entry.value.to_vec()));
            }
        }
        if all.len() == before {
            all.push((bucket.name.clone(), bucket.sequence, None, vec![]));
        }
    }
    Ok(all)
}

/// The file's records, encoded.
pub(crate) fn encode(file: &[u8]) -> Result<Vec<Block>> {
    let db = Db::open(file)?;
    let source = Source::open(&db)?;
    let mut blocks = vec![];
    source.encode(&source.descriptor(Default::default(), Default::default()), &mut |block| {
        blocks.push(block);
        Ok(())
    })?;
    Ok(blocks)
}

/// A new file from encoded records.
pub(crate) fn build(blocks: &[Block], sizes: Sizes) -> Result<Vec<u8>> {
    let mut file = vec![0; 2 * sizes.page];
    assert!(file.len() >= META_BYTES);
    let mut sink = |chunk: &[u8]| {
        file.extend_from_slice(chunk);
        Ok(())
    };
    let mut builder = Builder::start(sizes, &mut sink)?;
    for block in blocks {
        for record in Records::of(&block.bytes) {
            builder.put(&record?, &mut sink)?;
        }
    }
    let head = builder.finish(&mut sink)?;
    assert_eq!(head.file_bytes, file.len() as u64);
    file[..head.bytes.len()].copy_from_slice(&head.bytes);
    Ok(file)
}
