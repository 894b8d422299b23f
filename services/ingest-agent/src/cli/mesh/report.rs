//! `tables`, `schema`, `coverage`, `status` of a server of a mesh.

use proto::{
    change::v1 as pb,
    query::v1::{
        GetCoverageRequest, GetServerStatusResponse, ListSchemaChangesRequest, ListTablesRequest,
        ListTablesResponse,
    },
};
use serde::Serialize;
use types::Code;

use super::{Server, block_on, query};
use crate::{
    cli::{
        args, note, parse,
        report::{
            PlaceLine, TableLine, age, facts, print, print_coverage, print_json, print_tables, size, text,
        },
    },
    error::Error,
    exit::Exit,
    remote::{SHORT, coverage as told},
    render::{
        ReportFormat,
        screen::{Screen, Style},
        text::{fit, one_line, visible},
    },
};

/// Statements of a page, as the mesh has it.
const PAGE: i32 = 1_000;

impl Server {
    async fn coverage(&self) -> Result<pb::Coverage, Error> {
        let request = GetCoverageRequest {
            server: self.name.clone(),
        };
        let asked = self
            .mesh
            .ask(&self.what, request, SHORT, |channel, request| async move {
                query(channel).get_coverage(request).await
            });
        Ok(asked.await?.into_inner().coverage.unwrap_or_default())
    }

    async fn tables(&self) -> Result<ListTablesResponse, Error> {
        let request = ListTablesRequest {
            server: self.name.clone(),
        };
        let asked = self
            .mesh
            .ask(&self.what, request, SHORT, |channel, request| async move {
                query(channel).list_tables(request).await
            });
        Ok(asked.await?.into_inner())
    }

    /// Statements about a table, in the order of the log, and how many are not for the caller.
    async fn statements(&self, schema: &str, table: &str) -> Result<(Vec<pb::SchemaChange>, u64), Error> {
        let (mut all, mut hidden) = (Vec::new(), 0);
        let mut request = ListSchemaChangesRequest {
            server: self.name.clone(),
            schema: schema.to_owned(),
            table: table.to_owned(),
            page_size: PAGE,
            page_token: String::new(),
        };
        loop {
            let asked = self.mesh.ask(
                &self.what,
                request.clone(),
                SHORT,
                |channel, request| async move { query(channel).list_schema_changes(request).await },
            );
            let answer = asked.await?.into_inner();
            hidden += u64::from(answer.hidden);
            all.extend(answer.schema_changes);
            if answer.next_page_token.is_empty() || answer.next_page_token == request.page_token {
                all.reverse();
                return Ok((all, hidden));
            }
            request.page_token = answer.next_page_token;
        }
    }
}

/// `trail tables --server NAME`.
pub(in crate::cli) fn tables(server: &str, args: &args::Overview) -> Result<Exit, Error> {
    block_on(async {
        let server = Server::open(server, &args.mesh).await?;
        let ListTablesResponse {
            tables,
            tables_hidden,
        } = server.tables().await?;
        let time =
            |time: &Option<prost_types::Timestamp>| text(told::time(time.as_ref())).unwrap_or_default();
        let line = |table: pb::TableSummary| TableLine {
            first: time(&table.first_time),
            last: time(&table.last_time),
            schema: table.schema,
            table: table.table,
            inserts: table.inserts,
            updates: table.updates,
            deletes: table.deletes,
            schema_version: table.schema_version,
        };
        let lines: Vec<TableLine> = tables.into_iter().map(line).collect();
        print_tables(&lines, args.report.format)?;
        if tables_hidden > 0 {
            note::note(&format!("tables that your role does not see: {tables_hidden}"));
        }
        server.judge(Some(&server.coverage().await?)).await
    })
}

/// `trail coverage --server NAME`.
pub(in crate::cli) fn coverage(server: &str, args: &args::Overview) -> Result<Exit, Error> {
    block_on(async {
        let server = Server::open(server, &args.mesh).await?;
        let coverage = server.coverage().await?;
        print_coverage(&told::coverage(&coverage), args.report.format)?;
        server.judge(Some(&coverage)).await
    })
}

