//! A plan is made, and looked at again.

use std::time::{Duration, Instant};

use prost::Message as _;
use proto::{
    agent::v1::{self as agent, PlanHead, plan_undo_response::Part},
    change::v1::{Filter, UndoConflict},
    recovery::v1::{self as pb, PlanState},
};

use tonic::Response;

use super::{Caller, Found, Recovery, Target, again, head, name_place};
use crate::{
    clients::hub::Answer,
    domain::{
        choice::{self, Need},
        plan::{Mode, New, Place, Plan},
        redact,
        sight::Sight,
    },
    error::Error,
};

/// What `conflicts` 0 stands for, and the most.
const CONFLICTS: u32 = 100;
const MAX_CONFLICTS: u32 = 1_000;

/// The most bytes of conflicts in one answer: a value may be megabytes long. What does not fit is counted.
const CONFLICT_BYTES: usize = 2 << 20;

/// How long an agent is waited for by who only looks at a plan.
const LOOK: Duration = Duration::from_secs(5);

/// What stands in a plan's way, as the caller may see it.
#[derive(Default)]
struct Conflicts {
    shown: Vec<UndoConflict>,
    left_out: u64,
    redacted: bool,
}

fn most_conflicts(asked: i32) -> Result<u32, Error> {
    match u32::try_from(asked) {
        Ok(0) => Ok(CONFLICTS),
        Ok(asked) => Ok(asked.min(MAX_CONFLICTS)),
        Err(_) => Err(Error::Field {
            field: "conflicts",
            problem: "less than 0",
        }),
    }
}

/// Refuses a plan that cannot be judged: whoever told what is known now knows less than who planned. An agent of an older version does not tell.
fn settled(sight: &Sight, head: &PlanHead) -> Result<(), Error> {
    if head.descents == 0 || sight.covers(head.descents) {
        return Ok(());
    }
    Err(Error::Unsettled)
}

/// Reads the conflicts up to the end, which must be that of the same plan.
async fn conflicts(
    answer: &mut Answer<agent::PlanUndoResponse>,
    sight: &Sight,
    plan: &Plan,
) -> Result<Conflicts, Error> {
    let wrong = |what: &str| Error::Answer {
        who: "an agent",
        what: what.to_owned(),
    };
    let mut found = Conflicts::default();
    let mut bytes = 0;
    while let Some(message) = answer.next().await? {
        match message.part {
            Some(Part::Conflict(mut conflict)) => {
                found.redacted |= redact::conflict(sight, &mut conflict);
                bytes += conflict.encoded_len();
                if found.shown.len() < MAX_CONFLICTS as usize && bytes <= CONFLICT_BYTES {
                    found.shown.push(conflict);
                } else {
                    found.left_out += 1;
                }
            }
            Some(Part::End(end)) if end.digest.parse() == Ok(plan.digest) => {
                found.left_out += end.conflicts_left_out;
                return Ok(found);
            }
            Some(Part::End(_)) => return Err(wrong("the end of another plan")),
            Some(Part::Script(_)) => {}
            Some(Part::Head(_)) | None => return Err(wrong("a part that does not belong there")),
        }
    }
    Err(wrong("a plan without an end"))
}

impl Recovery {
    /// Plans, and keeps what is kept of a plan.
    pub(super) async fn plan(
        &self,
        caller: &Caller,
        request: pb::PlanUndoRequest,
    ) -> Result<Response<pb::PlanUndoResponse>, Error> {
        let scope = &caller.scope;
        let filter = request.filter.unwrap_or_default();
        choice::check(&filter)?;
        let mode = Mode::from_wire(request.mode)?;
        let most = most_conflicts(request.conflicts)?;
        let target = self.target(scope, &request.server).await?;
        caller.about.is(target.place);
        let mut target = target.asked()?;
        let now = self.store.room(scope).await?;
        let life = i64::try_from(self.config.recovery_plan_life.as_micros()).unwrap_or(i64::MAX);
        let new = New {
            place: target.place,
            filter: self.narrowed(caller, &mut target, &filter).await?,
            mode,
            author: scope.subject.user(),
            created: now,
            expires: types::Micros(now.0.saturating_add(life)),
        };
        let asked = agent::PlanUndoRequest {
            server_id: target.place.to_string(),
            filter: Some(new.filter.clone()),
            mode: mode.wire(),
            until: None,
            script: false,
            conflicts: most,
            tell_descents: !target.sight.is_whole(),
        };
        let mut answer = self
            .hub
            .ask(
                &caller.context,
                &target.sight,
                target.place,
                &asked,
                scope.deadline,
            )
            .await?;
        let head = head(&mut answer).await?;
        if !target.sight.covers(head.descents) {
            let narrowed = self.narrowed(caller, &mut target, &filter).await?;
            if narrowed != new.filter {
                return Err(Error::Unsettled);
            }
            settled(&target.sight, &head)?;
        }
        redact::allows(&target.sight, &head)?;
        let mut coverage = head.coverage.clone();
        if let Some(coverage) = &mut coverage {
            redact::coverage(&target.sight, coverage);
        }
        let plan = new.plan(head)?;
        let conflicts = conflicts(&mut answer, &target.sight, &plan).await?;
        self.store.insert(scope, &plan).await?;
        let mut response = Response::new(pb::PlanUndoResponse {
            plan: Some(plan.message(now, &target.sight, scope.subject.user())),
            conflicts: conflicts.shown,
            conflicts_left_out: conflicts.left_out,
            coverage,
            redacted: conflicts.redacted,
        });
        name_place(&mut response, plan.place)?;
        Ok(response)
    }

