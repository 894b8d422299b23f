//! A sink that keeps everything, and reading whole files into it.

use std::{convert::Infallible, fs::File, io::BufReader, path::Path};

use binlog::{
    Begin, Commit, Ddl, DdlTarget, Decoder, GtidSet, Image, LogPos, Op, RowChange, Sink,
    file::{ReadError, Reader},
};

/// One row as decoded: column by column, the value and the raw bytes.
pub(crate) struct Row {
    pub(crate) op: Op,
    pub(crate) table: std::sync::Arc<binlog::Table>,
    pub(crate) before: Option<Vec<u8>>,
    pub(crate) after: Option<Vec<u8>>,
    pub(crate) query: Option<String>,
}

#[derive(Default)]
pub(crate) struct Collected {
    pub(crate) begins: Vec<Begin>,
    pub(crate) commits: Vec<Commit>,
    pub(crate) rows: Vec<Row>,
    pub(crate) statements: Vec<String>,
    /// The tables that each of them is about.
    pub(crate) targets: Vec<Vec<DdlTarget>>,
    pub(crate) rollbacks: usize,
    pub(crate) positions: Vec<LogPos>,
    pub(crate) previous: Vec<GtidSet>,
}

fn stored(image: Option<Image<'_>>) -> Option<Vec<u8>> {
    image.map(|image| {
        let mut bytes = Vec::new();
        image.to_bytes(&mut bytes);
        bytes
    })
}

impl Sink for Collected {
    type Error = Infallible;

    fn begin(&mut self, begin: &Begin) -> Result<(), Infallible> {
        assert_eq!(
            self.begins.len(),
            self.commits.len() + self.rollbacks,
            "a transaction begins within another"
        );
        self.begins.push(begin.clone());
        Ok(())
    }

    fn row(&mut self, row: &RowChange<'_>) -> Result<(), Infallible> {
        self.rows.push(Row {
            op: row.op,
            table: row.table.clone(),
            before: stored(row.before),
            after: stored(row.after),
            query: row.query.map(|text| text.to_string()),
        });
        Ok(())
    }

    fn ddl(&mut self, ddl: &Ddl<'_>) -> Result<(), Infallible> {
        self.statements.push(ddl.text.to_owned());
        self.targets.push(ddl.targets.clone());
        Ok(())
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), Infallible> {
        self.commits.push(commit.clone());
        Ok(())
    }

    fn rollback(&mut self, _: &LogPos) -> Result<(), Infallible> {
        self.rollbacks += 1;
        Ok(())
    }

    fn position(&mut self, next: &LogPos) -> Result<(), Infallible> {
        self.positions.push(next.clone());
        Ok(())
    }

    fn previous(&mut self, gtids: &GtidSet) -> Result<(), Infallible> {
        self.previous.push(gtids.clone());
        Ok(())
    }
}

/// Feeds everything in `reader` to `sink`.
pub(crate) fn read<R: std::io::Read>(name: &str, input: R, sink: &mut Collected) -> Result<Decoder, String> {
    let mut reader = Reader::new(name, input).map_err(explain)?;
    let mut decoder = Decoder::new(name);
    while let Some((at, event)) = reader.next_event().map_err(explain)? {
        decoder
            .feed(at, &event, sink)
            .map_err(|error| error.to_string())?;
    }
    Ok(decoder)
}

fn explain(error: ReadError) -> String {
    error.to_string()
}

/// Decodes the file at `path`.
pub(crate) fn read_file(path: &Path) -> Collected {
    let mut sink = Collected::default();
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a file name");
    read(
        name,
        BufReader::new(File::open(path).expect("the log opens")),
        &mut sink,
    )
    .expect("the log decodes");
    sink
}
