//! One flipped bit anywhere in a member's log or state: refused at the start, or found when it is read, or of no effect.
//! Never a wrong answer.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use holdfast::base::rng::Seeded;
use tempfile::TempDir;

use crate::support::member::{LIMIT, Member};
use crate::support::peers::{ETCD_3_5, program};
use crate::support::run::{Run, wait_until};

/// Where the log and the state are in a data directory.
const LOG: &str = "member/wal/0000000000000001.log";
const STATE: &str = "member/snap/db";
const IDENTITY: &str = "member/identity.json";
/// A frame of the log begins with so many bytes (docs/formats/log.md).
const FRAME_HEAD: usize = 16;
/// What every value begins with.
const MARK: &[u8] = b"a value that is long enough to be found in a file";
/// Members at once.
const HANDS: usize = 2;

/// A member that was killed, and what it holds.
struct Original {
    log: Vec<u8>,
    /// The segment's whole length; what is not in `log` is zeros.
    log_bytes: u64,
    state: Vec<u8>,
    identity: Vec<u8>,
    /// Where each frame of the log begins, and where the last one ends.
    frames: Vec<usize>,
    end: usize,
    /// What is read of it.
    whole: Vec<String>,
    /// The same without the last write.
    without_last: Vec<String>,
}

/// Everything that there is to read: what is alive, what was at two earlier moments, and the hash of all history.
fn read(member: &Member) -> Result<Vec<String>, String> {
    let reads = [
        &["get", "", "--from-key"][..],
        &["get", "", "--from-key", "--rev=3"],
        &["get", "", "--from-key", "--rev=20"],
        &["endpoint", "hashkv"],
    ];
    let read = |args: &&[&str]| {
        // A member that has ended is not waited for as long as a busy one.
        let outcome = member.etcdctl(&[*args, &["--command-timeout=3s"][..]].concat());
        let said = outcome.stdout().replace(&member.endpoint(), "ENDPOINT");
        if outcome.code() == 0 { Ok(said) } else { Err(outcome.to_string()) }
    };
    reads.iter().map(read).collect()
}

fn put(member: &Member, key: &str, value: &str) {
    let value = format!("{} {value}", String::from_utf8_lossy(MARK));
    let flag = format!("--endpoints={}", member.endpoint());
    let run = Run::new(program(ETCD_3_5, "etcdctl")).env("ETCDCTL_API", "3");
    run.args(&[&flag, "put", key]).stdin(value).run().success();
}

impl Original {
    fn make() -> Original {
        let mut member = Member::start(&[]);
        for i in 0..30 {
            put(&member, &format!("key-{:02}", i % 20), &format!("{i} ").repeat(400));
        }
        assert_eq!(member.stop(), 0);
        member.launch(|run| run);
        member.wait();
        // What the log alone holds: the state is written now and then.
        for i in 0..8 {
            put(&member, &format!("late-{i}"), &"x ".repeat(40));
        }
        let without_last = read(&member).unwrap();
        put(&member, "last", "one");
        let whole = read(&member).unwrap();
        member.process.take().unwrap().kill();
        let data = member.data_dir();
        let log = fs::read(data.join(LOG)).unwrap();
        let log_bytes = log.len() as u64;
        let (frames, end) = frames(&log);
        let log = log[..end + 4096].to_vec();
        let (state, identity) = (fs::read(data.join(STATE)).unwrap(), fs::read(data.join(IDENTITY)).unwrap());
        Original { log, log_bytes, state, identity, frames, end, whole, without_last }
    }

    /// Writes it to `data` with one bit flipped.
    fn write(&self, data: &Path, flip: &Flip) {
        let (mut log, mut state) = (self.log.clone(), self.state.clone());
        let file = if flip.in_log { &mut log } else { &mut state };
        file[flip.at] ^= 1 << flip.bit;
        for folder in ["member/wal", "member/snap"] {
            fs::create_dir_all(data.join(folder)).unwrap();
        }
        let mut file = File::create(data.join(LOG)).unwrap();
        file.write_all(&log).unwrap();
        file.set_len(self.log_bytes).unwrap();
        fs::write(data.join(STATE), state).unwrap();
        fs::write(data.join(IDENTITY), &self.identity).unwrap();
    }

