//! A real server, what happens on it, and the plan made of its own log.

use std::{
    collections::BTreeMap, convert::Infallible, fs::File, io::BufReader, path::Path, process::Output,
    sync::Arc,
};

use binlog::{
    Begin, Change, Commit, Ddl, Decoder, GtidSet, Image, LogPos, Op, Position, RowChange, RowKey,
    SchemaChange, Sink, Table, file::Reader,
};
use testkit::{Engine, Schema, Server};
use types::Micros;
use undo::{Dialect, Mode, Plan, Planner};

/// Something that happened.
enum Event {
    Change(Box<Change>, bool),
    Ddl(Box<SchemaChange>),
}

/// A schema of its own on a shared server, and all that was recorded there.
pub(crate) struct Scene {
    pub(crate) server: &'static Server,
    pub(crate) schema: Schema<'static>,
    events: Vec<Event>,
}

impl Scene {
    /// A new schema in which `setup` was run, unrecorded.
    pub(crate) fn new(engine: Engine, setup: &str) -> Self {
        let server = Server::shared(engine);
        let scene = Self {
            server,
            schema: server.schema("undo"),
            events: Vec::new(),
        };
        server.sql(&scene.in_schema(setup));
        scene
    }

    fn in_schema(&self, sql: &str) -> String {
        format!(
            "USE `{}`; SET NAMES utf8mb4; SET time_zone = '+00:00'; {sql}",
            self.schema.name
        )
    }

    /// Runs `sql` and takes what the log says about it.
    pub(crate) fn record(&mut self, sql: &str, selected: bool) {
        self.record_chosen(sql, &mut |_| selected);
    }

    /// Runs `sql` and takes what the log says about it; `choose` tells which changes are to be undone.
    pub(crate) fn record_chosen(&mut self, sql: &str, choose: &mut dyn FnMut(&Table) -> bool) {
        let (path, _) = self.server.record(&self.in_schema(sql));
        let mut recorder = Recorder {
            schema: &self.schema.name,
            choose,
            transaction: None,
            ordinal: 0,
            pending: Vec::new(),
            events: &mut self.events,
        };
        read(&path, &mut recorder);
    }

    pub(crate) fn plan(&self, mode: Mode) -> Plan {
        let dialect = if self.server.engine.is_mariadb() {
            Dialect::Mariadb
        } else {
            Dialect::Mysql
        };
        let mut planner = Planner::new(dialect, mode);
        let mut tables: BTreeMap<String, Arc<Table>> = BTreeMap::new();
        for event in &self.events {
            match event {
                Event::Change(change, selected) => {
                    tables.insert(change.table.name.clone(), Arc::clone(&change.table));
                    planner.change(change, *selected).expect("a good change");
                }
                Event::Ddl(change) => planner.schema_change(change).expect("in order"),
            }
        }
        let latest: BTreeMap<String, Arc<Table>> = tables
            .into_iter()
            .map(|(name, table)| (name, self.looked_up(&table)))
            .collect();
        planner
            .finish(&|_, name| latest.get(name).cloned())
            .expect("a plan")
    }

    /// The definition with what only the server knows: which columns are generated.
    fn looked_up(&self, table: &Table) -> Arc<Table> {
        let generated = self.server.sql(&format!(
            "SELECT COLUMN_NAME FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = '{}' AND TABLE_NAME = '{}' AND GENERATION_EXPRESSION <> ''",
            self.schema.name,
            table.name.replace('\\', "\\\\").replace('\'', "''")
        ));
        let mut table = table.clone();
        for column in &mut table.columns {
            column.generated = Some(generated.lines().any(|name| name == column.name));
        }
        Arc::new(table)
    }

    /// Feeds a script to the server's own client, as the header says.
    pub(crate) fn apply(&self, script: &str, arguments: &[&str]) -> Output {
        let charset = ["--default-character-set=utf8mb4"];
        let arguments = [&charset[..], arguments].concat();
        self.server.run(script.as_bytes(), &arguments)
    }

    /// Applies a script that must succeed, silently.
    pub(crate) fn applied(&self, script: &str) {
        let output = self.apply(script, &[]);
        let told = String::from_utf8_lossy(&output.stderr);
        let statements: String = script.chars().take(4_000).collect();
        assert!(
            output.status.success(),
            "{}: {told}\n{statements}",
            self.server.engine.name()
        );
        assert_eq!((&*told, output.stdout.len()), ("", 0), "the script is silent");
    }

    /// Every value of every row of every table, exactly.
    pub(crate) fn dump(&self) -> String {
        let columns = self.server.sql(&format!(
            "SELECT HEX(TABLE_NAME), HEX(COLUMN_NAME), DATA_TYPE FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = '{}' \
             ORDER BY TABLE_NAME, ORDINAL_POSITION",
            self.schema.name
        ));
        let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in columns.lines() {
            let parts: Vec<&str> = line.split('\t').collect();
            let name = format!("`{}`", unhex(parts[1]).replace('`', "``"));
            tables.entry(unhex(parts[0])).or_default().push(match parts[2] {
                "float" | "double" => format!("{name} + 0e0"),
                "bit" | "year" => format!("{name} + 0"),
                "enum" | "set" => format!("CONCAT({name} + 0, ':', HEX(CAST({name} AS BINARY)))"),
                // Dates and strings look the same as text.
                "json" => {
                    let types = ["$", "$.d", "$.t", "$.e", "$.u", "$.b", "$.n", "$.w"];
                    let types =
                        types.map(|path| format!("COALESCE(JSON_TYPE(JSON_EXTRACT({name}, '{path}')), '-')"));
                    format!("CONCAT({}, CAST({name} AS CHAR))", types.join(", "))
                }
                _ => format!("HEX(CAST({name} AS BINARY))"),
            });
        }
        let select = |(table, columns): (String, Vec<String>)| {
            let name = table.replace('`', "``");
            format!(
                "SELECT HEX('{}'), {} FROM `{name}`;",
                table.replace('\\', "\\\\").replace('\'', "''"),
                columns.join(", ")
            )
        };
        let selects: String = tables.into_iter().map(select).collect();
        let printed = self.server.sql(&self.in_schema(&selects));
        let mut rows: Vec<&str> = printed.lines().collect();
        rows.sort_unstable();
        rows.join("\n")
    }
}

