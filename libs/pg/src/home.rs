//! Whose database this is. A service that was told the wrong one would write one region's data into another's.

use std::fmt;

use sqlx::{Executor, Postgres};
use types::Region;

use crate::Error;

/// A part of the installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    /// Where the data lives.
    pub region: Region,
    /// Which of the region's cells.
    pub cell: String,
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, cell {}", self.region.word(), self.cell)
    }
}

/// Marks the database where it has no mark, and compares it where it has one; in a transaction on the shared side.
pub(crate) async fn settle<'c>(
    connection: impl Executor<'c, Database = Postgres>,
    wanted: &Home,
) -> Result<(), Error> {
    let query = sqlx::query_as("SELECT marked_region, marked_cell FROM trailmesh.settle($1, $2)")
        .bind(wanted.region.word())
        .bind(&wanted.cell)
        .persistent(false);
    let (region, cell): (String, String) = query.fetch_one(connection).await?;
    if region == wanted.region.word() && cell == wanted.cell {
        return Ok(());
    }
    Err(Error::Elsewhere {
        marked: format!("{region}, cell {cell}"),
        wanted: wanted.clone(),
    })
}
