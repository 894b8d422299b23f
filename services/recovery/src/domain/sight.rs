//! What a caller sees of a server: tables and columns, by the access rules for their role.

use std::sync::Arc;

use proto::{agent::v1::TablesResponse, change::v1::TableFilter, tenant::v1::AccessRule};
use types::{
    Role, ServerId,
    access::{self, Access, Lineage, View},
};

use crate::error::Error;

/// What a caller sees of a server, or of an uploaded log.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    access: Access,
    server: Option<ServerId>,
    lineage: Arc<Lineage>,
    /// Of which descents this is, as answers tell it; 0 if none were looked at.
    told: u64,
}

impl Sight {
    /// Of one who sees everything.
    pub(crate) fn whole() -> Self {
        Self {
            access: Access::default(),
            server: None,
            lineage: Arc::default(),
            told: 0,
        }
    }

    /// Of one who is `role`, by the rules of service tenant. A server has those for it and for all servers; an upload, which is no server, every
    /// one. A rule that cannot be read refuses everything: it may hide something.
    pub(crate) fn new(role: Role, server: Option<ServerId>, rules: &[AccessRule]) -> Result<Self, Error> {
        let rules = chassis::directory::access_rules(rules).ok_or_else(|| Error::Answer {
            who: "service tenant",
            what: "an access rule that cannot be read".to_owned(),
        })?;
        Ok(Self {
            access: Access::of(role, rules),
            server,
            lineage: Arc::default(),
            told: 0,
        })
    }

    /// The same of a server of which this is known: what is hidden of a table is hidden of those that came from it.
    pub(crate) fn among(&mut self, there: &TablesResponse) {
        self.lineage = Arc::new(chassis::directory::lineage(there));
        self.told = access::told(there.descents.len(), there.descents_left_out);
    }

    /// As [`Self::among`], with what the other one knows.
    pub(crate) fn among_the_same(&mut self, other: &Self) {
        self.lineage = Arc::clone(&other.lineage);
        self.told = other.told;
    }

    /// Whether an answer that tells this has rows under no other names than those that are known here.
    pub(crate) fn covers(&self, told: u64) -> bool {
        self.is_whole() || (1..=self.told).contains(&told)
    }

    /// Whether nothing is hidden, whatever tables there are.
    pub(crate) fn is_whole(&self) -> bool {
        self.access.hides_nothing(self.server)
    }

    /// What is seen of a table.
    pub(crate) fn of(&self, schema: &str, table: &str) -> View {
        let lineage = &self.lineage;
        self.access.explain_among(self.server, schema, table, lineage).0
    }

    /// Refuses who does not see anything of one of these tables.
    pub(crate) fn sees_all<'t>(
        &self,
        tables: impl IntoIterator<Item = &'t TableFilter>,
    ) -> Result<(), Error> {
        let hidden = |table: &TableFilter| self.of(&table.schema, &table.table).is_hidden();
        if tables.into_iter().any(hidden) {
            return Err(Error::TableDenied);
        }
        Ok(())
    }
}
