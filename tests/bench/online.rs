//! `make bench-online`: what clients feel of what a member does beside its work, and of what is asked of them, side by side
//! with real etcd 3.5: puts while a state of a gigabyte is defragmented, and requests with authentication; and puts while all
//! of that is read and checked, which etcd does in no such way.
//!
//! `HOLDFAST_BENCH_SECONDS` (10) is how long one figure is measured, `HOLDFAST_BENCH_OBJECTS` (400,000) how many objects
//! there are.

use std::time::Duration;

use super::store::{Measured, Server, Who, measured_seconds, medians};
use super::support::load;
use super::support::member;
use super::support::peers::{ETCD_3_5, program};
use super::support::run::{Run, wait_until};
use super::{LIMIT, ROUNDS, goal, objects};

/// The 99th percentile of puts during a defragmentation, against that of puts without one.
const DEFRAGMENT_RATIO_MAX: f64 = 2.0;
/// The same while a scrub goes on that never ends, against a member without one.
const SCRUB_RATIO_MAX: f64 = 1.5;
/// Between the start of a member and its figure: its first scrub has begun.
const SCRUB_HEAD_START: Duration = Duration::from_secs(3);
/// Requests with authentication, against those without, at least as large a part as etcd's.
const AUTH_RATIO_MIN: f64 = 1.0;
/// Puts in a second while it is defragmented: more than a large cluster of Kubernetes makes, and what both take with ease.
const RATE: f64 = 4000.0;

/// Measures; whether the goals are met.
pub(crate) fn online() -> bool {
    let auth = authentication();
    let scrub = scrub();
    let defragment = defragmentation();
    auth && scrub && defragment
}

/// One member, started again for each figure: as it is, and so that it begins the next scrub a second after the last.
pub(crate) fn scrub() -> bool {
    let mut server = Server::start(Who::Holdfast);
    load::fill_at(&server.url(), 1, 0, objects());
    let (rate, duration) = (format!("{RATE:.0}"), format!("{}s", measured_seconds()));
    let mut found = [vec![], vec![]];
    let mut scrubs = [0, 0];
    for _ in 0..ROUNDS {
        for (n, args) in [&[][..], &["--corrupt-check-time=1s"]].into_iter().enumerate() {
            server.restart(args);
            std::thread::sleep(SCRUB_HEAD_START);
            found[n].push(server.bench(&["put", "--clients", "256"], &["--rate", &rate, "--duration", &duration]));
            if n == 1 {
                // The one that went on meanwhile comes to its end.
                wait_until("a scrub ends", LIMIT, || scrubs_of(&server) > 0);
            }
            scrubs[n] += scrubs_of(&server).min(1);
        }
    }
    assert_eq!(scrubs, [0, ROUNDS as u64], "each with a scrub, and no other");
    let p99_ms = found.map(|of| medians(&of).p99_s * 1e3);
    println!("puts at {rate}/s: p99 {:.2} ms, and {:.2} ms during scrubs", p99_ms[0], p99_ms[1]);
    goal("p99 during scrubs / without", p99_ms[1] / p99_ms[0], SCRUB_RATIO_MAX, false)
}

/// How many of them came to their end since the member started.
fn scrubs_of(server: &Server) -> u64 {
    let page = member::get(server.url().trim_start_matches("http://"), "/metrics").body;
    let number = page.lines().find_map(|line| line.strip_prefix("holdfast_scrubs_total "));
    number.expect("it is told").parse().unwrap()
}

fn etcdctl(server: &Server, args: &[&str]) {
    let url = server.url();
    let flags = ["--endpoints", url.as_str(), "--command-timeout=600s"];
    Run::new(program(ETCD_3_5, "etcdctl")).env("ETCDCTL_API", "3").args(&flags).args(args).limit(LIMIT).run().success();
}

fn defragmentation() -> bool {
    let servers = [Who::Holdfast, Who::Etcd].map(Server::start);
    for server in &servers {
        load::fill_at(&server.url(), 1, 0, objects());
    }
    let ratios = servers
        .each_ref()
        .map(|server| server.disturbed(RATE, "defragmentation", |_| etcdctl(server, &["defrag"]), |_| {}));
    println!("etcd's p99 during / without: {:.2}", ratios[1]);
    goal("p99 during / without", ratios[0], DEFRAGMENT_RATIO_MAX, false)
}

/// Both with authentication off and on, a user who may touch the keys that are measured, and one token for each connection.
fn authentication() -> bool {
    let servers = [Who::Holdfast, Who::Etcd].map(Server::start);
    let password = servers[0].path("password");
    std::fs::write(&password, "pw").unwrap();
    let user = ["--user", "ann", "--password-file", password.to_str().unwrap()];
    let duration = format!("{}s", measured_seconds());
    let figures: [(&str, &[&str]); 3] = [
        ("put, 64 clients", &["put", "--clients", "64"]),
        ("linearizable get, 64 clients", &["range", "--clients", "64"]),
        ("put, 1 client", &["put", "--clients", "1"]),
    ];
    let mut met = vec![];
    for (name, args) in figures {
        let mut found = [[vec![], vec![]], [vec![], vec![]]];
        for _ in 0..ROUNDS {
            for (n, server) in servers.iter().enumerate() {
                found[n][0].push(server.bench(args, &["--duration", &duration]));
                enable(server);
                found[n][1].push(server.bench(args, &[&["--duration", &duration], &user[..]].concat()));
                etcdctl(server, &["--user=root:pw", "auth", "disable"]);
            }
        }
        let of = found.map(|both| both.map(|of: Vec<Measured>| medians(&of).per_s));
        let costs = of.map(|[off, on]| (1.0 / on - 1.0 / off) * 1e6);
        println!(
            "{name}: {:.0}/s without and {:.0}/s with ({:+.1} us), etcd {:.0}/s and {:.0}/s ({:+.1} us)",
            of[0][0], of[0][1], costs[0], of[1][0], of[1][1], costs[1]
        );
        met.push(goal("with / etcd's with", of[0][1] / of[1][1], AUTH_RATIO_MIN, true));
    }
    met.iter().all(|met| *met)
}

/// Users and roles are made once; what is there already is no matter.
fn enable(server: &Server) {
    let url = server.url();
    for words in [
        "user add root:pw",
        "role add root",
        "user grant-role root root",
        "user add ann:pw",
        "role add ann",
        "user grant-role ann ann",
        "role grant-permission ann --prefix=true readwrite /holdfast-bench/",
    ] {
        let args = ["--endpoints", &url].into_iter().chain(words.split(' ')).collect::<Vec<_>>();
        Run::new(program(ETCD_3_5, "etcdctl")).env("ETCDCTL_API", "3").args(&args).limit(LIMIT).run();
    }
    etcdctl(server, &["auth", "enable"]);
}
