//! etcdctl 3.5 on both.

use crate::ctl::{COMMANDS, Target, side_by_side};
use crate::support::etcd::Etcd;
use crate::support::member::Member;
use crate::support::peers;

#[test]
fn etcdctl_shows_the_same_of_both() {
    let (etcd, holdfast) = (Etcd::start(), Member::start(&["--name=m0"]));
    let program = peers::program(peers::ETCD_3_5, "etcdctl");
    let mut theirs = Target::new(program.clone(), etcd.endpoint(0));
    let mut ours = Target::new(program, holdfast.endpoint());
    assert_eq!(side_by_side(&mut theirs, &mut ours), COMMANDS.len());
}
