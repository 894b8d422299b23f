//! `uploads`: the uploaded log files of a tenant.

use proto::query::v1::{
    DeleteUploadRequest, ListUploadsRequest, Upload, upload_service_client::UploadServiceClient,
};
use serde::Serialize;
use types::{Code, Micros};

use super::block_on;
use crate::{
    cli::{
        args, note,
        report::{print, print_json, size, text},
    },
    error::Error,
    exit::Exit,
    remote::{Mesh, PAGE, SHORT, every_page},
    render::{ReportFormat, grid::Grid, micros, screen::Screen},
};

/// Uploads in the forms for programs.
#[derive(Serialize)]
pub(super) struct Report {
    uploads: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    id: String,
    name: String,
    file: String,
    /// Whose log it is, `srv_…`; none if nobody said.
    server: Option<String>,
    /// The plan has no room for it.
    frozen: bool,
    /// `open`, `reading`, `ready` or `damaged`.
    state: String,
    /// How many bytes came.
    bytes: u64,
    size: u64,
    transactions: u64,
    changes: u64,
    problem: Option<String>,
    expires: Option<String>,
}

/// `trail uploads`.
pub(in crate::cli) fn uploads(args: &args::Uploads) -> Result<Exit, Error> {
    block_on(async {
        let mesh = args.door.door().open().await?;
        let all = all(&mesh).await?;
        if let Some(args::UploadsCommand::Delete { uploads }) = &args.command {
            return delete(&mesh, &all, uploads, args.report.format).await;
        }
        let report = Report::of(&all);
        match args.report.format {
            ReportFormat::Table => print(&describe(&report))?,
            format => print_json(&report, format)?,
        }
        if report.uploads.is_empty() {
            note::note("no log file was uploaded; trail upload FILE --name NAME sends one");
        }
        Ok(Exit::Done)
    })
}

/// Every upload, the newest first.
pub(super) async fn all(mesh: &Mesh) -> Result<Vec<Upload>, Error> {
    every_page(async |page_token| {
        let request = ListUploadsRequest {
            page_size: PAGE,
            page_token,
        };
        let asked = mesh.ask("the uploads", request, SHORT, |channel, request| async move {
            UploadServiceClient::new(channel).list_uploads(request).await
        });
        let page = asked.await?.into_inner();
        Ok((page.uploads, page.next_page_token))
    })
    .await
}

/// Whether all that are named are there comes first: nothing is deleted of a list with a mistake in it.
async fn delete(mesh: &Mesh, all: &[Upload], named: &[String], format: ReportFormat) -> Result<Exit, Error> {
    let find = |given: &String| {
        let found = all
            .iter()
            .find(|upload| upload.id == *given || upload.name == *given);
        found.ok_or_else(|| {
            Error::new(
                Code::Missing,
                format!("upload {given}"),
                "there is no such upload",
            )
            .hint("trail uploads lists those that there are; nothing was deleted")
        })
    };
    let found: Vec<&Upload> = named.iter().map(find).collect::<Result<_, _>>()?;
    for upload in &found {
        let request = DeleteUploadRequest {
            upload_id: upload.id.clone(),
        };
        let what = format!("upload {}", upload.name);
        let asked = mesh.ask(&what, request, SHORT, |channel, request| async move {
            UploadServiceClient::new(channel).delete_upload(request).await
        });
        asked.await?;
        if format == ReportFormat::Table {
            print(&format!("deleted {} ({})\n", upload.name, upload.id))?;
        }
    }
    if format != ReportFormat::Table {
        print_json(&Report::of(found), format)?;
    }
    Ok(Exit::Done)
}

impl Report {
    /// Of these.
    pub(super) fn of<'a>(uploads: impl IntoIterator<Item = &'a Upload>) -> Self {
        Self {
            uploads: uploads.into_iter().map(line).collect(),
        }
    }
}

fn line(upload: &Upload) -> Line {
    let state = upload.state().as_str_name();
    let expires: Option<Micros> = upload.expire_time.as_ref().map(micros);
    Line {
        id: upload.id.clone(),
        name: upload.name.clone(),
        file: upload.file.clone(),
        server: Some(upload.server_id.clone()).filter(|server| !server.is_empty()),
        frozen: upload.frozen,
        state: state
            .strip_prefix("UPLOAD_STATE_")
            .unwrap_or(state)
            .to_lowercase(),
        bytes: upload.bytes,
        size: upload.size,
        transactions: upload.transactions,
        changes: upload.changes,
        problem: Some(upload.problem.clone()).filter(|problem| !problem.is_empty()),
        expires: text(expires),
    }
}

fn describe(report: &Report) -> String {
    if report.uploads.is_empty() {
        return String::new();
    }
    let mut grid = Grid::new(&["UPLOAD", "ID", "FILE", "STATE", "SIZE", "CHANGES", "UNTIL"]);
    for upload in &report.uploads {
        grid.row([
            upload.name.clone(),
            upload.id.clone(),
            upload.file.clone(),
            if upload.frozen {
                "frozen".to_owned()
            } else {
                upload.state.clone()
            },
            if upload.bytes < upload.size {
                format!("{} of {}", size(upload.bytes), size(upload.size))
            } else {
                size(upload.bytes)
            },
            upload.changes.to_string(),
            upload.expires.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    grid.text(Screen::stdout())
}
