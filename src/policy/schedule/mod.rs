//! Schedules: which jobs of a cluster are due, and when.
//!
//! Times are crontab's (`crontab`), in the policy's time zone. What decides is a function of the schedule, the last run and
//! the present moment: nothing is remembered here, so a host that slept, a timer that was lost and a process that was
//! restarted all come out the same.
//!
//! Invariants:
//! - A run that was missed is made up for, once, however many were missed.
//! - A last run that lies in the future (a clock was wrong) counts for nothing: it cannot hold up the next.

mod crontab;
mod field;

use std::time::Duration;

use crate::base::clock::Time;
use crate::base::error::Result;
use crate::policy::raw::Table;
use crate::policy::zone::Zone;

pub use crate::policy::schedule::crontab::Crontab;

/// Clocks of two hosts may differ by this much before a time counts as one of the future.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);
/// The shortest period of continuous capture.
pub const CAPTURE_MIN: Duration = Duration::from_secs(1);
/// The longest; beyond it, a scheduled increment does the same.
pub const CAPTURE_MAX: Duration = Duration::from_secs(3600);
/// From this age on the newest point is stale where no schedule says how far points lie apart.
pub const STALE_AFTER_DEFAULT: Duration = Duration::from_secs(2 * 86_400);
/// A point is never stale before this age, however often points are taken.
pub const STALE_AFTER_MIN: Duration = Duration::from_secs(3600);
/// Scheduled points that are looked at to see how far they lie apart: a week of one every five minutes.
const POINTS_LOOKED_AT: u32 = 2_016;
/// The level of verification that a schedule means when it does not say.
pub const VERIFY_LEVEL_DEFAULT: u8 = 3;
/// The deepest level that a schedule can ask for: 4 boots a member, which is what a drill is for.
const VERIFY_LEVEL_MAX: u8 = 3;

/// What is done when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// The zone of all times, and of retention's days.
    pub zone: Zone,
    /// Full points.
    pub full: Option<Crontab>,
    /// Points that store what changed.
    pub incremental: Option<Crontab>,
    /// How often changes are captured in between.
    pub capture: Option<Duration>,
    /// Verification of stored points.
    pub verify: Option<Verify>,
    /// Rehearsed restores.
    pub drill: Option<Crontab>,
}

/// Verification of stored points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verify {
    /// How deep: 1 to 3.
    pub level: u8,
    /// When.
    pub cron: Crontab,
}

/// How far scheduled points lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gaps {
    /// At least.
    pub shortest: Duration,
    /// At most.
    pub longest: Duration,
}

/// What a schedule starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    /// A full point.
    Full,
    /// A point of what changed.
    Incremental,
    /// A verification.
    Verify,
    /// A drill.
    Drill,
}

impl Job {
    /// All of them, in the order in which they are started when due together.
    pub const ALL: [Job; 4] = [Job::Full, Job::Incremental, Job::Verify, Job::Drill];

    /// Its name in the policy file.
    pub const fn name(self) -> &'static str {
        match self {
            Job::Full => "full",
            Job::Incremental => "incremental",
            Job::Verify => "verify",
            Job::Drill => "drill",
        }
    }
}

impl Schedule {
    /// When `job` runs; none when it is not scheduled.
    pub fn of(&self, job: Job) -> Option<&Crontab> {
        match job {
            Job::Full => self.full.as_ref(),
            Job::Incremental => self.incremental.as_ref(),
            Job::Verify => self.verify.as_ref().map(|verify| &verify.cron),
            Job::Drill => self.drill.as_ref(),
        }
    }

    /// When `job` runs first after `after`.
    pub fn next(&self, job: Job, after: Time) -> Option<Time> {
        self.of(job)?.next(after, self.zone)
    }

    /// When `job` should have run last, at or before `at`.
    pub fn previous(&self, job: Job, at: Time) -> Option<Time> {
        self.of(job)?.previous(at, self.zone)
    }

    /// The run that `job` owes at `now`: the last that was scheduled, unless the job ran at or after it. A job that never
    /// ran owes one at once.
    pub fn due(&self, job: Job, last: Option<Time>, now: Time) -> Option<Time> {
        let owed = self.previous(job, now)?;
        let last = last.filter(|last| *last <= now + CLOCK_SKEW_MAX);
        last.is_none_or(|last| last < owed).then_some(owed)
    }

    /// The first scheduled point after `after`. A full takes the place of an increment of the same moment.
    pub fn next_point(&self, after: Time) -> Option<(Time, Job)> {
        let next = |job: Job| self.next(job, after).map(|at| (at, job));
        match (next(Job::Full), next(Job::Incremental)) {
            (Some(full), Some(incremental)) => Some(if full.0 <= incremental.0 { full } else { incremental }),
            (full, incremental) => full.or(incremental),
        }
    }

