//! Which value each flag has, and who said so: the command line, the environment, or the configuration file.
//!
//! The rules are etcd's. A file is alone: whatever else is given is ignored. Without one, a flag and its variable must not
//! both be given. An unknown flag is an error, an unknown variable or an unknown name in a file is a warning.

use std::collections::BTreeMap;

use crate::base::error::{Error, Kind, Result};
use crate::store::options::file;
use crate::store::options::table::{self, Flag};
use crate::store::options::value;

/// What every variable of the environment begins with.
pub const VARIABLE_PREFIX: &str = "ETCD_";
/// The flag that names a file.
pub const CONFIG_FILE: &str = "config-file";

/// Names are as alike as this to be worth a question.
const SIMILARITY_MIN: f64 = 0.8;

/// What was found in the three places.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The command line: names without dashes, in order.
    pub flags: Vec<(String, String)>,
    /// The environment: variables that begin with `ETCD_`.
    pub variables: Vec<(String, String)>,
    /// The configuration file, and what it is called.
    pub file: Option<(String, String)>,
}

/// A value and where it was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// As it was written.
    pub text: String,
    /// For messages: `--name`, `ETCD_NAME`, `name in FILE`.
    pub place: String,
}

/// The values that were given, and what there is to say about that.
#[derive(Clone, Debug, Default)]
pub struct Given {
    values: BTreeMap<&'static str, Value>,
    /// Feature gates that were set by their switches.
    pub gates: Vec<(&'static str, bool)>,
    /// For the operator.
    pub warnings: Vec<String>,
}

impl Given {
    /// Collects all values. Each is written as its flag wants it.
    pub fn collect(sources: &Sources) -> Result<Given> {
        let mut given = Given::default();
        if let Some((path, text)) = &sources.file {
            let others =
                sources.flags.iter().filter(|(name, _)| name != CONFIG_FILE).count() + given.known(&sources.variables);
            if others > 0 {
                given.warnings.push(format!("everything is taken from {path}; other flags and variables are ignored"));
            }
            let entries =
                file::read(text).map_err(|error| error.during(format!("read the configuration file {path}")))?;
            for entry in entries {
                let place = format!("{}, line {} of {path}", entry.name, entry.line);
                if !given.set(&entry.name, entry.value, &place)? {
                    let plain = Some(&entry.name).filter(|name| !name.contains('.'));
                    let nearest = plain
                        .and_then(|name| nearest(name))
                        .map(|name| format!("; did you mean {name}?"))
                        .unwrap_or_default();
                    given.warnings.push(format!("{place}: no such flag, ignored{nearest}"));
                }
            }
            return Ok(given);
        }
        let mut named: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, value) in &sources.flags {
            let place = format!("--{name}");
            if !given.set(name, value.clone(), &place)? {
                return Err(unknown(name));
            }
            named.insert(canonical(name), name);
        }
        for (variable, value) in &sources.variables {
            let Some(name) = name_of(variable) else { continue };
            // etcd takes an empty variable for none.
            if value.is_empty() {
                continue;
            }
            if table::find(&name).is_none() && table::gate(&name).is_none() {
                given.warnings.push(format!("{variable}: no such flag, ignored"));
                continue;
            }
            if let Some(flag) = named.get(canonical(&name)) {
                return Err(Error::new(Kind::Usage, format!("both --{flag} and {variable} are given"))
                    .hint(format!("unset {variable}, or leave the flag out")));
            }
            given.set(&name, value.clone(), variable)?;
        }
        Ok(given)
    }

    /// How many of the variables stand for a flag.
    #[expect(clippy::unused_self, reason = "reads like the question that it answers")]
    fn known(&self, variables: &[(String, String)]) -> usize {
        let known = |(variable, value): &&(String, String)| {
            name_of(variable).is_some_and(|name| name != CONFIG_FILE && table::find(&name).is_some())
                && !value.is_empty()
        };
        variables.iter().filter(known).count()
    }

    /// Notes a value; false when there is no such flag.
    fn set(&mut self, name: &str, text: String, place: &str) -> Result<bool> {
        if let Some(gate) = table::gate(name) {
            let on = value::switch(&text).map_err(|error| error.during(place.to_owned()))?;
            self.gates.push((gate, on));
            return Ok(true);
        }
        let Some(flag) = table::find(name) else { return Ok(false) };
        // Nothing for a list of URLs or a number is what is left when a template had nothing to fill in.
        let is_nothing = text.is_empty() && flag.default.is_empty();
        if !is_nothing {
            value::check(flag.shape, &text).map_err(|error| error.during(place.to_owned()))?;
        }
        self.values.insert(flag.name, Value { text, place: place.to_owned() });
        Ok(true)
    }

    /// What was said of a flag.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// What a flag's value is.
    pub fn text(&self, name: &str) -> &str {
        let flag = table::find(name).expect("only flags of the table are asked for");
        self.values.get(flag.name).map_or(flag.default, |value| value.text.as_str())
    }

    /// A mistake in the value of a flag, told with the place where it stands.
    pub fn wrong(&self, name: &str, message: impl Into<String>, hint: impl Into<String>) -> Error {
        let place = self.values.get(name).map_or_else(|| format!("--{name}"), |value| value.place.clone());
        Error::new(Kind::Usage, format!("{place}: {}", message.into())).hint(hint)
    }

    /// The flags that were given and are not as they are by default, in the order of the table.
    pub fn changed(&self) -> impl Iterator<Item = (&'static Flag, &Value)> {
        let value = |flag: &'static Flag| self.values.get(flag.name).map(|value| (flag, value));
        table::FLAGS.iter().filter_map(value).filter(|(flag, value)| value.text != flag.default)
    }
}

/// The flag that a variable stands for.
fn name_of(variable: &str) -> Option<String> {
    Some(variable.strip_prefix(VARIABLE_PREFIX)?.to_ascii_lowercase().replace('_', "-"))
}

fn canonical(name: &str) -> &str {
    table::find(name).map_or(name, |flag| flag.name)
}

/// The known name that is most like this one.
pub fn nearest(name: &str) -> Option<&'static str> {
    let similar = table::names().map(|known| (strsim::jaro_winkler(name, known), known));
    let nearest = similar.max_by(|a, b| a.0.total_cmp(&b.0));
    nearest.filter(|(similarity, _)| *similarity >= SIMILARITY_MIN).map(|(_, known)| known)
}

fn unknown(name: &str) -> Error {
    let hint = match nearest(name) {
        Some(known) => format!("did you mean --{known}?"),
        None => "`holdfast serve --help` lists all flags".to_owned(),
    };
    Error::new(Kind::Usage, format!("--{name}: no such flag")).hint(hint)
}