#[derive(Serialize)]
struct SchemaReport {
    schema: String,
    table: String,
    schema_version: Option<u32>,
    columns: Vec<String>,
    key: Vec<String>,
    statements: Vec<StatementReport>,
}

#[derive(Serialize)]
struct StatementReport {
    file: String,
    offset: u64,
    gtid: Option<String>,
    commit_time: String,
    statement: String,
}

/// `trail schema --server NAME`. Types of columns stay with the agent; what the mesh knows is their names, and the statements.
pub(in crate::cli) fn schema(server: &str, args: &args::Schema) -> Result<Exit, Error> {
    let Some(table) = &args.table.table else {
        return Err(
            Error::new(Code::Invalid, &args.table, "this command is about one table")
                .hint("trail tables lists them"),
        );
    };
    block_on(async {
        let server = Server::open(server, &args.mesh).await?;
        let tables = server.tables().await?.tables;
        let known = tables
            .into_iter()
            .find(|known| known.schema == args.table.schema && known.table == *table);
        let (statements, hidden) = server.statements(&args.table.schema, table).await?;
        if known.is_none() && statements.is_empty() {
            return Err(Error::new(
                Code::Missing,
                &args.table,
                "the store holds no change of it, or none that your role sees",
            )
            .hint("trail tables lists what it has seen"));
        }
        let report = SchemaReport {
            schema: args.table.schema.clone(),
            table: table.clone(),
            schema_version: known.as_ref().map(|known| known.schema_version),
            columns: known
                .as_ref()
                .map(|known| known.columns.clone())
                .unwrap_or_default(),
            key: known.map(|known| known.key).unwrap_or_default(),
            statements: statements.iter().map(statement).collect(),
        };
        match args.report.format {
            ReportFormat::Table => print(&schema_text(&report))?,
            format => print_json(&report, format)?,
        }
        if hidden > 0 {
            note::note(&format!("statements that your role does not see: {hidden}"));
        }
        server.judge(Some(&server.coverage().await?)).await
    })
}

fn statement(change: &pb::SchemaChange) -> StatementReport {
    let position = change.position.clone().unwrap_or_default();
    StatementReport {
        file: position.file,
        offset: position.offset,
        gtid: Some(change.gtid.clone()).filter(|gtid| !gtid.is_empty()),
        commit_time: text(told::time(change.commit_time.as_ref())).unwrap_or_default(),
        statement: change.text.clone(),
    }
}

fn schema_text(report: &SchemaReport) -> String {
    let screen = Screen::stdout();
    let bold = |text: &str| Style::Bold.paint(&visible(text), screen.colour);
    let mut out = String::new();
    if let Some(version) = report.schema_version {
        let name = format!("{}.{}", report.schema, report.table);
        out.push_str(&format!("{} (definition {version})\n", bold(&name)));
        out.push_str(&format!("columns: {}\n", visible(&report.columns.join(", "))));
        let key = if report.key.is_empty() {
            "none: rows are known by all their columns".to_owned()
        } else {
            report.key.join(", ")
        };
        out.push_str(&format!("primary key: {}\n", visible(&key)));
    }
    if !report.statements.is_empty() {
        out.push_str(&bold("statements"));
        out.push('\n');
    }
    for change in &report.statements {
        let text = one_line(&change.statement);
        let line = format!(
            "  {}  {}:{}  {text}",
            change.commit_time, change.file, change.offset
        );
        out.push_str(&fit(&visible(&line), screen.width.unwrap_or(usize::MAX)));
        out.push('\n');
    }
    out
}

#[derive(Serialize)]
struct StatusReport {
    server: String,
    time: Option<String>,
    engine: String,
    version: String,
    following: bool,
    problem: Option<String>,
    position: Option<PlaceLine>,
    log_end: Option<PlaceLine>,
    lag_millis: Option<i64>,
    lag_bytes: Option<u64>,
    last_commit: Option<String>,
    last_connected: Option<String>,
    transactions: u64,
    changes: u64,
    segments: u32,
    bytes: u64,
    agent: Option<AgentReport>,
}

#[derive(Serialize)]
struct AgentReport {
    id: String,
    version: String,
    connected: bool,
    last_seen: Option<String>,
    started: Option<String>,
}

