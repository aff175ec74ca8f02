//! The flags of `serve`: not written down here, but made from the table that `store::options` has.

use clap::builder::ValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::store::options::table::{self, Effect, Flag, Group, Shape};

/// The flag that prints versions.
const VERSION: &str = "version";

/// What was given of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    /// Names and values, as given.
    pub(crate) given: Vec<(String, String)>,
    /// Versions are to be printed, and nothing else is to be done.
    pub(crate) version: bool,
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        let version = Arg::new(VERSION)
            .long(VERSION)
            .action(ArgAction::SetTrue)
            .help("Print versions in etcd's form")
            .help_heading(Group::Member.title());
        table::names().fold(command.arg(version), |command, name| command.arg(arg(name)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |name: &&str| matches.value_source(name) == Some(ValueSource::CommandLine);
        let value = |name: &str| (name.to_owned(), matches.get_one::<String>(name).cloned().unwrap_or_default());
        let given = table::names().filter(given).map(value).collect();
        Ok(Flags { given, version: matches.get_flag(VERSION) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Flags::from_arg_matches(matches)?;
        Ok(())
    }
}

fn arg(name: &'static str) -> Arg {
    let arg = Arg::new(name).long(name).value_parser(ValueParser::string()).overrides_with(name);
    let flag = table::find(name);
    // A switch that became a feature gate is in no row.
    let shape = flag.map_or(Shape::Switch, |flag| flag.shape);
    let arg = match shape {
        Shape::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Shape::Number | Shape::Count => arg.num_args(1).allow_negative_numbers(true),
        Shape::Text | Shape::Duration | Shape::Urls | Shape::List => arg.num_args(1),
    };
    match flag.filter(|flag| flag.name == name) {
        Some(flag) => {
            let hidden = matches!(flag.effect, Effect::None(_)) || flag.help.is_empty();
            arg.value_name(shape.placeholder()).help(help(flag)).help_heading(flag.group.title()).hide(hidden)
        }
        None => arg.hide(true),
    }
}

/// What the help says of a flag.
fn help(flag: &Flag) -> String {
    let mut text = flag.help.to_owned();
    if !flag.default.is_empty() && flag.shape != Shape::Switch {
        text += &format!(" [default: {}]", flag.default);
    }
    match flag.effect {
        Effect::Peers => text += "; of no effect as long as the member is alone",
        Effect::Refused(why) => text += &format!("; refused: {why}"),
        Effect::Works | Effect::None(_) => {}
    }
    text
}

/// docs/configuration.md has this table.
#[cfg(test)]
fn table_of_flags() -> String {
    let mut text = String::new();
    for group in [
        Group::Member,
        Group::Cluster,
        Group::Clients,
        Group::Security,
        Group::Limits,
        Group::Compaction,
        Group::Observation,
        Group::Without,
    ] {
        text += &format!("### {}\n\n| flag | default | |\n|---|---|---|\n", group.title());
        for flag in table::FLAGS.iter().filter(|flag| flag.group == group) {
            let default = if flag.default.is_empty() { String::new() } else { format!("`{}`", flag.default) };
            let says = match flag.effect {
                Effect::Works => flag.help.to_owned(),
                Effect::Peers => format!("{}; *no effect as long as the member is alone*", flag.help),
                Effect::None(why) => why.to_owned(),
                Effect::Refused(why) => format!("anything else is refused: {why}"),
            };
            text += &format!("| `{}` | {default} | {} |\n", flag.name, says.replace('|', "\\|"));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;
    use clap::{CommandFactory, Parser};

    fn given(args: &[&str]) -> Vec<(String, String)> {
        let args: Vec<&str> = ["holdfast", "serve"].iter().chain(args).copied().collect();
        match Cli::try_parse_from(args).unwrap().command {
            crate::cli::args::Command::Serve(flags) => flags.given,
            other => panic!("not serve: {other:?}"),
        }
    }

    #[test]
    fn flags_are_read_as_etcd_reads_them() {
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(given(&["--name", "m1", "--data-dir=/d"]), pairs(&[("name", "m1"), ("data-dir", "/d")]));
        assert_eq!(given(&["--client-cert-auth", "--name=m1"]), pairs(&[("name", "m1"), ("client-cert-auth", "true")]));
        assert_eq!(given(&["--client-cert-auth=false"]), pairs(&[("client-cert-auth", "false")]));
        assert_eq!(given(&["--name=a", "--name=b"]), pairs(&[("name", "b")]));
        assert_eq!(given(&["--quota-backend-bytes", "-1"]), pairs(&[("quota-backend-bytes", "-1")]));
        assert_eq!(given(&["--wal-dir="]), pairs(&[("wal-dir", "")]));
        assert_eq!(
            given(&["--experimental-initial-corrupt-check=true"]),
            pairs(&[("experimental-initial-corrupt-check", "true")])
        );
        for wrong in [&["--nam=x"][..], &["stray"], &["--name"]] {
            let args = ["holdfast", "serve"].iter().chain(wrong);
            assert!(Cli::try_parse_from(args).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_help_has_every_flag_that_does_something() {
        let mut command = Cli::command();
        let help = command.find_subcommand_mut("serve").unwrap().render_long_help().to_string();
        for flag in table::FLAGS {
            let shown = help.lines().any(|line| {
                line.trim_start().starts_with(&format!("--{} ", flag.name))
                    || line.trim_start().starts_with(&format!("--{}[", flag.name))
            });
            assert_eq!(shown, !matches!(flag.effect, Effect::None(_)) && !flag.help.is_empty(), "{}", flag.name);
        }
    }

    /// `HOLDFAST_TEST_GOLDEN=write` writes it anew.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a document is written when asked for")]
    fn the_document_has_this_table() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
        let text = std::fs::read_to_string(&path).unwrap();
        let (head, _) = text.split_once("## Flags\n").unwrap();
        let expected = format!("{head}## Flags\n\n{}", table_of_flags().trim_end()) + "\n";
        if std::env::var_os("HOLDFAST_TEST_GOLDEN").is_some() {
            std::fs::write(&path, &expected).unwrap();
        }
        assert!(
            std::fs::read_to_string(&path).unwrap() == expected,
            "write docs/configuration.md anew with HOLDFAST_TEST_GOLDEN=write"
        );
    }
}
