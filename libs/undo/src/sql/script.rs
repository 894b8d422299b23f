//! Statements as a script that is applied whole or not at all.

use std::{fmt::Write as _, io};

use binlog::Position;
use ring::digest::{Context, SHA256};

use super::{
    name::Names,
    statement::{self, STRICT},
};
use crate::{Class, Dialect, Mode, Summary, transition::Transition};

/// A statement longer than this makes the header name the client's packet limit, whose default is 16 MiB.
const LONG_STATEMENT: usize = 8 << 20;

/// Which of the two scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    /// Restores the rows.
    Undo,
    /// Takes that back.
    Redo,
}

/// What is known of a script once it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// SHA-256 of everything below the header.
    pub(crate) digest: [u8; 32],
    pub(crate) statements: u64,
    /// Bytes of the longest statement with its assertion.
    longest: usize,
}

/// Everything below the header, statement by statement.
pub(crate) struct Body<'o> {
    out: &'o mut dyn io::Write,
    digest: Context,
    facts: Facts,
    buffer: String,
}

impl<'o> Body<'o> {
    /// Writes what comes before the first statement.
    pub(crate) fn begin(script: Script, out: &'o mut dyn io::Write) -> io::Result<Self> {
        let mut body = Self {
            out,
            digest: Context::new(&SHA256),
            facts: Facts::default(),
            buffer: String::new(),
        };
        let stop = format!(
            "{} STOPPED: NOTHING WAS APPLIED. The row is not as planned at statement ",
            name(script)
        );
        // One SET, so that @trail_done is not there unless everything else is.
        body.text(format_args!(
            "SET NAMES utf8mb4;\n\
             SET time_zone = '+00:00', sql_mode = '{STRICT}',\n    \
             foreign_key_checks = 1, unique_checks = 1, autocommit = 1,\n    \
             @trail_done = 0, @trail_stop = '{stop}';\n\
             START TRANSACTION;\n"
        ))?;
        Ok(body)
    }

    /// Writes one statement and its assertion.
    pub(crate) fn statement(&mut self, transition: &Transition<'_>, names: &Names) -> io::Result<()> {
        self.facts.statements += 1;
        self.buffer.clear();
        statement::write(transition, names, self.facts.statements, &mut self.buffer);
        self.facts.longest = self.facts.longest.max(self.buffer.len());
        self.flush()
    }

    /// Writes what comes after the last statement.
    pub(crate) fn end(mut self, script: Script) -> io::Result<Facts> {
        let (all, name) = (self.facts.statements, name(script));
        // COMMIT itself takes no condition, so it is prepared from a text that does. The last SET says it again for `--force`, under
        // which the client ends as if all were well.
        self.text(format_args!(
            "SET @trail_end = IF(@trail_done = {all}, 'COMMIT', 'ROLLBACK');\n\
             PREPARE trail_end FROM @trail_end;\n\
             EXECUTE trail_end;\n\
             DEALLOCATE PREPARE trail_end;\n\
             SET sql_mode = IF(@trail_done = {all}, @@sql_mode, '{name} STOPPED: NOTHING WAS APPLIED');\n"
        ))?;
        let mut facts = self.facts;
        facts.digest.copy_from_slice(self.digest.finish().as_ref());
        Ok(facts)
    }

    fn text(&mut self, text: std::fmt::Arguments<'_>) -> io::Result<()> {
        self.buffer.clear();
        // Writing to a String cannot fail.
        let _ = self.buffer.write_fmt(text);
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        self.digest.update(self.buffer.as_bytes());
        self.out.write_all(self.buffer.as_bytes())
    }
}

fn name(script: Script) -> &'static str {
    match script {
        Script::Undo => "UNDO",
        Script::Redo => "REDO",
    }
}

/// What the header tells.
#[derive(Debug)]
pub(crate) struct Header<'p> {
    pub(crate) script: Script,
    pub(crate) dialect: Dialect,
    pub(crate) mode: Mode,
    pub(crate) summary: &'p Summary,
    pub(crate) facts: Facts,
    /// Statements of the other script, by digest.
    pub(crate) inverse: [u8; 32],
}

