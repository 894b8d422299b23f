//! QUERY events: what kind of statement a text is, and which tables it defines anew.
//!
//! This is no SQL parser. It must not be fooled about three things: whether a text begins or ends a transaction, whether it changes rows
//! (statement-based logging, which cannot be followed), and which tables a definition statement names.

mod descent;
mod token;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{Charset, error::Problem, read::Bytes};

use token::{Escapes, TOKENS_MAX, Token, Walk};

pub use descent::{Descended, Descent, descents};

/// A table a statement defines anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DdlTarget {
    /// Its schema.
    pub schema: String,
    /// Its name; none when the statement is about the whole schema.
    pub table: Option<String>,
    /// What the statement does with it.
    pub kind: Statement,
}

/// What a definition statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statement {
    /// The table comes to be (or is replaced).
    Create,
    /// Its definition changes; creating and dropping an index count here.
    Alter,
    /// It goes, with all its rows.
    Drop,
    /// It goes under this name, or comes to be under it.
    Rename,
    /// All its rows go.
    Truncate,
    /// Anything else that changes no row.
    Other,
}

/// A QUERY event taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Query<'a> {
    pub(crate) thread_id: u32,
    pub(crate) schema: Cow<'a, str>,
    pub(crate) text: Cow<'a, str>,
    escapes: Escapes,
}

/// What a statement means for the transaction it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Begin,
    Commit,
    Rollback,
    RollbackTo,
    Savepoint,
    XaStart,
    XaEnd,
    Xa,
    /// It changes rows.
    Rows,
    /// It changes something else.
    Definition,
    /// Nobody here knows what it changes.
    Unknown,
}

const STATUS_FLAGS2: u8 = 0;
const STATUS_SQL_MODE: u8 = 1;
const STATUS_AUTO_INCREMENT: u8 = 3;
const STATUS_CHARSET: u8 = 4;
const STATUS_CATALOG: u8 = 6;

impl<'a> Query<'a> {
    /// Body: thread id u32, execution time u32, schema length u8, error u16, status length u16, status, schema, NUL, text.
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, Problem> {
        let mut bytes = Bytes(body);
        let thread_id = bytes.u32()?;
        bytes.u32()?;
        let schema_len = usize::from(bytes.u8()?);
        bytes.u16()?;
        let status_len = usize::from(bytes.u16()?);
        let status = Status::parse(bytes.take(status_len)?);
        let schema = String::from_utf8_lossy(bytes.take(schema_len)?);
        bytes.u8()?;
        let text = status
            .charset
            .and_then(|charset| charset.decode(bytes.0))
            .unwrap_or_else(|| String::from_utf8_lossy(bytes.0));
        Ok(Self {
            thread_id,
            schema,
            text,
            escapes: status.sql_mode.map_or_else(Escapes::default, Escapes::of),
        })
    }

    /// What it means for its transaction.
    pub(crate) fn role(&self) -> Role {
        role(&self.text, self.escapes)
    }

    /// The tables it defines anew, as far as it can be told.
    pub(crate) fn targets(&self) -> Vec<DdlTarget> {
        targets(&self.text, &self.schema, self.escapes)
    }
}

/// What stands before a statement and says how to read it.
#[derive(Debug, Default)]
struct Status {
    sql_mode: Option<u64>,
    charset: Option<Charset>,
}

impl Status {
    /// From the status variables (`Query_log_event::Query_event`, in the order that servers write them in), up to one that is none of these.
    fn parse(variables: &[u8]) -> Self {
        let mut status = Self::default();
        // What is cut short says nothing.
        let _ = status.fill(&mut Bytes(variables));
        status
    }

    fn fill(&mut self, bytes: &mut Bytes<'_>) -> Result<(), Problem> {
        loop {
            let skip = match bytes.u8()? {
                STATUS_CHARSET => {
                    self.charset = Some(Charset::new(bytes.u16()?));
                    return Ok(());
                }
                STATUS_SQL_MODE => {
                    self.sql_mode = Some(bytes.u64()?);
                    continue;
                }
                STATUS_FLAGS2 | STATUS_AUTO_INCREMENT => 4,
                STATUS_CATALOG => usize::from(bytes.u8()?),
                _ => return Ok(()),
            };
            bytes.take(skip)?;
        }
    }
}

