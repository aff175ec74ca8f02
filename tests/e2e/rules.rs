//! The alerts and the dashboard in docs/prometheus ask for metrics that exist: those of members at a live one, those of jobs in
//! docs/metrics.md. Whether alerts fire when they should, promtool says in tests/system.

use std::collections::BTreeSet;

use yaml_rust2::YamlLoader;

use crate::support::member::{Member, get};

const RULES: [(&str, &str); 3] = [
    ("etcd.rules.yml", include_str!("../../docs/prometheus/etcd.rules.yml")),
    ("member.rules.yml", include_str!("../../docs/prometheus/member.rules.yml")),
    ("holdfast.rules.yml", include_str!("../../docs/prometheus/holdfast.rules.yml")),
];

const DASHBOARD: &str = include_str!("../../docs/prometheus/dashboard.json");

/// What no member tells: the scraper's own, and what is about peers.
const ELSEWHERE: [&str; 3] =
    ["up", "etcd_network_peer_sent_failures_total", "etcd_network_peer_round_trip_time_seconds_bucket"];

/// Words of the language that stand where a name could.
const WORDS: [&str; 10] =
    ["and", "or", "unless", "bool", "by", "without", "on", "ignoring", "group_left", "group_right"];

/// Words that labels in brackets follow.
const GROUPING: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// The metrics that an expression names: what is no word of the language, no function, no label, no text and no time.
fn metrics_of(expression: &str) -> BTreeSet<String> {
    let (mut names, mut rest) = (BTreeSet::new(), expression);
    while let Some(first) = rest.chars().next() {
        let ends = |end: char| rest[1..].find(end).map_or(rest.len(), |at| at + 2);
        let word = |c: char| c.is_ascii_alphanumeric() || "_:.".contains(c);
        let len = match first {
            '{' => brace(rest),
            '[' => ends(']'),
            '"' => ends('"'),
            _ if word(first) => rest.find(|c| !word(c)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(len);
        rest = after;
        // An aggregation may say what it is by before what it is of.
        let next = after.trim_start();
        let opens = ["(", "by ", "by(", "without ", "without("].iter().any(|opening| next.starts_with(opening));
        if GROUPING.contains(&token) && next.starts_with('(') {
            rest = after.split_once(')').unwrap().1;
        } else if first.is_ascii_alphabetic() && !opens && !WORDS.contains(&token) {
            names.insert(token.to_owned());
        }
    }
    names
}

/// How long what stands in braces is; a brace in a text ends nothing.
fn brace(rest: &str) -> usize {
    let mut quoted = false;
    for (at, c) in rest.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '}' if !quoted => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Each alert of a file, and its expression.
fn alerts(text: &str) -> Vec<(String, String)> {
    let files = YamlLoader::load_from_str(text).unwrap();
    let groups = files[0]["groups"].as_vec().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_vec().unwrap());
    rules.map(|rule| (rule["alert"].as_str().unwrap().to_owned(), rule["expr"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn names_are_told_from_what_stands_around_them() {
    for (expression, expected) in [
        ("a{b=\"c}d\",e=~\"f\"}[5m:1m] > 1e3", &["a"][..]),
        ("sum without (x, y) (rate(a_b:c[5m])) / on (job) group_left (z) b * 2.5", &["a_b:c", "b"]),
        ("max by(job) (a == bool 1) or 0 * absent(b{}) unless c", &["a", "b", "c"]),
        ("time() - sum(a) by (job)", &["a"]),
    ] {
        assert_eq!(Vec::from_iter(metrics_of(expression)), expected, "{expression}");
    }
}

/// What can be asked for: of a member, of the jobs, and of the scraper.
fn told() -> BTreeSet<String> {
    let member = Member::start(&["--metrics=extensive"]);
    member.etcdctl(&["put", "a", "1"]).success();
    let page = get(&member.client.address(), "/metrics").body;
    let mut told: BTreeSet<String> = ELSEWHERE.map(str::to_owned).into();
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let parts: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        told.extend(parts.iter().map(|part| format!("{name}{part}")));
    }
    let document = include_str!("../../docs/metrics.md");
    let (jobs, _) = document.split_once("## A member").unwrap();
    let rows = jobs.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    told.extend(rows.map(|(name, _)| name.to_owned()));
    told
}

#[test]
fn alerts_and_panels_name_metrics_that_are_told() {
    let told = told();
    let mut asked: Vec<(String, String)> = vec![];
    for (file, text) in RULES {
        let alerts = alerts(text);
        assert!(alerts.len() >= 5, "{file}");
        asked.extend(alerts.into_iter().map(|(alert, expression)| (format!("{file}: {alert}"), expression)));
    }
    let panels = panels();
    assert!(panels.len() > 30, "{}", panels.len());
    for (title, _, targets) in panels {
        asked.extend(targets.into_iter().map(|expression| (format!("dashboard.json: {title}"), expression)));
    }
    for (who, expression) in asked {
        let names = metrics_of(&expression);
        assert!(!names.is_empty(), "{who} asks for nothing");
        let missing: Vec<_> = names.difference(&told).collect();
        assert!(missing.is_empty(), "{who} asks for {missing:?}, which nothing tells");
    }
}

/// A panel of the dashboard: its title, where it stands (x, y, width, height), and what it asks for.
type Panel = (String, [u64; 4], Vec<String>);

fn panels() -> Vec<Panel> {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let of = |panel: &serde_json::Value| {
        let place = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        let asked = targets.iter().map(|target| target["expr"].as_str().unwrap().to_owned());
        (panel["title"].as_str().unwrap().to_owned(), place, asked.collect())
    };
    dashboard["panels"].as_array().unwrap().iter().map(of).collect()
}

/// Grafana would show it, and nothing on top of something else.
#[test]
fn the_dashboard_can_be_imported() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let ids: BTreeSet<u64> =
        dashboard["panels"].as_array().unwrap().iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    let panels = panels();
    assert_eq!(ids.len(), panels.len(), "ids are one panel's each");
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "job", "instance"]);
    let mut taken = BTreeSet::new();
    for (title, [x, y, width, height], _) in panels {
        assert!(x + width <= 24 && width > 0 && height > 0, "{title}");
        for place in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            assert!(taken.insert(place), "{title} lies on top of another panel");
        }
    }
    // Panels choose among the members that the variables name, and nothing is of one data source alone.
    let member = |line: &&str| line.contains("\"expr\"") && line.contains("etcd_");
    assert!(DASHBOARD.lines().filter(member).all(|line| line.contains("$job") && line.contains("$instance")));
    assert!(DASHBOARD.lines().filter(|line| line.contains("\"uid\"")).all(|line| !line.contains("prom-")));
}