    /// Positions of every class of region, drawn by chance.
    fn flips(&self) -> Vec<Flip> {
        let (mut rng, mut flips) = (Seeded::new(21), vec![]);
        let mut draw = |class: &'static str, in_log: bool, n: usize, place: &mut dyn FnMut(&mut Seeded) -> usize| {
            for _ in 0..n {
                let at = place(&mut rng);
                flips.push(Flip { class, in_log, at, bit: u32::try_from(rng.below(8)).unwrap() });
            }
        };
        let (log, state) = (&self.log, &self.state);
        draw("log: header", true, 10, &mut |rng| below(rng, self.frames[1]));
        draw("log: heads of frames", true, 15, &mut |rng| {
            self.frames[below(rng, self.frames.len())] + below(rng, FRAME_HEAD)
        });
        draw("log: payloads", true, 20, &mut |rng| below(rng, self.end));
        draw("log: the last frame", true, 5, &mut |rng| {
            let last = *self.frames.last().unwrap();
            last + below(rng, self.end - last)
        });
        draw("log: behind the end", true, 10, &mut |rng| self.end + below(rng, log.len() - self.end));
        let values: Vec<usize> = (0..state.len() - MARK.len()).filter(|at| state[*at..].starts_with(MARK)).collect();
        assert!(values.len() >= 20, "{} values in the state", values.len());
        draw("state: header", false, 15, &mut |rng| below(rng, 320));
        draw("state: values", false, 20, &mut |rng| values[below(rng, values.len())] + below(rng, 600));
        let used: Vec<usize> = (0..state.len()).filter(|at| state[*at] != 0).collect();
        draw("state: what is not zero", false, 20, &mut |rng| used[below(rng, used.len())]);
        draw("state: anywhere", false, 10, &mut |rng| below(rng, state.len()));
        flips
    }
}

fn below(rng: &mut Seeded, n: usize) -> usize {
    usize::try_from(rng.below(n as u64)).unwrap()
}

/// Where the frames of a segment begin, and where the last one ends.
fn frames(log: &[u8]) -> (Vec<usize>, usize) {
    let (mut found, mut at) = (vec![], 0);
    loop {
        let length = u32::from_le_bytes(log[at..at + 4].try_into().unwrap());
        if length == 0 {
            return (found, at);
        }
        found.push(at);
        at += (FRAME_HEAD + usize::try_from(length).unwrap()).next_multiple_of(8);
    }
}

/// A flipped bit.
#[derive(Clone, Copy, Debug)]
struct Flip {
    class: &'static str,
    in_log: bool,
    at: usize,
    bit: u32,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The member did not start.
    Refused,
    /// It ended when it read that.
    Found,
    /// Everything is as it was.
    Harmless,
    /// The last write is gone: a flip there cannot be told from a tear (docs/formats/log.md).
    Torn,
}

/// Starts a member on it and reads everything; an answer that nobody may get is an error.
fn judge(original: &Original, flip: &Flip) -> Result<Fate, String> {
    let mut member = Member::prepared(&[]);
    original.write(&member.data_dir(), flip);
    member.launch(|run| run);
    let mut ended = None;
    wait_until("it serves or has ended", LIMIT, || {
        ended = member.process.as_mut().unwrap().ended();
        ended.is_some() || member.log().contains("ready to serve client requests")
    });
    let log = member.dir.path().join("log");
    let damaged = |code: Option<i32>, fate: Fate| {
        let log = fs::read_to_string(&log).unwrap();
        if code == Some(3) && log.contains("\nhint: ") {
            return Ok(fate);
        }
        Err(format!("{flip:?}: ended with {code:?}: {}", &log[log.len().saturating_sub(1500)..]))
    };
    if let Some(status) = ended {
        return damaged(status.code(), Fate::Refused);
    }
    match read(&member) {
        Ok(all) if all == original.whole || all == original.without_last => {
            let fate = if all == original.whole { Fate::Harmless } else { Fate::Torn };
            let last = original.frames[original.frames.len() - 1];
            if fate == Fate::Torn && !(flip.in_log && flip.at >= last) {
                return Err(format!("{flip:?}: the last write is gone, and the last frame begins at {last}"));
            }
            match member.process.take().unwrap().terminate(LIMIT).code() {
                Some(0) => Ok(fate),
                code => damaged(code, Fate::Found),
            }
        }
        Ok(all) => Err(format!("{flip:?}: a wrong answer: {}", differing(&all, &original.whole))),
        // It was told that something is wrong, and nothing else: the member is to be gone.
        Err(said) => {
            let mut process = member.process.take().unwrap();
            let mut ended = None;
            let began = std::time::Instant::now();
            while ended.is_none() && began.elapsed() < LIMIT {
                ended = process.ended();
                thread::sleep(std::time::Duration::from_millis(10));
            }
            match ended {
                Some(status) => damaged(status.code(), Fate::Found),
                None => Err(format!("{flip:?}: the member lives on after {said}")),
            }
        }
    }
}

/// The first lines that differ.
fn differing(ours: &[String], theirs: &[String]) -> String {
    let lines = |all: &[String]| all.iter().flat_map(|part| part.lines().map(str::to_owned)).collect::<Vec<_>>();
    let (ours, theirs) = (lines(ours), lines(theirs));
    let at = ours.iter().zip(&theirs).position(|(one, other)| one != other).unwrap_or(ours.len().min(theirs.len()));
    let line = |all: &[String]| all.get(at).map_or_else(String::new, |line| line.chars().take(120).collect());
    format!("{:?} for {:?} ({} and {} lines)", line(&ours), line(&theirs), ours.len(), theirs.len())
}

