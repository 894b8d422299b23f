//! QUERY events: what kind of statement a text is, and which tables it defines anew.
//!
//! This is no SQL parser. It must not be fooled about three things: whether a text begins or ends a transaction, whether it changes rows
//! (statement-based logging, which cannot be followed), and which tables a definition statement names.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{Charset, error::Problem, read::Bytes};

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
        let charset = client_charset(bytes.take(status_len)?);
        let schema = String::from_utf8_lossy(bytes.take(schema_len)?);
        bytes.u8()?;
        let text = charset
            .and_then(|charset| charset.decode(bytes.0))
            .unwrap_or_else(|| String::from_utf8_lossy(bytes.0));
        Ok(Self {
            thread_id,
            schema,
            text,
        })
    }
}

/// The statement's character set, from the status variables that stand before it (`Query_log_event::Query_event`, in order of code).
fn client_charset(status: &[u8]) -> Option<Charset> {
    let mut bytes = Bytes(status);
    loop {
        let skip = match bytes.u8().ok()? {
            STATUS_CHARSET => return bytes.u16().ok().map(Charset::new),
            STATUS_FLAGS2 | STATUS_AUTO_INCREMENT => 4,
            STATUS_SQL_MODE => 8,
            STATUS_CATALOG => usize::from(bytes.u8().ok()?),
            _ => return None,
        };
        bytes.take(skip).ok()?;
    }
}

/// A piece of a statement. Keywords are bare words; anything in quotes is not a keyword.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Quoted(String),
    Mark(char),
}

/// More than a statement that drops ten thousand tables has.
const TOKENS_MAX: usize = 100_000;

/// Tokens of a statement, at most `most`; comments are left out, but the content of `/*! … */` and `/*M! … */` counts.
fn tokens(text: &str, most: usize) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = text;
    while found.len() < most {
        rest = rest.trim_start();
        let Some(first) = rest.chars().next() else { break };
        if let Some(comment) = rest.strip_prefix("/*") {
            rest = match comment.strip_prefix('!').or_else(|| comment.strip_prefix("M!")) {
                Some(inner) => inner.trim_start_matches(|c: char| c.is_ascii_digit()),
                None => comment.split_once("*/").map_or("", |(_, after)| after),
            };
        } else if let Some(after) = rest.strip_prefix("*/") {
            rest = after;
        } else if rest.starts_with('#')
            || rest
                .strip_prefix("--")
                .is_some_and(|r| r.is_empty() || r.starts_with(char::is_whitespace))
        {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
        } else if matches!(first, '`' | '"' | '\'') {
            let (content, after) = quoted(&rest[1..], first);
            found.push(Token::Quoted(content));
            rest = after;
        } else if is_word(first) {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            found.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        } else {
            found.push(Token::Mark(first));
            rest = &rest[first.len_utf8()..];
        }
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// Up to the closing quote, a doubled quote standing for one; and what follows.
fn quoted(text: &str, quote: char) -> (String, &str) {
    let mut content = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if quote != '`' => content.extend(chars.next().map(|(_, escaped)| escaped)),
            _ if c == quote => {
                let after = &text[at + 1..];
                if !after.starts_with(quote) {
                    return (content, after);
                }
                content.push(quote);
                chars.next();
            }
            _ => content.push(c),
        }
    }
    (content, "")
}

/// Walks tokens.
struct Walk<'t>(&'t [Token]);

impl Walk<'_> {
    fn word(&self, nth: usize) -> &str {
        match self.0.get(nth) {
            Some(Token::Word(word)) => word,
            _ => "",
        }
    }

    fn skip(&mut self, words: &[&str]) -> bool {
        let is = words.iter().any(|word| self.word(0).eq_ignore_ascii_case(word));
        if is {
            self.0 = &self.0[1..];
        }
        is
    }

    fn skip_all(&mut self, words: &[&str]) {
        while self.skip(words) {}
    }

    fn has_settings(&self) -> bool {
        self.word(0).eq_ignore_ascii_case("SET") && self.word(1).eq_ignore_ascii_case("STATEMENT")
    }

    /// MariaDB: `SET STATEMENT name = value, … FOR` before the statement itself.
    fn skip_settings(&mut self) {
        while self.has_settings() {
            while !self.0.is_empty() && !self.skip(&["FOR"]) {
                self.0 = &self.0[1..];
            }
        }
    }

    /// MariaDB: `WAIT n` or `NOWAIT` after a table's name.
    fn skip_wait(&mut self) {
        if self.skip(&["WAIT"]) {
            self.0 = self.0.get(1..).unwrap_or_default();
        }
        self.skip(&["NOWAIT"]);
    }

    /// `table` or `schema.table`.
    fn name(&mut self, default: &str) -> Option<(String, String)> {
        let first = self.identifier()?;
        if self.0.first() != Some(&Token::Mark('.')) {
            return Some((default.to_owned(), first));
        }
        self.0 = &self.0[1..];
        Some((first, self.identifier()?))
    }

    fn identifier(&mut self) -> Option<String> {
        let (Token::Word(text) | Token::Quoted(text)) = self.0.first()? else {
            return None;
        };
        self.0 = &self.0[1..];
        Some(text.clone())
    }

    fn mark(&mut self, mark: char) -> bool {
        let is = self.0.first() == Some(&Token::Mark(mark));
        if is {
            self.0 = &self.0[1..];
        }
        is
    }
}

/// What `text` means for its transaction.
pub(crate) fn role(text: &str) -> Role {
    // The server writes these itself, exactly so.
    match text {
        "BEGIN" => return Role::Begin,
        "COMMIT" => return Role::Commit,
        "ROLLBACK" => return Role::Rollback,
        _ => {}
    }
    let head = tokens(text, 8);
    // A parenthesis may open a statement: `(SELECT …)`.
    let opened = head
        .iter()
        .take_while(|token| **token == Token::Mark('('))
        .count();
    let mut walk = Walk(&head[opened..]);
    let all = if walk.has_settings() {
        tokens(text, TOKENS_MAX)
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
        "CREATE" if fills_a_table(text) => Role::Rows,
        "" | "CREATE" | "ALTER" | "DROP" | "RENAME" | "TRUNCATE" | "GRANT" | "REVOKE" | "SET" | "FLUSH"
        | "ANALYZE" | "OPTIMIZE" | "REPAIR" | "CHECK" | "INSTALL" | "UNINSTALL" => Role::Definition,
        _ => Role::Unknown,
    }
}

/// Whether it is a CREATE TABLE that takes its rows from a query. Logging rows, servers write the two apart, so this is logging statements.
fn fills_a_table(text: &str) -> bool {
    let all = tokens(text, TOKENS_MAX);
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

/// The tables `text` defines anew, as far as it can be told.
pub(crate) fn targets(text: &str, default: &str) -> Vec<DdlTarget> {
    let all = tokens(text, TOKENS_MAX);
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
    use super::{Role, role, targets};

    fn names(text: &str) -> Vec<String> {
        targets(text, "shop")
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
            assert_eq!(role(text), expected, "{text}");
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
}
