//! The log: entries and raft's hard state, durable before anybody is told.
//!
//! What is to be durable at once is one frame and one flush of the disk. Frames fill **segments**, files that are made
//! ahead of time and used again (`segment.rs`); a frame is told from whatever else lies in a file by a checksum that is
//! bound to the segment and the frame's place (`frame.rs`).
//!
//! A power cut can tear the last frame. Then nothing that was acknowledged is lost, and the log is cut there. A frame that
//! is broken while a later one is whole is no tear: that is damage, and refused. A flip in the very last frame cannot be
//! told from a tear.
//!
//! The disk may be full. What that stops is the making of the next segment, which is begun while there still is room in
//! the present one: whoever appends asks first whether there is room (`has_room`, `make_room`), and makes do with what is left
//! where there is none. Part of it is kept for what must still be said then (`Keep`).
//!
//! Invariants:
//! - When `append` returns, what it was given survives a power cut; when it fails, the log is never written to again.
//! - Entries follow one another without a hole. Those that were replaced by later ones of the same index never come back.
//! - A segment is given up only when everything in it is before the point that `compact` names.

pub mod frame;
pub mod segment;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;

use crate::api::Message;
use crate::api::holdfast::v1::{LogEntry, LogFrame, LogHardState, LogHeader};
use crate::base::error::{Error, HINT_MEMBER_DAMAGED, Kind, Result};
use crate::base::rng;
use crate::base::steps::Steps;
use crate::store::consensus::log::frame::Found;
use crate::store::consensus::log::segment::Segment;

/// Version of the layout in docs/formats/log.md that this program writes.
pub const FORMAT: u32 = 1;
/// Bytes of a segment.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// Whose log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: u64,
    /// The member.
    pub member_id: u64,
}

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The index of an entry.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// What an entry is for. The numbers are part of the format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EntryKind {
    /// Commands.
    #[default]
    Commands = 0,
    /// A change of the membership.
    Change = 1,
    /// A change of the membership, in raft's second encoding.
    ChangeV2 = 2,
}

/// An entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub place: Place,
    /// What it is for.
    pub kind: EntryKind,
    /// What was agreed on.
    pub data: Bytes,
}

/// What raft may not forget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The term it is in.
    pub term: u64,
    /// Whom it voted for in that term; 0 for nobody.
    pub vote: u64,
    /// Up to where entries are known to be agreed on.
    pub commit: u64,
}

/// What a log holds when it is opened.
#[derive(Debug)]
pub struct Opened {
    /// The log.
    pub log: Log,
    /// The entry before the first one that is there.
    pub previous: Place,
    /// The entries.
    pub entries: Vec<Entry>,
    /// The last hard state.
    pub hard_state: HardState,
    /// Bytes of a torn frame that were cut off.
    pub torn: bool,
}

/// What an appending leaves of a segment that no other may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Room for what takes no room in the state, such as alarms and compactions.
    ForRelief,
    /// Room for what raft says by itself, such as the beginning of a term.
    ForRaft,
}

impl Keep {
    /// Bytes of a segment of so many.
    fn bytes(self, segment_bytes: u64) -> usize {
        let share = match self {
            Keep::ForRelief => 64,
            Keep::ForRaft => 1024,
        };
        usize::try_from(segment_bytes / share).unwrap_or(usize::MAX).saturating_add(FRAME_ROOM_BYTES)
    }
}

/// The log of a member.
#[derive(Debug)]
pub struct Log {
    folder: PathBuf,
    identity: Identity,
    segment_bytes: u64,
    /// The full segments, and the last place in each.
    full: Vec<(u64, Place)>,
    current: Segment,
    last: Place,
    hard_state: HardState,
    /// Makes the next segment, or gives old ones up.
    housework: Option<JoinHandle<Result<()>>>,
    /// There was no room for the next segment.
    lacks_room: bool,
    failed: bool,
    buffer: Vec<u8>,
    steps: Steps,
}

impl Log {
    /// Makes an empty log in a folder that has none, to go on after `previous`.
    pub fn create(
        folder: &Path,
        identity: Identity,
        previous: Place,
        hard_state: HardState,
        segment_bytes: u64,
    ) -> Result<Self> {
        if let [first, ..] = segment::numbers(folder)?[..] {
            let text = format!("{} is there already", segment::path_of(folder, first).display());
            return Err(Error::new(Kind::Conflict, text).hint("give an empty directory"));
        }
        let current = new_segment(folder, 1, identity, previous, hard_state, segment_bytes)?;
        Ok(Log::on(folder, identity, segment_bytes, vec![], current, previous, hard_state))
    }

