//! A script passes through: made again by the agent, compared with the plan before its first byte leaves and again at its end.
//!
//! That a later change has touched one of its rows does not keep it back: on a busy server that is soon so. Each statement compares the values that it
//! replaces, so the script is either still right or changes nothing. Only a plan whose digest is another one now is refused: then the history up to
//! where it was made has changed, and it is not known what its script would have been.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use proto::{
    agent::v1::{self as agent, plan_undo_response::Part},
    change::v1::Position,
    google::api::HttpBody,
    recovery::v1 as pb,
};
use ring::digest::{Context, SHA256};
use tonic::{
    Code, Response, Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
};

use super::{Caller, Recovery, again, head, name_place};
use crate::{
    clients::hub::Answer,
    domain::{
        plan::{Digest, Plan},
        redact,
    },
    error::Error,
};

/// Stands before a script and after it.
const DIGEST: &str = "trailmesh-digest";

/// As IANA registers it (RFC 6922).
const CONTENT_TYPE: &str = "application/sql";

/// A script on its way. The last piece is held back until the end has come and everything fits, so that a script that is not that of the plan is
/// never whole.
struct Passing {
    answer: Answer<agent::PlanUndoResponse>,
    digest: Digest,
    value: MetadataValue<Ascii>,
    sum: Context,
    left: u64,
    held: Bytes,
    /// Told with the first piece.
    stale_since: Option<Position>,
    over: bool,
}

/// What comes next of it.
enum Next {
    Piece(Bytes),
    /// Everything has come, and is what it should be. This is the last piece.
    Last(Bytes),
}

impl Passing {
    fn new(answer: Answer<agent::PlanUndoResponse>, plan: &Plan, value: MetadataValue<Ascii>) -> Self {
        Self {
            answer,
            digest: plan.digest,
            value,
            sum: Context::new(&SHA256),
            left: plan.script_bytes,
            held: Bytes::new(),
            stale_since: plan.stale_since.clone(),
            over: false,
        }
    }

    async fn next(&mut self) -> Result<Next, Error> {
        loop {
            let message = self.answer.next().await?;
            let message = message.ok_or(Error::Damaged("it was cut off"))?;
            match message.part {
                Some(Part::Script(piece)) => {
                    let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
                    let left = self.left.checked_sub(length);
                    self.left = left.ok_or(Error::Damaged("it is longer"))?;
                    self.sum.update(&piece);
                    let ready = std::mem::replace(&mut self.held, piece);
                    if !ready.is_empty() {
                        return Ok(Next::Piece(ready));
                    }
                }
                Some(Part::End(end)) => {
                    let sum = self.sum.clone().finish();
                    if self.left > 0 || sum.as_ref() != self.digest.0 {
                        return Err(Error::Damaged("its digest differs"));
                    }
                    if end.digest.parse() != Ok(self.digest) {
                        return Err(Error::Damaged("another digest stands at its end"));
                    }
                    return Ok(Next::Last(std::mem::take(&mut self.held)));
                }
                Some(Part::Conflict(_)) => {}
                Some(Part::Head(_)) | None => return Err(Error::Damaged("a part does not belong there")),
            }
        }
    }

    /// The end of a stream that went well, with metadata. tonic writes trailers from a status only.
    #[expect(
        clippy::disallowed_methods,
        reason = "no error: the trailers of an answer that is whole"
    )]
    fn trailers(&self) -> Status {
        let mut metadata = MetadataMap::new();
        metadata.insert(DIGEST, self.value.clone());
        Status::with_metadata(Code::Ok, "", metadata)
    }
}

fn piece(data: Bytes, stale_since: Option<Position>) -> pb::GetScriptResponse {
    pb::GetScriptResponse {
        stale_since,
        chunk: Some(HttpBody {
            content_type: CONTENT_TYPE.to_owned(),
            data,
        }),
    }
}

type Pieces = BoxStream<'static, Result<pb::GetScriptResponse, Status>>;

fn pieces(passing: Passing) -> Pieces {
    let answers = stream::unfold(passing, |mut passing| async move {
        if passing.over {
            return None;
        }
        let answers = match passing.next().await {
            Ok(Next::Piece(data)) => vec![Ok(piece(data, passing.stale_since.take()))],
            Ok(Next::Last(data)) => {
                passing.over = true;
                vec![
                    Ok(piece(data, passing.stale_since.take())),
                    Err(passing.trailers()),
                ]
            }
            Err(error) => {
                passing.over = true;
                vec![Err(error.into())]
            }
        };
        Some((stream::iter(answers), passing))
    });
    answers.flatten().boxed()
}

impl Recovery {
    /// The script of a plan, by the rights of this moment.
    pub(super) async fn script(&self, caller: &Caller, id: &str) -> Result<Response<Pieces>, Error> {
        let found = self.found(caller, id).await?;
        if found.kept.is_expired() {
            return Err(Error::Expired);
        }
        let mut found = found.asked()?;
        self.judge_again(caller, &mut found, caller.scope.deadline)
            .await?;
        let plan = &found.kept.plan;
        let asked = again(plan, &found.sight, true);
        let answer = self
            .hub
            .ask(
                &caller.context,
                &found.sight,
                plan.place,
                &asked,
                caller.scope.deadline,
            )
            .await;
        let mut answer = answer?;
        let head = head(&mut answer).await.map_err(|error| match error {
            // There was something to undo: the history is another one now.
            Error::NothingToUndo => Error::Stale,
            error => error,
        })?;
        self.judge_by(caller, &mut found, &head, caller.scope.deadline)
            .await?;
        redact::allows(&found.sight, &head)?;
        let plan = &mut found.kept.plan;
        if head.digest.parse() != Ok(plan.digest) || head.script_bytes != plan.script_bytes {
            return Err(Error::Stale);
        }
        if plan.stale_since.is_none() {
            plan.stale_since = head.stale_since;
            self.note_stale(&caller.scope, plan).await;
        }
        let value = MetadataValue::try_from(plan.digest.to_string());
        let value = value.map_err(|_| Error::Stored("digest"))?;
        let passing = Passing::new(answer, plan, value.clone());
        let mut response = Response::new(pieces(passing));
        name_place(&mut response, plan.place)?;
        response.metadata_mut().insert(DIGEST, value);
        Ok(response)
    }
}
