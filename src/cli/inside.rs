//! Looking inside points and files: `keys ls`, `keys get`, `diff`.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::base::error::{Error, Kind, Result};
use crate::base::file::ReadAt;
use crate::base::stop::blocking;
use crate::base::units;
use crate::cli::args;
use crate::cli::listing::{LISTING_BYTES_MAX, Listing};
use crate::cli::output::table;
use crate::cli::run::{Context, Ended};
use crate::cli::snapshot::check_revision;
use crate::cli::target::{Place, in_file, in_point, snapshot_file};
use crate::snapshot::bbolt::read::Db;
use crate::snapshot::bbolt::records::Source;
use crate::snapshot::diff::{self, Diff};
use crate::snapshot::find::{ByKind, Find, Wanted};
use crate::snapshot::record::{KeyValue, Record};
use crate::vault::admit::{Admitted, admit};
use crate::vault::manifest::Manifest;
use crate::vault::replay;
use crate::vault::repository::Repository;

/// A state that can be gone over newest first, as often as needed.
enum State {
    Point(Repository, Box<Manifest>),
    File(ReadAt),
}

impl State {
    async fn point(args: &args::Repository, selector: &str, context: &Context) -> Result<Self> {
        let place = Place::of(args)?;
        let (repository, catalog) = place.catalog(context).await?;
        let name = catalog.select(selector)?.name.clone();
        let Admitted { manifest, doubt } = context.stop.or(admit(&repository, &catalog, &name)).await?;
        doubt.iter().for_each(|doubt| context.output.warn(&format!("point {} is {doubt}", name.attempt)));
        Ok(State::Point(repository, Box::new(manifest)))
    }

    async fn file(path: &Path, scratch: &args::Scratch, context: &Context) -> Result<Self> {
        Ok(State::File(snapshot_file(path, scratch, context).await?))
    }

    async fn of(inside: &args::Inside, context: &Context) -> Result<Self> {
        match &inside.file {
            Some(file) => State::file(file, &inside.scratch, context).await,
            None => State::point(&inside.repository, inside.point.as_deref().unwrap_or("latest"), context).await,
        }
    }

    /// Revision and compaction.
    async fn revisions(&self) -> Result<(i64, i64)> {
        match self {
            State::Point(_, manifest) => Ok((manifest.descriptor.revision, manifest.descriptor.compact_revision)),
            State::File(file) => {
                let file = file.clone();
                let facts =
                    blocking(move || Ok(Source::open(&Db::open(file)?)?.facts().clone())).await.map_err(in_file)?;
                Ok((facts.revision, facts.compact_revision))
            }
        }
    }

    async fn newest_first(
        &self,
        context: &Context,
        mut sink: impl FnMut(&[Record<'_>]) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        match self {
            State::Point(repository, manifest) => {
                replay::newest_first(repository, manifest, &context.stop, sink).await.map_err(in_point)
            }
            State::File(file) => {
                let (file, stop) = (file.clone(), context.stop.clone());
                blocking(move || {
                    let db = Db::open(file)?;
                    let source = Source::open(&db)?;
                    let descriptor = source.descriptor(Default::default(), Default::default());
                    source.newest_first(&descriptor, &mut |batch| {
                        stop.check()?;
                        sink(batch)
                    })
                })
                .await
                .map_err(in_file)
            }
        }
    }
}

/// Something that a pass on another thread fills.
struct Shared<T>(Arc<Mutex<T>>);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Shared(Arc::clone(&self.0))
    }
}

