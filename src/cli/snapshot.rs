//! `snapshot save`, `snapshot status`, `hashkv`: what etcdctl and etcdutl call so, with the checks they leave out.

use serde::Serialize;

use crate::base::digest::Sha256;
use crate::base::durable::NewFile;
use crate::base::error::{Error, Kind, Result};
use crate::base::file::ReadAt;
use crate::base::stop::{Stop, blocking};
use crate::base::units;
use crate::cli::args::{Hashkv, SnapshotSave, SnapshotStatus};
use crate::cli::output::{facts, table};
use crate::cli::progress::Show;
use crate::cli::run::{Context, Ended};
use crate::cli::target;
use crate::client::Client;
use crate::client::maintenance::choose;
use crate::snapshot::bbolt::read::{Db, split_trailer};
use crate::snapshot::bbolt::records::Source;
use crate::snapshot::bbolt::status::{Status, status as status_of};
use crate::snapshot::hash::Scope;
use crate::snapshot::proof::Prover;

/// Mode of files that hold a cluster's secrets.
const SECRET_MODE: u32 = 0o600;

/// Whether the SHA-256 behind a snapshot file is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Trailer {
    Right,
    Wrong,
    Missing,
}

/// Compares the SHA-256 behind the file, if there is one.
pub(crate) fn check_trailer(file: &ReadAt, stop: &Stop) -> Result<Trailer> {
    let (len, trailer) = split_trailer(file.len());
    if !trailer {
        return Ok(Trailer::Missing);
    }
    let mut expected = Sha256::default();
    file.read(len, &mut expected.0)?;
    Ok(if file.sha256(len, stop)? == expected { Trailer::Right } else { Trailer::Wrong })
}

pub(crate) async fn save(args: SnapshotSave, context: &Context) -> Result<Ended> {
    #[derive(Serialize)]
    struct Saved {
        file: String,
        endpoint: String,
        chosen_because: String,
        version: String,
        bytes: u64,
        sha256: Sha256,
    }
    let client = Client::new(&target::reached(&args.endpoints, args.patience.stall)?)?;
    let mut file = NewFile::create(&args.file, SECRET_MODE)?;
    let show = Show::start(&context.progress, &context.output);
    let choice = choose(&context.stop.or(client.survey()).await?.members)?;
    let mut stream = context.stop.or(client.snapshot(&choice.endpoint)).await?;
    context.progress.stage("receiving the snapshot", stream.db_bytes());
    while let Some(chunk) = context.stop.or(stream.next()).await? {
        file.append(&chunk)?;
        context.progress.add(chunk.len() as u64);
    }
    let tail = stream.finish().await?;
    file.append(&tail.sha256.0)?;
    context.progress.stage("making it durable", 0);
    file.commit()?;
    drop(show);
    let saved = Saved {
        file: args.file.display().to_string(),
        endpoint: choice.endpoint.to_string(),
        chosen_because: choice.reason,
        version: tail.version,
        bytes: tail.db_bytes,
        sha256: tail.sha256,
    };
    context.output.show("snapshot_save", &saved, || {
        format!(
            "Snapshot of {} saved at {} ({}; SHA-256 of the stream is right; {})\n",
            saved.endpoint,
            saved.file,
            units::bytes(saved.bytes),
            saved.chosen_because
        )
    })?;
    Ok(Ended::Well)
}

