//! `policy check`: is the file right, and what does it mean.

use std::path::Path;

use serde::Serialize;

use crate::base::error::Result;
use crate::cli::output::facts;
use crate::cli::run::{Context, Ended};
use crate::cli::target;
use crate::client::options::STALL_DEFAULT;
use crate::policy::{Encryption, HashOnLeader};
use crate::vault::repository::check_url;

pub(crate) fn check(file: &Path, context: &Context) -> Result<Ended> {
    #[derive(Serialize)]
    struct Checked {
        cluster: String,
        endpoints: Vec<String>,
        tls: &'static str,
        user: Option<String>,
        hash_on_leader: &'static str,
        repository: String,
        encryption: &'static str,
    }
    let policy = target::policy(file)?;
    check_url(&policy.repository.url)?;
    // Reading certificates and passwords now is better than at the first backup.
    target::client(&policy, STALL_DEFAULT)?;
    let cluster = &policy.cluster;
    let checked = Checked {
        cluster: cluster.name.clone(),
        endpoints: cluster.endpoints.clone(),
        tls: match (cluster.endpoints.iter().any(|e| e.starts_with("https")), &cluster.identity) {
            (false, _) => "none",
            (true, None) => "server certificate checked",
            (true, Some(_)) => "server and client certificates",
        },
        user: cluster.login.as_ref().map(|login| login.user.clone()),
        hash_on_leader: match cluster.hash_on_leader {
            HashOnLeader::Warn => "warn",
            HashOnLeader::Off => "off",
            HashOnLeader::On => "on",
        },
        repository: policy.repository.url.clone(),
        encryption: match policy.repository.encryption {
            Encryption::None => "none",
        },
    };
    context.output.show("policy_check", &checked, || {
        let text = facts(&[
            ("cluster", checked.cluster.clone()),
            ("endpoints", checked.endpoints.join("\n")),
            ("TLS", checked.tls.to_owned()),
            ("user", checked.user.clone().unwrap_or_else(|| "none".to_owned())),
            ("hash on leader", checked.hash_on_leader.to_owned()),
            ("repository", checked.repository.clone()),
            ("encryption", checked.encryption.to_owned()),
        ]);
        format!("{} is valid\n\n{text}", file.display())
    })?;
    Ok(Ended::Well)
}