impl<T> Shared<T> {
    fn new(value: T) -> Self {
        Shared(Arc::new(Mutex::new(value)))
    }

    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(crate) async fn ls(args: args::KeysLs, context: &Context) -> Result<Ended> {
    let state = State::of(&args.inside, context).await?;
    let revision = at(&state, args.inside.revision).await?;
    let mut find = Find::new(Wanted::Prefix(args.prefix.into_bytes()), revision);
    if args.by_kind {
        return by_kind(&state, find, revision, context).await;
    }
    let listing = Shared::new(Listing::new(args.limit, LISTING_BYTES_MAX));
    let filling = listing.clone();
    let mut each = move |kv: &KeyValue<'_>| filling.with(|listing| listing.add(kv));
    state.newest_first(context, move |batch| find.batch(batch, &mut each)).await?;
    let listing = listing.with(|listing| std::mem::replace(listing, Listing::new(None, 0)));
    listing.show(revision, context)?;
    Ok(Ended::Well)
}

async fn by_kind(state: &State, mut find: Find, revision: i64, context: &Context) -> Result<Ended> {
    #[derive(Serialize)]
    struct Row {
        kind: String,
        objects: u64,
        bytes: u64,
    }
    #[derive(Serialize)]
    struct Shown {
        revision: i64,
        kinds: Vec<Row>,
    }
    let tallies = Shared::new(ByKind::default());
    let filling = tallies.clone();
    state
        .newest_first(context, move |batch| {
            find.batch(batch, &mut |kv| {
                filling.with(|tallies| tallies.add(kv));
                Ok(())
            })
        })
        .await?;
    let tallies = tallies.with(std::mem::take);
    let row = |(kind, tally): (&str, crate::snapshot::find::Tally)| Row {
        kind: kind.to_owned(),
        objects: tally.objects,
        bytes: tally.bytes,
    };
    let shown = Shown { revision, kinds: tallies.iter().map(row).collect() };
    context.output.show("keys_by_kind", &shown, || {
        let rows = shown.kinds.iter();
        let rows = rows.map(|row| vec![row.kind.clone(), units::count(row.objects), units::bytes(row.bytes)]);
        table(&["KIND", "OBJECTS", "BYTES"], &["OBJECTS", "BYTES"], rows.collect())
    })?;
    Ok(Ended::Well)
}

pub(crate) async fn get(args: args::KeysGet, context: &Context) -> Result<Ended> {
    #[derive(Serialize)]
    struct Shown {
        key: String,
        create_revision: i64,
        mod_revision: i64,
        version: i64,
        lease: String,
        value_hex: String,
    }
    let state = State::of(&args.inside, context).await?;
    let revision = at(&state, args.inside.revision).await?;
    let mut find = Find::new(Wanted::Key(args.key.clone().into_bytes()), revision);
    let found = Shared::new(None);
    let filling = found.clone();
    state
        .newest_first(context, move |batch| {
            find.batch(batch, &mut |kv| {
                let head = (kv.create_revision, kv.mod_revision, kv.version, kv.lease);
                filling.with(|found| *found = Some((head, kv.value.to_vec())));
                Ok(())
            })
        })
        .await?;
    let Some((head, value)) = found.with(Option::take) else {
        return Err(Error::new(Kind::NotFound, format!("there is no key {:?} at revision {revision}", args.key))
            .hint("list the keys that are there with `holdfast keys ls PREFIX`"));
    };
    if !context.output.is_json() {
        context.output.write_bytes(&value)?;
        return Ok(Ended::Well);
    }
    let shown = Shown {
        key: args.key,
        create_revision: head.0,
        mod_revision: head.1,
        version: head.2,
        lease: format!("{:x}", head.3),
        value_hex: crate::base::digest::hex(&value),
    };
    context.output.show("keys_get", &shown, String::new)?;
    Ok(Ended::Well)
}

/// The revision asked for, or the state's own.
async fn at(state: &State, asked: Option<i64>) -> Result<i64> {
    let (newest, compacted) = state.revisions().await?;
    let revision = asked.unwrap_or(newest);
    check_revision(revision, newest, compacted)?;
    Ok(revision)
}

pub(crate) async fn diff(args: args::Diff, context: &Context) -> Result<Ended> {
    let left = side(&args.left, &args, context).await?;
    let right = side(&args.right, &args, context).await?;
    let (left_revision, right_revision) = (left.revisions().await?.0, right.revisions().await?.0);
    let shared = Shared::new(Diff::new(left_revision));
    let pass = shared.clone();
    left.newest_first(context, move |batch| pass.with(|diff| diff.left(batch))).await?;
    shared.with(|diff| diff.turn_right(right_revision));
    let pass = shared.clone();
    right.newest_first(context, move |batch| pass.with(|diff| diff.right(batch))).await?;
    if shared.with(|diff| diff.turn_left(left_revision)) {
        let pass = shared.clone();
        left.newest_first(context, move |batch| pass.with(|diff| diff.names(batch))).await?;
    }
    let outcome = shared.with(|diff| std::mem::replace(diff, Diff::new(0))).finish();
    show_differences(&outcome, (left_revision, right_revision), context)?;
    Ok(Ended::Well)
}

/// A word of the command line: a file when it looks like a path, a point otherwise.
async fn side(word: &str, args: &args::Diff, context: &Context) -> Result<State> {
    let file = word == "-" || word.contains('/') && !word.contains("://") && Path::new(word).exists();
    if file || Path::new(word).is_file() {
        return State::file(Path::new(word), &args.scratch, context).await;
    }
    State::point(&args.repository, word, context).await.map_err(|error| match error.kind() {
        Kind::Usage | Kind::NotFound => error.during(format!("{word:?} is no file and no restore point")),
        _ => error,
    })
}

fn show_differences(outcome: &diff::Outcome, revisions: (i64, i64), context: &Context) -> Result<()> {
    #[derive(Serialize)]
    struct Row {
        change: diff::Kind,
        what: String,
        left_revision: i64,
        right_revision: i64,
    }
    #[derive(Serialize)]
    struct Shown {
        left_revision: i64,
        right_revision: i64,
        added: u64,
        changed: u64,
        removed: u64,
        unchanged: u64,
        /// Counted above, but too many to be named.
        unnamed: u64,
        differences: Vec<Row>,
    }
    let row = |difference: &diff::Difference| Row {
        change: difference.kind,
        what: difference.subject.to_string(),
        left_revision: difference.left_revision,
        right_revision: difference.right_revision,
    };
    let shown = Shown {
        left_revision: revisions.0,
        right_revision: revisions.1,
        added: outcome.added,
        changed: outcome.changed,
        removed: outcome.removed,
        unchanged: outcome.unchanged,
        unnamed: outcome.unnamed,
        differences: outcome.differences.iter().map(row).collect(),
    };
    context.output.show("diff", &shown, || {
        let mut text = String::new();
        for row in &shown.differences {
            let sign = match row.change {
                diff::Kind::Added => '+',
                diff::Kind::Changed => '~',
                diff::Kind::Removed => '-',
            };
            text.push_str(&format!("{sign} {}\n", row.what));
        }
        if shown.unnamed > 0 {
            text.push_str(&format!("and {} more, too many to be named\n", units::count(shown.unnamed)));
        }
        text.push_str(&format!(
            "{} added, {} changed, {} removed, {} unchanged (revision {} to {})\n",
            shown.added,
            shown.changed,
            shown.removed,
            units::count(shown.unchanged),
            revisions.0,
            revisions.1
        ));
        text
    })
}