/// Writes the comment a script begins with. It holds numbers and our own words only: a comment is no place for names or values, which
/// may hold anything, and no place for quotes or semicolons, which clients have been known to read.
pub(crate) fn write_header(header: &Header<'_>, out: &mut dyn io::Write) -> io::Result<()> {
    let mut lines = Vec::new();
    about(header, &mut lines);
    use_of(header, &mut lines);
    let file = if header.script == Script::Undo {
        "undo.sql"
    } else {
        "redo.sql"
    };
    // Four more lines follow.
    let length = lines.len() + 4;
    lines.push(format!(
        "SHA-256 of everything below line {length}, as given by: tail -n +{} {file} | sha256sum",
        length + 1
    ));
    lines.push(format!("  {}", hex(&header.facts.digest)));
    lines.push(format!(
        "The script that takes this one back has, below its header, {}",
        hex(&header.inverse)
    ));
    lines.push(String::new());
    for line in lines {
        writeln!(out, "{}", format!("-- {line}").trim_end())?;
    }
    Ok(())
}

fn about(header: &Header<'_>, lines: &mut Vec<String>) {
    let Header {
        script,
        dialect,
        mode,
        summary,
        facts,
        ..
    } = header;
    let server = match dialect {
        Dialect::Mysql => "MySQL",
        Dialect::Mariadb => "MariaDB",
    };
    lines.push(match script {
        Script::Undo => format!(
            "Trailmesh undo script for {server}: restores rows to what they were before the selected changes."
        ),
        Script::Redo => format!(
            "Trailmesh redo script for {server}: takes back what the undo script of the same plan did."
        ),
    });
    let left = summary.changes - summary.included;
    let (done, rest) = match script {
        Script::Undo => (
            "Undone here",
            if left > 0 {
                ", listed in the plan with the reason."
            } else {
                "."
            },
        ),
        Script::Redo => ("Undone by the undo script, and taken back here", "."),
    };
    lines.push(format!(
        "Selected changes: {}. {done}: {}, in {} statements. Left as they are: {left}{rest}",
        summary.changes, summary.included, facts.statements
    ));
    let classes: Vec<String> = Class::ALL
        .iter()
        .map(|class| format!("{class} {}", summary.of(*class)))
        .collect();
    lines.push(format!("By class: {}.", classes.join(", ")));
    lines.push(match mode {
        Mode::Safe => "Mode: safe. No value that a later change wrote is overwritten.".to_owned(),
        Mode::Force => "Mode: force. Values that later changes wrote are overwritten where the plan says overlap, newer ones are not.".to_owned(),
    });
    lines.push(format!(
        "Selected between [{}] and [{}], history known up to [{}].",
        place(summary.first.as_ref()),
        place(summary.last.as_ref()),
        place(summary.until.as_ref())
    ));
}

fn use_of(header: &Header<'_>, lines: &mut Vec<String>) {
    let client = match header.dialect {
        Dialect::Mysql => "mysql",
        Dialect::Mariadb => "mariadb",
    };
    let (file, stopped) = match header.script {
        Script::Undo => ("undo.sql", "UNDO STOPPED"),
        Script::Redo => ("redo.sql", "REDO STOPPED"),
    };
    let packet = if header.facts.longest > LONG_STATEMENT {
        " --max-allowed-packet=1G"
    } else {
        ""
    };
    lines.push(String::new());
    lines.push("Apply it in a session of its own, as a user who may change these tables:".to_owned());
    lines.push(format!(
        "  {client} --default-character-set=utf8mb4{packet} < {file}"
    ));
    lines.push("It is one transaction, applied whole or not at all. Each statement must find exactly the row the plan was made".to_owned());
    lines.push(format!("for. If one does not, the client stops with error 1231 and a text that begins with {stopped}, and nothing"));
    lines.push(
        "is applied: a row has changed since the plan was made. Make a new plan, do not edit this script."
            .to_owned(),
    );
    lines.push(
        "The same holds if the client is told to go on after errors, or loses its connection.".to_owned(),
    );
    lines.push("Tables must be of a transactional engine (InnoDB). Triggers fire and foreign keys act as for any statement.".to_owned());
    if !packet.is_empty() {
        lines.push(format!(
            "The server must allow packets of {} bytes too (max_allowed_packet).",
            header.facts.longest
        ));
    }
    lines.push(String::new());
}

/// A position in numbers; a log file by the number it ends in, because its name is the server owner's choice.
fn place(position: Option<&Position>) -> String {
    let Some(Position { epoch, at, ordinal }) = position else {
        return "nowhere".to_owned();
    };
    let log = at
        .file
        .number()
        .map_or_else(|| "?".to_owned(), |number| number.to_string());
    format!("epoch {epoch}, log {log}, offset {}, change {ordinal}", at.offset)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
