//! What etcd does beyond keys: members, maintenance, authentication, locks, elections and health. Every rule of it, with the
//! test that shows it. Rules about keys, watches and leases are counted where requests come upon them (`coverage`, `watch`).

use std::fs;

use crate::coverage;

/// Where a rule is shown.
#[derive(Clone, Copy, Debug)]
enum Shown {
    /// By the function of this name in this file.
    By(&'static str, &'static str),
    /// By random requests to both, which count how often they come upon it.
    Counted(&'static str, &'static [&'static str]),
    /// By nothing yet, because one member cannot show it.
    Never(&'static str),
}
use Shown::{By, Counted, Never};

const ALONE: &str = "there is no second member in this version: it is refused with a reason of its own";
const ANOTHER: &str = "it needs a second member";

const MEMBERS: &[(&str, Shown)] = &[
    ("ids are made from addresses and the token", By("src/base/id.rs", "ids_are_derived_as_etcd_derives_them")),
    (
        "a member has the ids that etcd gives it",
        By("src/store/datadir/identity.rs", "ids_of_a_first_birth_are_those_of_etcd"),
    ),
    ("addresses that are none", Counted("member", &["urls that are none"])),
    ("an address that is taken", Counted("member", &["added again"])),
    ("one more member", Never(ALONE)),
    ("removal of nobody and of the last", Counted("member", &["removed and unknown", "removed and the last"])),
    ("promotion of nobody and of no learner", Counted("member", &["promoted and unknown", "promoted and no learner"])),
    ("promotion of a learner that is behind", Never(ANOTHER)),
    ("a reconfiguration that would lose the quorum", Never(ANOTHER)),
    ("the list, local and agreed on", By("tests/clients/commands.rs", "etcdctl_shows_the_same_of_both")),
    ("an update of nobody", By("tests/clients/commands.rs", "etcdctl_shows_the_same_of_both")),
];

const MAINTENANCE: &[(&str, Shown)] = &[
    ("alarms are listed, raised and taken back", Counted("alarm", &["listed", "raised", "taken back"])),
    (
        "no space refuses what takes room",
        Counted("alarm", &["no space for a put", "no space for a grant", "no space for a txn"]),
    ),
    (
        "no space lets through what makes room",
        Counted("alarm", &["deletes without space", "compacts without space", "deletes in a txn without space"]),
    ),
    (
        "damage refuses every change",
        Counted(
            "alarm",
            &[
                "corrupt for a put",
                "corrupt for a delete",
                "corrupt for a txn",
                "corrupt for a compaction",
                "corrupt for a grant",
                "corrupt for a revocation",
            ],
        ),
    ),
    ("damage refuses no reads", Counted("alarm", &["reads though corrupt", "reads in a txn though corrupt"])),
    (
        "the quota, and who crosses it",
        By("src/store/node/tests.rs", "a_full_quota_raises_the_alarm_and_there_is_a_way_out"),
    ),
    ("a status has every field", By("src/store/server/tests.rs", "a_member_tells_how_it_is")),
    (
        "defragmentation, crashes in it",
        By("tests/clients/bugs.rs", "etcd_14685_a_crash_in_a_defragmentation_changes_nothing"),
    ),
    (
        "Hash compares members",
        By("src/store/server/tests.rs", "equal_members_have_equal_hashes_whatever_they_have_removed_yet"),
    ),
    ("HashKV", Counted("hashkv", &["the newest", "a revision", "compacted", "future"])),
    (
        "a snapshot is a file of etcd's",
        By("src/store/server/snapshot.rs", "a_stream_is_the_file_of_its_moment_piece_by_piece"),
    ),
    ("two snapshots at once", By("tests/clients/bugs.rs", "etcd_18055_two_snapshots_in_short_time_are_both_whole")),
    ("the leader is moved to itself and to nobody", Counted("member", &["led by itself", "led by nobody"])),
    ("the leader is moved to another", Never(ANOTHER)),
    ("a downgrade is looked at and cancelled", By("tests/etcd/errors.rs", "what_no_other_test_asks_for")),
    ("a downgrade is begun", Never("no older version reads this one's files: it is refused, see docs/differences.md")),
    ("who may ask for it", By("tests/etcd/auth.rs", "users_and_roles_are_those_of_etcd")),
    ("what is counted and told of it", By("tests/etcd/metrics.rs", "a_member_tells_of_itself_what_etcd_does")),
    ("what is logged of it", By("tests/etcd/logs.rs", "what_both_log_is_what_the_document_says")),
];

const AUTHENTICATION: &[(&str, Shown)] = &[
    ("every call by every kind of user", By("tests/etcd/auth.rs", "users_and_roles_are_those_of_etcd")),
    ("root is protected", By("src/store/auth/rules.rs", "root_is_protected_as_long_as_it_is_needed")),
    (
        "ranges lie within the union of what is granted",
        By("src/store/auth/grant.rs", "a_range_must_lie_within_the_union_as_a_whole"),
    ),
    (
        "passwords are hashed before they are agreed on",
        By("src/store/server/auth.rs", "passwords_have_bcrypts_length_and_hashes_must_be_bcrypts_and_bearable"),
    ),
    ("a token lasts as long as it is used", By("src/store/auth/sessions.rs", "a_session_lasts_as_long_as_it_is_used")),
    (
        "a token ends with its password, its user and the switch",
        By("src/store/auth/rules.rs", "a_session_ends_with_its_password_its_user_and_the_switch"),
    ),
    ("signed tokens", By("tests/etcd/tokens.rs", "what_one_signs_the_other_believes")),
    (
        "signed tokens of an old revision",
        By("tests/etcd/tokens.rs", "a_token_is_no_longer_good_when_its_user_is_another"),
    ),
    ("names of certificates", By("tests/e2e/serve.rs", "the_common_name_in_a_certificate_is_a_user")),
    ("rules survive a start", By("tests/clients/bugs.rs", "etcd_14571_authentication_is_after_a_start_what_it_was")),
    ("JSON and its headers", By("tests/etcd/gateway.rs", "headers_say_who_asks_and_how_long_it_waits")),
];

const QUEUES: &[(&str, Shown)] = &[
    ("keys are named by leases", By("src/store/server/queue.rs", "a_place_is_named_by_its_lease")),
    (
        "locks, again, by nobody, twice given up",
        By("tests/etcd/gateway.rs", "locks_are_held_and_given_up_as_etcds_are"),
    ),
    ("who waits no more leaves nothing", By("tests/etcd/gateway.rs", "who_waits_no_more_leaves_no_place_behind")),
    ("elections, proclaimed, observed, resigned", By("tests/etcd/gateway.rs", "elections_go_as_etcds_do")),
    ("etcdctl's own locks in between", By("tests/etcd/gateway.rs", "etcdctl_and_the_gateway_wait_for_one_another")),
    (
        "tokens that end while somebody waits",
        By("tests/etcd/tokens.rs", "who_waits_for_a_lock_may_wait_for_longer_than_its_token_is_good_for"),
    ),
    ("a member that stops", By("tests/etcd/gateway.rs", "a_member_that_stops_lets_go_of_who_waits")),
    ("the health of gRPC", By("tests/clients/libraries.rs", "a_probe_of_grpcs_health_works")),
];

#[test]
fn every_rule_beyond_keys_has_its_test() {
    let mut shown = 0;
    for (rule, place) in [MEMBERS, MAINTENANCE, AUTHENTICATION, QUEUES].concat() {
        match place {
            By(file, name) => {
                let source = fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
                let function = source.split_once(&format!("fn {name}("));
                let before = function.unwrap_or_else(|| panic!("{rule}: {file} has no {name}")).0;
                let attributes = before.rsplit_once("\n\n").map_or(before, |(_, near)| near);
                assert!(attributes.contains("test"), "{rule}: {name} is no test");
            }
            Counted(call, rules) => {
                assert!(!rules.is_empty() && rules.iter().all(|rule| coverage::counts(call, rule)), "{rule}");
            }
            Never(why) => assert!(why.len() > 10, "{rule}"),
        }
        shown += usize::from(!matches!(place, Never(_)));
        println!("{rule}: {place:?}");
    }
    assert!(shown > 40, "{shown}");
}
