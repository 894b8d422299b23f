//! What a tenant has bought, by the operator's word.

use std::io::{self, Write as _};

use chassis::{ConfigError, Configuration as _, Settings};
use tenant::operator::{self, PlanShown};
use types::{Plan, TenantId};

/// What `trailmesh plan` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Give a tenant a plan; what a smaller one has no room for is frozen, and nothing is deleted
    Set {
        /// tnt_…
        #[arg(value_name = "TENANT")]
        id: TenantId,
        /// free, pro, premium or enterprise
        #[arg(value_name = "PLAN", value_parser = plan)]
        plan: Plan,
        #[command(flatten)]
        tenant: Box<Tenant>,
    },
    /// Show a tenant's plan, and how much of it is used
    Show {
        /// tnt_…
        #[arg(value_name = "TENANT")]
        id: TenantId,
        #[command(flatten)]
        tenant: Box<Tenant>,
    },
}

/// Where the tenant's rows are.
#[derive(clap::Args)]
struct Tenant {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    config: tenant::Config,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The process cannot run at all.
    #[error("cannot start, or say what was done")]
    Io(#[from] io::Error),
    /// It was tried.
    #[error(transparent)]
    Failed(#[from] chassis::Error),
}

fn plan(word: &str) -> Result<Plan, String> {
    word.parse()
        .map_err(|()| "write free, pro, premium or enterprise".to_owned())
}

/// Does it, and shows what then is.
pub(crate) fn run(options: Options) -> Result<(), Error> {
    let shown = match options.action {
        Action::Set { id, plan, tenant } => {
            tenant.run(operator::set_plan(&tenant.config, tenant.settings.dev, id, plan))
        }
        Action::Show { id, tenant } => {
            tenant.run(operator::show_plan(&tenant.config, tenant.settings.dev, id))
        }
    }?;
    write!(io::stdout(), "{shown}")?;
    Ok(())
}

impl Tenant {
    fn run(&self, work: impl Future<Output = Result<PlanShown, chassis::Error>>) -> Result<PlanShown, Error> {
        self.config.check(&self.settings)?;
        let runtime = crate::command_runtime()?;
        Ok(runtime.block_on(work)?)
    }
}
