//! `servers`: the servers of a tenant, which `--server` takes.

use proto::tenant::v1::{ListServersRequest, Server, server_service_client::ServerServiceClient};
use serde::Serialize;

use super::block_on;
use crate::{
    cli::{
        args, note,
        report::{print, print_json},
    },
    error::Error,
    exit::Exit,
    remote::{Mesh, PAGE, SHORT, every_page},
    render::{ReportFormat, grid::Grid, screen::Screen},
};

#[derive(Serialize)]
struct Report {
    servers: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    name: String,
    id: String,
    /// None until an agent has told it or somebody has said it.
    engine: Option<String>,
    host: String,
    port: i32,
    pool: String,
    frozen: bool,
}

/// `trail servers`.
pub(in crate::cli) fn servers(args: &args::Servers) -> Result<Exit, Error> {
    block_on(async {
        let mesh = args.door.door().open().await?;
        let report = Report {
            servers: all(&mesh).await?.into_iter().map(line).collect(),
        };
        match args.report.format {
            ReportFormat::Table => print(&describe(&report))?,
            format => print_json(&report, format)?,
        }
        if report.servers.is_empty() {
            note::note("no server is registered, or none of a pool that you have a role in");
        }
        Ok(Exit::Done)
    })
}

/// Every server that the person may see.
pub(super) async fn all(mesh: &Mesh) -> Result<Vec<Server>, Error> {
    every_page(async |page_token| {
        let request = ListServersRequest {
            page_size: PAGE,
            page_token,
            ..ListServersRequest::default()
        };
        let asked = mesh.ask("the servers", request, SHORT, |channel, request| async move {
            ServerServiceClient::new(channel).list_servers(request).await
        });
        let page = asked.await?.into_inner();
        Ok((page.servers, page.next_page_token))
    })
    .await
}

fn line(server: Server) -> Line {
    let engine = server.engine().as_str_name();
    let engine = engine.strip_prefix("ENGINE_").unwrap_or(engine).to_lowercase();
    Line {
        name: server.name,
        id: server.id,
        engine: Some(engine).filter(|engine| engine != "unspecified"),
        host: server.host,
        port: server.port,
        pool: server.pool_id,
        frozen: server.frozen,
    }
}

fn describe(report: &Report) -> String {
    let mut grid = Grid::new(&["SERVER", "ID", "ENGINE", "ADDRESS", "POOL", ""]);
    for server in &report.servers {
        grid.row([
            server.name.clone(),
            server.id.clone(),
            server.engine.clone().unwrap_or_else(|| "-".to_owned()),
            format!("{}:{}", server.host, server.port),
            server.pool.clone(),
            if server.frozen { "frozen" } else { "" }.to_owned(),
        ]);
    }
    if report.servers.is_empty() {
        return String::new();
    }
    grid.text(Screen::stdout())
}
