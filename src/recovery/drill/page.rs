//! The report as a page: one HTML file that needs nothing else, to be read on a screen, printed, or shown to an auditor.

use std::time::Duration;

use crate::base::clock::rfc3339;
use crate::base::units;
use crate::recovery::drill::report::{Level, Outcome, Proof, Report, Through, Verdict};

const STYLE: &str = "
:root { color-scheme: light; --ink: #1c2430; --dim: #5d6877; --line: #dfe4ea; --good: #17723f; --bad: #b3261e; --warn: #8a5a00; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.5rem; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; } h2 { margin: 2rem 0 .6rem; font-size: 1.1rem; }
p { margin: .3rem 0; } .dim { color: var(--dim); }
header { display: flex; gap: 1rem; align-items: flex-start; justify-content: space-between;
  border-bottom: 2px solid var(--ink); padding-bottom: 1rem; }
.badge { padding: .35rem .9rem; border: 2px solid; border-radius: .4rem; font-weight: 700; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: .8rem; margin-top: 1.2rem; }
.tile { border: 1px solid var(--line); border-radius: .4rem; padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.35rem; }
table { width: 100%; border-collapse: collapse; }
th { text-align: left; color: var(--dim); font-weight: 600; }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.value { font-family: ui-monospace, monospace; font-size: .82rem; overflow-wrap: anywhere; }
.same, th { white-space: nowrap; } td.same { color: var(--dim); }
.missed { margin: .8rem 0 0; }
td.time { text-align: right; white-space: nowrap; } td.bar { width: 40%; }
.bar i { display: block; height: .8rem; min-width: 2px; background: #3b6ea8; border-radius: .15rem; }
.bar i.aside { background: #b9c4d0; }
li { margin: .2rem 0; }
@media print { body { padding: 0; max-width: none; font-size: 11pt; } h2 { break-after: avoid; }
  tr, .tile, li { break-inside: avoid; } .bar i { print-color-adjust: exact; } }
";

/// The page.
pub fn render(report: &Report) -> String {
    let (word, class) = match report.outcome {
        Outcome::Passed => ("PASSED", "good"),
        Outcome::Missed => ("NOT MET", "warn"),
        Outcome::Failed => ("FAILED", "bad"),
    };
    let cluster = escape(&report.cluster);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Recovery drill of {cluster}: {word}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <header><div><h1>Recovery drill: {cluster}</h1>\n<p>{}</p>\n<p class=\"dim\">{} to {} UTC</p></div>\n\
         <div class=\"badge {class}\">{word}</div></header>\n<p>{}</p>\n",
        escape(&report.plan.source),
        rfc3339(report.started),
        rfc3339(report.finished),
        escape(verdict(report)),
    );
    page.push_str(&tiles(report));
    page.push_str(&stages(report));
    page.push_str(&proofs(report));
    page.push_str("<h2>Not proved by this drill</h2>\n<ul>\n");
    report.not_proved.iter().for_each(|line| page.push_str(&format!("<li>{}</li>\n", escape(line))));
    page.push_str("</ul>\n<h2>What was planned</h2>\n<ol>\n");
    report.plan.steps.iter().for_each(|step| page.push_str(&format!("<li>{}</li>\n", escape(step))));
    page.push_str("</ol>\n<h2>With what</h2>\n<table>\n");
    let or = |text: &str, none: &str| escape(if text.is_empty() { none } else { text });
    for (name, value) in [
        ("point", format!("{} of {}", escape(&report.point), rfc3339(report.point_time))),
        ("etcd of the drill", or(&report.etcd_version, "none")),
        ("etcd of the cluster, then", or(&report.source_version, "unknown")),
        ("drilled by", format!("{} {}", escape(&report.tool.name), escape(&report.tool.version))),
    ] {
        page.push_str(&format!("<tr><td>{name}</td><td class=\"value\">{value}</td></tr>\n"));
    }
    page.push_str("</table>\n</body>\n</html>\n");
    page
}

/// How it ended, in a sentence.
pub fn verdict(report: &Report) -> &'static str {
    match (report.outcome, report.level) {
        (Outcome::Passed, _) => "A real etcd was booted on this point. What it served is what the backup saw.",
        (Outcome::Failed, _) => "A proof failed: do not rely on this point, and find out why today.",
        (Outcome::Missed, Level::FileOnly) => {
            "File only: the point restores into a right file, but no member was started from it."
        }
        (Outcome::Missed, Level::Member) => {
            "What was looked at is right, but an objective is missed, or something could not be proved."
        }
    }
}

fn seconds(s: f64) -> String {
    units::duration(Duration::from_secs_f64(s.max(0.0)))
}

fn tiles(report: &Report) -> String {
    let measured = &report.measured;
    let allowed =
        |allowed: Option<f64>| allowed.map_or("no objective set".to_owned(), |s| format!("{} allowed", seconds(s)));
    let class = |name: &str| if measured.missed.iter().any(|missed| missed.starts_with(name)) { "bad" } else { "" };
    let count = |verdict| report.proofs.iter().filter(|proof| proof.verdict == verdict).count();
    let (equal, differ) = (count(Verdict::Equal), count(Verdict::Differs));
    let tile = |name: &str, value: &str, class: &str, more: &str| {
        format!("<div class=\"tile\">{name}<b class=\"{class}\">{value}</b><span class=\"dim\">{more}</span></div>\n")
    };
    let rto = measured.rto_s.map_or("not measured".to_owned(), seconds);
    let proved = if differ > 0 { "bad" } else { "good" };
    let mut text = "<div class=\"tiles\">\n".to_owned();
    text.push_str(&tile(
        "Would be lost (RPO)",
        &seconds(measured.rpo_s),
        class("rpo"),
        &allowed(measured.rpo_allowed_s),
    ));
    text.push_str(&tile("Until it serves (RTO)", &rto, class("rto"), &allowed(measured.rto_allowed_s)));
    text.push_str(&tile(
        "Proofs",
        &format!("{equal} of {} equal", report.proofs.len()),
        proved,
        "against the manifest",
    ));
    text.push_str("</div>\n");
    for missed in &measured.missed {
        text.push_str(&format!("<p class=\"bad missed\">Missed: {}</p>\n", escape(missed)));
    }
    text
}

fn stages(report: &Report) -> String {
    let longest = report.stages.iter().map(|stage| stage.duration_s).fold(0.001, f64::max);
    let mut text = "<h2>How long it took</h2>\n<table>\n".to_owned();
    for stage in &report.stages {
        let (class, note) =
            if stage.counts { ("", "") } else { (" class=\"aside\"", " <span class=\"dim\">(not part of RTO)</span>") };
        text.push_str(&format!(
            "<tr><td>{}{note}</td><td class=\"time\">{}</td><td class=\"bar\"><i{class} style=\"width:{:.0}%\"></i></td></tr>\n",
            escape(&stage.name),
            seconds(stage.duration_s),
            100.0 * stage.duration_s / longest
        ));
    }
    text.push_str("</table>\n");
    text
}

fn proofs(report: &Report) -> String {
    let mut text = "<h2>What was proved</h2>\n<table>\n<tr><th></th><th>Proof</th><th>Looked at</th><th>Expected</th>\
                    <th>Found</th></tr>\n"
        .to_owned();
    let row = |proof: &Proof| {
        let (sign, class) = match proof.verdict {
            Verdict::Equal => ("&#10003;", "good"),
            Verdict::Differs => ("&#10007; FAILED", "bad"),
            Verdict::Skipped => ("not proved", "warn"),
        };
        let through = match proof.through {
            Through::File => "file",
            Through::Member => "member",
        };
        let found = match proof.verdict {
            Verdict::Equal if proof.found == proof.expected => "<td class=\"same\">the same</td>".to_owned(),
            _ => format!("<td class=\"value\">{}</td>", escape(&proof.found)),
        };
        format!(
            "<tr><td class=\"{class}\">{sign}</td><td>{}</td><td>{through}</td><td class=\"value\">{}</td>{found}</tr>\n",
            escape(&proof.what),
            escape(&proof.expected)
        )
    };
    report.proofs.iter().for_each(|proof| text.push_str(&row(proof)));
    text.push_str("</table>\n");
    text
}

/// Text from outside, as text.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::parse_rfc3339;
    use crate::recovery::drill::plan::Plan;
    use crate::recovery::drill::report::{Measured, Stage};
    use crate::vault::manifest::Tool;
    use crate::vault::sealed;

    fn report(verdict: Verdict, level: Level, missed: &[&str]) -> Report {
        let time = parse_rfc3339("2026-05-15T02:00:00Z").unwrap();
        let proof = Proof {
            what: "state <digest>".to_owned(),
            through: Through::Member,
            expected: "a".to_owned(),
            found: "b & c".to_owned(),
            verdict,
        };
        let plan = Plan { source: "\"x\"".to_owned(), scratch_bytes: 1, steps: vec![], not_proved: vec![] };
        let report = Report {
            outcome: Outcome::Passed,
            level,
            cluster: "prod".to_owned(),
            point: "0123456789abcdef".to_owned(),
            revision: 9,
            point_time: time,
            started: time,
            finished: time,
            plan,
            stages: vec![Stage { name: "boot".to_owned(), duration_s: 1.5, counts: true }],
            measured: Measured { missed: missed.iter().map(ToString::to_string).collect(), ..Measured::default() },
            proofs: vec![proof],
            not_proved: vec!["<script>alert(1)</script>".to_owned()],
            tool: Tool::this(),
            etcd_version: String::new(),
            source_version: "3.5.1".to_owned(),
        };
        report.judged()
    }

    #[test]
    fn only_what_was_proved_on_a_member_within_the_objectives_passes() {
        let outcome = |verdict, level, missed: &[&str]| report(verdict, level, missed).outcome;
        assert_eq!(outcome(Verdict::Equal, Level::Member, &[]), Outcome::Passed);
        assert_eq!(outcome(Verdict::Equal, Level::Member, &["rto: ..."]), Outcome::Missed);
        assert_eq!(outcome(Verdict::Skipped, Level::Member, &[]), Outcome::Missed);
        assert_eq!(outcome(Verdict::Equal, Level::FileOnly, &[]), Outcome::Missed);
        assert_eq!(outcome(Verdict::Differs, Level::Member, &["rto: ..."]), Outcome::Failed);
        assert_eq!(outcome(Verdict::Differs, Level::FileOnly, &[]), Outcome::Failed);
    }

    #[test]
    fn a_report_reads_back_and_its_page_shows_text_as_text() {
        let report = report(Verdict::Differs, Level::Member, &["rpo: 2 h"]);
        let bytes = sealed::seal(&report).unwrap();
        assert_eq!(sealed::open::<Report>("drill", &bytes).unwrap(), report);
        let page = render(&report);
        for part in
            ["FAILED", "state &lt;digest&gt;", "b &amp; c", "&lt;script&gt;", "&quot;x&quot;", "Missed: rpo: 2 h"]
        {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("<script>") && !page.contains("PASSED"));
    }
}
