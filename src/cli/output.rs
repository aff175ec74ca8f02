//! Standard output and standard error: results go to the first, everything else to the second.
//!
//! JSON is a contract (docs/cli.md): one object per command with `"v": 1` and a `type`; sizes in bytes, durations in
//! seconds, times in RFC 3339. Fields are added, never changed.

use std::borrow::Cow;
use std::io::{BufWriter, ErrorKind, IsTerminal, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::base::error::{Error, IoContext, Result};
use crate::cli::args::{Format, Global};

/// Version of the JSON contract.
pub(crate) const JSON_VERSION: u32 = 1;

/// Where a command shows its results.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    format: Format,
    quiet: bool,
}

#[derive(Serialize)]
struct Versioned<'a, T> {
    v: u32,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(flatten)]
    body: &'a T,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        Output { format: global.output, quiet: global.quiet }
    }

    /// Whether results are shown as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether progress may be drawn: a person is watching and has not asked for silence.
    pub(crate) fn draws_progress(&self) -> bool {
        !self.quiet && std::io::stderr().is_terminal()
    }

    /// Whether progress may be told in lines.
    pub(crate) fn tells_progress(&self) -> bool {
        !self.quiet
    }

    /// Shows `body` as JSON of this `kind`, or calls `table` for people.
    pub(crate) fn show<T: Serialize>(&self, kind: &str, body: &T, table: impl FnOnce() -> String) -> Result<()> {
        if self.is_json() {
            let versioned = Versioned { v: JSON_VERSION, kind, body };
            // Written as it is made: a list of keys may be long.
            let mut stdout = BufWriter::new(std::io::stdout().lock());
            let written = serde_json::to_writer_pretty(&mut stdout, &versioned).map_err(std::io::Error::from);
            seen_enough(written.and_then(|()| stdout.write_all(b"\n")).and_then(|()| stdout.flush()))
        } else {
            self.write(&table())
        }
    }

    /// Writes a result for people.
    pub(crate) fn write(&self, text: &str) -> Result<()> {
        self.write_bytes(printable(text).as_bytes())
    }

    /// Writes bytes of a result as they are.
    #[expect(clippy::unused_self, reason = "results are written through the output, wherever it goes")]
    pub(crate) fn write_bytes(&self, bytes: &[u8]) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        seen_enough(stdout.write_all(bytes).and_then(|()| stdout.flush()))
    }

    /// A remark for people: not a result, not shown when quiet or in JSON.
    pub(crate) fn remark(&self, text: &str) {
        if !self.quiet && !self.is_json() {
            say(text);
        }
    }

    /// A warning: shown unless results are JSON, which carries it as a field.
    pub(crate) fn warn(&self, text: &str) {
        if !self.is_json() {
            say(&format!("warning: {text}"));
        }
    }

    /// A warning of something that went wrong after the result was shown. JSON was written already, so there it is logged.
    pub(crate) fn warn_afterwards(&self, text: &str) {
        if self.is_json() {
            tracing::warn!("{text}");
        } else {
            self.warn(text);
        }
    }

    /// How a command ended when it failed: the message, its causes, what to do next.
    pub(crate) fn fail(&self, error: &Error) {
        if self.is_json() {
            fail_json(error);
        } else {
            say(&format!("error: {}", error.chain()));
            if let Some(hint) = error.hint_text() {
                say(&format!("hint: {hint}"));
            }
        }
    }
}

/// What became of writing a result. Whoever hung up has seen enough; that is no failure of ours.
fn seen_enough(written: std::io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.during(|| "write to standard output".to_owned()),
    }
}

/// An error as the JSON contract has it, for whoever asked for JSON.
pub(crate) fn fail_json(error: &Error) {
    #[derive(Serialize)]
    struct Failure<'a> {
        kind: &'a str,
        message: String,
        hint: Option<&'a str>,
        exit_code: u8,
    }
    let body = Failure {
        kind: error.kind().name(),
        message: error.chain(),
        hint: error.hint_text(),
        exit_code: error.kind().exit_code(),
    };
    let versioned = Versioned { v: JSON_VERSION, kind: "error", body: &body };
    say(&serde_json::to_string(&versioned).expect("strings and a number can be written as JSON"));
}

/// Writes a line to standard error. There is nobody to tell when that fails.
pub(crate) fn say(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{}", printable(text));
}

/// Text without what a terminal obeys. Documents of a repository are shown to people, and whoever can write there could
/// otherwise move the cursor, and call trusted what is not.
fn printable(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if text.contains(obeyed) { Cow::Owned(text.replace(obeyed, "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// A table without lines, as command lines show them. Columns named in `right` are aligned to the right.
pub(crate) fn table(header: &[&str], right: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table.add_rows(rows);
    for (i, name) in header.iter().enumerate() {
        if let Some(column) = table.column_mut(i) {
            column.set_padding((0, 2));
            if right.contains(name) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    lines(&table.to_string())
}

/// A list of names and values, aligned.
pub(crate) fn facts(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().fold(String::new(), |mut text, (name, value)| {
        let mut parts = value.lines();
        text.push_str(format!("{name:width$}  {}\n", parts.next().unwrap_or("")).trim_end());
        text.push('\n');
        for part in parts {
            text.push_str(&format!("{:width$}  {part}\n", ""));
        }
        text.replace(" \n", "\n")
    })
}

/// Lines without trailing blanks, each ended.
fn lines(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_that_is_shown() {
        assert_eq!(printable("a\tb\nü"), "a\tb\nü");
        assert_eq!(printable("\x1b[2K\rsigned\u{9b}1A\x7f"), "\u{fffd}[2K\u{fffd}signed\u{fffd}1A\u{fffd}");
    }

    #[test]
    fn tables_align_and_leave_no_blanks() {
        let rows = vec![vec!["a".to_owned(), "10".to_owned()], vec!["bcd".to_owned(), "9".to_owned()]];
        assert_eq!(table(&["NAME", "SIZE"], &["SIZE"], rows), "NAME  SIZE\na       10\nbcd      9\n");
        assert_eq!(facts(&[("a", "1".to_owned()), ("long", "2\n3".to_owned())]), "a     1\nlong  2\n      3\n");
    }
}
