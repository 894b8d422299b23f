//! What is copied before the fence: rows that are large ([`Table::ahead`]), as those of uploads are. In rounds: all of them; then what has changed
//! since the round before, until that is little. For the fence stays what has changed since the last round.
//!
//! A round is one moment of the source and one transaction of the destination. The copy is noted as this run's. Another run begins by taking it
//! away, when this one is not at the end of its fence; then this one finds another note, or none, and stops. Transactions of the destination wait
//! for each other.

use std::fmt;

use pg::archive::{Begin, Moment, Rows, Table};
use serde_json::Value;
use tenant::operator::travel;
use types::TenantId;

use super::{
    super::{
        Error,
        content::{ARRIVING, Landing, SHARED},
    },
    Move,
};

/// Rounds at most: who writes faster than they are copied is copied from behind the fence.
const ROUNDS: u32 = 8;
/// Bytes that are little, as JSON.
const LITTLE: u64 = 16 << 20;

/// What has been copied.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Carried {
    pub(super) rows: u64,
    /// As JSON.
    pub(super) bytes: u64,
}

impl Carried {
    pub(super) fn add(&mut self, rows: &[String]) {
        self.rows += rows.len() as u64;
        self.bytes += rows.iter().map(|row| row.len() as u64).sum::<u64>();
    }
}

/// Of which run a copy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark(u64);

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ARRIVING} {:016x}", self.0)
    }
}

/// What is at the destination already.
pub(super) struct Ahead {
    pub(super) mark: Mark,
    tables: Vec<Table>,
    /// As the source was then.
    moment: Moment,
}

impl Ahead {
    /// Since when a table's rows have to be followed, if they are at the destination.
    pub(super) fn since(&self, table: &Table) -> Option<&Moment> {
        self.tables.contains(table).then_some(&self.moment)
    }
}

impl Move<'_> {
    /// Rounds, from the first to the last.
    pub(super) async fn copy_ahead(&mut self) -> Result<Ahead, Error> {
        let (mark, tables) = self.patiently(async |run| run.make_place().await).await?;
        let (mut moment, mut carried) = self.round(&mark, &tables, None).await?;
        for _ in 1..ROUNDS {
            if carried.bytes <= LITTLE {
                break;
            }
            (moment, carried) = self.round(&mark, &tables, Some(&moment)).await?;
        }
        Ok(Ahead { mark, tables, moment })
    }

    /// Makes the tenant's schema at the destination, without the copies of runs before. The source's row of the tenant is held: a run that is about
    /// to make its copy the tenant holds it too.
    async fn make_place(&mut self) -> Result<(Mark, Vec<Table>), Error> {
        self.source.begin(Begin::Write).await?;
        self.hold_standing().await?;
        let mut tables = self.source.tables(self.tenant, &SHARED).await?;
        tables.retain(|table| table.ahead);
        self.discard().await?;
        let mark = Mark(rand::random());
        self.target.begin(Begin::Write).await?;
        travel::hold_import(self.target.connection(), self.tenant).await?;
        if let Some(standing) = travel::standing(self.target.connection(), self.tenant, false).await?
            && standing.state != "moved"
        {
            return Err(Error::Exists(self.tenant, standing.state));
        }
        if self.target.has_schema(self.tenant).await? {
            return Err(Error::Exists(self.tenant, "with a schema of its own".to_owned()));
        }
        self.target.create_schema(self.tenant).await?;
        self.target.set_note(self.tenant, Some(&mark.to_string())).await?;
        self.target.commit().await?;
        self.source.rollback().await?;
        Ok((mark, tables))
    }

    /// Begins to write at the destination, if what is there is this run's.
    pub(super) async fn land(&mut self, mark: &Mark) -> Result<(), Error> {
        self.target.begin(Begin::Write).await?;
        travel::hold_import(self.target.connection(), self.tenant).await?;
        let note = self.target.note(self.tenant).await?;
        if note != Some(mark.to_string()) {
            return Err(Error::Overtaken(self.tenant));
        }
        Ok(())
    }

    async fn round(
        &mut self,
        mark: &Mark,
        tables: &[Table],
        since: Option<&Moment>,
    ) -> Result<(Moment, Carried), Error> {
        self.source.begin(Begin::Read).await?;
        let moment = self.source.moment(tables, self.tenant).await?;
        self.land(mark).await?;
        let mut landing = Landing::begin_ahead(&mut self.target, self.tenant, &self.to.settings.cell).await?;
        let mut carried = Carried::default();
        for table in tables {
            let label = table.label();
            let before = carried;
            follow(
                &mut self.source,
                &mut landing,
                table,
                self.tenant,
                since,
                &mut carried,
            )
            .await?;
            let rows = carried.rows - before.rows;
            let facts = [("table", label.clone().into()), ("rows", rows.into())];
            self.telling
                .step("ahead", &format!("{label}: {rows} rows before the fence"), &facts);
        }
        landing.verify_rows().await?;
        self.target.commit().await?;
        self.source.rollback().await?;
        let facts: [(&str, Value); 2] = [("rows", carried.rows.into()), ("bytes", carried.bytes.into())];
        let sentence = format!(
            "{} rows are there before the fence, and are what was read",
            carried.rows
        );
        self.telling.step("prepared", &sentence, &facts);
        Ok((moment, carried))
    }
}

/// Makes a table's copy what the source has: one that is not begun, or one that is as the source was at a moment.
pub(super) async fn follow(
    source: &mut pg::archive::Admin,
    landing: &mut Landing<'_>,
    table: &Table,
    tenant: TenantId,
    since: Option<&Moment>,
    carried: &mut Carried,
) -> Result<(), Error> {
    let label = table.label();
    let which = since.map_or(Rows::All, Rows::Since);
    let put = async |rows: Vec<String>| -> Result<(), Error> {
        carried.add(&rows);
        match since {
            None => landing.rows(&label, rows).await,
            Some(_) => landing.replace(&label, &rows).await,
        }
    };
    source.each(table, tenant, which, put).await?;
    match since {
        None => Ok(()),
        Some(_) => landing.keep_what_is_at(source, &label).await,
    }
}
