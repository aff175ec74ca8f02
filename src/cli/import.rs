//! `import`: existing snapshot files as restore points.

use std::path::Path;

use serde::Serialize;

use crate::base::clock::{Time, of_file};
use crate::base::error::Result;
use crate::base::units;
use crate::cli::args;
use crate::cli::output::table;
use crate::cli::progress::Show;
use crate::cli::run::{Context, Ended};
use crate::cli::target::{Place, in_file, snapshot_file};
use crate::import::plain::{File, Imported, import as take};
use crate::vault::repository::Repository;

/// What became of a file.
#[derive(Serialize)]
struct Row {
    file: String,
    point: String,
    revision: i64,
    live_keys: Option<u64>,
    stored_bytes: Option<u64>,
    already_there: bool,
    warnings: Vec<String>,
}

fn row(file: String, outcome: Imported) -> Row {
    match outcome {
        Imported::Point { manifest, warnings } => Row {
            file,
            point: manifest.attempt.to_string(),
            revision: manifest.descriptor.revision,
            live_keys: Some(manifest.counts.live_keys),
            stored_bytes: Some(manifest.counts.stored_bytes),
            already_there: false,
            warnings,
        },
        Imported::Already(point) => Row {
            file,
            point: point.attempt.to_string(),
            revision: point.revision,
            live_keys: None,
            stored_bytes: None,
            already_there: true,
            warnings: vec![],
        },
    }
}

pub(crate) async fn import(args: args::Import, context: &Context) -> Result<Ended> {
    #[derive(Serialize)]
    struct Shown {
        imported: Vec<Row>,
    }
    let place = Place::of(&args.repository)?;
    let mut opened = None;
    let mut imported = vec![];
    let show = Show::start(&context.progress, &context.output);
    for path in &args.files {
        let name = path.display().to_string();
        let modified = modified_of(path, context);
        let file = snapshot_file(path, &args.scratch, context).await?;
        let input = File { file, name: name.clone(), modified };
        // No repository is made for a file that is not there.
        let repository = match &mut opened {
            Some(repository) => repository,
            none => none.insert(context.stop.or(Repository::create_or_open(&place.options(context))).await?),
        };
        let outcome = take(repository, &place.cluster, input, &context.progress, &context.stop).await;
        let outcome = outcome.map_err(|error| in_file(error).during(format!("import {name}")))?;
        imported.push(row(name, outcome));
    }
    drop(show);
    let shown = Shown { imported };
    context.output.show("import", &shown, || {
        let rows = shown.imported.iter().map(|row| {
            vec![
                row.file.clone(),
                row.point[..8].to_owned(),
                row.revision.to_string(),
                row.live_keys.map_or("-".to_owned(), units::count),
                row.stored_bytes.map_or("-".to_owned(), units::bytes),
                if row.already_there { "was there already" } else { "imported" }.to_owned(),
            ]
        });
        table(
            &["FILE", "POINT", "REVISION", "KEYS", "STORED", "RESULT"],
            &["REVISION", "KEYS", "STORED"],
            rows.collect(),
        )
    })?;
    let warnings: Vec<String> =
        shown.imported.iter().flat_map(|row| row.warnings.iter().map(|text| format!("{}: {text}", row.file))).collect();
    warnings.iter().for_each(|warning| context.output.warn(warning));
    Ok(if warnings.is_empty() { Ended::Well } else { Ended::Warned })
}

/// When the file was last changed; the present where nobody tells, as of standard input, or tells nonsense.
fn modified_of(path: &Path, context: &Context) -> Time {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.ok().and_then(of_file).unwrap_or_else(|| context.clock.now())
}
