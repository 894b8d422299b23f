//! `undo` of a server of a mesh: the agent plans, the mesh keeps the plan's digest, and the script is taken only if it has it.

use std::{
    fs::File,
    io::{self, Seek, Write},
    path::Path,
    time::Duration,
};

use proto::{
    change::v1 as pb,
    query::v1::CountChangesRequest,
    recovery::v1::{
        GetScriptRequest, Plan, PlanUndoRequest, PlanUndoResponse,
        recovery_service_client::RecoveryServiceClient,
    },
};
use ring::digest::{Context, SHA256};
use tokio::time::timeout;
use tonic::{metadata::MetadataMap, transport::Channel};
use types::Code;

use super::{Server, block_on, filter, query, statements::Statements};
use crate::{
    cli::{
        args::{self, ModeName},
        note,
        question::question,
        undo::{Outputs, is_bounded},
        undo_summary::{self, SHOWN_ROWS},
    },
    error::Error,
    exit::Exit,
    remote::{LONG, MESSAGE_BYTES_MAX, SHORT, Said, coverage as told},
    render::{screen::Style, text::one_line},
};

/// Planning reads all history of the affected tables since the first chosen change.
const PLANNING: Duration = Duration::from_secs(60);
/// A script that does not come on for so long is broken off.
const SILENCE: Duration = Duration::from_secs(60);
/// Conflicts that the mesh shows at most.
const CONFLICTS_MAX: i32 = 1_000;
/// Where the digest stands, before the script and after it.
const DIGEST: &str = "trailmesh-digest";

