//! How the last run went, as a text file that node_exporter's textfile collector reads.
//!
//! A job that ends cannot be asked, so it leaves a file. What is told are moments, not ages: whoever reads the file works
//! out the age, so that a file that is no longer written grows old and is noticed.
//!
//! A file holds one command's runs for one cluster. A run that failed keeps what the file said of the last success: alerts
//! ask for that moment, and a failure must not make it vanish.
//!
//! Deliberately unknown here: where the file is, and who reads it.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::agent::report::Report;
use crate::base::clock::Time;

/// A metric: its name without the prefix, and what it is.
type Metric = (&'static str, &'static str);

/// All metrics, in the order in which they are written. docs/metrics.md explains them.
pub const METRICS: [Metric; 18] = [
    ("run_last_start_timestamp_seconds", "When the last run began."),
    ("run_last_success_timestamp_seconds", "When the last run that succeeded ended."),
    ("run_duration_seconds", "How long the last run took."),
    ("run_exit_code", "How the last run ended: 0 done, 5 done but a warning stands, others failed."),
    ("run_warnings", "Warnings of the last run."),
    ("point_timestamp_seconds", "The moment whose state the newest restore point holds."),
    ("point_revision", "Revision of the newest restore point."),
    ("point_keys", "Live keys in the newest restore point."),
    ("point_raw_bytes", "Records of the newest restore point with its base, unpacked."),
    ("point_stored_bytes", "Objects of the newest restore point with its base, as stored."),
    ("point_new_stored_bytes", "What the newest restore point added to the repository."),
    ("point_compared", "How the newest restore point compared with its cluster; the verdict that holds is 1."),
    ("verified_timestamp_seconds", "When points were last verified and none failed."),
    ("verified_level", "How deep the last run verified: 1 objects are there, 2 every byte, 3 every record."),
    ("verified_points", "Points that the last run verified."),
    ("verify_failed_points", "Points that the last run found not to verify."),
    ("objective_missed", "Whether an objective of the policy is missed."),
    ("tool_info", "The version that wrote this file."),
];

/// What the name of each begins with.
const PREFIX: &str = "holdfast_";
/// What is kept of a former file.
const KEPT: [&str; 8] = [
    "run_last_success_timestamp_seconds",
    "point_timestamp_seconds",
    "point_revision",
    "point_keys",
    "point_raw_bytes",
    "point_stored_bytes",
    "point_new_stored_bytes",
    "verified_timestamp_seconds",
];
/// What a comparison can say.
const VERDICTS: [&str; 3] = ["equal", "differs", "not_compared"];

/// The largest former file that is read.
pub const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Values by metric: the labels of a line as written, and what it says.
type Values = BTreeMap<&'static str, Vec<(String, String)>>;

/// The file after `report`, which ended at `now`; `former` is what it held before.
pub fn textfile(report: &Report, now: Time, former: &str) -> String {
    let labels = labels(&[("cluster", &report.cluster), ("command", report.command)]);
    let mut values = kept(former, &labels);
    let mut set = |name: &'static str, value: String| drop(values.insert(name, vec![(labels.clone(), value)]));
    set("run_last_start_timestamp_seconds", seconds(report.started));
    set("run_duration_seconds", format!("{:.3}", report.duration.as_secs_f64()));
    set("run_exit_code", report.exit_code.to_string());
    set("run_warnings", report.facts.warnings.to_string());
    if report.succeeded() {
        set("run_last_success_timestamp_seconds", seconds(now));
    }
    if let Some(made) = &report.facts.made {
        set("point_timestamp_seconds", seconds(made.time));
        set("point_revision", made.revision.to_string());
        set("point_keys", made.keys.to_string());
        set("point_raw_bytes", made.raw_bytes.to_string());
        set("point_stored_bytes", made.stored_bytes.to_string());
        set("point_new_stored_bytes", made.new_stored_bytes.to_string());
    }
    if let Some(verified) = report.facts.verified {
        set("verified_level", verified.level.to_string());
        set("verified_points", verified.points.to_string());
        set("verify_failed_points", verified.failed.to_string());
        if verified.failed == 0 && verified.points > 0 {
            set("verified_timestamp_seconds", seconds(now));
        }
    }
    add_lists(&mut values, report);
    written(&values)
}

/// The metrics of more than one line.
fn add_lists(values: &mut Values, report: &Report) {
    let of =
        |name: &str, value: &str| labels(&[("cluster", &report.cluster), ("command", report.command), (name, value)]);
    if let Some(made) = &report.facts.made {
        let line = |verdict: &&str| (of("verdict", verdict), u8::from(*verdict == made.compared).to_string());
        values.insert("point_compared", VERDICTS.iter().map(line).collect());
    }
    let line = |(name, missed): &(&str, bool)| (of("objective", name), u8::from(*missed).to_string());
    values.insert("objective_missed", report.facts.objectives.iter().map(line).collect());
    values.insert("tool_info", vec![(of("version", env!("CARGO_PKG_VERSION")), "1".to_owned())]);
}

/// The cluster that a former file is about, for a run that did not get as far as knowing its own.
pub fn cluster_of(former: &str) -> Option<String> {
    let rest = former.lines().find_map(|line| line.split_once("{cluster=\""))?.1;
    let mut name = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next()? {
            '"' => return Some(name),
            '\\' => name.push(match chars.next()? {
                'n' => '\n',
                other => other,
            }),
            other => name.push(other),
        }
    }
}

/// What a former file says that stays true. Lines of other labels are about something else and go.
fn kept(former: &str, labels: &str) -> Values {
    let mut values = Values::new();
    for line in former.lines() {
        let Some((name, value)) = line.strip_prefix(PREFIX).and_then(|rest| rest.split_once(labels)) else { continue };
        let value = value.trim();
        if let Some(name) = KEPT.iter().find(|kept| **kept == name)
            && value.parse::<f64>().is_ok_and(f64::is_finite)
        {
            values.insert(name, vec![(labels.to_owned(), value.to_owned())]);
        }
    }
    values
}

