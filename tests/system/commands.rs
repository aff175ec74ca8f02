//! etcdctl 3.4 on a member of Holdfast and on etcd, side by side.

use crate::ctl::{COMMANDS, Target, side_by_side};
use crate::program;
use crate::support::etcd::Etcd;
use crate::support::member::Member;

#[test]
fn etcdctl_3_4_shows_the_same_of_both() {
    let (etcd, holdfast) = (Etcd::start(), Member::start(&["--name=m0"]));
    let program = program("HOLDFAST_SYSTEM_ETCD", "etcdctl");
    // Without a scheme: docs/differences.md says why.
    let mut theirs = Target::new(program.clone(), etcd.address(0));
    let mut ours = Target::new(program, holdfast.client.address());
    assert_eq!(side_by_side(&mut theirs, &mut ours), COMMANDS.len());
}