pub(crate) async fn status(args: SnapshotStatus, context: &Context) -> Result<Ended> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Shown {
        #[serde(flatten)]
        status: Status,
        /// Keys alive at the revision, which is what etcd 3.6 calls totalKey.
        live_keys: u64,
        sha256: Trailer,
    }
    let file = target::snapshot_file(&args.file, &args.scratch, context).await?;
    let inner = context.clone();
    let shown = blocking(move || -> Result<Shown> {
        let sha256 = check_trailer(&file, &inner.stop)?;
        let db = Db::open(file)?;
        let status = status_of(&db, &inner.stop)?;
        let proof = prove(&db, 0, &inner.stop)?;
        Ok(Shown { status, live_keys: proof.counts.live_keys, sha256 })
    })
    .await
    .map_err(target::in_file)?;
    context.output.show("snapshot_status", &shown, || {
        let status = &shown.status;
        let sha256 = match shown.sha256 {
            Trailer::Right => "right",
            Trailer::Wrong => "WRONG",
            Trailer::Missing => "not there",
        };
        let version = if status.version.is_empty() { "-" } else { &status.version };
        let row = [
            format!("{:x}", status.hash),
            status.revision.to_string(),
            status.total_key.to_string(),
            shown.live_keys.to_string(),
            units::bytes(status.total_size),
            version.to_owned(),
            sha256.to_owned(),
        ];
        let header = ["HASH", "REVISION", "TOTAL KEYS", "LIVE KEYS", "TOTAL SIZE", "VERSION", "SHA-256"];
        table(&header, &header[..5], vec![row.to_vec()])
    })?;
    match shown.sha256 {
        Trailer::Right => {}
        Trailer::Missing => {
            context.output.remark("the file has no SHA-256 behind it: it was copied from a data directory, or cut");
        }
        Trailer::Wrong => {
            context.output.warn("the SHA-256 behind the file is not that of its content: do not restore it");
        }
    }
    Ok(if shown.sha256 == Trailer::Wrong { Ended::Damaged } else { Ended::Well })
}

pub(crate) async fn hashkv(args: Hashkv, context: &Context) -> Result<Ended> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Shown {
        hash: u32,
        hash_revision: i64,
        compact_revision: i64,
        state_digest: String,
    }
    let file = target::snapshot_file(&args.file, &args.scratch, context).await?;
    let inner = context.clone();
    let shown = blocking(move || -> Result<Shown> {
        let db = Db::open(file)?;
        let proof = prove(&db, args.rev, &inner.stop)?;
        Ok(Shown {
            hash: proof.hash_kv,
            hash_revision: proof.scope.revision,
            compact_revision: proof.scope.compact_revision,
            state_digest: proof.state_digest.to_string(),
        })
    })
    .await
    .map_err(target::in_file)?;
    context.output.show("hashkv", &shown, || {
        facts(&[
            ("hash", shown.hash.to_string()),
            ("hash revision", shown.hash_revision.to_string()),
            ("compact revision", shown.compact_revision.to_string()),
            ("state digest", shown.state_digest.clone()),
        ])
    })?;
    Ok(Ended::Well)
}

/// Proves a file at `revision`; 0 for its newest.
pub(crate) fn prove(db: &Db<ReadAt>, revision: i64, stop: &Stop) -> Result<crate::snapshot::proof::Proof> {
    let source = Source::open(db)?;
    let facts = source.facts();
    check_revision(revision, facts.revision, facts.compact_revision)?;
    let at = if revision == 0 { facts.revision } else { revision };
    let mut prover = Prover::new(Scope { revision: at, compact_revision: facts.compact_revision }, 0);
    let descriptor = source.descriptor(crate::base::id::EtcdId(0), crate::base::id::EtcdId(0));
    source.newest_first(&descriptor, &mut |batch| {
        stop.check()?;
        prover.batch(batch)
    })?;
    Ok(prover.finish())
}

/// Refuses a revision the state does not reach back or forward to, in etcd's words.
pub(crate) fn check_revision(revision: i64, newest: i64, compacted: i64) -> Result<()> {
    let range = format!("choose a revision from {} to {newest}", compacted.max(1));
    if revision > newest {
        return Err(
            Error::new(Kind::NotFound, format!("required revision {revision} is a future revision")).hint(range)
        );
    }
    if revision != 0 && revision < compacted {
        return Err(Error::new(Kind::NotFound, format!("required revision {revision} has been compacted")).hint(range));
    }
    Ok(())
}
