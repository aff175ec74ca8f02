//! The first stage of reading a policy: TOML as fields with their lines, where nothing unknown passes.
//!
//! What a field means is not known here; only its name, its type and where it stands.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::base::error::{Error, Kind, Result};
use crate::base::units;

/// A name this similar to a known one (Jaro-Winkler, 1 = equal) is taken for a slip.
const SIMILARITY_MIN: f64 = 0.75;

/// The greatest number that any field takes: more points than a repository has.
const NUMBER_MAX: u32 = 1_000_000;

/// A parsed file.
pub(super) struct Document<'a> {
    place: Place<'a>,
    root: DeTable<'a>,
}

/// Turns positions into lines of a named file.
#[derive(Clone, Copy)]
struct Place<'a> {
    text: &'a str,
    name: &'a str,
}

impl Place<'_> {
    fn wrong(&self, at: usize, what: impl fmt::Display) -> Error {
        Error::new(Kind::Usage, format!("{}: {what}", self.line_of(at)))
    }

    /// The file and the line, as compilers write them.
    fn line_of(&self, at: usize) -> String {
        let before = self.text.as_bytes().iter().take(at);
        format!("{}:{}", self.name, 1 + before.filter(|byte| **byte == b'\n').count())
    }
}

/// A field's value with where it stands.
pub(super) struct Field<T> {
    pub(super) value: T,
    line: String,
}

impl<T> Field<T> {
    fn new(value: T, place: Place<'_>, at: usize) -> Self {
        Field { value, line: place.line_of(at) }
    }

    /// An error about this field; a hint is still to be added.
    pub(super) fn wrong(&self, what: impl fmt::Display) -> Error {
        Error::new(Kind::Usage, format!("{}: {what}", self.line))
    }
}

impl Field<String> {
    /// The value as `parse` reads it; what that says is told with the line, its hint kept.
    pub(super) fn understood<T>(self, parse: impl FnOnce(&str) -> Result<T>) -> Result<T> {
        parse(&self.value).map_err(|error| {
            let hint = error.hint_text().unwrap_or_default().to_owned();
            self.wrong(error.chain()).hint(hint)
        })
    }
}

/// A value of any type.
pub(super) struct Any<'a> {
    value: Spanned<DeValue<'a>>,
    place: Place<'a>,
}

impl Any<'_> {
    pub(super) fn as_str(&self) -> Option<&str> {
        self.value.get_ref().as_str()
    }

    pub(super) fn wrong(&self, what: impl fmt::Display) -> Error {
        self.place.wrong(self.value.span().start, what)
    }
}

/// A table, emptied field by field.
pub(super) struct Table<'a> {
    place: Place<'a>,
    /// As people write it: `[cluster]`.
    title: String,
    at: usize,
    fields: DeTable<'a>,
}

impl<'a> Document<'a> {
    pub(super) fn parse(text: &'a str, name: &'a str) -> Result<Self> {
        let place = Place { text, name };
        match DeTable::parse(text) {
            Ok(root) => Ok(Document { place, root: root.into_inner() }),
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                // The parser's words, without its drawing of the line.
                let what = error.message().lines().collect::<Vec<_>>().join(", ");
                Err(place.wrong(at, what).hint("policy files are TOML: name = \"value\" under a [table]"))
            }
        }
    }

    /// The tables of the file.
    pub(super) fn root(self, known: &[&str]) -> Result<Table<'a>> {
        let table = Table { place: self.place, title: String::new(), at: 0, fields: self.root };
        table.refuse_unknown(known)?;
        Ok(table)
    }
}

