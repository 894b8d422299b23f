//! The commands that ask a mesh: `--server NAME` in place of a store, and those of the session.

mod follow;
mod list;
mod login;
mod prompt;
mod report;
mod rows;
mod servers;
mod statements;
mod undo;
mod upload;
mod uploads;
mod whoami;

use std::collections::{BTreeMap, BTreeSet};

use answer::{names::Transaction, question::Question};
use proto::change::v1 as pb;
use proto::query::v1::{
    GetServerStatusRequest, GetServerStatusResponse, query_service_client::QueryServiceClient,
};
use tokio::runtime::Builder;
use tonic::transport::Channel;
use types::{Code, Micros};

pub(super) use self::{
    list::{changes, history, txn},
    login::{login, logout},
    report::{coverage, schema, status, tables},
    servers::servers,
    undo::undo,
    upload::upload,
    uploads::uploads,
    whoami::whoami,
};
use super::{args, cover, note};
use crate::{
    error::Error,
    exit::Exit,
    remote::{Door, MESSAGE_BYTES_MAX, Mesh, SHORT, coverage as told},
};

/// Names of columns in one note.
const REDACTED_SHOWN: usize = 8;

impl args::Door {
    fn door(&self) -> Door {
        Door {
            profile: self.profile.clone(),
            mesh: self.mesh.clone(),
            ca: self.ca.clone(),
            tenant: self.tenant.clone(),
        }
    }
}

/// A server of a mesh, ready to be asked about.
struct Server {
    mesh: Mesh,
    /// Its name or id, as given.
    name: String,
    /// The same for errors.
    what: String,
}

impl Server {
    async fn open(name: &str, args: &args::Mesh) -> Result<Self, Error> {
        if name.is_empty() {
            return Err(Error::new(
                Code::Invalid,
                "--server",
                "its value, or that of TRAIL_SERVER, is empty",
            ));
        }
        Ok(Self {
            mesh: args.door.door().open().await?,
            name: name.to_owned(),
            what: format!("server {name}"),
        })
    }

    /// How following it goes.
    async fn status(&self) -> Result<GetServerStatusResponse, Error> {
        let request = GetServerStatusRequest {
            server: self.name.clone(),
        };
        let asked = self
            .mesh
            .ask(&self.what, request, SHORT, |channel, request| async move {
                query(channel).get_server_status(request).await
            });
        Ok(asked.await?.into_inner())
    }

    /// Tells what an answer rests on.
    async fn judge(&self, coverage: Option<&pb::Coverage>) -> Result<Exit, Error> {
        let Some(coverage) = coverage else {
            note::note("the mesh did not say what the answer rests on");
            return Ok(Exit::Incomplete);
        };
        let coverage = told::coverage(coverage);
        if !coverage.complete || !coverage.intervals.is_empty() {
            return Ok(cover::judge(&coverage, &|| (None, None)));
        }
        let state = self.status().await?.state.unwrap_or_default();
        let position = state.position.as_ref().map(|place| told::place(Some(place)));
        let last: Option<Micros> = told::time(state.last_commit_time.as_ref());
        Ok(cover::judge(&coverage, &|| (position.clone(), last)))
    }
}

/// Service query, for answers of any size.
fn query(channel: Channel) -> QueryServiceClient<Channel> {
    QueryServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Runs one command.
fn block_on<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Error::from_io("the runtime", &error))?
        .block_on(work)
}

/// The filter of a question. What is wrong with it the mesh says.
fn filter(question: &Question) -> Result<pb::Filter, Error> {
    let op = |op: &binlog::Op| match op {
        binlog::Op::Insert => pb::Op::Insert,
        binlog::Op::Update => pb::Op::Update,
        binlog::Op::Delete => pb::Op::Delete,
    };
    let mut filter = pb::Filter {
        tables: question
            .tables
            .iter()
            .map(|tables| pb::TableFilter {
                schema: tables.schema.clone(),
                table: tables.table.clone().unwrap_or_default(),
            })
            .collect(),
        keys: question.keys.clone(),
        ops: question.ops.iter().map(|one| op(one).into()).collect(),
        since: question.since.map(timestamp),
        until: question.until.map(timestamp),
        gtid: question
            .gtid
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        column: question.column.clone().unwrap_or_default(),
        epoch: question.epoch,
        ..pb::Filter::default()
    };
    match &question.transaction {
        None => {}
        Some(Transaction::At(at)) => filter.transaction = at.to_string(),
        Some(Transaction::Gtid(wanted)) => {
            if question.gtid.as_ref().is_some_and(|gtid| gtid != wanted) {
                return Err(Error::new(
                    Code::Invalid,
                    "--gtid",
                    "it names another transaction than the one asked for",
                ));
            }
            filter.gtid = wanted.to_string();
        }
    }
    Ok(filter)
}

fn timestamp(time: Micros) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.0.div_euclid(1_000_000),
        nanos: i32::try_from(time.0.rem_euclid(1_000_000) * 1_000).unwrap_or_default(),
    }
}

/// What access rules took out of an answer, by table.
#[derive(Debug, Default)]
struct Redacted {
    columns: BTreeMap<(String, String), BTreeSet<String>>,
    /// The mesh says that something was, perhaps whole changes.
    any: bool,
}

impl Redacted {
    fn see(&mut self, change: &pb::Change) {
        if change.redacted.is_empty() {
            return;
        }
        let table = (change.schema.clone(), change.table.clone());
        let columns = self.columns.entry(table).or_default();
        for name in &change.redacted {
            if !columns.contains(name) {
                columns.insert(name.clone());
            }
        }
    }

    /// Says so, if anything was.
    fn tell(&self) {
        let names: Vec<String> = self
            .columns
            .iter()
            .flat_map(|((schema, table), columns)| {
                columns
                    .iter()
                    .map(move |column| format!("{schema}.{table}.{column}"))
            })
            .collect();
        if names.is_empty() {
            if self.any {
                note::note("changes of tables that your role does not see are left out");
            }
            return;
        }
        let more = match names.len().saturating_sub(REDACTED_SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let shown = names.get(..REDACTED_SHOWN).unwrap_or(&names).join(", ");
        note::note(&format!("redacted for your role: {shown}{more}"));
    }
}
