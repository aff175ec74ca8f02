//! Hooks: whom to tell, and how. Which event calls which hook; calling them is somebody else's.
//!
//! An address for notifications often holds a token, so it is shown nowhere: not in messages, not in `policy check`, not
//! by `{:?}`.

use std::fmt;

use url::Url;

use crate::base::error::Result;
use crate::policy::raw::{Field, Table};

/// Whom to tell about what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Commands, by event.
    pub commands: Vec<(Event, Vec<String>)>,
    /// An address that every event is posted to.
    pub webhook: Option<Address>,
    /// An address that is asked for after every success: silence there means that backups have stopped.
    pub ping_url: Option<Address>,
}

/// What a hook can be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A point was made and verified.
    Success,
    /// A run failed.
    Failure,
    /// Continuous capture has a gap.
    Gap,
    /// An objective does not hold.
    MissedObjective,
    /// A drill ended, either way.
    Drill,
}

impl Event {
    /// All of them.
    pub const ALL: [Event; 5] = [Event::Success, Event::Failure, Event::Gap, Event::MissedObjective, Event::Drill];

    /// The name of its field.
    pub const fn field(self) -> &'static str {
        match self {
            Event::Success => "on_success",
            Event::Failure => "on_failure",
            Event::Gap => "on_gap",
            Event::MissedObjective => "on_missed_objective",
            Event::Drill => "on_drill",
        }
    }
}

/// An address that is shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    /// The address, for whoever calls it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(set)")
    }
}

impl Hooks {
    /// The command for `event`, its program first.
    pub fn command(&self, event: Event) -> Option<&[String]> {
        self.commands.iter().find(|(of, _)| *of == event).map(|(_, command)| command.as_slice())
    }

    /// The table [hooks] of a policy, when it is there.
    pub(super) fn read(root: &mut Table<'_>) -> Result<Self> {
        let mut known = Event::ALL.map(Event::field).to_vec();
        known.extend(["webhook", "ping_url"]);
        let Some(mut table) = root.optional("hooks", &known)? else { return Ok(Hooks::default()) };
        let mut commands = vec![];
        for event in Event::ALL {
            if let Some(command) = command(&mut table, event.field())? {
                commands.push((event, command));
            }
        }
        let webhook = address(table.string("webhook")?, "webhook")?;
        let ping_url = address(table.string("ping_url")?, "ping_url")?;
        Ok(Hooks { commands, webhook, ping_url })
    }
}

fn command(table: &mut Table<'_>, name: &str) -> Result<Option<Vec<String>>> {
    let example = format!("write the program and its arguments: {name} = [\"/usr/local/bin/notify\", \"argument\"]");
    let Some(list) = table.strings(name, &example)? else { return Ok(None) };
    match list.value.first() {
        None => Err(list.wrong(format!("{name} is empty")).hint(example)),
        Some(program) if list.value.len() == 1 && program.value.contains(char::is_whitespace) => {
            Err(program.wrong(format!("{name} is one word with spaces; no shell takes it apart")).hint(example))
        }
        Some(_) => Ok(Some(list.value.into_iter().map(|word| word.value).collect())),
    }
}

fn address(field: Option<Field<String>>, name: &str) -> Result<Option<Address>> {
    let Some(field) = field else { return Ok(None) };
    match Url::parse(&field.value) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(Some(Address(field.value))),
        // The value may be a token that was pasted into the wrong place.
        _ => Err(field.wrong(format!("{name} is no web address")).hint("write https://host/path")),
    }
}