fn role(text: &str, escapes: Escapes) -> Role {
    // The server writes these itself, exactly so.
    match text {
        "BEGIN" => return Role::Begin,
        "COMMIT" => return Role::Commit,
        "ROLLBACK" => return Role::Rollback,
        _ => {}
    }
    let head = token::read(text, 8, escapes).tokens;
    // A parenthesis may open a statement: `(SELECT …)`.
    let opened = head
        .iter()
        .take_while(|token| **token == Token::Mark('('))
        .count();
    let mut walk = Walk(&head[opened..]);
    let all = if walk.has_settings() {
        token::read(text, TOKENS_MAX, escapes).tokens
    } else {
        Vec::new()
    };
    if walk.has_settings() {
        walk = Walk(&all);
        walk.skip_settings();
    }
    let is = |nth: usize, word: &str| walk.word(nth).eq_ignore_ascii_case(word);
    match walk.word(0).to_ascii_uppercase().as_str() {
        "BEGIN" => Role::Begin,
        "START" if is(1, "TRANSACTION") => Role::Begin,
        "COMMIT" => Role::Commit,
        "ROLLBACK" if is(1, "TO") => Role::RollbackTo,
        "ROLLBACK" => Role::Rollback,
        "SAVEPOINT" | "RELEASE" => Role::Savepoint,
        "XA" if is(1, "START") || is(1, "BEGIN") => Role::XaStart,
        "XA" if is(1, "END") => Role::XaEnd,
        "XA" => Role::Xa,
        "INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "LOAD" | "WITH" | "SELECT" | "CALL" | "DO" | "TABLE"
        | "VALUES" => Role::Rows,
        // MariaDB runs the statement it analyses.
        "ANALYZE" if !is(1, "TABLE") && !is(1, "LOCAL") && !is(1, "NO_WRITE_TO_BINLOG") => Role::Rows,
        "CREATE" if fills_a_table(text, escapes) => Role::Rows,
        "" | "CREATE" | "ALTER" | "DROP" | "RENAME" | "TRUNCATE" | "GRANT" | "REVOKE" | "SET" | "FLUSH"
        | "ANALYZE" | "OPTIMIZE" | "REPAIR" | "CHECK" | "INSTALL" | "UNINSTALL" => Role::Definition,
        _ => Role::Unknown,
    }
}

/// Whether it is a CREATE TABLE that takes its rows from a query. Logging rows, servers write the two apart, so this is logging statements.
fn fills_a_table(text: &str, escapes: Escapes) -> bool {
    let all = token::read(text, TOKENS_MAX, escapes).tokens;
    let mut walk = Walk(&all);
    walk.skip_settings();
    walk.skip(&["CREATE"]);
    walk.skip_all(&["OR", "REPLACE", "TEMPORARY"]);
    if !walk.skip(&["TABLE"]) {
        return false;
    }
    let mut depth = 0_usize;
    walk.0.iter().any(|token| match token {
        Token::Mark('(') => {
            depth += 1;
            false
        }
        Token::Mark(')') => {
            depth = depth.saturating_sub(1);
            false
        }
        Token::Word(word) => {
            word.eq_ignore_ascii_case("SELECT")
                || (depth == 0
                    && ["VALUES", "TABLE"]
                        .iter()
                        .any(|query| word.eq_ignore_ascii_case(query)))
        }
        _ => false,
    })
}

