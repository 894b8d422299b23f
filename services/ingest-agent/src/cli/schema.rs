//! `schema schema.table`: a table's columns, and how its definition came to be.

use std::{path::Path, sync::Arc};

use answer::question::exists;
use binlog::{SchemaChange, Table};
use serde::Serialize;
use trail::Filter;
use types::Code;

use super::{
    args, cover,
    list::store_fault,
    report::{print, print_json},
};
use crate::{
    error::Error,
    exit::Exit,
    render::{
        ReportFormat,
        grid::Grid,
        screen::{Screen, Style},
        text::{fit, one_line, visible},
    },
};

#[derive(Serialize)]
struct Report {
    schema: String,
    table: String,
    versions: Vec<VersionReport>,
    statements: Vec<StatementReport>,
}

#[derive(Serialize)]
struct VersionReport {
    schema_version: u32,
    columns: Vec<ColumnReport>,
    key: Vec<String>,
}

#[derive(Serialize)]
struct ColumnReport {
    name: String,
    #[serde(rename = "type")]
    ty: String,
    nullable: bool,
    invisible: bool,
    generated: Option<bool>,
    on_update: Option<bool>,
}

#[derive(Serialize)]
struct StatementReport {
    file: String,
    offset: u64,
    gtid: Option<String>,
    commit_time: String,
    statement: String,
}

/// `trail schema`.
pub(super) fn schema(store: &Path, args: &args::Schema) -> Result<Exit, Error> {
    let reader = super::open(store)?;
    let Some(table) = &args.table.table else {
        return Err(
            Error::new(Code::Invalid, &args.table, "this command is about one table")
                .hint("trail tables lists them"),
        );
    };
    exists(&reader, &args.table)?;
    let versions = reader.versions(&args.table.schema, table);
    let filter = Filter {
        tables: vec![args.table.filter()],
        ..Filter::default()
    };
    let statements = reader
        .schema_changes(&filter)
        .map_err(|error| store_fault(&error))?;
    match args.report.format {
        ReportFormat::Table => print(&describe(&versions, &statements))?,
        format => print_json(
            &Report {
                schema: args.table.schema.clone(),
                table: table.clone(),
                versions: versions
                    .iter()
                    .map(|(id, version)| version_report(*id, version))
                    .collect(),
                statements: statements.iter().map(statement_report).collect(),
            },
            format,
        )?,
    }
    Ok(cover::tell(&reader, &reader.coverage_of(&filter)))
}

fn key_columns(table: &Table) -> Vec<String> {
    let name = |part: &binlog::KeyPart| {
        table
            .columns
            .get(part.column as usize)
            .map(|column| column.name.clone())
    };
    table.key.iter().filter_map(name).collect()
}

fn version_report(schema_version: u32, table: &Table) -> VersionReport {
    let columns = table.columns.iter().map(|column| ColumnReport {
        name: column.name.clone(),
        ty: column.ty.sql_name(),
        nullable: column.nullable,
        invisible: column.invisible,
        generated: column.generated,
        on_update: column.on_update,
    });
    VersionReport {
        schema_version,
        columns: columns.collect(),
        key: key_columns(table),
    }
}

fn statement_report(change: &SchemaChange) -> StatementReport {
    StatementReport {
        file: change.position.at.file.as_str().to_owned(),
        offset: change.position.at.offset,
        gtid: change.gtid.as_ref().map(ToString::to_string),
        commit_time: change.commit_time.to_string(),
        statement: change.text.clone(),
    }
}

/// The newest definition, what each older one differed in, and the statements.
fn describe(versions: &[(u32, Arc<Table>)], statements: &[SchemaChange]) -> String {
    let screen = Screen::stdout();
    let bold = |text: &str| Style::Bold.paint(&visible(text), screen.colour);
    let mut out = String::new();
    if let Some((id, table)) = versions.last() {
        out.push_str(&format!("{} (definition {id})\n", bold(&table.full_name())));
        out.push_str(&columns(table).text(screen));
        let key = key_columns(table);
        let key = if key.is_empty() {
            "none: rows are known by all their columns".to_owned()
        } else {
            key.join(", ")
        };
        out.push_str(&format!("primary key: {}\n", visible(&key)));
    }
    for pair in versions.windows(2).rev() {
        let ((old_id, old), (new_id, new)) = (&pair[0], &pair[1]);
        out.push_str(&bold(&format!("definition {old_id} → {new_id}")));
        out.push('\n');
        for line in differences(old, new) {
            out.push_str(&format!("  {}\n", visible(&line)));
        }
    }
    if !statements.is_empty() {
        out.push_str(&bold("statements"));
        out.push('\n');
    }
    for change in statements {
        let text = one_line(&change.text);
        let line = format!("  {}  {}  {text}", change.commit_time, change.position.at);
        out.push_str(&fit(&visible(&line), screen.width.unwrap_or(usize::MAX)));
        out.push('\n');
    }
    out
}

fn columns(table: &Table) -> Grid {
    let mut grid = Grid::new(&["COLUMN", "TYPE", "NULL", ""]);
    for column in &table.columns {
        let marks = [
            (column.invisible, "invisible"),
            (column.generated == Some(true), "generated"),
            (column.on_update == Some(true), "on update"),
        ];
        let marks: Vec<&str> = marks
            .into_iter()
            .filter(|(on, _)| *on)
            .map(|(_, mark)| mark)
            .collect();
        let null = if column.nullable { "yes" } else { "no" };
        grid.row([
            column.name.clone(),
            column.ty.sql_name(),
            null.to_owned(),
            marks.join(", "),
        ]);
    }
    grid
}

/// What the newer definition has that the older had not, and the reverse, by the columns' names.
fn differences(old: &Table, new: &Table) -> Vec<String> {
    let kind = |column: &binlog::Column| {
        format!(
            "{}{}",
            column.ty.sql_name(),
            if column.nullable { "" } else { " not null" }
        )
    };
    let mut lines = Vec::new();
    for column in &new.columns {
        match old.column(&column.name).map(|index| &old.columns[index]) {
            None => lines.push(format!("+ {} {}", column.name, kind(column))),
            Some(before) if kind(before) != kind(column) => {
                lines.push(format!("~ {} {} → {}", column.name, kind(before), kind(column)))
            }
            Some(_) => {}
        }
    }
    lines.extend(
        old.columns
            .iter()
            .filter(|column| new.column(&column.name).is_none())
            .map(|column| format!("- {} {}", column.name, kind(column))),
    );
    if key_columns(old) != key_columns(new) {
        lines.push(format!(
            "~ primary key ({}) → ({})",
            key_columns(old).join(", "),
            key_columns(new).join(", ")
        ));
    }
    if lines.is_empty() {
        lines.push("the order of the columns, or a character set".to_owned());
    }
    lines
}
