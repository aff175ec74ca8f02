//! Broken streams: cut, stalled, flipped or refused anywhere on the way from the member, a snapshot is never published and
//! never named, the exit code and the message say what happened, and the next run succeeds.

use holdfast::base::rng::Seeded;
use std::fs;
use std::time::Duration;

use crate::place::{Place, loaded};
use crate::support::etcd::Etcd;
use crate::support::proxy::{Fault, Proxy};
use crate::support::run::Outcome;

/// Silence after which these tests give up.
const STALL: &str = "400ms";
/// No run may take longer, whatever the network does.
const LIMIT: Duration = Duration::from_secs(40);

/// A cluster behind a proxy, and a place to back it up to.
struct Line {
    etcd: Etcd,
    proxy: Proxy,
    place: Place,
}

impl Line {
    fn new() -> Line {
        let etcd = loaded();
        let (proxy, place) = (Proxy::before(etcd.address(0)), Place::new());
        place.policy_at(&proxy.address());
        Line { etcd, proxy, place }
    }

    fn save(&self) -> Outcome {
        let address = self.proxy.address();
        let args = ["snapshot", "save", "out/s.db", "--stall", STALL, "--endpoints", &address];
        self.place.run(&args).limit(LIMIT).run()
    }

    fn backup(&self) -> Outcome {
        let policy = self.place.text("policy.toml");
        self.place.run(&["backup", "--stall", STALL, "--policy", &policy]).limit(LIMIT).run()
    }

    /// The bytes that a run makes the member send.
    fn cost(&self, run: impl Fn(&Line) -> Outcome) -> u64 {
        let before = self.proxy.bytes();
        run(self).success();
        self.proxy.bytes() - before
    }

    /// Runs under a fault that must strike; whether it failed.
    fn struck(&self, fault: Fault, run: impl Fn(&Line) -> Outcome) -> Outcome {
        let (outcome, sent) = self.under(fault, run);
        assert_eq!(sent, None, "{fault:?} did not strike {outcome}");
        outcome
    }

    /// Runs with the stream cut after `at` bytes. HTTP/2 puts the same reply into a few frames more or fewer each time: a cut
    /// at the very end may lie behind it, and then the run must be one that nothing happened to (`false`).
    fn cut(&self, at: u64, run: impl Fn(&Line) -> Outcome) -> (Outcome, bool) {
        let (outcome, sent) = self.under(Fault::CutAfter(at), run);
        if let Some(sent) = sent {
            assert!(sent <= at && outcome.code() == 0, "{sent} bytes were not cut after {at}: {outcome}");
        }
        (outcome, sent.is_none())
    }

    /// Runs under a fault; the bytes that the member sent if it did not strike.
    fn under(&self, fault: Fault, run: impl Fn(&Line) -> Outcome) -> (Outcome, Option<u64>) {
        let (fired, bytes) = (self.proxy.fired(), self.proxy.bytes());
        self.proxy.set(fault);
        let outcome = run(self);
        self.proxy.set(Fault::None);
        if outcome.code() != 0 && outcome.code() != 5 {
            assert!(outcome.stderr.contains("\nhint: "), "{fault:?}: {outcome}");
        }
        (outcome, (self.proxy.fired() == fired).then(|| self.proxy.bytes() - bytes))
    }

    /// A saved file is whole or not there.
    fn judge_save(&self, outcome: &Outcome, fault: Fault, codes: &[i32]) {
        assert!(codes.contains(&outcome.code()), "{fault:?}: {outcome}");
        if outcome.code() == 0 {
            self.place.run(&["snapshot", "status", "out/s.db"]).run().success();
            fs::remove_file(self.place.path("out/s.db")).unwrap();
        }
        self.place.assert_nothing_left();
    }
}

#[test]
fn a_stream_that_is_cut_anywhere_names_no_file() {
    let line = Line::new();
    let total = line.cost(Line::save);
    fs::remove_file(line.place.path("out/s.db")).unwrap();
    let ends = (1..=160).step_by(13).map(|back| total - back);
    let spread = (0..12).map(|n| total * n / 12 + 1000);
    let mut cuts = 0;
    for at in [0, 1, 20, 100, 400].into_iter().chain(spread).chain(ends) {
        let (outcome, cut) = line.cut(at, Line::save);
        // Behind the SHA-256 there is nothing left to lose.
        let codes: &[i32] = if !cut || at + 30 > total { &[0, 1] } else { &[1] };
        line.judge_save(&outcome, Fault::CutAfter(at), codes);
        assert!(outcome.code() == 0 || outcome.stderr.contains(&line.proxy.address()), "{outcome}");
        cuts += u32::from(cut);
    }
    assert!(cuts >= 22, "{cuts} of 30 cuts struck");
    line.save().success();
}