    /// How far scheduled points lie apart from `from` on; none when there are fewer than two.
    pub fn gaps(&self, from: Time) -> Option<Gaps> {
        let mut last = self.next_point(from)?.0;
        let mut gaps: Option<Gaps> = None;
        for _ in 0..POINTS_LOOKED_AT {
            let Some((next, _)) = self.next_point(last) else { break };
            let gap = (next - last).to_std().unwrap_or_default();
            let so_far = gaps.unwrap_or(Gaps { shortest: gap, longest: gap });
            gaps = Some(Gaps { shortest: so_far.shortest.min(gap), longest: so_far.longest.max(gap) });
            last = next;
        }
        gaps
    }

    /// From which age on the newest point says that backups fail: twice the longest time between two of them.
    pub fn stale_after(&self, now: Time) -> Duration {
        self.gaps(now).map_or(STALE_AFTER_DEFAULT, |gaps| (gaps.longest * 2).max(STALE_AFTER_MIN))
    }

    /// The table [schedule] of a policy, when it is there.
    pub(super) fn read(root: &mut Table<'_>) -> Result<Self> {
        let known = ["timezone", "full", "incremental", "capture", "verify", "drill"];
        let Some(mut table) = root.optional("schedule", &known)? else { return Ok(Schedule::default()) };
        let zone = match table.string("timezone")? {
            Some(field) => field.understood(Zone::named)?,
            None => Zone::default(),
        };
        let full = crontab(&mut table, "full")?;
        let incremental = crontab(&mut table, "incremental")?;
        let capture = capture(&mut table)?;
        let verify = match table.optional("verify", &["level", "cron"])? {
            Some(verify) => Some(read_verify(verify)?),
            None => None,
        };
        let drill = crontab(&mut table, "drill")?;
        Ok(Schedule { zone, full, incremental, capture, verify, drill })
    }
}

fn crontab(table: &mut Table<'_>, name: &str) -> Result<Option<Crontab>> {
    let parse = |text: &str| Crontab::parse(text).map_err(|error| error.during(name));
    table.string(name)?.map(|field| field.understood(parse)).transpose()
}

fn capture(table: &mut Table<'_>) -> Result<Option<Duration>> {
    let off = |text: &str| (text == "off").then_some(None);
    let Some(field) = table.duration_or("capture", off)? else { return Ok(None) };
    match field.value {
        Some(period) if !(CAPTURE_MIN..=CAPTURE_MAX).contains(&period) => Err(field
            .wrong("capture is not between 1s and 1h")
            .hint("write capture = \"10s\", or \"off\" and an incremental schedule")),
        capture => Ok(capture),
    }
}

fn read_verify(mut table: Table<'_>) -> Result<Verify> {
    const EXAMPLE: &str = "for example verify = { level = 3, cron = \"30 3 * * *\" }";
    let level = match table.integer("level")? {
        None => VERIFY_LEVEL_DEFAULT,
        Some(level) => match u8::try_from(level.value) {
            Ok(number @ 1..=VERIFY_LEVEL_MAX) => number,
            _ => {
                return Err(level
                    .wrong(format!("verify cannot have level {}", level.value))
                    .hint("1: objects exist; 2: every byte is read; 3: records are decoded and proved"));
            }
        },
    };
    let parse = |text: &str| Crontab::parse(text).map_err(|error| error.during("verify"));
    let cron = table.required("cron", EXAMPLE)?.understood(parse)?;
    Ok(Verify { level, cron })
}

#[cfg(test)]
mod tests {
    use super::*;
    use goldenscript::Command;
    use std::error::Error as StdError;
    use std::fmt::Write as _;

    use crate::base::clock::{parse_rfc3339, rfc3339};

    fn line(text: &str) -> Crontab {
        Crontab::parse(text).unwrap()
    }

    /// Scripts ask lines of crontab for their times. `zone NAME` sets the zone of what follows.
    #[derive(Default)]
    struct Asking {
        zone: Zone,
    }

    impl goldenscript::Runner for Asking {
        type Command = Command;

        fn run(
            &mut self,
            command: &Command,
            _: &goldenscript::Context,
        ) -> std::result::Result<String, Box<dyn StdError>> {
            let mut args = command.consume_args();
            let mut out = String::new();
            match command.name.as_str() {
                "zone" => self.zone = Zone::named(args.next_pos().ok_or("a zone")?)?,
                name @ ("next" | "previous") => {
                    let text = args.next_pos().ok_or("a line")?;
                    let mut at = parse_rfc3339(args.take_key("at").unwrap_or("2026-11-20T12:00:00Z"))?;
                    let count = args.take_key("count").unwrap_or("3").parse::<u32>()?;
                    args.reject_next()?;
                    let line = match Crontab::parse(text) {
                        Ok(line) => line,
                        Err(error) => {
                            writeln!(out, "refused ({}): {}", error.kind().name(), error.chain())?;
                            writeln!(out, "hint: {}", error.hint_text().ok_or("every refusal has a hint")?)?;
                            return Ok(out);
                        }
                    };
                    for _ in 0..count {
                        let found =
                            if name == "next" { line.next(at, self.zone) } else { line.previous(at, self.zone) };
                        let time = found.ok_or("no such time")?;
                        let local = self.zone.reading(time).format("%a %F %T");
                        match self.zone == Zone::default() {
                            true => writeln!(out, "{local}")?,
                            false => writeln!(out, "{local} ({})", rfc3339(time))?,
                        }
                        at = if name == "next" { time } else { time - Duration::from_secs(1) };
                    }
                    return Ok(out);
                }
                name => return Err(format!("unknown command {name}").into()),
            }
            args.reject_next()?;
            Ok(out)
        }
    }

