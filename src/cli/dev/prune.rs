//! What becomes of points that the policy does not keep: a demonstration that runs for days must not fill the disk.
//!
//! It is `prune`, without the question and with a shorter grace. Killed or failed, the next one goes on.

use std::time::Duration;

use crate::base::error::Result;
use crate::cli::backup::steps;
use crate::cli::dev::Run;
use crate::cli::retention::share_text;
use crate::cli::run::Context;
use crate::cli::target::Place;
use crate::vault::prune::{Pruned, Pruning, Share, prune};

/// How long a condemned point can be taken back. A point in a minute makes 1,400 in the usual day.
const GRACE: Duration = Duration::from_hours(1);

impl Run {
    /// Prunes by the policy as it stands now; what came of it is said when there is something to say.
    pub(super) async fn prune(&self, context: &Context) {
        match self.pruned(context).await {
            Ok(Some(pruned)) => tell(&pruned, context),
            Ok(None) => {}
            Err(_) if context.stop.is_stopped() => {}
            Err(error) => {
                context.output.warn(&format!("nothing was pruned, tried again later: {}", error.as_warning()));
            }
        }
    }

    async fn pruned(&self, context: &Context) -> Result<Option<Pruned>> {
        // A policy that is gone is told of by the backup.
        let Some((policy, _)) = self.site.policy_at(&self.here)? else { return Ok(None) };
        let place = Place::of_policy(&policy)?;
        let repository = place.open(context).await?;
        let pruning = Pruning { grace: GRACE, steps: steps(), ..Pruning::new(&policy.retention, &policy.schedule) };
        context.stop.or(prune(&repository, &place.cluster, &pruning)).await.map(Some)
    }
}

fn tell(pruned: &Pruned, context: &Context) {
    let nothing = Share::default();
    if pruned.deleted != nothing || pruned.condemned != nothing {
        let (deleted, condemned) = (share_text(&pruned.deleted), share_text(&pruned.condemned));
        context.output.remark(&format!("pruned: deleted {deleted}; condemned {condemned}"));
    }
    pruned.warnings.iter().chain(&pruned.plan.alarms).for_each(|warning| context.output.warn(warning));
}