#[test]
fn a_cut_stream_publishes_no_point_and_the_next_run_does() {
    let line = Line::new();
    let (_, db_bytes) = (line.backup().success(), line.etcd.etcdctl_json(&["endpoint", "status"]));
    let db_bytes = db_bytes[0]["Status"]["dbSize"].as_u64().unwrap();
    let total = line.cost(Line::backup);
    let mut points = line.place.points().len();
    let spread = (0..10).map(|n| total * n / 10 + 700);
    let ends = (1..=600).step_by(60).map(|back| total - back);
    let mut cuts = 0;
    for at in spread.chain(ends) {
        let fault = Fault::CutAfter(at);
        let (outcome, cut) = line.cut(at, Line::backup);
        cuts += u32::from(cut);
        match outcome.code() {
            1 => assert_eq!(line.place.points().len(), points, "{fault:?}: {outcome}"),
            // The stream was whole; only the comparison was lost, and the point says so.
            0 | 5 => {
                assert!(at > db_bytes, "{fault:?}: {outcome}");
                points += 1;
                assert!(
                    outcome.code() == 0 || outcome.stderr.contains("could not be compared"),
                    "{fault:?}: {outcome}"
                );
            }
            _ => panic!("{fault:?}: {outcome}"),
        }
        line.place.assert_nothing_left();
    }
    assert!(cuts >= 16, "{cuts} of 20 cuts struck");
    line.backup().success();
    assert_eq!(line.place.verify_all(), points + 1);
}

#[test]
fn a_stalled_stream_is_given_up_after_the_time_that_was_set() {
    let line = Line::new();
    let total = line.cost(Line::save);
    fs::remove_file(line.place.path("out/s.db")).unwrap();
    for at in [total / 4, total / 2, total - total / 50] {
        let fault = Fault::StallAfter(at);
        let outcome = line.struck(fault, Line::save);
        line.judge_save(&outcome, fault, &[1]);
        assert!(outcome.stderr.contains("stalled: nothing came for 400 ms"), "{outcome}");
        assert!(outcome.elapsed < Duration::from_secs(10), "{:?}", outcome.elapsed);
        let outcome = line.struck(fault, Line::backup).exits(1);
        assert!(outcome.stderr.contains("stalled") && line.place.points().is_empty(), "{outcome}");
    }
    // Slow is not stalled: pieces that keep coming may take as long as they take.
    line.struck(Fault::Delay(Duration::from_millis(5)), Line::backup).success();
    assert_eq!(line.place.verify_all(), 1);
}

#[test]
fn a_flipped_bit_is_noticed_wherever_it_falls() {
    let line = Line::new();
    let total = line.cost(Line::save);
    fs::remove_file(line.place.path("out/s.db")).unwrap();
    let (mut rng, mut damaged) = (Seeded::new(31), 0);
    for _ in 0..24 {
        let fault = Fault::FlipAt(4_000 + rng.below(total - 4_000));
        let outcome = line.struck(fault, Line::save);
        // A bit of the file breaks its SHA-256; a bit of HTTP/2 breaks the stream; a bit that means nothing may pass.
        line.judge_save(&outcome, fault, &[0, 1, 3]);
        damaged += u32::from(outcome.code() == 3);
    }
    assert!(damaged >= 18, "{damaged} of 24");
    for _ in 0..6 {
        let outcome = line.struck(Fault::FlipAt(4_000 + rng.below(total - 8_000)), Line::backup);
        assert!([1, 3].contains(&outcome.code()), "{outcome}");
        assert_eq!(line.place.points(), Vec::<String>::new());
        line.place.assert_nothing_left();
    }
    line.backup().success();
    assert_eq!(line.place.verify_all(), 1);
}

#[test]
fn a_refused_connection_is_told_with_its_address() {
    let line = Line::new();
    for run in [Line::save, Line::backup] {
        let outcome = line.struck(Fault::Refuse, run).exits(1);
        assert!(outcome.stderr.contains(&line.proxy.address()), "{outcome}");
    }
    line.place.assert_nothing_left();
    assert!(line.place.points().is_empty());
    line.backup().success();
}
