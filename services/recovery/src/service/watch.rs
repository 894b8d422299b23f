//! A plan is watched: it is told when it turns stale or expires, and from time to time that it has not.

use std::time::{Duration, Instant};

use chassis::places::Place;
use futures_util::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use proto::{
    agent::v1::{self as agent, WatchUndoResponse},
    recovery::v1::{self as pb, PlanState},
};
use tokio::time;
use tonic::Status;

use super::{Caller, Found, Recovery};
use crate::{clients::hub::Answer, error::Error};

/// A stream ends so long before its deadline: as one that ended, and not as one that was cut off.
const BEFORE_DEADLINE: Duration = Duration::from_secs(1);

/// How often it is looked whether the caller may still see the plan, at the least.
const LOOK_AGAIN: Duration = Duration::from_secs(3);

type Plans = BoxStream<'static, Result<pb::WatchPlanResponse, Status>>;

struct Watching {
    recovery: Recovery,
    caller: Caller,
    found: Found,
    answer: Answer<WatchUndoResponse>,
    /// When it is over, whatever happens.
    end: Instant,
    told: bool,
    over: bool,
    _place: Place,
}

impl Watching {
    fn message(&self) -> pb::WatchPlanResponse {
        pb::WatchPlanResponse {
            plan: Some(self.found.message(&self.caller)),
        }
    }

    /// What is to be told next; none at the end.
    async fn next(&mut self) -> Result<Option<pb::WatchPlanResponse>, Error> {
        if self.over {
            return Ok(None);
        }
        if !self.told {
            self.told = true;
            self.over = self.found.kept.state() != PlanState::Ready;
            return Ok(Some(self.message()));
        }
        let sign_of_life = Instant::now() + self.recovery.config.recovery_watch_pause;
        loop {
            let expires = self.found.kept.expires().unwrap_or(self.end);
            let look = sign_of_life.min(Instant::now() + LOOK_AGAIN);
            let stopping = self.recovery.stopping.clone();
            let goes_on = tokio::select! {
                biased;
                said = self.answer.next() => {
                    let said = said?;
                    if !self.look_in_time().await? {
                        return Ok(None);
                    }
                    return Ok(self.said(said).await);
                }
                () = time::sleep_until(expires.into()) => self.look_in_time().await?,
                // Who goes on watching asks another replica.
                () = stopping.cancelled() => false,
                () = time::sleep_until(self.end.into()) => false,
                () = time::sleep_until(look.into()) => self.look_in_time().await?,
            };
            if !goes_on {
                return Ok(None);
            }
            self.over = self.found.kept.state() != PlanState::Ready;
            if self.over || sign_of_life <= Instant::now() {
                return Ok(Some(self.message()));
            }
        }
    }

    /// As [`Self::look_again`]; false if the end came first.
    async fn look_in_time(&mut self) -> Result<bool, Error> {
        let looked = time::timeout_at(self.end.into(), self.look_again()).await;
        looked.map_or(Ok(false), |looked| looked.map(|()| true))
    }

    /// Whether the caller may still see the plan, and what of it, by the rules of this moment.
    async fn look_again(&mut self) -> Result<(), Error> {
        let id = self.found.kept.plan.id.to_string();
        let mut found = self.recovery.found(&self.caller, &id).await?.asked()?;
        found.sight.among_the_same(&self.found.sight);
        found.kept.plan.allows(&found.sight)?;
        let stale_since = self.found.kept.plan.stale_since.take();
        self.found = found;
        if self.found.kept.plan.stale_since.is_none() {
            self.found.kept.plan.stale_since = stale_since;
        }
        Ok(())
    }

    async fn said(&mut self, said: Option<WatchUndoResponse>) -> Option<pb::WatchPlanResponse> {
        self.take(said?).await;
        Some(self.message())
    }

    async fn take(&mut self, said: WatchUndoResponse) {
        if said.stale_since.is_some() {
            self.over = true;
            let plan = &mut self.found.kept.plan;
            plan.stale_since = said.stale_since;
            self.recovery.note_stale(&self.caller.scope, plan).await;
        }
    }
}

impl Recovery {
    /// The plan when it is watched, and what becomes of it.
    pub(super) async fn watch(&self, caller: Caller, id: &str) -> Result<Plans, Error> {
        let place = self.watchers.take(caller.scope.tenant())?;
        let found = self.found(&caller, id).await?;
        if found.kept.state() != PlanState::Ready {
            let plan = Some(found.message(&caller));
            return Ok(stream::iter([Ok(pb::WatchPlanResponse { plan })]).boxed());
        }
        let mut found = found.asked()?;
        self.judge_again(&caller, &mut found, caller.scope.deadline)
            .await?;
        let plan = &found.kept.plan;
        let asked = agent::WatchUndoRequest {
            server_id: plan.place.to_string(),
            filter: Some(plan.filter.clone()),
            mode: plan.mode.wire(),
            until: plan.summary.until.clone(),
        };
        let deadline = caller.scope.deadline;
        let mut answer = self
            .hub
            .ask(&caller.context, &found.sight, plan.place, &asked, deadline)
            .await?;
        let first = answer.next().await?.ok_or_else(|| Error::Answer {
            who: "an agent",
            what: "nothing, when it was to watch".to_owned(),
        })?;
        let mut watching = Watching {
            recovery: self.clone(),
            end: deadline.checked_sub(BEFORE_DEADLINE).unwrap_or(deadline),
            caller,
            found,
            answer,
            told: false,
            over: false,
            _place: place,
        };
        watching.take(first).await;
        watching.over = false;
        let plans = stream::try_unfold(watching, |mut watching| async move {
            Ok(watching.next().await?.map(|plan| (plan, watching)))
        });
        Ok(plans.map_err(|error: Error| Status::from(error)).boxed())
    }
}
