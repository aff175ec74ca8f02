//! etcd's configuration file: YAML whose keys are the names of flags, but for a few that stand in sections of their own.
//!
//! Values leave here as flags are given them. Durations are whole nanoseconds in the file; lists become words with commas.
//! Aliases and anchors are refused: a small file could stand for an immense one.

use yaml_rust2::Event;
use yaml_rust2::parser::Parser;

use crate::base::error::{Error, Kind, Result};
use crate::store::options::table::{self, Shape};

/// The largest file that is read.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Keys in a file.
const KEYS_MAX: usize = 1024;

/// Sections, and what the flags behind their keys are called.
const SECTIONS: &[(&str, &[(&str, &str)])] = &[
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("client-crl-file", "client-crl-file"),
            ("auto-tls", "auto-tls"),
            ("allowed-cn", "client-cert-allowed-cn"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("auto-tls", "peer-auto-tls"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            ("skip-client-san-verification", "peer-skip-client-san-verification"),
        ],
    ),
    ("socket-options", &[("reuse-port", "socket-reuse-port"), ("reuse-address", "socket-reuse-address")]),
];

/// What a file says of one flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The flag, or what stands there when it is none.
    pub name: String,
    /// As a flag is given it.
    pub value: String,
    /// Where in the file.
    pub line: usize,
}

/// What a file says.
pub fn read(text: &str) -> Result<Vec<Entry>> {
    if text.len() > FILE_BYTES_MAX {
        return Err(wrong("more than 1 MiB", "name a configuration file; this is something else"));
    }
    let mut reader = Reader { parser: Parser::new_from_str(text), entries: vec![] };
    reader.document()?;
    reader.entries.into_iter().map(as_flag).collect()
}

/// Reads events of the parser: a mapping of words, of lists of words, and of sections.
struct Reader<'a> {
    parser: Parser<std::str::Chars<'a>>,
    entries: Vec<Entry>,
}

impl Reader<'_> {
    fn next(&mut self) -> Result<(Event, usize)> {
        let (event, place) = self.parser.next_token().map_err(|error| {
            let line = error.marker().line();
            wrong(format!("line {line}: {}", error.info()), "correct the file; it must be YAML")
        })?;
        let anchored = match &event {
            Event::Alias(_) => true,
            Event::Scalar(_, _, anchor, _) | Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _) => {
                *anchor > 0
            }
            _ => false,
        };
        if anchored {
            return Err(at(place.line(), "anchors and aliases are not read"));
        }
        Ok((event, place.line()))
    }

    fn document(&mut self) -> Result<()> {
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart, _) => {}
                (Event::StreamEnd, _) => return Ok(()),
                (Event::Scalar(text, ..), _) if text.is_empty() || text == "~" => {}
                (Event::MappingStart(..), _) => {
                    self.mapping("")?;
                    return self.end();
                }
                (Event::DocumentEnd, _) => {}
                (_, line) => return Err(at(line, "not a list of names and values")),
            }
        }
    }

    fn end(&mut self) -> Result<()> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::DocumentEnd, _) => {}
                (_, line) => return Err(at(line, "a second document begins here")),
            }
        }
    }

    /// Names and values up to the end of the mapping, which belongs to `section`.
    fn mapping(&mut self, section: &str) -> Result<()> {
        loop {
            let (name, line) = match self.next()? {
                (Event::MappingEnd, _) => return Ok(()),
                (Event::Scalar(name, ..), line) => (name, line),
                (_, line) => return Err(at(line, "a name must be a word")),
            };
            if self.entries.len() >= KEYS_MAX {
                return Err(at(line, "more names than any configuration has"));
            }
            let full = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
            match self.next()? {
                (Event::Scalar(value, style, ..), _) => {
                    let plain = style == yaml_rust2::scanner::TScalarStyle::Plain;
                    let nothing = plain && matches!(value.as_str(), "" | "~" | "null");
                    if !nothing {
                        self.entries.push(Entry { name: full, value, line });
                    }
                }
                (Event::SequenceStart(..), _) => {
                    let value = self.words()?.join(",");
                    self.entries.push(Entry { name: full, value, line });
                }
                (Event::MappingStart(..), _) if section.is_empty() => self.mapping(&name)?,
                (_, line) => return Err(at(line, "sections do not stand in sections")),
            }
        }
    }

    fn words(&mut self) -> Result<Vec<String>> {
        let mut words = vec![];
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(words),
                (Event::Scalar(word, ..), _) if words.len() < KEYS_MAX => words.push(word),
                (_, line) => return Err(at(line, "a list holds words only")),
            }
        }
    }
}

