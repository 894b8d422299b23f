//! What service recovery is configured with.

use std::time::Duration;

use chassis::{ConfigError, Configuration, Settings, duration};

/// A plan that could be had for less is gone before it was read.
const LIFE_AT_LEAST: Duration = Duration::from_secs(1);

/// Service recovery.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Config {
    /// Where its tables are.
    #[command(flatten)]
    pub database: pg::Settings,
    /// How long the script of a plan can be had.
    #[arg(long, env = "TRAILMESH_RECOVERY_PLAN_LIFE", value_name = "DURATION", default_value = "1h", value_parser = duration)]
    pub recovery_plan_life: Duration,
    /// How long a plan is listed after it has expired.
    #[arg(long, env = "TRAILMESH_RECOVERY_PLAN_KEEP", value_name = "DURATION", default_value = "30d", value_parser = duration)]
    pub recovery_plan_keep: Duration,
    /// How often to look for plans that are kept no longer.
    #[arg(long, env = "TRAILMESH_RECOVERY_SWEEP_PAUSE", value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub recovery_sweep_pause: Duration,
    /// How often somebody who watches a plan is told that nothing has changed.
    #[arg(long, env = "TRAILMESH_RECOVERY_WATCH_PAUSE", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub recovery_watch_pause: Duration,
    /// How many may watch plans at once, in each replica.
    #[arg(
        long,
        env = "TRAILMESH_RECOVERY_WATCHERS",
        value_name = "COUNT",
        default_value_t = 1_000
    )]
    pub recovery_watchers: u32,
}

impl Configuration for Config {
    fn check(&self, settings: &Settings) -> Result<(), ConfigError> {
        settings.require_region("TRAILMESH_DATABASE_URL", &self.database.host())?;
        self.database
            .check(settings.dev)
            .map_err(|wrong| ConfigError::new(wrong.name, wrong.problem, wrong.remedy))?;
        if self.recovery_plan_life < LIFE_AT_LEAST {
            return Err(ConfigError::new(
                "TRAILMESH_RECOVERY_PLAN_LIFE",
                "shorter than a second",
                "give people time to read a plan: 1h",
            ));
        }
        for (name, pause) in [
            ("TRAILMESH_RECOVERY_SWEEP_PAUSE", self.recovery_sweep_pause),
            ("TRAILMESH_RECOVERY_WATCH_PAUSE", self.recovery_watch_pause),
        ] {
            if pause.is_zero() {
                return Err(ConfigError::new(name, "no pause at all", "give at least 1ms"));
            }
        }
        Ok(())
    }
}