fn unhex(hex: &str) -> String {
    let bytes = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex"));
    String::from_utf8(bytes.collect()).expect("UTF-8")
}

/// Two dumps are the same; else the lines that differ are told.
pub(crate) fn same(wanted: &str, found: &str, when: &str) {
    let (wanted_lines, found_lines): (Vec<&str>, Vec<&str>) =
        (wanted.lines().collect(), found.lines().collect());
    let missing: Vec<&&str> = wanted_lines
        .iter()
        .filter(|line| !found_lines.contains(line))
        .collect();
    let surplus: Vec<&&str> = found_lines
        .iter()
        .filter(|line| !wanted_lines.contains(line))
        .collect();
    assert!(
        wanted == found,
        "{when}:\nmissing {missing:#?}\nsurplus {surplus:#?}"
    );
}

/// A plan's script as a person would read it from a file.
pub(crate) fn script(plan: &Plan) -> String {
    let mut out = Vec::new();
    plan.write_script(&mut out).expect("written");
    String::from_utf8(out).expect("UTF-8")
}

pub(crate) fn redo_script(plan: &Plan) -> String {
    let mut out = Vec::new();
    plan.write_redo(&mut out).expect("written");
    String::from_utf8(out).expect("UTF-8")
}

struct Recorder<'r> {
    schema: &'r str,
    choose: &'r mut dyn FnMut(&Table) -> bool,
    transaction: Option<Begin>,
    ordinal: u64,
    pending: Vec<Event>,
    events: &'r mut Vec<Event>,
}

impl Recorder<'_> {
    fn position(&mut self) -> Position {
        let begin = self.transaction.as_ref().expect("in a transaction");
        self.ordinal += 1;
        Position {
            epoch: 0,
            at: begin.at.clone(),
            ordinal: self.ordinal - 1,
        }
    }
}

fn stored(image: Option<Image<'_>>) -> Option<Vec<u8>> {
    image.map(|image| {
        let mut bytes = Vec::new();
        image.to_bytes(&mut bytes);
        bytes
    })
}

impl Sink for Recorder<'_> {
    type Error = Infallible;

    fn begin(&mut self, begin: &Begin) -> Result<(), Infallible> {
        self.transaction = Some(begin.clone());
        self.ordinal = 0;
        Ok(())
    }

    fn row(&mut self, row: &RowChange<'_>) -> Result<(), Infallible> {
        let position = self.position();
        if row.table.schema != self.schema {
            return Ok(());
        }
        let key = |image: Option<Image<'_>>| {
            let image = image.filter(|image| RowKey::is_in(row.table, image).expect("a good image"));
            image.map(|image| RowKey::of(row.table, &image).expect("a good image"))
        };
        let (old, new) = (key(row.before), key(row.after));
        let change = Change {
            position,
            gtid: self.transaction.as_ref().and_then(|begin| begin.gtid.clone()),
            commit_time: Micros::default(),
            thread_id: None,
            table: Arc::clone(row.table),
            schema_version: 0,
            op: row.op,
            new_key: new
                .clone()
                .filter(|new| row.op == Op::Update && Some(new) != old.as_ref()),
            key: old.or(new).expect("a key"),
            before: stored(row.before),
            after: stored(row.after),
            query: None,
        };
        let selected = (self.choose)(row.table);
        self.pending.push(Event::Change(Box::new(change), selected));
        Ok(())
    }

    fn ddl(&mut self, ddl: &Ddl<'_>) -> Result<(), Infallible> {
        let change = SchemaChange {
            position: self.position(),
            gtid: None,
            commit_time: Micros::default(),
            thread_id: None,
            targets: ddl.targets.clone(),
            default_schema: ddl.default_schema.to_owned(),
            text: ddl.text.to_owned(),
        };
        self.pending.push(Event::Ddl(Box::new(change)));
        Ok(())
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), Infallible> {
        for event in &mut self.pending {
            match event {
                Event::Change(change, _) => change.commit_time = commit.time,
                Event::Ddl(change) => change.commit_time = commit.time,
            }
        }
        self.events.append(&mut self.pending);
        Ok(())
    }

    fn rollback(&mut self, _: &LogPos) -> Result<(), Infallible> {
        self.pending.clear();
        Ok(())
    }

    fn position(&mut self, _: &LogPos) -> Result<(), Infallible> {
        Ok(())
    }

    fn previous(&mut self, _: &GtidSet) -> Result<(), Infallible> {
        Ok(())
    }
}

fn read(path: &Path, sink: &mut Recorder<'_>) {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a file name");
    let input = BufReader::new(File::open(path).expect("the log opens"));
    let mut reader = Reader::new(name, input).expect("a log");
    let mut decoder = Decoder::new(name);
    while let Some((at, event)) = reader.next_event().expect("a good log") {
        decoder.feed(at, &event, sink).expect("a good event");
    }
}
