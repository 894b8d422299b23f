//! What a run did, and how far a database is; for people.

use std::{fmt, time::Duration};

/// A step that was applied.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The schema.
    pub place: String,
    /// Whose step.
    pub service: &'static str,
    /// Which.
    pub version: u32,
    /// Which, for people.
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
}

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Steps of schemas that are not tenants'.
    pub applied: Vec<Applied>,
    /// How many tenants' schemas were brought up to date.
    pub tenants_upgraded: usize,
    /// What PostgreSQL leaves open to everyone and the admin could not close.
    pub warnings: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.applied {
            writeln!(
                f,
                "{} {} {}: {:.0?}",
                step.place, step.version, step.name, step.took
            )?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        if self.applied.is_empty() && self.tenants_upgraded == 0 {
            return write!(f, "nothing to do");
        }
        write!(
            f,
            "{} steps; {} tenants brought up to date",
            self.applied.len(),
            self.tenants_upgraded
        )
    }
}

/// How far a service's own schema is.
#[derive(Clone, Debug)]
pub struct Service {
    /// Which service.
    pub service: &'static str,
    /// Versions that were applied.
    pub applied: Vec<u32>,
    /// Versions, with their names, that were not.
    pub pending: Vec<(u32, &'static str)>,
}

/// How far the tenants' schemas are.
#[derive(Clone, Debug, Default)]
pub struct Tenants {
    /// How many there are.
    pub total: usize,
    /// Schemas that lack a step.
    pub behind: Vec<String>,
}

/// How far a database is.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Each service.
    pub services: Vec<Service>,
    /// All tenants.
    pub tenants: Tenants,
}

impl Status {
    /// Whether a run would do nothing.
    pub fn current(&self) -> bool {
        self.tenants.behind.is_empty() && self.services.iter().all(|service| service.pending.is_empty())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Service {
            service,
            applied,
            pending,
        } in &self.services
        {
            writeln!(
                f,
                "{service}: at {}, {} to do",
                applied.last().unwrap_or(&0),
                pending.len()
            )?;
            for (version, name) in pending {
                writeln!(f, "  {version} {name}")?;
            }
        }
        let Tenants { total, behind } = &self.tenants;
        write!(f, "tenants: {total}, {} behind", behind.len())
    }
}