    /// The filter without what the caller does not see; before any row is asked for.
    async fn narrowed(&self, caller: &Caller, target: &mut Target, filter: &Filter) -> Result<Filter, Error> {
        if choice::judge(filter, &target.sight)? == Need::Nothing {
            return Ok(filter.clone());
        }
        let deadline = caller.scope.deadline;
        let there = self
            .learn(caller, target.place, &mut target.sight, deadline)
            .await?;
        choice::narrow(filter, &target.sight, &there)
    }

    /// What tables there are, and under which names they stood before, for one from whom something is hidden: what is hidden of a table is hidden
    /// of those that came from it.
    pub(super) async fn learn(
        &self,
        caller: &Caller,
        place: Place,
        sight: &mut Sight,
        deadline: Instant,
    ) -> Result<agent::TablesResponse, Error> {
        let asked = agent::TablesRequest {
            server_id: place.to_string(),
            all_descents: true,
        };
        let answer = self
            .hub
            .ask(&caller.context, sight, place, &asked, deadline)
            .await;
        let there = answer?.next().await?.ok_or_else(|| Error::Answer {
            who: "an agent",
            what: "nothing, when it was asked for its tables".to_owned(),
        })?;
        sight.among(&there);
        Ok(there)
    }

    /// Judges a plan once more by all names that its tables had, before the agent is asked about it.
    pub(super) async fn judge_again(
        &self,
        caller: &Caller,
        found: &mut Found,
        deadline: Instant,
    ) -> Result<(), Error> {
        if found.sight.is_whole() {
            return Ok(());
        }
        let place = found.kept.plan.place;
        self.learn(caller, place, &mut found.sight, deadline).await?;
        found.kept.plan.allows(&found.sight)
    }

    /// Judges it by what the agent knew when it planned, where that is more than was known before.
    pub(super) async fn judge_by(
        &self,
        caller: &Caller,
        found: &mut Found,
        head: &PlanHead,
        deadline: Instant,
    ) -> Result<(), Error> {
        if found.sight.covers(head.descents) {
            return Ok(());
        }
        self.judge_again(caller, found, deadline).await?;
        settled(&found.sight, head)
    }

    /// A plan, and whether it still holds.
    pub(super) async fn get(&self, caller: &Caller, id: &str) -> Result<pb::GetPlanResponse, Error> {
        let mut found = self.found(caller, id).await?;
        let mut not_asked_because = String::new();
        let mut differs = false;
        match found.kept.state() {
            PlanState::Ready if found.frozen => Error::Frozen.to_string().clone_into(&mut not_asked_because),
            PlanState::Ready => match self.look(caller, &mut found).await {
                Ok(head) => {
                    differs = head.digest.parse() != Ok(found.kept.plan.digest);
                    found.kept.plan.stale_since = head.stale_since;
                    self.note_stale(&caller.scope, &found.kept.plan).await;
                }
                Err(Error::NothingToUndo) => differs = true,
                Err(
                    error @ (Error::Passed(_) | Error::Said { .. } | Error::Filter { .. } | Error::Unsettled),
                ) => not_asked_because = error.to_string(),
                Err(Error::ServerMissing) => {
                    "there is no history of it any more".clone_into(&mut not_asked_because)
                }
                Err(error) => return Err(error),
            },
            PlanState::Stale => "it was found stale before".clone_into(&mut not_asked_because),
            PlanState::Expired | PlanState::Unspecified => {
                "it has expired".clone_into(&mut not_asked_because);
            }
        }
        let mut plan = found.message(caller);
        if differs {
            // What was planned cannot be planned again: the history is another one now.
            plan.set_state(PlanState::Stale);
        }
        Ok(pb::GetPlanResponse {
            plan: Some(plan),
            asked: not_asked_because.is_empty(),
            not_asked_because,
        })
    }

    /// What the agent says of a plan now; it stops after its first message.
    async fn look(&self, caller: &Caller, found: &mut Found) -> Result<PlanHead, Error> {
        let deadline = caller.scope.deadline.min(Instant::now() + LOOK);
        self.judge_again(caller, found, deadline).await?;
        let plan = &found.kept.plan;
        let asked = again(plan, &found.sight, false);
        let mut answer = self
            .hub
            .ask(&caller.context, &found.sight, plan.place, &asked, deadline)
            .await?;
        let head = head(&mut answer).await?;
        self.judge_by(caller, found, &head, deadline).await?;
        Ok(head)
    }
}
