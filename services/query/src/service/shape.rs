//! What an agent's message may look like, so that its bytes say how much memory it takes once it is read: an empty message in a list is two bytes
//! on the wire and hundreds in memory. Fields are counted, down to where lists end, before anything is read.

use std::ops::Range;

use bytes::Bytes;
use prost::Message;
use proto::{agent::v1 as agent, change::v1 as pb};

use super::frame::{Torn, field};

/// A message: how many fields it may have, and which of them are messages with lists of their own.
#[derive(Debug)]
pub(super) struct Shape {
    most: usize,
    inner: &'static [(u32, &'static Shape)],
}

/// Columns of a table, of MySQL 4,096, with room for the other fields of a message.
const COLUMNS: usize = 4_200;

/// Fields of all levels together.
const ALL: usize = 1_000_000;

const fn of(most: usize, inner: &'static [(u32, &'static Shape)]) -> Shape {
    Shape { most, inner }
}

static ROW: Shape = of(COLUMNS, &[]);
static CHANGE: Shape = of(3 * COLUMNS, &[(8, &ROW), (9, &ROW), (10, &ROW)]);
static STATEMENT: Shape = of(2_000, &[]);
static COVERAGE: Shape = of(20_000, &[]);
static END: Shape = of(10, &[(2, &COVERAGE)]);
static TABLE: Shape = of(2 * COLUMNS, &[]);
static TABLES: Shape = of(200_000, &[(1, &TABLE), (2, &TABLE), (3, &DESCENT)]);
static DESCENT: Shape = of(10, &[(1, &PLAIN), (2, &PLAIN)]);
static STATEMENTS: Shape = of(1_010, &[(1, &STATEMENT), (2, &END)]);
static COUNT: Shape = of(100_000, &[(3, &COVERAGE)]);
static COVERED: Shape = of(10, &[(1, &COVERAGE)]);
static PLAIN: Shape = of(100, &[]);
static CHANGES: Shape = of(super::frame::FIELDS, &[(1, &CHANGE), (2, &END)]);

/// A message of which it is known what it may look like.
pub(super) trait Shaped: Message + Default {
    /// Which.
    const SHAPE: &'static Shape;
    /// Its most bytes.
    const BYTES: usize;
}

macro_rules! shaped {
    ($($message:ty: $shape:ident, $bytes:expr;)*) => {
        $(impl Shaped for $message {
            const SHAPE: &'static Shape = &$shape;
            const BYTES: usize = $bytes;
        })*
    };
}

shaped! {
    pb::Change: CHANGE, 16 << 20;
    pb::SchemaChange: STATEMENT, 16 << 20;
    pb::Position: PLAIN, 4 << 10;
    agent::End: END, 4 << 20;
    agent::ChangesResponse: CHANGES, 16 << 20;
    agent::TablesResponse: TABLES, 16 << 20;
    agent::SchemaChangesResponse: STATEMENTS, 16 << 20;
    agent::CountResponse: COUNT, 8 << 20;
    agent::CoverageResponse: COVERED, 4 << 20;
    agent::StatusResponse: PLAIN, 64 << 10;
}

/// Reads a message that may take so much memory.
pub(super) fn read<M: Shaped>(bytes: Bytes) -> Result<M, Torn> {
    check::<M>(&bytes)?;
    M::decode(bytes).map_err(|_| Torn)
}

/// Whether a message may be read.
pub(super) fn check<M: Shaped>(bytes: &[u8]) -> Result<(), Torn> {
    if bytes.len() > M::BYTES {
        return Err(Torn);
    }
    let mut left = ALL;
    walk(bytes, 0..bytes.len(), M::SHAPE, &mut left)
}

/// Shapes do not hold themselves: this goes as deep as they do.
fn walk(bytes: &[u8], within: Range<usize>, shape: &Shape, left: &mut usize) -> Result<(), Torn> {
    let bytes = bytes.get(..within.end).ok_or(Torn)?;
    let (mut at, mut count) = (within.start, 0);
    while at < bytes.len() {
        let field = field(bytes, at)?;
        at = field.whole.end;
        count += 1;
        *left = left.checked_sub(1).ok_or(Torn)?;
        if count > shape.most {
            return Err(Torn);
        }
        let inner = shape.inner.iter().find(|(number, _)| *number == field.number);
        if let (Some((_, inner)), Some(content)) = (inner, field.content) {
            walk(bytes, content, inner, left)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message as _;
    use proto::{agent::v1 as agent, change::v1 as pb};

    use super::{Shaped, read};

    /// So many empty messages as this field.
    fn empty(number: u8, count: usize) -> Vec<u8> {
        [number << 3 | 2, 0].repeat(count)
    }

    fn within(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        prost::encode_length_delimiter(content.len(), &mut out).unwrap();
        out.extend_from_slice(content);
        out
    }

    fn reads<M: Shaped>(bytes: Vec<u8>) -> bool {
        read::<M>(Bytes::from(bytes)).is_ok()
    }

    #[test]
    fn a_message_that_is_larger_in_memory_than_on_the_wire_is_not_read() {
        let many = 3 << 20;
        assert!(!reads::<agent::TablesResponse>(empty(1, many)));
        assert!(!reads::<agent::CountResponse>(empty(1, many)));
        assert!(!reads::<agent::SchemaChangesResponse>(empty(1, many)));
        assert!(!reads::<agent::ChangesResponse>(empty(1, many)));
        assert!(!reads::<agent::StatusResponse>(empty(2, many)));
        // In the tables, the rows, what an answer rests on.
        assert!(!reads::<agent::TablesResponse>(within(1, &empty(9, 10_000))));
        assert!(!reads::<agent::TablesResponse>(
            within(1, &empty(9, 5_000)).repeat(250)
        ));
        for row in [8, 9, 10] {
            assert!(!reads::<pb::Change>(within(row, &empty(1, 5_000))));
        }
        assert!(!reads::<agent::CoverageResponse>(within(1, &empty(5, 30_000))));
        assert!(!reads::<agent::End>(within(2, &empty(5, 30_000))));
        assert!(!reads::<pb::SchemaChange>(empty(5, 3_000)));
    }

    #[test]
    fn the_largest_of_what_there_is_is_read() {
        let columns: Vec<String> = (0..4_096).map(|number| format!("column_{number}")).collect();
        let cells = columns.iter().map(|column| pb::Cell {
            column: column.clone(),
            value: None,
        });
        let row = Some(pb::Row {
            cells: cells.collect(),
        });
        let change = pb::Change {
            key: row.clone(),
            before: row.clone(),
            after: row,
            changed: columns.clone(),
            redacted: columns.clone(),
            ..pb::Change::default()
        };
        assert!(reads::<pb::Change>(change.encode_to_vec()));
        let table = |number| pb::TableSummary {
            schema: "shop".into(),
            table: format!("orders_{number}"),
            columns: columns.iter().take(50).cloned().collect(),
            ..pb::TableSummary::default()
        };
        let tables = agent::TablesResponse {
            tables: (0..15_000).map(table).collect(),
            ..agent::TablesResponse::default()
        };
        assert!(reads::<agent::TablesResponse>(tables.encode_to_vec()));
    }
}
