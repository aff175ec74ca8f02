//! The plan of a drill: pure, printed before anything is done, and part of the report.

use serde::{Deserialize, Serialize};
use std::path::Path;

use crate::base::error::{Error, Kind, Result};
use crate::base::units;
use crate::vault::manifest::Manifest;

/// What a plan is made from.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The point.
    pub manifest: &'a Manifest,
    /// What speaks against who made it, and was allowed.
    pub doubt: Option<&'a str>,
    /// etcd's version, when there is one to boot.
    pub etcd_version: Option<&'a str>,
    /// Where scratch data lies.
    pub scratch: &'a Path,
    /// What is free there.
    pub free_bytes: u64,
}

/// What will happen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The point.
    pub source: String,
    /// Bytes of scratch space at the most, about.
    pub scratch_bytes: u64,
    /// What is done, in order.
    pub steps: Vec<String>,
    /// What the drill will say nothing about.
    pub not_proved: Vec<String>,
}

/// Makes the plan. What makes it impossible is an error.
pub fn plan(facts: &Facts<'_>) -> Result<Plan> {
    let manifest = facts.manifest;
    let one = manifest.counts.raw_bytes + manifest.counts.raw_bytes / 8;
    // The file, the member's database made from it, and the snapshot that the member serves.
    let scratch_bytes = if facts.etcd_version.is_some() { 3 * one } else { one };
    if facts.free_bytes < scratch_bytes {
        let (need, have) = (units::bytes(scratch_bytes), units::bytes(facts.free_bytes));
        let at = facts.scratch.display();
        return Err(Error::new(
            Kind::Full,
            format!("a drill needs about {need} of scratch space in {at}, {have} are free"),
        )
        .hint("name another folder with --scratch, or make room"));
    }
    let scratch = facts.scratch.display();
    let samples = manifest.samples.len();
    let mut steps = vec![format!(
        "restore revision {} into a snapshot file below {scratch}, and hold it against the manifest",
        manifest.descriptor.revision
    )];
    let mut not_proved = vec![
        "that clients reach a recovered cluster: names, certificates, load balancers".to_owned(),
        "that several members form a quorum, and that hosts and disks of a recovery are as fast as this one".to_owned(),
    ];
    not_proved.extend(facts.doubt.map(|doubt| format!("that the point is yours: it is {doubt}")));
    match facts.etcd_version {
        Some(version) => steps.extend([
            "make a data directory of it with etcdutl: new ids, a new token, one member".to_owned(),
            format!("boot etcd {version} on 127.0.0.1, where only this drill's own certificate is let in"),
            "stream what the member serves: state digest and counts against the manifest".to_owned(),
            format!(
                "read every key from the member: their number, and the {samples} sampled keys, against the manifest"
            ),
            "ask the member for HashKV at the point's revision, against the manifest".to_owned(),
            "write a key into the member and read it back".to_owned(),
            "end the member, remove the scratch folder, store the report in the repository".to_owned(),
        ]),
        None => {
            steps.push("remove the scratch folder, store the report in the repository".to_owned());
            not_proved.insert(
                0,
                "that a member starts from it and serves: no etcd is named ([drill] etcd in the policy, or --etcd)"
                    .to_owned(),
            );
        }
    }
    Ok(Plan {
        source: format!(
            "point {} of cluster {}: revision {}, {} keys",
            manifest.attempt,
            manifest.cluster,
            manifest.descriptor.revision,
            units::count(manifest.counts.live_keys)
        ),
        scratch_bytes,
        steps,
        not_proved,
    })
}

/// The plan for people.
pub fn render(plan: &Plan) -> String {
    let mut text = format!("Drill: {}\n\n", plan.source);
    for (n, step) in plan.steps.iter().enumerate() {
        text.push_str(&format!("  {}. {step}\n", n + 1));
    }
    text.push_str(&format!("\nScratch space: up to {}\n\nNot proved by this:\n", units::bytes(plan.scratch_bytes)));
    plan.not_proved.iter().for_each(|line| text.push_str(&format!("  - {line}\n")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::testing;

    #[test]
    fn a_plan_says_what_it_needs_and_what_it_will_not_prove() {
        let manifest = testing::manifest("prod", &[testing::entry("prod", 1, 9)]);
        let make = |etcd_version, free_bytes| {
            plan(&Facts { manifest: &manifest, doubt: None, etcd_version, scratch: Path::new("/var/tmp"), free_bytes })
        };
        let (file, member) = (make(None, 2_000).unwrap(), make(Some("3.5.1"), 4_000).unwrap());
        assert_eq!((file.scratch_bytes, member.scratch_bytes), (1_125, 3_375));
        assert!(file.not_proved[0].contains("no etcd is named") && !member.not_proved[0].contains("no etcd is named"));
        let text = render(&member);
        assert!(member.steps.iter().chain(&member.not_proved).all(|line| text.contains(line)), "{text}");
        let error = make(Some("3.5.1"), 3_000).unwrap_err();
        assert!(error.kind() == Kind::Full && error.hint_text().is_some(), "{error}");
    }
}
