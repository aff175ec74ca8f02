//! etcdctl 3.4 on a member of Holdfast and on etcd, side by side.

use crate::ctl::{Target, side_by_side};
use crate::program;
use crate::support::etcd::Etcd;
use crate::support::member::Member;
use crate::support::run::Run;

#[test]
fn etcdctl_3_4_shows_the_same_of_both() {
    let (etcd, holdfast) = (Etcd::start(), Member::start(&["--name=m0"]));
    let program = program("HOLDFAST_SYSTEM_ETCD", "etcdctl");
    // With a scheme, it makes an authority of the whole endpoint for some commands, which HTTP/2 does not allow.
    let mut theirs = Target::new(program.clone(), format!("http://{}", etcd.address(0)));
    let mut ours = Target::new(program.clone(), holdfast.endpoint());
    assert!(side_by_side(&mut theirs, &mut ours) > 650);
    // And without one, as most scripts have it.
    for command in ["endpoint status", "endpoint hashkv", "get a", "defrag"] {
        let flags = [format!("--endpoints={}", holdfast.client.address()), "--command-timeout=20s".to_owned()];
        let run = Run::new(&program).env("ETCDCTL_API", "3").args(&flags);
        run.args(&command.split(' ').collect::<Vec<_>>()).run().success();
    }
}
