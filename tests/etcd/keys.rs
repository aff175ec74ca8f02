//! Keys, leases, alarms and hashes: by chance, on both members at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use holdfast::api::etcdserverpb as pb;
use holdfast::api::etcdserverpb::alarm_request::AlarmAction;
use holdfast::api::etcdserverpb::request_op::Request as Op;

use crate::ask::{Ask, Outcome, Reply};
use crate::coverage::Coverage;
use crate::differences::{NAMES, intended};
use crate::generate::Generator;
use crate::member::Member;
use crate::support;
use crate::support::etcd::Etcd;

/// Requests of one run.
const REQUESTS: usize = 12_000;
/// Requests between two looks at everything.
const LOOK: usize = 1_000;
/// How much of an answer is shown when it is wrong.
const SHOWN_MAX: usize = 3_000;
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Every error that one member can be brought to by requests.
const ERRORS: [&str; 21] = [
    "DataLoss etcdserver: corrupt cluster",
    "FailedPrecondition etcdserver: Peer URLs already exists",
    "FailedPrecondition etcdserver: bad leader transferee",
    "FailedPrecondition etcdserver: can only promote a learner member",
    "FailedPrecondition etcdserver: lease already exists",
    "InvalidArgument etcdserver: duplicate key given in txn request",
    "InvalidArgument etcdserver: given member URLs are invalid",
    "InvalidArgument etcdserver: key is not provided",
    "InvalidArgument etcdserver: key not found",
    "InvalidArgument etcdserver: lease is provided",
    "InvalidArgument etcdserver: request is too large",
    "InvalidArgument etcdserver: too many operations in txn request",
    "InvalidArgument etcdserver: value is provided",
    "NotFound etcdserver: member not found",
    "NotFound etcdserver: requested lease not found",
    "OutOfRange etcdserver: mvcc: required revision has been compacted",
    "OutOfRange etcdserver: mvcc: required revision is a future revision",
    "OutOfRange etcdserver: too large lease TTL",
    "ResourceExhausted etcdserver: mvcc: database space exceeded",
    "ResourceExhausted grpc: received message larger than max",
    "Unknown etcdserver: re-configuration failed due to not enough started members",
];

/// Both members, and what was found out.
struct Pair {
    etcd: Member,
    ours: Member,
    coverage: Coverage,
    differences: BTreeMap<&'static str, u64>,
    errors: BTreeMap<String, u64>,
    /// The store's revision and its compaction.
    at: (i64, i64),
    asked: usize,
    /// The request before, and its answer.
    before: Option<(Ask, Outcome)>,
}

impl Pair {
    async fn ask(&mut self, ask: &Ask) -> Outcome {
        let both = async { tokio::join!(ask.of(&self.etcd), ask.of(&self.ours)) };
        let Ok((etcd, ours)) = tokio::time::timeout(ANSWER_LIMIT, both).await else {
            panic!("one of them does not answer: {}\nafter {}", shown(ask), shown(&self.before))
        };
        self.asked += 1;
        let difference = if etcd == ours { None } else { intended(ask, &etcd, &ours) };
        let n = self.asked;
        match difference {
            Some(name) => *self.differences.entry(name).or_default() += 1,
            None => assert!(
                ours == etcd,
                "request {n}, at {:?}: {}\nHoldfast: {}\netcd: {}\nafter {}",
                self.at,
                shown(ask),
                shown(&ours),
                shown(&etcd),
                shown(&self.before)
            ),
        }
        if let Err((code, text)) = &etcd {
            *self.errors.entry(format!("{code:?} {text}")).or_default() += 1;
        }
        self.before = Some((ask.clone(), etcd.clone()));
        self.coverage.see(ask, if difference.is_some() { &ours } else { &etcd }, self.at);
        if let Ok(reply) = &etcd {
            self.at.0 = self.at.0.max(reply.revision().unwrap_or_default());
            if let (Ask::Compact(request), Reply::Compact(_)) = (ask, reply) {
                self.at.1 = request.revision;
            }
        }
        etcd
    }

    /// Everything that can be asked of the past.
    async fn look(&mut self) {
        for revision in self.at.1.max(1)..=self.at.0 {
            let everything =
                pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), revision, ..Default::default() };
            self.ask(&Ask::Range(everything)).await.unwrap();
        }
    }
}

/// Values may be long.
fn shown(what: &impl std::fmt::Debug) -> String {
    format!("{what:?}").chars().take(SHOWN_MAX).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_answered_as_etcd_answers_it() {
    let etcd = Etcd::start();
    let holdfast = support::member::Member::start(&["--name=m0"]);
    let (theirs, ours) = (Member::connect(&etcd.endpoint(0)).await, Member::connect(&holdfast.endpoint()).await);
    let mut pair = Pair {
        etcd: theirs,
        ours,
        coverage: Coverage::new(),
        differences: BTreeMap::new(),
        errors: BTreeMap::new(),
        at: (1, 0),
        asked: 0,
        before: None,
    };
    let started = Instant::now();
    let mut generator = Generator::new(11, 1, 0);
    for n in 1..=REQUESTS {
        let ask = generator.next();
        let outcome = pair.ask(&ask).await;
        generator.learn(&ask, &outcome);
        if n % LOOK == 0 {
            for alarm in [pb::AlarmType::Nospace, pb::AlarmType::Corrupt] {
                let disarm = Ask::Alarm(AlarmAction::Deactivate, alarm);
                let outcome = pair.ask(&disarm).await;
                generator.learn(&disarm, &outcome);
            }
            pair.look().await;
        }
    }
    pair.ask(&Ask::MemberAddAgain).await.unwrap_err();
    // Last, because from here on the two are no longer equal.
    pair.ask(&Ask::Alarm(AlarmAction::Activate, pb::AlarmType::Nospace)).await.unwrap();
    let put = pb::PutRequest { key: "nested".into(), ..Default::default() };
    let within = |op| pb::TxnRequest { success: vec![pb::RequestOp { request: Some(op) }], ..Default::default() };
    pair.ask(&Ask::Txn(within(Op::RequestTxn(within(Op::RequestPut(put)))))).await.unwrap();
    pair.ask(&Ask::MemberAdd(vec!["http://127.0.0.1:1".to_owned()])).await.unwrap();
    let (table, unseen) = pair.coverage.table();
    println!("{table}");
    pair.errors.iter().for_each(|(error, n)| println!("{n:>7}  {error}"));
    pair.differences.iter().for_each(|(name, n)| println!("{n:>7}  intended difference: {name}"));
    println!("{} requests in {:.1?}, at {:?}", pair.asked, started.elapsed(), pair.at);
    let met: Vec<_> = pair.errors.keys().map(|error| error.split(" (").next().unwrap()).collect();
    assert_eq!(met, ERRORS);
    assert!(unseen.is_empty(), "no request came upon: {unseen:#?}");
    assert_eq!(pair.differences.len(), NAMES.len(), "an intended difference was not met: {:?}", pair.differences);
}