fn targets(text: &str, default: &str, escapes: Escapes) -> Vec<DdlTarget> {
    let all = token::read(text, TOKENS_MAX, escapes).tokens;
    let mut walk = Walk(&all);
    walk.skip_settings();
    let verb = walk.word(0).to_ascii_uppercase();
    walk.0 = walk.0.get(1..).unwrap_or_default();
    match verb.as_str() {
        "CREATE" => create(&mut walk, default),
        "ALTER" => alter(&mut walk, default),
        "DROP" => drop_targets(&mut walk, default),
        "RENAME" => rename(&mut walk, default),
        "TRUNCATE" => {
            walk.skip(&["TABLE"]);
            one(walk.name(default), Statement::Truncate)
        }
        _ => Vec::new(),
    }
}

fn one(name: Option<(String, String)>, kind: Statement) -> Vec<DdlTarget> {
    name.into_iter()
        .map(|(schema, table)| DdlTarget {
            schema,
            table: Some(table),
            kind,
        })
        .collect()
}

fn create(walk: &mut Walk<'_>, default: &str) -> Vec<DdlTarget> {
    walk.skip_all(&["OR", "REPLACE"]);
    if walk.skip(&["TEMPORARY"]) {
        return Vec::new();
    }
    if walk.skip(&["TABLE"]) {
        walk.skip_all(&["IF", "NOT", "EXISTS"]);
        return one(walk.name(default), Statement::Create);
    }
    walk.skip_all(&["ONLINE", "OFFLINE", "UNIQUE", "FULLTEXT", "SPATIAL"]);
    if walk.skip(&["INDEX"]) {
        index(walk, default)
    } else {
        Vec::new()
    }
}

/// `INDEX name [USING …] ON table`.
fn index(walk: &mut Walk<'_>, default: &str) -> Vec<DdlTarget> {
    let on = walk
        .0
        .iter()
        .position(|token| matches!(token, Token::Word(word) if word.eq_ignore_ascii_case("ON")));
    let Some(on) = on else { return Vec::new() };
    walk.0 = &walk.0[on + 1..];
    one(walk.name(default), Statement::Alter)
}

fn alter(walk: &mut Walk<'_>, default: &str) -> Vec<DdlTarget> {
    walk.skip_all(&["ONLINE", "OFFLINE", "IGNORE"]);
    if !walk.skip(&["TABLE"]) {
        return Vec::new();
    }
    walk.skip_all(&["IF", "EXISTS"]);
    let Some(name) = walk.name(default) else {
        return Vec::new();
    };
    let mut found = one(Some(name), Statement::Alter);
    while !walk.0.is_empty() {
        if walk.skip(&["RENAME"])
            && !["COLUMN", "INDEX", "KEY"]
                .iter()
                .any(|word| walk.word(0).eq_ignore_ascii_case(word))
        {
            walk.skip_all(&["TO", "AS"]);
            if let Some(target) = found.first_mut() {
                target.kind = Statement::Rename;
            }
            found.extend(one(walk.name(default), Statement::Rename));
        } else if walk.skip(&["EXCHANGE"]) {
            // EXCHANGE PARTITION p WITH TABLE other: rows move between the two without row events.
            while !walk.0.is_empty() && !walk.skip(&["TABLE"]) {
                walk.0 = &walk.0[1..];
            }
            found.extend(one(walk.name(default), Statement::Alter));
        } else {
            walk.0 = walk.0.get(1..).unwrap_or_default();
        }
    }
    found
}

fn drop_targets(walk: &mut Walk<'_>, default: &str) -> Vec<DdlTarget> {
    if walk.skip(&["TEMPORARY"]) {
        return Vec::new();
    }
    if walk.skip(&["DATABASE", "SCHEMA"]) {
        walk.skip_all(&["IF", "EXISTS"]);
        return walk
            .identifier()
            .map(|schema| DdlTarget {
                schema,
                table: None,
                kind: Statement::Drop,
            })
            .into_iter()
            .collect();
    }
    if walk.skip(&["INDEX"]) {
        return index(walk, default);
    }
    if !walk.skip(&["TABLE", "TABLES"]) {
        return Vec::new();
    }
    walk.skip_all(&["IF", "EXISTS"]);
    let mut found = one(walk.name(default), Statement::Drop);
    while walk.mark(',') {
        found.extend(one(walk.name(default), Statement::Drop));
    }
    found
}

