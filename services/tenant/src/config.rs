//! What service tenant is configured with.

use std::time::Duration;

use chassis::{ConfigError, Configuration, Settings};
use types::Plan;

pub use crate::billing::config::Billing;
use crate::sink::config::Sinks;

/// Service tenant.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Config {
    /// Where its tables are.
    #[command(flatten)]
    pub database: pg::Settings,
    /// How often to look for mails of invitations that are to be tried again.
    #[arg(long, env = "TRAILMESH_TENANT_MAIL_PAUSE", value_name = "DURATION", default_value = "5s", value_parser = chassis::duration)]
    pub tenant_mail_pause: Duration,
    /// How often to forget expired invitations.
    #[arg(long, env = "TRAILMESH_TENANT_SWEEP_PAUSE", value_name = "DURATION", default_value = "10m", value_parser = chassis::duration)]
    pub tenant_sweep_pause: Duration,
    /// How often to look for audit events of other services, and for calls of which nobody told how they ended.
    #[arg(long, env = "TRAILMESH_TENANT_AUDIT_PAUSE", value_name = "DURATION", default_value = "1s", value_parser = chassis::duration)]
    pub tenant_audit_pause: Duration,
    /// How often to have the audit logs signed that have grown.
    #[arg(long, env = "TRAILMESH_TENANT_HEAD_PAUSE", value_name = "DURATION", default_value = "5s", value_parser = chassis::duration)]
    pub tenant_head_pause: Duration,
    /// The plan that a new tenant begins with: free, pro, premium or enterprise. Where nobody pays, enterprise.
    #[arg(long, env = "TRAILMESH_TENANT_FIRST_PLAN", value_name = "PLAN", default_value = "free", value_parser = plan)]
    pub tenant_first_plan: Plan,
    /// How many schemas to make ahead of the tenants they are for; 0 makes each when it is asked for.
    #[arg(long, env = "TRAILMESH_TENANT_PREPARED", value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(..=1000))]
    pub tenant_prepared: u32,
    /// How often to look for schemas to make ahead and for deletions to finish.
    #[arg(long, env = "TRAILMESH_TENANT_LIFE_PAUSE", value_name = "DURATION", default_value = "5s", value_parser = chassis::duration)]
    pub tenant_life_pause: Duration,
    /// Where the audit log is sent.
    #[command(flatten)]
    pub sinks: Sinks,
    /// Who takes payments.
    #[command(flatten)]
    pub billing: Billing,
}

fn plan(text: &str) -> Result<Plan, &'static str> {
    text.parse()
        .map_err(|()| "write free, pro, premium or enterprise")
}

impl Configuration for Config {
    fn check(&self, settings: &Settings) -> Result<(), ConfigError> {
        let pauses = [
            ("TRAILMESH_TENANT_MAIL_PAUSE", self.tenant_mail_pause),
            ("TRAILMESH_TENANT_SWEEP_PAUSE", self.tenant_sweep_pause),
            ("TRAILMESH_TENANT_AUDIT_PAUSE", self.tenant_audit_pause),
            ("TRAILMESH_TENANT_HEAD_PAUSE", self.tenant_head_pause),
            ("TRAILMESH_TENANT_LIFE_PAUSE", self.tenant_life_pause),
        ];
        for (name, pause) in pauses {
            if pause < Duration::from_millis(10) {
                return Err(ConfigError::new(
                    name,
                    "is shorter than 10ms",
                    "write some seconds or minutes",
                ));
            }
        }
        settings.require_region("TRAILMESH_DATABASE_URL", &self.database.host())?;
        self.sinks.check()?;
        self.billing.check(settings)?;
        self.database
            .check(settings.dev)
            .map_err(|wrong| ConfigError::new(wrong.name, wrong.problem, wrong.remedy))
    }
}
