//! Plans, the newest first.

use std::collections::HashMap;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use proto::recovery::v1 as pb;
use types::Role;

use super::{Caller, Recovery};
use crate::{
    domain::{page, plan::Place, sight::Sight},
    error::Error,
    store::{Kept, Wanted},
};

/// Servers that are looked up at a time.
const AT_ONCE: usize = 8;

impl Recovery {
    /// A page of the plans that the caller may see by the rules of this moment. It may have fewer plans than were asked for, and another one after it.
    pub(super) async fn list(
        &self,
        caller: &Caller,
        request: &pb::ListPlansRequest,
    ) -> Result<pb::ListPlansResponse, Error> {
        let scope = &caller.scope;
        let server = match request.server_id.as_str() {
            "" => String::new(),
            text => self.target(scope, text).await?.place.to_string(),
        };
        let page = page::parse(scope.tenant(), &server, request.page_size, &request.page_token)?;
        let wanted = Wanted {
            server,
            pools: scope
                .pools()
                .map(|pools| pools.iter().map(ToString::to_string).collect()),
            page,
        };
        let (kept, more) = self.store.list(scope, &wanted).await?;
        let next_page_token = match kept.last() {
            Some(last) if more => page::token(scope.tenant(), &wanted.server, last.plan.id),
            _ => String::new(),
        };
        let sights = self.sights(caller, &kept).await?;
        let shown = kept.into_iter().filter_map(|kept| {
            let sight = sights.get(&kept.plan.place)?.clone();
            kept.plan.allows(&sight).ok()?;
            let mut plan = kept.plan.message(kept.now(), &sight, scope.subject.user());
            if let Some(filter) = &mut plan.filter {
                filter.positions.clear();
            }
            Some(plan)
        });
        Ok(pb::ListPlansResponse {
            plans: shown.collect(),
            next_page_token,
        })
    }

    /// What the caller sees of each of the plans' servers. What they do not see at all is left out.
    async fn sights(&self, caller: &Caller, kept: &[Kept]) -> Result<HashMap<Place, Sight>, Error> {
        let mut places: Vec<Place> = kept.iter().map(|kept| kept.plan.place).collect();
        places.sort_unstable_by_key(ToString::to_string);
        places.dedup();
        if caller.scope.seat.role > Some(Role::Operator) {
            return Ok(places.into_iter().map(|place| (place, Sight::whole())).collect());
        }
        let seen = stream::iter(places)
            .map(|place| async move {
                match self.target(&caller.scope, &place.to_string()).await {
                    Ok(target) => Ok(Some((place, target.sight))),
                    Err(Error::ServerMissing) => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(seen.into_iter().flatten().collect())
    }
}