fn rename(walk: &mut Walk<'_>, default: &str) -> Vec<DdlTarget> {
    let mut found = Vec::new();
    if !walk.skip(&["TABLE", "TABLES"]) {
        return found;
    }
    walk.skip_all(&["IF", "EXISTS"]);
    loop {
        found.extend(one(walk.name(default), Statement::Rename));
        walk.skip_wait();
        if !walk.skip(&["TO"]) {
            return found;
        }
        found.extend(one(walk.name(default), Statement::Rename));
        if !walk.mark(',') {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Escapes, Query, Role, role, targets};

    fn names(text: &str) -> Vec<String> {
        names_by(text, Escapes::default())
    }

    fn names_by(text: &str, escapes: Escapes) -> Vec<String> {
        targets(text, "shop", escapes)
            .into_iter()
            .map(|t| {
                format!(
                    "{}.{} {:?}",
                    t.schema,
                    t.table.unwrap_or_else(|| "*".into()),
                    t.kind
                )
            })
            .collect()
    }

    #[test]
    fn roles_are_told_through_comments_and_case() {
        for (text, expected) in [
            ("BEGIN", Role::Begin),
            ("/* app */ begin", Role::Begin),
            ("COMMIT", Role::Commit),
            ("ROLLBACK TO `a`", Role::RollbackTo),
            ("SAVEPOINT `a`", Role::Savepoint),
            ("XA START X'31',X'',1", Role::XaStart),
            ("XA COMMIT X'31',X'',1", Role::Xa),
            ("-- hi\nInsert into t values (1)", Role::Rows),
            ("/*!50003 UPDATE t SET a=1 */", Role::Rows),
            ("WITH x AS (SELECT 1) DELETE FROM t", Role::Rows),
            (
                "SET STATEMENT lock_wait_timeout=5, max_statement_time=1 FOR UPDATE t SET a=1",
                Role::Rows,
            ),
            (
                "set statement lock_wait_timeout=5 for alter table t add b int",
                Role::Definition,
            ),
            ("ANALYZE UPDATE t SET a=1", Role::Rows),
            ("ANALYZE FORMAT=JSON DELETE FROM t", Role::Rows),
            ("ANALYZE TABLE t", Role::Definition),
            ("CREATE TABLE t AS SELECT 1", Role::Rows),
            ("CREATE TABLE t (a int) (SELECT 1 AS a)", Role::Rows),
            ("CREATE TABLE t TABLE o", Role::Rows),
            (
                "CREATE TABLE t (a int) PARTITION BY RANGE (a) (PARTITION p VALUES LESS THAN (9))",
                Role::Definition,
            ),
            (
                "CREATE TABLE t (a int COMMENT 'SELECT') COMMENT 'VALUES'",
                Role::Definition,
            ),
            (
                "CREATE TABLE `t` (`select` int) START TRANSACTION",
                Role::Definition,
            ),
            ("CREATE VIEW v AS SELECT 1", Role::Definition),
            ("HANDLER t OPEN", Role::Unknown),
            ("# Dum", Role::Definition),
            ("CREATE TABLE t (a int)", Role::Definition),
            ("GRANT SELECT ON *.* TO x", Role::Definition),
        ] {
            assert_eq!(role(text, Escapes::default()), expected, "{text}");
        }
    }

    #[test]
    fn definition_statements_name_their_tables() {
        assert_eq!(
            names("CREATE TABLE IF NOT EXISTS `a``b`.`c` (x int)"),
            ["a`b.c Create"]
        );
        assert_eq!(names("create or replace table t as select 1"), ["shop.t Create"]);
        assert_eq!(
            names("ALTER TABLE /*!50000 x.*/ y ADD COLUMN rename_me int, RENAME COLUMN a TO b"),
            ["x.y Alter"]
        );
        assert_eq!(
            names("ALTER TABLE a RENAME TO other.b"),
            ["shop.a Rename", "other.b Rename"]
        );
        assert_eq!(
            names("DROP TABLE `a` , x.b /* generated by server */"),
            ["shop.a Drop", "x.b Drop"]
        );
        assert_eq!(names("DROP TEMPORARY TABLE a"), Vec::<String>::new());
        assert_eq!(
            names("RENAME TABLE a TO tmp, b TO a"),
            [
                "shop.a Rename",
                "shop.tmp Rename",
                "shop.b Rename",
                "shop.a Rename"
            ]
        );
        assert_eq!(
            names("SET STATEMENT lock_wait_timeout=5 FOR ALTER TABLE t ADD b INT"),
            ["shop.t Alter"]
        );
        assert_eq!(
            names("RENAME TABLE a WAIT 5 TO b, c NOWAIT TO d"),
            ["shop.a Rename", "shop.b Rename", "shop.c Rename", "shop.d Rename"]
        );
        assert_eq!(names("TRUNCATE x.t"), ["x.t Truncate"]);
        assert_eq!(names("CREATE UNIQUE INDEX i ON t (a)"), ["shop.t Alter"]);
        assert_eq!(names("DROP DATABASE IF EXISTS old"), ["old.* Drop"]);
        assert_eq!(
            names("ALTER TABLE p EXCHANGE PARTITION p0 WITH TABLE q"),
            ["shop.p Alter", "shop.q Alter"]
        );
        assert_eq!(names("CREATE VIEW v AS SELECT 1"), Vec::<String>::new());
    }

    #[test]
    fn quotes_end_where_the_server_of_the_statement_ended_them() {
        let (ansi, literal) = (Escapes::of(1 << 2), Escapes::of(1 << 20));
        for (text, escapes, expected) in [
            (
                r"ALTER TABLE pay COMMENT='C:\', RENAME TO pay2",
                literal,
                &["shop.pay Rename", "shop.pay2 Rename"][..],
            ),
            (
                r"ALTER TABLE pay COMMENT='it\', RENAME TO pay2'",
                Escapes::of(0x4160_0000),
                &["shop.pay Alter"],
            ),
            (r#"DROP TABLE "a\", b"#, ansi, &[r"shop.a\ Drop", "shop.b Drop"]),
            (
                r#"ALTER TABLE "a\" COMMENT 'it\', RENAME TO b'"#,
                ansi,
                &[r"shop.a\ Alter"],
            ),
        ] {
            assert_eq!(names_by(text, escapes), expected, "{text}");
        }
        let text = r"CREATE TABLE t (a CHAR(9) DEFAULT '\') SELECT 1 AS a -- '";
        assert_eq!(role(text, literal), Role::Rows);
        assert_eq!(role(text, Escapes::default()), Role::Definition);
    }

    #[test]
    fn a_statement_is_read_by_what_stands_before_it() {
        let event = |status: &[u8]| {
            let text = br"ALTER TABLE pay COMMENT='C:\', RENAME TO pay2";
            let mut body = [7_u32.to_le_bytes(), 0_u32.to_le_bytes()].concat();
            body.extend([4, 0, 0]);
            body.extend(u16::try_from(status.len()).unwrap().to_le_bytes());
            body.extend(status);
            body.extend(b"shop\0");
            body.extend(text);
            let query = Query::parse(&body).unwrap();
            query.targets().len()
        };
        let mode = |mode: u64| [&[0, 0, 0, 0, 0, 1][..], &mode.to_le_bytes()].concat();
        let charset = [6, 3, b's', b't', b'd', 4, 45, 0, 45, 0, 45, 0];
        assert_eq!(event(&[mode(1 << 20), charset.to_vec()].concat()), 2);
        assert_eq!(event(&[mode(1 << 21), charset.to_vec()].concat()), 1);
        // What is cut, or not said, is as servers are by themselves.
        assert_eq!(event(&mode(1 << 20)[..9]), 1);
        assert_eq!(event(&charset), 1);
    }
}
