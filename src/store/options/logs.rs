//! What is told of a member's doings, how, and where.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::base::error::Result;
use crate::store::options::given::Given;
use crate::store::options::{one_of, value};

/// What is told, how, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    /// `debug`, `info`, `warn` or `error`.
    pub level: &'static str,
    /// Lines for programs.
    pub json: bool,
    /// Where to; each line goes to all of them.
    pub outputs: Vec<LogOutput>,
}

/// Where logs go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// To the end of a file, which may be put aside when it is large.
    File(PathBuf, Option<Rotation>),
}

/// When a log's file is put aside, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Before it would be longer than that.
    pub bytes_max: u64,
    /// Files that were put aside longer ago are removed; none for never.
    pub age_max: Option<Duration>,
    /// More files than that are removed, the oldest first; none for never.
    pub files_max: Option<usize>,
}

/// The JSON of `--log-rotation-config-json`, as etcd has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Written {
    /// In MiB; 0 is 100.
    maxsize: u32,
    /// In days; 0 for ever.
    maxage: u32,
    /// 0 is any number.
    maxbackups: u32,
    localtime: bool,
    compress: bool,
}

/// What 0 stands for, in MiB.
const MEGABYTES: u32 = 100;
const DAY: Duration = Duration::from_hours(24);

pub(super) fn logs(given: &Given, warnings: &mut Vec<String>) -> Result<Logs> {
    // etcd's last two levels are for lines that end the process; here those are errors.
    let levels = ["debug", "info", "warn", "error", "panic", "fatal", "dpanic"];
    let named = one_of(given, "log-level", &levels)?;
    let level = levels[..4].iter().find(|level| **level == named).copied().unwrap_or("error");
    let rotation = rotation(given, warnings)?;
    let words = value::words(given.text("log-outputs"));
    if words.len() > 1 && words.iter().any(|word| word == "default") {
        let hint = "name all of them: stderr, stdout or files";
        return Err(given.wrong("log-outputs", "default stands alone, as in etcd", hint));
    }
    let mut outputs: Vec<LogOutput> = vec![];
    for word in &words {
        let output = match word.as_str() {
            "default" | "stderr" | "systemd/journal" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            path => LogOutput::File(PathBuf::from(path), rotation),
        };
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    if outputs.is_empty() {
        outputs.push(LogOutput::Stderr);
    }
    let files = outputs.iter().filter(|output| matches!(output, LogOutput::File(..))).count();
    if rotation.is_some() && files != 1 {
        let hint = "give --log-outputs with one file, or leave this flag out";
        return Err(given.wrong("enable-log-rotation", "there must be one file to rotate", hint));
    }
    Ok(Logs { level, json: one_of(given, "log-format", &["json", "console"])? == "json", outputs })
}

fn rotation(given: &Given, warnings: &mut Vec<String>) -> Result<Option<Rotation>> {
    let name = "log-rotation-config-json";
    let written: Written = match given.text(name) {
        "" => Written::default(),
        text => serde_json::from_str(text).map_err(|error| {
            let hint = "write it as {\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0}";
            given.wrong(name, format!("it cannot be read: {error}"), hint)
        })?,
    };
    if !value::switch(given.text("enable-log-rotation"))? {
        return Ok(None);
    }
    for (key, on) in [("compress", written.compress), ("localtime", written.localtime)] {
        if on {
            warnings.push(format!("of no effect: {key} of {name} (files are put aside as they are, and named in UTC)"));
        }
    }
    let megabytes = if written.maxsize == 0 { MEGABYTES } else { written.maxsize };
    Ok(Some(Rotation {
        bytes_max: u64::from(megabytes) << 20,
        age_max: (written.maxage > 0).then(|| DAY * written.maxage),
        files_max: usize::try_from(written.maxbackups).ok().filter(|n| *n > 0),
    }))
}