fn recovery(channel: Channel) -> RecoveryServiceClient<Channel> {
    RecoveryServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// `trail undo --server NAME`.
pub(in crate::cli) fn undo(server: &str, args: &args::Undo) -> Result<Exit, Error> {
    is_bounded(args)?;
    for (flag, given) in [
        ("--redo", args.redo.is_some()),
        ("--auto-column", !args.auto_columns.is_empty()),
    ] {
        if given {
            return Err(Error::new(
                Code::Invalid,
                flag,
                "it works on a store only, not through a mesh",
            )
            .hint("run trail undo beside the database, where the agent's store is"));
        }
    }
    let outputs = Outputs::create(args)?;
    let question = question(&args.tables, &args.rows.keys, &args.filters, args.txn.as_ref());
    let filter = filter(&question)?;
    block_on(async {
        let server = Server::open(server, &args.mesh).await?;
        let Some(planned) = server.plan(&filter, args).await? else {
            return server.nothing(&filter).await;
        };
        let plan = planned.plan.clone().unwrap_or_default();
        let (mut script, stale_since) = server.script(&plan).await?;
        outputs.write(|out| io::copy(&mut script, out).map(drop), |_| Ok(()))?;
        tell(&plan, &planned, args);
        if let Some(at) = stale_since {
            note::note(&format!(
                "meanwhile a change at {}:{} touched one of its rows: the script finds out whether that matters and aborts without effect if it does; planning again tells it beforehand",
                at.file, at.offset
            ));
        }
        let chosen = planned.coverage.as_ref();
        if chosen.is_some_and(|coverage| coverage.complete) && !plan.complete {
            // What was chosen is whole, but not what came after it, which the plan protects.
            note::line("INCOMPLETE", Style::Yellow, &plan.because);
            return Ok(Exit::Incomplete);
        }
        server.judge(chosen).await
    })
}

impl Server {
    /// Asks for a plan; none if nothing was chosen.
    async fn plan(&self, filter: &pb::Filter, args: &args::Undo) -> Result<Option<PlanUndoResponse>, Error> {
        let mode = match args.mode {
            ModeName::Safe => pb::UndoMode::Safe,
            ModeName::Force => pb::UndoMode::Force,
        };
        let request = PlanUndoRequest {
            server: self.name.clone(),
            filter: Some(filter.clone()),
            mode: mode.into(),
            conflicts: if args.explain {
                CONFLICTS_MAX
            } else {
                i32::try_from(SHOWN_ROWS).unwrap_or(CONFLICTS_MAX)
            },
        };
        let asked = self
            .mesh
            .ask_once(request, PLANNING, |channel, request| async move {
                recovery(channel).plan_undo(request).await
            });
        match asked.await? {
            Ok(answer) => Ok(Some(answer.into_inner())),
            Err(said) if said.reason == "NOTHING_TO_UNDO" => Ok(None),
            Err(said) => Err(self.mesh.failure(&self.what, &said)),
        }
    }

    /// Nothing was chosen. If that is because a statement removed rows without logging them, its name is what the person looks for.
    async fn nothing(&self, filter: &pb::Filter) -> Result<Exit, Error> {
        let request = CountChangesRequest {
            server: self.name.clone(),
            filter: Some(filter.clone()),
            limit: 1,
        };
        let asked = self
            .mesh
            .ask(&self.what, request, SHORT, |channel, request| async move {
                query(channel).count_changes(request).await
            });
        let exit = self.judge(asked.await?.into_inner().coverage.as_ref()).await?;
        note::note("no change matches, so there is nothing to undo; no script was written");
        let mut statements = Statements::of(self, filter, true).await?;
        while let Some(position) = statements.peek().await? {
            let Some(change) = statements.take() else { break };
            let text = one_line(&change.text);
            let verb = text.split(' ').next().unwrap_or_default().to_uppercase();
            if matches!(verb.as_str(), "TRUNCATE" | "DROP") {
                let time = told::time(change.commit_time.as_ref()).map(|time| format!(" ({time})"));
                note::note(&format!(
                    "{text} at {}{} logged no rows and cannot be undone from the log: restore a backup up to that place, then go on from there",
                    position.at,
                    time.unwrap_or_default()
                ));
            }
        }
        Ok(if exit == Exit::Done { Exit::Failed } else { exit })
    }

    /// The plan's script, in a file without a name, and the first later change that touched one of its rows. The script is whole and has the
    /// plan's digest, or this is an error.
    async fn script(&self, plan: &Plan) -> Result<(File, Option<pb::Position>), Error> {
        let request = GetScriptRequest {
            plan_id: plan.id.clone(),
        };
        let asked = self
            .mesh
            .ask(&self.what, request, LONG, |channel, request| async move {
                recovery(channel).get_script(request).await
            });
        let answer = asked.await?;
        let before = digest_of(answer.metadata());
        let mut pieces = answer.into_inner();
        let mut file = tempfile::tempfile().map_err(|error| Error::from_io("a temporary file", &error))?;
        let (mut sum, mut bytes, mut stale_since) = (Context::new(&SHA256), 0, None);
        loop {
            let piece = match timeout(SILENCE, pieces.message()).await {
                Ok(Ok(Some(piece))) => {
                    stale_since = stale_since.or(piece.stale_since);
                    piece.chunk.unwrap_or_default()
                }
                Ok(Ok(None)) => break,
                Ok(Err(status)) => return Err(self.mesh.failure(&self.what, &Said::from(&status))),
                Err(_) => return Err(self.mesh.failure(&self.what, &Said::late(SILENCE))),
            };
            sum.update(&piece.data);
            bytes += piece.data.len() as u64;
            file.write_all(&piece.data)
                .map_err(|error| Error::from_io("a temporary file", &error))?;
        }
        let trailers = match timeout(SILENCE, pieces.trailers()).await {
            Ok(Ok(trailers)) => trailers,
            Ok(Err(status)) => return Err(self.mesh.failure(&self.what, &Said::from(&status))),
            Err(_) => return Err(self.mesh.failure(&self.what, &Said::late(SILENCE))),
        };
        let after = trailers.as_ref().and_then(digest_of);
        let found = undo_summary::hex(sum.finish().as_ref());
        let whole = [before.as_deref(), after.as_deref(), Some(found.as_str())]
            .into_iter()
            .all(|digest| digest == Some(plan.digest.as_str()));
        if !whole || bytes != plan.script_bytes {
            return Err(Error::new(
                Code::Corrupt,
                format!("the script of {}", plan.id),
                "it does not have the digest of its plan; nothing was written",
            )
            .hint("run the same command again"));
        }
        file.rewind()
            .map_err(|error| Error::from_io("a temporary file", &error))?;
        Ok((file, stale_since))
    }
}

fn digest_of(metadata: &MetadataMap) -> Option<String> {
    metadata.get(DIGEST)?.to_str().ok().map(ToOwned::to_owned)
}

/// What a person must know before running the script.
fn tell(plan: &Plan, planned: &PlanUndoResponse, args: &args::Undo) {
    let summary = plan.summary.clone().unwrap_or_default();
    let place = |position: &Option<pb::Position>| {
        position
            .as_ref()
            .map(|position| format!("{}:{}", position.file, position.offset))
            .unwrap_or_default()
    };
    let names: Vec<String> = summary
        .tables
        .iter()
        .map(|table| format!("{}.{}", table.schema, table.table))
        .collect();
    undo_summary::head(summary.changes, &names, plan.mode() != pb::UndoMode::Force);
    let count = |class: pb::UndoClass| {
        let found = summary.classes.iter().find(|count| count.class() == class);
        found.map_or(0, |count| count.changes)
    };
    undo_summary::classes(
        &|class| count(undo_summary::sent(class)),
        summary.changes,
        summary.included,
    );
    let rows: Vec<_> = planned
        .conflicts
        .iter()
        .filter_map(undo_summary::Told::sent)
        .collect();
    let left_out = usize::try_from(planned.conflicts_left_out).unwrap_or(usize::MAX);
    undo_summary::list(&rows, left_out);
    if planned.redacted {
        note::note("values of columns that your role does not see are left out of this list");
    }
    undo_summary::foot(
        &place(&summary.first),
        &place(&summary.last),
        &place(&summary.until),
        summary.statements,
        &format!("sha256 of the whole script {}", plan.digest),
    );
    note::raw(&format!(
        "plan {}, whose script can be had until {}",
        plan.id,
        told::time(plan.expire_time.as_ref())
            .map(|time| time.to_string())
            .unwrap_or_default()
    ));
    let output = args.output.as_deref().filter(|path| *path != Path::new("-"));
    undo_summary::apply(summary.statements, &plan.dialect, output);
}
