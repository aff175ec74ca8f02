//! Sessions: who a token stands for, as long as it is used.
//!
//! A token of this kind is a random word. It says nothing itself; the table does, and every member has the same table, because
//! a session begins by an operation that all agreed on. It ends when it was not used for some time, when its user's
//! password is changed, when its user or authentication goes; the last three by themselves, because a session knows which
//! revision of the rules it began at, and the rules know since when a user is who it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Sessions at a time. A client that signs in for each request and never uses a token twice makes so many in minutes; the
/// ones that were not used for longest go first.
pub const SESSIONS_MAX: usize = 100_000;
/// How many go at once when there is no room: looking for the oldest takes a walk through all of them.
const FREED: usize = SESSIONS_MAX / 10;

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Whose.
    pub user: Arc<str>,
    /// The revision of the rules at which it began.
    pub since: u64,
}

/// Sessions by their tokens. Times count from any fixed moment.
#[derive(Debug)]
pub struct Sessions {
    ttl: Duration,
    by_token: HashMap<String, (Session, Duration)>,
}

impl Sessions {
    /// None yet; each ends when it was not used for so long.
    pub fn new(ttl: Duration) -> Self {
        Sessions { ttl, by_token: HashMap::new() }
    }

    /// Begins a session.
    pub fn begin(&mut self, token: String, session: Session, now: Duration) {
        if self.by_token.len() >= SESSIONS_MAX {
            self.free(now);
        }
        self.by_token.insert(token, (session, now + self.ttl));
    }

    /// The session of a token, which is used by this.
    pub fn of(&mut self, token: &str, now: Duration) -> Option<Session> {
        let (session, until) = self.by_token.get_mut(token)?;
        if *until <= now {
            self.by_token.remove(token);
            return None;
        }
        *until = now + self.ttl;
        Some(session.clone())
    }

    fn free(&mut self, now: Duration) {
        self.by_token.retain(|_, (_, until)| *until > now);
        let surplus = (self.by_token.len() + FREED).saturating_sub(SESSIONS_MAX);
        if surplus > 0 {
            let mut ends: Vec<Duration> = self.by_token.values().map(|(_, until)| *until).collect();
            let (_, last, _) = ends.select_nth_unstable(surplus - 1);
            let last = *last;
            self.by_token.retain(|_, (_, until)| *until > last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(300);

    fn session(user: &str) -> Session {
        Session { user: user.into(), since: 3 }
    }

    #[test]
    fn a_session_lasts_as_long_as_it_is_used() {
        let mut sessions = Sessions::new(TTL);
        let at = Duration::from_secs;
        sessions.begin("t".to_owned(), session("ann"), at(10));
        assert_eq!(sessions.of("t", at(309)), Some(session("ann")));
        assert_eq!(sessions.of("t", at(608)), Some(session("ann")));
        assert_eq!(sessions.of("u", at(608)), None);
        assert_eq!(sessions.of("t", at(908)), None);
        assert_eq!(sessions.of("t", at(400)), None, "it is gone");
    }

    #[test]
    fn when_there_is_no_room_those_go_that_were_not_used_for_longest() {
        let mut sessions = Sessions::new(TTL);
        let at = |n: usize| Duration::from_millis(n.try_into().unwrap());
        for n in 0..SESSIONS_MAX {
            sessions.begin(n.to_string(), session("ann"), at(n / 10));
        }
        assert!(sessions.of("0", at(SESSIONS_MAX / 10)).is_some(), "used again");
        sessions.begin("new".to_owned(), session("bob"), at(SESSIONS_MAX / 10));
        let left = sessions.by_token.len();
        assert!(left.abs_diff(SESSIONS_MAX - FREED) <= 10, "{left}");
        let now = at(SESSIONS_MAX / 10);
        assert!(["0", "new", "99999"].iter().all(|token| sessions.of(token, now).is_some()));
        assert!(sessions.of("1", now).is_none());
    }
}