    fn on(
        folder: &Path,
        identity: Identity,
        segment_bytes: u64,
        full: Vec<(u64, Place)>,
        current: Segment,
        last: Place,
        hard_state: HardState,
    ) -> Self {
        let folder = folder.to_owned();
        Log {
            folder,
            identity,
            segment_bytes,
            full,
            current,
            last,
            hard_state,
            housework: None,
            lacks_room: false,
            failed: false,
            buffer: vec![],
            steps: Steps::unheard(),
        }
    }

    /// Opens a log that is there, and cuts a torn end off.
    pub fn open(folder: &Path, identity: Identity, segment_bytes: u64) -> Result<Opened> {
        let numbers = segment::numbers(folder)?;
        let Some((&last_number, before)) = numbers.split_last() else {
            return Err(
                Error::new(Kind::NotFound, format!("{} holds no log", folder.display())).hint(HINT_MEMBER_DAMAGED)
            );
        };
        let mut reading =
            Reading { folder, identity, previous: None, entries: vec![], hard_state: HardState::default() };
        let mut full = vec![];
        for (n, number) in before.iter().enumerate() {
            if numbers[n + 1] != number + 1 {
                let missing = segment::path_of(folder, number + 1);
                return Err(Error::damaged(format!("the log is damaged: {} is missing", missing.display()))
                    .hint(HINT_MEMBER_DAMAGED));
            }
            let read = reading.segment(*number)?;
            if let Some(offset) = read.broken {
                return Err(reading.damaged(*number, offset, "a frame is broken, and a later segment is there"));
            }
            full.push((*number, reading.last()));
        }
        let read = reading.segment(last_number)?;
        let mut current = Segment::open(folder, last_number, read.seed, read.end)?;
        if read.broken.is_some() {
            current.cut()?;
        }
        let (last, hard_state) = (reading.last(), reading.hard_state);
        let previous = reading.previous.expect("a segment begins with a header");
        let log = Log::on(folder, identity, segment_bytes, full, current, last, hard_state);
        Ok(Opened { log, previous, entries: reading.entries, hard_state, torn: read.broken.is_some() })
    }

    /// Announces its durable steps from now on.
    pub fn announce(&mut self, steps: &Steps) {
        self.steps = steps.clone();
    }

    /// Makes entries durable, and the hard state if it changed. The entries follow what is there, or replace its end.
    pub fn append(&mut self, entries: &[Entry], hard_state: Option<HardState>) -> Result<Duration> {
        if self.failed {
            return Err(Error::new(Kind::Failed, "the log failed before and is not written to again")
                .hint("see what failed first, correct it, and start the member again"));
        }
        if let Some(first) = entries.first() {
            assert!(first.place.index <= self.last.index + 1, "entries leave no hole");
        }
        let result = self.append_frame(entries, hard_state);
        self.failed = result.is_err();
        result
    }

    fn append_frame(&mut self, entries: &[Entry], hard_state: Option<HardState>) -> Result<Duration> {
        let frame =
            LogFrame { entries: entries.iter().map(stored).collect(), hard_state: hard_state.map(stored_state) };
        let payload = frame.encode_to_vec();
        let bytes = (frame::HEAD_BYTES + payload.len()).next_multiple_of(frame::ALIGN_BYTES);
        if !self.current.fits(bytes) {
            self.roll(bytes as u64)?;
        }
        self.buffer.clear();
        frame::put(&mut self.buffer, self.current.seed, self.current.end, &payload);
        let written = self.steps.during("append to the log", || self.current.append(&mut self.buffer))?;
        if let Some(last) = entries.last() {
            self.last = last.place;
        }
        self.hard_state = hard_state.unwrap_or(self.hard_state);
        Ok(written)
    }

    /// Whether an entry of so many bytes fits into the present segment.
    pub fn has_room(&self, bytes: usize, keep: Keep) -> bool {
        self.current.fits(bytes.saturating_add(keep.bytes(self.segment_bytes)))
    }

    /// Sees to a segment that an entry of so many bytes fits into; false when the disk has no room for it.
    pub fn make_room(&mut self, bytes: usize) -> Result<bool> {
        self.end_housework()?;
        let bytes = self.segment_bytes.max(bytes.saturating_add(FRAME_ROOM_BYTES) as u64 + HEADER_ROOM_BYTES);
        let (folder, steps) = (&self.folder, &self.steps);
        if segment::has_spare(folder, bytes) {
            return Ok(true);
        }
        self.lacks_room = lacks(steps.during("prepare a segment", || segment::prepare(folder, bytes).map(drop)))?;
        Ok(!self.lacks_room)
    }