/// The entry under the name of its flag, its value as flags have it.
fn as_flag(mut entry: Entry) -> Result<Entry> {
    if let Some((section, key)) = entry.name.split_once('.') {
        let known = SECTIONS.iter().find(|(name, _)| *name == section).map(|(_, keys)| *keys).unwrap_or_default();
        if let Some((_, flag)) = known.iter().find(|(name, _)| *name == key) {
            entry.name = (*flag).to_owned();
        }
    }
    let shape = table::find(&entry.name).map(|flag| flag.shape);
    if shape == Some(Shape::Duration) && entry.value.bytes().all(|c| c.is_ascii_digit()) {
        entry.value.push_str("ns");
    }
    Ok(entry)
}

fn at(line: usize, what: &str) -> Error {
    wrong(format!("line {line}: {what}"), "write the file as etcd's sample has it: `name: value` on each line")
}

fn wrong(message: impl Into<String>, hint: &str) -> Error {
    Error::new(Kind::Usage, message).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_ok(text: &str) -> Vec<(String, String, usize)> {
        read(text).unwrap().into_iter().map(|entry| (entry.name, entry.value, entry.line)).collect()
    }

    #[test]
    fn a_file_says_what_flags_say() {
        let text = "# etcd's own form\nname: m1\nquota-backend-bytes: 8589934592\nwal-dir:\nwatch-progress-notify-interval: 5000000000\n\
                    log-outputs: [stderr]\nlisten-client-urls: 'http://127.0.0.1:1,http://127.0.0.1:2'\nclient-transport-security:\n  \
                    cert-file: /c\n  client-cert-auth: true\npeer-transport-security:\n  allowed-cn:\n  - a\n  - b\nunknown: x\n";
        let expected = [
            ("name", "m1", 2),
            ("quota-backend-bytes", "8589934592", 3),
            ("watch-progress-notify-interval", "5000000000ns", 5),
            ("log-outputs", "stderr", 6),
            ("listen-client-urls", "http://127.0.0.1:1,http://127.0.0.1:2", 7),
            ("cert-file", "/c", 9),
            ("client-cert-auth", "true", 10),
            ("peer-cert-allowed-cn", "a,b", 12),
            ("unknown", "x", 15),
        ];
        let expected: Vec<_> =
            expected.iter().map(|(name, value, line)| ((*name).to_owned(), (*value).to_owned(), *line)).collect();
        assert_eq!(read_ok(text), expected);
        assert_eq!(read_ok(""), []);
        assert_eq!(read_ok("---\n{name: x}\n"), [("name".to_owned(), "x".to_owned(), 2)]);
    }

    #[test]
    fn what_is_no_configuration_is_refused_with_its_line() {
        for (text, line) in [
            ("- a\n- b\n", "line 1"),
            ("name: [a\n", "line"),
            ("a: {b: {c: d}}\n", "line 1"),
            ("a: &x b\n", "line 1"),
            ("a: [[b]]\n", "line 1"),
            ("a: b\n---\nc: d\n", "line"),
            ("? {a: b}\n: c\n", "line 1"),
        ] {
            let error = read(text).unwrap_err();
            assert!(
                error.kind() == Kind::Usage && error.to_string().starts_with(line) && error.hint_text().is_some(),
                "{text:?}: {error}"
            );
        }
        assert!(read(&"#".repeat(FILE_BYTES_MAX + 1)).is_err());
        let many: String = (0..=KEYS_MAX).map(|i| format!("k{i}: v\n")).collect();
        assert!(read(&many).is_err());
    }
}