#[test]
fn a_flipped_bit_anywhere_is_never_a_wrong_answer() {
    let original = Original::make();
    let flips = original.flips();
    assert!(flips.iter().filter(|flip| flip.in_log).count() >= 60 && flips.len() >= 120);
    let (next, fates, wrong) = (AtomicUsize::new(0), Mutex::new(vec![]), Mutex::new(vec![]));
    thread::scope(|scope| {
        for _ in 0..HANDS {
            scope.spawn(|| {
                while let Some(flip) = flips.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match judge(&original, flip) {
                        Ok(fate) => fates.lock().unwrap().push((flip.class, fate)),
                        Err(text) => wrong.lock().unwrap().push(text),
                    }
                }
            });
        }
    });
    let (fates, wrong) = (fates.into_inner().unwrap(), wrong.into_inner().unwrap());
    let count = |class: &str, fate: Fate| fates.iter().filter(|(c, f)| c.starts_with(class) && *f == fate).count();
    let mut classes: Vec<&str> = flips.iter().map(|flip| flip.class).collect();
    classes.dedup();
    for class in classes {
        let [refused, found, harmless, torn] =
            [Fate::Refused, Fate::Found, Fate::Harmless, Fate::Torn].map(|fate| count(class, fate));
        println!("{class:26} refused {refused:3}, found when read {found:3}, harmless {harmless:3}, torn {torn:3}");
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), flips.len(), wrong.join("\n"));
    // Each way was taken.
    assert!(count("log: heads", Fate::Refused) > 5 && count("log: payloads", Fate::Refused) > 5, "{fates:?}");
    assert!(count("state: values", Fate::Found) + count("state: values", Fate::Refused) > 5, "{fates:?}");
    assert!(count("", Fate::Refused) + count("", Fate::Found) > flips.len() / 4, "{fates:?}");
    assert_eq!(count("log: behind", Fate::Harmless), 10, "{fates:?}");
}

/// More than a member keeps of its state file in memory.
const LARGE_VALUES: usize = 90;
const LARGE_BYTES: usize = 1_000_000;

fn large(i: usize) -> String {
    char::from(b'a' + u8::try_from(i % 26).unwrap()).to_string().repeat(LARGE_BYTES)
}

#[test]
fn a_member_that_finds_damage_ends_and_its_clients_are_told_nothing_wrong() {
    let mut member = Member::start(&[]);
    let flags = [format!("--endpoints={}", member.endpoint()), "--command-timeout=5s".to_owned()];
    let etcdctl =
        |args: &[&str]| Run::new(program(ETCD_3_5, "etcdctl")).env("ETCDCTL_API", "3").args(&flags).args(args);
    for i in 0..LARGE_VALUES {
        etcdctl(&["put", &format!("key-{i:02}")]).stdin(large(i)).run().success();
    }
    // Nothing is left of them but what the file holds, and what the start has read of it last.
    assert_eq!(member.stop(), 0);
    member.launch(|run| run);
    member.wait();
    let dir = TempDir::with_prefix_in("clients-", env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut watch = etcdctl(&["watch", "key-", "--prefix", "--rev=2"]).start(dir.path().join("watch"));
    let watched = || fs::metadata(dir.path().join("watch")).map_or(0, |seen| seen.len());
    wait_until("the watcher reads", LIMIT, || watched() > LARGE_BYTES as u64);
    let file = File::options().read(true).write(true).open(member.data_dir().join(STATE)).unwrap();
    for at in (1 << 20..file.metadata().unwrap().len()).step_by(LARGE_BYTES / 4) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    }
    // Whoever reads is told what was written, or that something is wrong; nobody waits for ever.
    let mut told = 0;
    let refused = (0..LARGE_VALUES).find_map(|i| {
        let outcome = etcdctl(&["get", &format!("key-{i:02}"), "--print-value-only"]).run();
        if outcome.code() != 0 {
            return Some(outcome);
        }
        assert!(outcome.stdout().trim_end() == large(i), "key {i}");
        told += 1;
        None
    });
    let refused = refused.unwrap_or_else(|| panic!("{told} values were told, and none is sound"));
    assert!(refused.stdout().is_empty() && refused.stderr.contains("Error: "), "{refused}");
    let mut process = member.process.take().unwrap();
    wait_until("the member has ended", LIMIT, || process.ended().is_some());
    assert_eq!(process.ended().unwrap().code(), Some(3), "{}", process.said());
    let log = member.log();
    assert!(log.contains("the member stops") && log.contains("is damaged") && log.contains("\nhint: "), "{log}");
    assert_ne!(etcdctl(&["put", "a", "b", "--dial-timeout=1s"]).run().code(), 0);
    watch.kill();
    let seen = fs::read_to_string(dir.path().join("watch")).unwrap();
    let values: Vec<&str> = seen.lines().filter(|line| line.len() == LARGE_BYTES).collect();
    assert!(!values.is_empty(), "the watch was told nothing");
    for (i, value) in values.into_iter().enumerate() {
        assert!(value == large(i), "the watch was told another value of key {i}");
    }
}