/// `trail status --server NAME`.
pub(in crate::cli) fn status(server: &str, args: &args::Overview) -> Result<Exit, Error> {
    block_on(async {
        let server = Server::open(server, &args.mesh).await?;
        let status = server.status().await?;
        match args.report.format {
            ReportFormat::Table => print(&status_text(&server.name, &status))?,
            format => print_json(&status_report(&status), format)?,
        }
        if status.server_id.starts_with("srv_") && !status.agent_connected {
            note::note("no agent is connected; these are the last numbers that are known");
        }
        Ok(Exit::Done)
    })
}

fn instant(time: &Option<prost_types::Timestamp>) -> Option<String> {
    text(told::time(time.as_ref()))
}

fn status_report(status: &GetServerStatusResponse) -> StatusReport {
    let state = status.state.clone().unwrap_or_default();
    let place = |place: &Option<pb::Place>| place.as_ref().map(|place| told::place(Some(place)).into());
    let agent = AgentReport {
        id: status.agent_id.clone(),
        version: status.agent_version.clone(),
        connected: status.agent_connected,
        last_seen: instant(&status.agent_last_seen_time),
        started: instant(&status.agent_start_time),
    };
    StatusReport {
        server: status.server_id.clone(),
        time: instant(&status.time),
        following: state.following,
        problem: Some(state.problem.clone()).filter(|problem| !problem.is_empty()),
        position: place(&state.position),
        log_end: place(&state.log_end),
        lag_millis: state.lag_millis,
        lag_bytes: state.lag_bytes,
        last_commit: instant(&state.last_commit_time),
        last_connected: instant(&state.last_connected_time),
        transactions: state.transactions,
        changes: state.changes,
        segments: state.segments,
        bytes: state.store_bytes,
        engine: state.engine,
        version: state.version,
        agent: (!agent.id.is_empty()).then_some(agent),
    }
}

fn status_text(name: &str, status: &GetServerStatusResponse) -> String {
    let state = status.state.clone().unwrap_or_default();
    let none = || "-".to_owned();
    let ago = |time: &Option<prost_types::Timestamp>| {
        told::time(time.as_ref()).map(|time| format!("{time} ({} ago)", age(parse::now().0 - time.0)))
    };
    let place = |place: &Option<pb::Place>| {
        place
            .as_ref()
            .map_or_else(none, |place| told::place(Some(place)).to_string())
    };
    let source = [state.engine.clone(), state.version.clone()];
    let source: Vec<String> = source.into_iter().filter(|part| !part.is_empty()).collect();
    let lag = match (state.lag_millis, state.lag_bytes) {
        (None, None) => none(),
        (millis, bytes) => [
            millis.map(|millis| format!("{:.1} s", millis as f64 / 1_000.0)),
            bytes.map(size),
        ]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(", "),
    };
    let following = match (state.following, state.problem.is_empty()) {
        (true, _) => "yes".to_owned(),
        (false, true) => "no".to_owned(),
        (false, false) => format!("no: {}", state.problem),
    };
    let agent = if status.agent_id.is_empty() {
        none()
    } else {
        let seen = ago(&status.agent_last_seen_time).map(|seen| format!(", last seen {seen}"));
        let how = if status.agent_connected {
            ", connected".to_owned()
        } else {
            seen.unwrap_or_default()
        };
        // One that never connected has told no version.
        let version = Some(&status.agent_version).filter(|version| !version.is_empty());
        let version = version.map(|version| format!(" {version}")).unwrap_or_default();
        format!("{}{version}{how}", status.agent_id)
    };
    facts([
        ("server", format!("{name} ({})", status.server_id)),
        (
            "source",
            if source.is_empty() {
                none()
            } else {
                source.join(" ")
            },
        ),
        ("following", following),
        ("position", place(&state.position)),
        ("log end", place(&state.log_end)),
        ("lag", lag),
        ("last commit", ago(&state.last_commit_time).unwrap_or_else(none)),
        ("transactions", state.transactions.to_string()),
        ("changes", state.changes.to_string()),
        ("segments", state.segments.to_string()),
        ("size", size(state.store_bytes)),
        ("agent", agent),
    ])
}