    #[test]
    fn lines_mean_what_crontab_says() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy/schedule/scripts");
        let scripts: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(scripts.len(), 3, "{scripts:?}");
        scripts.iter().for_each(|script| goldenscript::run(&mut Asking::default(), script).unwrap());
    }

    #[test]
    fn missed_runs_are_made_up_for_once() {
        let at = |text: &str| parse_rfc3339(text).unwrap();
        let schedule = Schedule { full: Some(line("0 2 * * *")), ..Schedule::default() };
        let due = |last: Option<&str>, now: &str| schedule.due(Job::Full, last.map(at), at(now)).map(rfc3339);
        let two = Some("2026-11-20T02:00:00Z".to_owned());
        assert_eq!(due(None, "2026-11-20T12:00:00Z"), two, "it never ran");
        assert_eq!(due(Some("2026-11-20T02:00:00Z"), "2026-11-20T12:00:00Z"), None, "it ran on time");
        assert_eq!(due(Some("2026-11-20T02:00:07Z"), "2026-11-20T12:00:00Z"), None, "it ran a little late");
        assert_eq!(due(Some("2026-11-20T01:59:59Z"), "2026-11-20T02:00:00Z"), two, "it is time");
        assert_eq!(due(Some("2026-11-20T01:59:59Z"), "2026-11-20T01:59:59Z"), None, "a second early");
        assert_eq!(due(Some("2026-09-01T02:00:00Z"), "2026-11-20T12:00:00Z"), two, "80 runs were missed");
        assert_eq!(due(Some("2026-11-20T12:00:00Z"), "2026-11-20T12:00:01Z"), None, "and made up for");
        assert_eq!(due(Some("2027-11-20T12:00:00Z"), "2026-11-20T12:00:00Z"), two, "a clock was a year ahead");
        assert_eq!(due(Some("2026-11-20T12:04:00Z"), "2026-11-20T12:00:00Z"), None, "clocks differ a little");
        assert_eq!(schedule.due(Job::Drill, None, at("2026-11-20T12:00:00Z")), None, "nobody asked for it");
    }

    #[test]
    fn gaps_between_points_say_when_the_newest_is_stale() {
        let now = parse_rfc3339("2026-11-20T12:00:00Z").unwrap();
        let hours = |n: u64| Duration::from_secs(3600 * n);
        let of = |full: &str, incremental: Option<&str>| Schedule {
            full: Some(line(full)),
            incremental: incremental.map(line),
            ..Schedule::default()
        };
        let gaps = |schedule: &Schedule| schedule.gaps(now).map(|gaps| (gaps.shortest, gaps.longest));
        assert_eq!(gaps(&of("0 2 * * *", Some("0 * * * *"))), Some((hours(1), hours(1))));
        // From nine to five on weekdays: nights and weekends are gaps.
        let office = of("0 9-17 * * 1-5", None);
        assert_eq!(gaps(&office), Some((hours(1), hours(64))));
        assert_eq!(office.stale_after(now), hours(128));
        assert_eq!(of("*/5 * * * *", None).stale_after(now), STALE_AFTER_MIN);
        assert_eq!(gaps(&Schedule::default()), None);
        assert_eq!(Schedule::default().stale_after(now), STALE_AFTER_DEFAULT);
    }

    #[test]
    fn a_full_takes_the_place_of_an_increment() {
        let schedule =
            Schedule { full: Some(line("0 2 * * *")), incremental: Some(line("0 * * * *")), ..Schedule::default() };
        let mut at = parse_rfc3339("2026-11-20T00:30:00Z").unwrap();
        let jobs = (0..3).map(|_| {
            let (time, job) = schedule.next_point(at).unwrap();
            at = time;
            (rfc3339(time), job)
        });
        let expected = [("01", Job::Incremental), ("02", Job::Full), ("03", Job::Incremental)];
        assert_eq!(jobs.collect::<Vec<_>>(), expected.map(|(hour, job)| (format!("2026-11-20T{hour}:00:00Z"), job)));
        assert_eq!(Schedule::default().next_point(at), None);
        let daily = Schedule { full: Some(line("0 2 * * *")), ..Schedule::default() };
        assert_eq!(daily.next_point(at).map(|(_, job)| job), Some(Job::Full));
        assert_eq!(Job::ALL.map(Job::name), ["full", "incremental", "verify", "drill"]);
    }
}