    /// Looks after the next segment, now and then: one that there was no room for is tried again. Nobody waits for it.
    pub fn look_ahead(&mut self) -> Result<()> {
        if self.housework.as_ref().is_some_and(|housework| !housework.is_finished()) {
            return Ok(());
        }
        self.end_housework()?;
        let is_due = self.lacks_room || self.current.is_half_full();
        if is_due && !segment::has_spare(&self.folder, self.segment_bytes) { self.prepare() } else { Ok(()) }
    }

    /// Whether there was no room for the next segment when it was last tried.
    pub fn lacks_room(&self) -> bool {
        self.lacks_room
    }

    /// Goes on in a new segment, and has the one after it made meanwhile.
    fn roll(&mut self, bytes: u64) -> Result<()> {
        self.end_housework()?;
        let number = self.current.number + 1;
        let room = self.segment_bytes.max(bytes + HEADER_ROOM_BYTES);
        let next = self.steps.during("begin a segment", || {
            new_segment(&self.folder, number, self.identity, self.last, self.hard_state, room)
        })?;
        let full = std::mem::replace(&mut self.current, next);
        self.full.push((full.number, self.last));
        self.prepare()
    }

    /// Has the next segment made.
    fn prepare(&mut self) -> Result<()> {
        let (folder, bytes, steps) = (self.folder.clone(), self.segment_bytes, self.steps.clone());
        self.begin_housework(move || steps.during("prepare a segment", || segment::prepare(&folder, bytes).map(drop)))
    }

    /// Has segments given up that hold nothing after `through`, unless there is other housework: then the next call does.
    /// Nobody waits for it; that it failed is said by the call after it.
    pub fn compact(&mut self, through: u64) -> Result<()> {
        let n = self.full.partition_point(|(_, last)| last.index <= through);
        if n == 0 || self.housework.as_ref().is_some_and(|housework| !housework.is_finished()) {
            return Ok(());
        }
        self.end_housework()?;
        let given_up: Vec<u64> = self.full.drain(..n).map(|(number, _)| number).collect();
        let (folder, steps) = (self.folder.clone(), self.steps.clone());
        self.begin_housework(move || steps.during("give segments up", || segment::retire(&folder, &given_up)))
    }

    /// Has something done beside the appending; at once where no thread is to be had.
    fn begin_housework(&mut self, work: impl Fn() -> Result<()> + Clone + Send + 'static) -> Result<()> {
        match thread::Builder::new().name("log".to_owned()).spawn(work.clone()) {
            Ok(thread) => {
                self.housework = Some(thread);
                Ok(())
            }
            Err(_) => {
                self.lacks_room = lacks(work())?;
                Ok(())
            }
        }
    }

    /// Only one at a time makes or takes the spare file.
    fn end_housework(&mut self) -> Result<()> {
        let Some(housework) = self.housework.take() else { return Ok(()) };
        self.lacks_room = lacks(housework.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))?;
        Ok(())
    }

    /// The last place.
    pub fn last(&self) -> Place {
        self.last
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(housework) = self.housework.take() {
            // What it did or failed to do is seen by who opens the log next.
            let _ = housework.join();
        }
    }
}

/// Bytes that the header of a segment takes at most.
const HEADER_ROOM_BYTES: u64 = 256;
/// Bytes that a frame takes beside the data of its entry, at most.
const FRAME_ROOM_BYTES: usize = 256;

/// Whether work on the spare file found the disk full. That is no failure of the log: nothing was appended.
fn lacks(done: Result<()>) -> Result<bool> {
    match done {
        Err(error) if error.kind() == Kind::Full => {
            tracing::error!("there is no room for the next segment of the log: {}", error.chain());
            Ok(true)
        }
        done => done.map(|()| false),
    }
}

fn new_segment(
    folder: &Path,
    number: u64,
    identity: Identity,
    previous: Place,
    hard_state: HardState,
    bytes: u64,
) -> Result<Segment> {
    let mut seed = [0; 8];
    rng::fill(&mut seed)?;
    let header = LogHeader {
        format: FORMAT,
        cluster_id: identity.cluster_id,
        member_id: identity.member_id,
        previous_index: previous.index,
        previous_term: previous.term,
        hard_state: Some(stored_state(hard_state)),
        seed: u64::from_be_bytes(seed),
    };
    let mut first = vec![];
    frame::put(&mut first, number, 0, &header.encode_to_vec());
    Segment::create(folder, number, header.seed, bytes, &first)
}

fn stored(entry: &Entry) -> LogEntry {
    let Place { index, term } = entry.place;
    LogEntry { index, term, kind: entry.kind as u32, data: entry.data.clone() }
}

