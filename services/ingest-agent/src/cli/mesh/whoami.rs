//! `whoami`: what the mesh takes us for.

use proto::{
    auth::v1::{GetAccountRequest, account_service_client::AccountServiceClient},
    common::v1::Role,
    tenant::v1::{GetTenantRequest, Tenant, tenant_service_client::TenantServiceClient},
};
use serde::Serialize;
use types::Micros;

use super::block_on;
use crate::{
    cli::{
        args, note,
        report::{facts, print, print_json, text},
    },
    error::Error,
    exit::Exit,
    remote::{Mesh, SHORT},
    render::{ReportFormat, grid::Grid, screen::Screen},
};

#[derive(Serialize)]
struct Report {
    mesh: String,
    profile: Option<String>,
    /// `session` or `api key`.
    by: &'static str,
    email: Option<String>,
    user: Option<String>,
    second_factor: Option<bool>,
    session_ends: Option<String>,
    tenants: Vec<TenantLine>,
}

#[derive(Serialize)]
struct TenantLine {
    id: String,
    name: String,
    /// None for an API key, and for who has a role in some agent pools only.
    role: Option<String>,
    plan: String,
    region: String,
    chosen: bool,
}

/// `trail whoami`.
pub(in crate::cli) fn whoami(args: &args::Whoami) -> Result<Exit, Error> {
    block_on(async {
        let mesh = args.door.door().open().await?;
        let report = if mesh.is_key() {
            of_key(&mesh).await?
        } else {
            of_person(&mesh, &args.door.profile).await?
        };
        match args.report.format {
            ReportFormat::Table => print(&describe(&report))?,
            format => print_json(&report, format)?,
        }
        if report.tenants.is_empty() {
            note::note("you are a member of no tenant");
        }
        Ok(Exit::Done)
    })
}

async fn of_key(mesh: &Mesh) -> Result<Report, Error> {
    let asked = mesh.ask(
        "the API key",
        GetTenantRequest {},
        SHORT,
        |channel, request| async move { TenantServiceClient::new(channel).get_tenant(request).await },
    );
    let tenant = asked.await?.into_inner().tenant;
    Ok(Report {
        mesh: mesh.place.url.clone(),
        profile: None,
        by: "api key",
        email: None,
        user: None,
        second_factor: None,
        session_ends: None,
        tenants: tenant.iter().map(|tenant| line(tenant, None, true)).collect(),
    })
}

async fn of_person(mesh: &Mesh, profile: &str) -> Result<Report, Error> {
    let asked = mesh.ask(
        "your account",
        GetAccountRequest {},
        SHORT,
        |channel, request| async move { AccountServiceClient::new(channel).get_account(request).await },
    );
    let account = asked.await?.into_inner().account.unwrap_or_default();
    let chosen = mesh.tenant();
    let tenants = mesh.memberships().await?;
    let only = tenants.len() == 1;
    let ends = mesh
        .profile()
        .await
        .map(|profile| Micros(profile.session_expires));
    Ok(Report {
        mesh: mesh.place.url.clone(),
        profile: Some(profile.to_owned()),
        by: "session",
        email: Some(account.email),
        user: Some(account.id),
        second_factor: Some(account.mfa_enabled),
        session_ends: text(ends),
        tenants: tenants
            .iter()
            .filter_map(|membership| {
                let tenant = membership.tenant.as_ref()?;
                let is_chosen = only || chosen.as_ref() == Some(&tenant.id);
                Some(line(tenant, Some(membership.role()), is_chosen))
            })
            .collect(),
    })
}

fn line(tenant: &Tenant, role: Option<Role>, chosen: bool) -> TenantLine {
    TenantLine {
        id: tenant.id.clone(),
        name: tenant.name.clone(),
        role: role
            .filter(|role| *role != Role::Unspecified)
            .map(|role| word(role.as_str_name(), "ROLE_")),
        plan: word(tenant.plan().as_str_name(), "PLAN_"),
        region: word(tenant.region().as_str_name(), "REGION_"),
        chosen,
    }
}

/// `ROLE_OWNER` as `owner`.
fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

fn describe(report: &Report) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let mut out = match report.by {
        "session" => facts([
            ("mesh", report.mesh.clone()),
            ("profile", or_none(&report.profile)),
            (
                "account",
                format!("{} ({})", or_none(&report.email), or_none(&report.user)),
            ),
            (
                "factor",
                if report.second_factor == Some(true) {
                    "password and code".to_owned()
                } else {
                    "password only".to_owned()
                },
            ),
            ("session", format!("until {}", or_none(&report.session_ends))),
        ]),
        by => facts([("mesh", report.mesh.clone()), ("by", by.to_owned())]),
    };
    let mut grid = Grid::new(&["TENANT", "ID", "ROLE", "PLAN", "REGION", ""]);
    for tenant in &report.tenants {
        let role = or_none(&tenant.role);
        let chosen = if tenant.chosen { "chosen" } else { "" };
        grid.row([
            tenant.name.clone(),
            tenant.id.clone(),
            role,
            tenant.plan.clone(),
            tenant.region.clone(),
            chosen.to_owned(),
        ]);
    }
    if !report.tenants.is_empty() {
        out.push_str(&grid.text(Screen::stdout()));
    }
    out
}