fn written(values: &Values) -> String {
    let mut text = String::new();
    for (name, help) in METRICS {
        let lines = values.get(name).map(Vec::as_slice).unwrap_or_default();
        if lines.is_empty() {
            continue;
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} gauge\n");
        for (labels, value) in lines {
            let _ = writeln!(text, "{PREFIX}{name}{labels} {value}");
        }
    }
    text
}

/// `{name="value",...}`, escaped as the format wants it.
fn labels(pairs: &[(&str, &str)]) -> String {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

fn seconds(time: Time) -> String {
    time.timestamp().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::report::tests::{backup, failed};
    use crate::agent::report::{Facts, Report};
    use crate::base::clock::parse_rfc3339;

    fn at(text: &str) -> Time {
        parse_rfc3339(text).unwrap()
    }

    fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
        let line = text.lines().find(|line| line.split(['{', ' ']).next() == Some(name))?;
        line.rsplit(' ').next()
    }

    /// Every line of the format, read back: comments in pairs before their lines, names known, values numbers.
    fn check(text: &str) {
        let (mut help, mut kind) = ("", "");
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                help = rest.split_once(' ').unwrap().0;
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert_eq!(rest, format!("{help} gauge"));
                kind = help;
            } else {
                let (name, rest) = line.split_once('{').unwrap();
                assert_eq!(name, kind, "{line}");
                assert!(METRICS.iter().any(|(known, _)| format!("{PREFIX}{known}") == name), "{line}");
                rest.rsplit_once("} ").unwrap().1.parse::<f64>().unwrap();
            }
        }
    }

    #[test]
    fn a_failure_keeps_what_the_last_success_was() {
        let first = textfile(&backup(), at("2026-11-20T12:00:03Z"), "");
        check(&first);
        assert_eq!(value(&first, "holdfast_run_last_success_timestamp_seconds"), Some("1795176003"));
        assert_eq!(value(&first, "holdfast_point_revision"), Some("42"));
        assert!(first.contains("holdfast_point_compared{cluster=\"prod\",command=\"backup\",verdict=\"equal\"} 1\n"));
        let later = Report { started: at("2026-11-20T13:00:00Z"), ..failed() };
        let second = textfile(&later, at("2026-11-20T13:00:03Z"), &first);
        check(&second);
        assert_eq!(value(&second, "holdfast_run_last_success_timestamp_seconds"), Some("1795176003"));
        assert_eq!(value(&second, "holdfast_run_last_start_timestamp_seconds"), Some("1795179600"));
        assert_eq!(value(&second, "holdfast_run_exit_code"), Some("1"));
        assert_eq!(value(&second, "holdfast_point_revision"), Some("42"), "the newest point is still the newest");
        assert_eq!(value(&second, "holdfast_point_compared"), None, "what this run did not find out is not said");
        let third = textfile(&failed(), at("2026-11-20T14:00:03Z"), &second);
        assert_eq!(value(&third, "holdfast_run_last_success_timestamp_seconds"), Some("1795176003"));
    }

    #[test]
    fn another_clusters_file_and_rubbish_are_not_believed() {
        let theirs = textfile(&Report { cluster: "other".to_owned(), ..backup() }, at("2026-11-20T12:00:03Z"), "");
        let rubbish = "holdfast_point_revision{cluster=\"prod\",command=\"backup\"} NaN\n\u{1}\nholdfast_\n";
        for former in [theirs.as_str(), rubbish] {
            let text = textfile(&failed(), at("2026-11-20T13:00:03Z"), former);
            check(&text);
            assert_eq!(value(&text, "holdfast_run_last_success_timestamp_seconds"), None, "{former}");
            assert_eq!(value(&text, "holdfast_point_revision"), None, "{former}");
        }
    }

    #[test]
    fn names_are_escaped_and_found_again() {
        let odd = "a \"b\" \\ c\nd".to_owned();
        let report = Report { cluster: odd.clone(), ..backup() };
        let text = textfile(&report, at("2026-11-20T12:00:03Z"), "");
        check(&text);
        assert_eq!(cluster_of(&text), Some(odd));
        assert_eq!(cluster_of("nothing here"), None);
        let again =
            textfile(&Report { exit_code: 1, facts: Facts::default(), ..report }, at("2026-11-20T13:00:03Z"), &text);
        assert_eq!(value(&again, "holdfast_point_revision"), Some("42"));
    }

    #[test]
    fn missed_objectives_and_verdicts_are_lines_of_their_own() {
        let facts = Facts { objectives: vec![("rpo", true), ("rto", false)], ..Facts::default() };
        let text = textfile(&Report { command: "drill", facts, ..backup() }, at("2026-11-20T12:00:03Z"), "");
        check(&text);
        let lines = |objective: &str, n: u8| {
            format!("holdfast_objective_missed{{cluster=\"prod\",command=\"drill\",objective=\"{objective}\"}} {n}\n")
        };
        assert!(text.contains(&lines("rpo", 1)) && text.contains(&lines("rto", 0)), "{text}");
    }

    #[test]
    fn the_document_explains_every_metric_and_no_other() {
        let document = include_str!("../../docs/metrics.md");
        // What a member tells stands behind.
        let (document, _) = document.split_once("## A member").unwrap();
        let told: Vec<&str> =
            document.lines().filter_map(|line| line.strip_prefix("| `holdfast_")?.split('`').next()).collect();
        assert_eq!(told, METRICS.map(|(name, _)| name));
    }
}