fn stored_state(state: HardState) -> LogHardState {
    LogHardState { term: state.term, vote: state.vote, commit: state.commit }
}

/// Reads segment after segment.
struct Reading<'a> {
    folder: &'a Path,
    identity: Identity,
    /// Before the first entry; none until the first header was read.
    previous: Option<Place>,
    entries: Vec<Entry>,
    hard_state: HardState,
}

/// How far a segment could be read.
struct Read {
    seed: u64,
    end: u64,
    /// Where something stands that is neither a frame nor the end.
    broken: Option<usize>,
}

impl Reading<'_> {
    fn last(&self) -> Place {
        self.entries.last().map_or(self.previous.unwrap_or_default(), |entry| entry.place)
    }

    fn damaged(&self, number: u64, offset: usize, why: &str) -> Error {
        let path = segment::path_of(self.folder, number);
        Error::damaged(format!("the log is damaged: {}, byte {offset}: {why}", path.display()))
            .hint(HINT_MEMBER_DAMAGED)
    }

    fn segment(&mut self, number: u64) -> Result<Read> {
        let path = segment::path_of(self.folder, number);
        let bytes = std::fs::read(&path).map_err(|error| Error::io(format!("read {}", path.display()), error))?;
        let Found::Frame(header, mut offset) = frame::find(&bytes, number, 0) else {
            return Err(self.damaged(number, 0, "it does not begin with a header"));
        };
        let header = LogHeader::decode(header)
            .map_err(|error| self.damaged(number, 0, "its header cannot be read").source(error))?;
        self.header(number, &header)?;
        loop {
            match frame::find(&bytes, header.seed, offset) {
                Found::Frame(payload, next) => {
                    let frame = LogFrame::decode(Bytes::copy_from_slice(payload))
                        .map_err(|error| self.damaged(number, offset, "a frame cannot be read").source(error))?;
                    self.frame(number, offset, frame)?;
                    offset = next;
                }
                found => {
                    if frame::any_after(&bytes, header.seed, offset) {
                        return Err(self.damaged(number, offset, "a frame is broken, and a later one is whole"));
                    }
                    let head = &bytes[offset..bytes.len().min(offset + frame::HEAD_BYTES)];
                    let torn = found == Found::Broken || head.iter().any(|byte| *byte != 0);
                    return Ok(Read { seed: header.seed, end: offset as u64, broken: torn.then_some(offset) });
                }
            }
        }
    }

    fn header(&mut self, number: u64, header: &LogHeader) -> Result<()> {
        if header.format > FORMAT {
            let text =
                format!("the log was written by a newer version (format {}; this one reads {FORMAT})", header.format);
            return Err(Error::new(Kind::Usage, text).hint("start this member with the version that wrote it"));
        }
        let identity = Identity { cluster_id: header.cluster_id, member_id: header.member_id };
        if identity != self.identity {
            let text = format!(
                "{} belongs to member {:x} of cluster {:x}, not to member {:x} of cluster {:x}",
                segment::path_of(self.folder, number).display(),
                identity.member_id,
                identity.cluster_id,
                self.identity.member_id,
                self.identity.cluster_id
            );
            return Err(Error::new(Kind::Usage, text).hint("give this member its own directory"));
        }
        let previous = Place { index: header.previous_index, term: header.previous_term };
        match self.previous {
            None => self.previous = Some(previous),
            Some(_) if previous == self.last() => {}
            Some(_) => return Err(self.damaged(number, 0, "it does not go on where the one before it ends")),
        }
        if let Some(state) = header.hard_state {
            self.hard_state = HardState { term: state.term, vote: state.vote, commit: state.commit };
        }
        Ok(())
    }

    fn frame(&mut self, number: u64, offset: usize, frame: LogFrame) -> Result<()> {
        let first = self.previous.unwrap_or_default().index + 1;
        for entry in frame.entries {
            let kind = match entry.kind {
                0 => EntryKind::Commands,
                1 => EntryKind::Change,
                2 => EntryKind::ChangeV2,
                _ => return Err(self.damaged(number, offset, "an entry is of no known kind")),
            };
            let place = usize::try_from(entry.index.wrapping_sub(first)).unwrap_or(usize::MAX);
            if entry.index < first || place > self.entries.len() {
                return Err(self.damaged(number, offset, "an entry does not follow the one before it"));
            }
            self.entries.truncate(place);
            let place = Place { index: entry.index, term: entry.term };
            self.entries.push(Entry { place, kind, data: entry.data });
        }
        if let Some(state) = frame.hard_state {
            self.hard_state = HardState { term: state.term, vote: state.vote, commit: state.commit };
        }
        Ok(())
    }
}
