//! Moments that are held for their readers: so that a stream that broke can be gone on with, and parts be read side by side.
//!
//! A moment is named by a token that nobody can guess. It is held while a stream reads it and for a while after; when there
//! are too many, the one that was idle longest goes first. Then who asks for it is told so, and begins anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::base::clock::Stopwatch;
use crate::base::error::Result;
use crate::base::rng;
use crate::store::machine::records::Picture;

const TOKEN_BYTES: usize = 16;
/// For so long a moment is held after its reader has said that it wants nothing more of it: its last bytes may be on their
/// way still.
const LAST_IDLE: Duration = Duration::from_secs(5);

/// The moments that a member holds.
#[derive(Clone, Debug)]
pub(super) struct Views {
    held: Arc<Mutex<Moments>>,
    most: usize,
    idle: Duration,
    age: Duration,
}

#[derive(Debug, Default)]
struct Moments {
    by_token: HashMap<Bytes, Held>,
    /// Somebody sweeps until nothing is held.
    are_swept: bool,
}

#[derive(Debug)]
struct Held {
    picture: Arc<Picture>,
    streams: usize,
    /// Since it was taken.
    taken: Stopwatch,
    /// Since the last stream ended.
    idle: Stopwatch,
    /// For how long it is held then.
    idle_max: Duration,
}

/// A moment that is being read.
#[derive(Debug)]
pub(super) struct Reading {
    views: Views,
    token: Bytes,
    picture: Arc<Picture>,
}

impl Views {
    /// Holds so many, each for so long after its last stream; of one that is older than `age` no stream begins.
    pub(super) fn new(most: usize, idle: Duration, age: Duration) -> Self {
        Views { held: Arc::default(), most, idle, age }
    }

    /// Holds a moment.
    pub(super) fn hold(&self, picture: Picture) -> Result<Reading> {
        let mut token = vec![0; TOKEN_BYTES];
        rng::fill(&mut token)?;
        let (token, picture) = (Bytes::from(token), Arc::new(picture));
        let mut moments = self.lock();
        let held = &mut moments.by_token;
        while held.len() >= self.most {
            let idle = held.iter().filter(|(_, held)| held.streams == 0);
            let Some(longest) = idle.max_by_key(|(_, held)| held.idle.elapsed()).map(|(token, _)| token.clone()) else {
                break;
            };
            held.remove(&longest);
        }
        held.insert(
            token.clone(),
            Held {
                picture: Arc::clone(&picture),
                streams: 1,
                taken: Stopwatch::start(),
                idle: Stopwatch::start(),
                idle_max: self.idle,
            },
        );
        drop(moments);
        Ok(Reading { views: self.clone(), token, picture })
    }

    /// Reads a moment that is held.
    pub(super) fn read(&self, token: &Bytes) -> Option<Reading> {
        let mut moments = self.lock();
        let found = moments.by_token.get_mut(token).filter(|held| held.taken.elapsed() <= self.age)?;
        found.streams += 1;
        let picture = Arc::clone(&found.picture);
        drop(moments);
        Some(Reading { views: self.clone(), token: token.clone(), picture })
    }

    /// Whether somebody must begin to sweep: moments are held, and nobody does.
    pub(super) fn are_unswept(&self) -> bool {
        let mut moments = self.lock();
        !moments.by_token.is_empty() && !std::mem::replace(&mut moments.are_swept, true)
    }

    /// Lets go of what nobody has read for a while. How long until the next look; none when nothing is held.
    pub(super) fn sweep(&self) -> Option<Duration> {
        let mut moments = self.lock();
        moments.by_token.retain(|_, held| held.streams > 0 || held.idle.elapsed() < held.idle_max);
        moments.are_swept = !moments.by_token.is_empty();
        moments.are_swept.then_some(self.idle.min(LAST_IDLE))
    }

    /// How many are held.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().by_token.len()
    }

    fn lock(&self) -> MutexGuard<'_, Moments> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    /// What the moment is asked for with.
    pub(super) fn token(&self) -> &Bytes {
        &self.token
    }

    /// Nobody will ask for it again, unless this stream does not arrive.
    pub(super) fn last(&self) {
        if let Some(held) = self.views.lock().by_token.get_mut(&self.token) {
            held.idle_max = held.idle_max.min(LAST_IDLE);
        }
    }

    /// The moment.
    pub(super) fn picture(&self) -> &Picture {
        &self.picture
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(held) = self.views.lock().by_token.get_mut(&self.token) {
            held.streams -= 1;
            held.idle = Stopwatch::start();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::backend::{Backend, CACHE_BYTES};
    use crate::store::machine::Machine;
    use crate::store::machine::records::Origin;

    /// However many moments there are, one task looks after them, and goes with the last.
    #[test]
    fn one_sweeps_at_a_time_and_until_nothing_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Arc::new(Backend::create(&dir.path().join("db"), CACHE_BYTES).unwrap());
        let machine = Machine::open(&backend).unwrap();
        let picture = || Picture::of(&machine.state(), &Origin::default(), &mut || Ok(())).unwrap();
        let views = Views::new(4, Duration::ZERO, Duration::from_secs(60));
        assert!(!views.are_unswept());
        for _ in 0..2 {
            let first = views.hold(picture()).unwrap();
            assert!(views.are_unswept());
            let second = views.hold(picture()).unwrap();
            assert!(!views.are_unswept(), "a second sweeper");
            assert_eq!((views.sweep(), views.len()), (Some(Duration::ZERO), 2));
            drop(first);
            assert_eq!((views.sweep(), views.len()), (Some(Duration::ZERO), 1));
            assert!(!views.are_unswept(), "a second sweeper");
            drop(second);
            assert_eq!((views.sweep(), views.len()), (None, 0));
        }
    }
}