impl<'a> Table<'a> {
    /// A table that must be there, holding nothing but `known` fields.
    pub(super) fn table(&mut self, name: &str, known: &[&str]) -> Result<Table<'a>> {
        match self.optional(name, known)? {
            Some(table) => Ok(table),
            None => Err(self
                .wrong(format!("there is no table [{name}]"))
                .hint(format!("a policy has a [{name}] with: {}", known.join(", ")))),
        }
    }

    /// A table that may be left out.
    pub(super) fn optional(&mut self, name: &str, known: &[&str]) -> Result<Option<Table<'a>>> {
        let Some(found) = self.fields.remove(name) else { return Ok(None) };
        let title = match self.title.trim_matches(['[', ']']) {
            "" => format!("[{name}]"),
            parent => format!("[{parent}.{name}]"),
        };
        let at = found.span().start;
        match found.into_inner() {
            DeValue::Table(fields) => {
                let table = Table { place: self.place, title, at, fields };
                table.refuse_unknown(known)?;
                Ok(Some(table))
            }
            other => Err(self
                .place
                .wrong(at, format!("{name} is {}, but must be a table", kind_of(&other)))
                .hint(format!("write {title} on a line of its own, and its fields below"))),
        }
    }

    /// Whether a field holds a table.
    pub(super) fn holds_table(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|found| matches!(found.get_ref(), DeValue::Table(_)))
    }

    /// A string that must be there; `example` says what it is.
    pub(super) fn required(&mut self, name: &str, example: &str) -> Result<Field<String>> {
        match self.string(name)? {
            Some(field) => Ok(field),
            None => Err(self.missing(name, example)),
        }
    }

    /// A string that may be left out, but not be empty.
    pub(super) fn string(&mut self, name: &str) -> Result<Option<Field<String>>> {
        let Some(found) = self.fields.remove(name) else { return Ok(None) };
        self.as_string(name, &found, &format!("write it in quotes: {name} = \"...\"")).map(Some)
    }

    /// A path, as written.
    pub(super) fn path(&mut self, name: &str) -> Result<Option<Field<PathBuf>>> {
        let field = self.string(name)?;
        Ok(field.map(|field| Field { value: PathBuf::from(field.value), line: field.line }))
    }

    /// A whole number that is not negative.
    pub(super) fn integer(&mut self, name: &str) -> Result<Option<Field<u32>>> {
        let Some(found) = self.fields.remove(name) else { return Ok(None) };
        let at = found.span().start;
        let hint = format!("write it without quotes: {name} = 7");
        let DeValue::Integer(digits) = found.get_ref() else {
            let kind = kind_of(found.get_ref());
            return Err(self.place.wrong(at, format!("{name} is {kind}, but must be a whole number")).hint(hint));
        };
        let number = i64::from_str_radix(digits.as_str(), digits.radix()).ok();
        match number.and_then(|number| u32::try_from(number).ok()).filter(|number| *number <= NUMBER_MAX) {
            Some(number) => Ok(Some(Field::new(number, self.place, at))),
            None => {
                let hint = format!("write a number from 0 to {NUMBER_MAX}");
                Err(self.place.wrong(at, format!("{name} cannot be {digits}")).hint(hint))
            }
        }
    }

    /// A duration such as `30s` or `7d`.
    pub(super) fn duration(&mut self, name: &str) -> Result<Option<Field<Duration>>> {
        self.duration_or(name, |_| None)
    }

    /// A duration, or a word that `word` knows.
    pub(super) fn duration_or<T: From<Duration>>(
        &mut self,
        name: &str,
        word: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<Field<T>>> {
        let Some(field) = self.string(name)? else { return Ok(None) };
        let line = field.line.clone();
        let value = match word(&field.value) {
            Some(value) => value,
            None => field.understood(|text| units::parse_duration(text).map_err(|error| error.during(name)))?.into(),
        };
        Ok(Some(Field { value, line }))
    }

    /// A list of strings that must be there.
    pub(super) fn required_strings(&mut self, name: &str, example: &str) -> Result<Field<Vec<Field<String>>>> {
        match self.strings(name, example)? {
            Some(field) => Ok(field),
            None => Err(self.missing(name, example)),
        }
    }

    /// A list of strings that may be left out.
    pub(super) fn strings(&mut self, name: &str, example: &str) -> Result<Option<Field<Vec<Field<String>>>>> {
        let Some(found) = self.fields.remove(name) else { return Ok(None) };
        let at = found.span().start;
        let DeValue::Array(items) = found.get_ref() else {
            let kind = kind_of(found.get_ref());
            let what = format!("{name} is {kind}, but must be a list of strings");
            return Err(self.place.wrong(at, what).hint(example));
        };
        let items = items
            .iter()
            .map(|item| self.as_string(&format!("an item of {name}"), item, example))
            .collect::<Result<_>>()?;
        Ok(Some(Field::new(items, self.place, at)))
    }

    /// A value of any type.
    pub(super) fn any(&mut self, name: &str) -> Option<Any<'a>> {
        self.fields.remove(name).map(|value| Any { value, place: self.place })
    }

    /// An error about the table as a whole.
    pub(super) fn wrong(&self, what: impl fmt::Display) -> Error {
        self.place.wrong(self.at, what)
    }

    fn as_string(&self, name: &str, found: &Spanned<DeValue<'_>>, hint: &str) -> Result<Field<String>> {
        let at = found.span().start;
        match found.get_ref() {
            DeValue::String(text) if text.trim().is_empty() => {
                Err(self.place.wrong(at, format!("{name} is empty")).hint("give a value, or remove the line"))
            }
            DeValue::String(text) => Ok(Field::new(text.to_string(), self.place, at)),
            other => {
                Err(self.place.wrong(at, format!("{name} is {}, but must be a string", kind_of(other))).hint(hint))
            }
        }
    }

    fn missing(&self, name: &str, example: &str) -> Error {
        self.wrong(format!("{} has no {name}", self.title)).hint(format!("add {name}: {example}"))
    }

    fn refuse_unknown(&self, known: &[&str]) -> Result<()> {
        let unknown = self.fields.iter().filter(|(key, _)| !known.contains(&key.get_ref().as_ref()));
        // The first in the file, not in the alphabet.
        let Some((key, value)) = unknown.min_by_key(|(key, _)| key.span().start) else { return Ok(()) };
        let name = key.get_ref();
        let what = match (self.title.as_str(), value.get_ref()) {
            ("", DeValue::Table(_)) => format!("unknown table [{name}]"),
            ("", _) => format!("{name} stands outside of any table"),
            (title, _) => format!("unknown field {name:?} in {title}"),
        };
        let similarity = |candidate: &str| strsim::jaro_winkler(&name.to_lowercase(), candidate);
        let nearest =
            known.iter().map(|candidate| (similarity(candidate), *candidate)).max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = match nearest {
            Some((similarity, candidate)) if similarity >= SIMILARITY_MIN => format!("did you mean {candidate:?}?"),
            _ => format!("this version knows: {}", known.join(", ")),
        };
        Err(self.place.wrong(key.span().start, what).hint(hint))
    }
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
