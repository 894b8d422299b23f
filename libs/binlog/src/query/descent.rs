//! Where a table's rows came from, and under which names its columns stood before: as far as statements tell it. Told too much is the safe side,
//! since whoever asks hides by it.

use std::collections::BTreeSet;

use super::token::{self, End, Escapes, TOKENS_MAX, Token, Walk};

/// A table, or a column of one, that came from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Descent {
    /// The schema and the table that it was, or was made like.
    pub from: (String, String),
    /// The schema and the table that it is.
    pub to: (String, String),
    /// What came.
    pub what: Descended,
}

/// What came from one table to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Descended {
    /// Its rows: it was renamed, or gave or took a partition.
    Rows,
    /// Its definition only: it was made like the other.
    Definition,
    /// A column, by its name before and after; the table stays the same.
    Column {
        /// Before.
        from: String,
        /// After.
        to: String,
    },
}

type Name = (String, String);

/// What `text` makes come from what. Names without a schema belong to `default`. None if that cannot be told: the text is too long, or no server
/// would have read it.
///
/// A store does not keep in which `sql_mode` a statement was run, and for MySQL `/*M! … */` is a comment. Where `\` or that stands in it, it is read as
/// every server would; what only one of them finds is told.
pub fn descents(text: &str, default: &str) -> Option<Vec<Descent>> {
    let ways = if text.contains('\\') {
        &Escapes::EVERY[..]
    } else {
        &Escapes::EVERY[..1]
    };
    // With the space it is a comment for everybody.
    let commented = text.contains("/*M!").then(|| text.replace("/*M!", "/* M!"));
    let texts = [Some(text), commented.as_deref()];
    let texts = texts.into_iter().flatten();
    let (mut told, mut known): (Option<Vec<Descent>>, _) = (None, BTreeSet::new());
    for (text, escapes) in texts.flat_map(|text| ways.iter().map(move |way| (text, *way))) {
        let (found, end) = read(text, default, escapes);
        match end {
            End::Whole => {
                let new = found.into_iter().filter(|one| known.insert(one.clone()));
                told.get_or_insert_default().extend(new);
            }
            End::Open => {}
            End::More => return None,
        }
    }
    told
}

/// What it tells when it is read like this, and whether that is all.
fn read(text: &str, default: &str, escapes: Escapes) -> (Vec<Descent>, End) {
    let pieces = token::read(text, TOKENS_MAX, escapes);
    let mut walk = Walk(&pieces.tokens);
    walk.skip_settings();
    let mut found = Vec::new();
    if walk.skip(&["RENAME"]) {
        renamed(&mut walk, default, &mut found);
    } else if walk.skip(&["ALTER"]) {
        altered(&mut walk, default, &mut found);
    } else if walk.skip(&["CREATE"]) {
        created(&mut walk, default, &mut found);
    }
    // Who was not at the end of what was read had seen enough.
    let end = if walk.0.is_empty() { pieces.end } else { End::Whole };
    (found, end)
}

fn push(found: &mut Vec<Descent>, from: &Name, to: &Name, what: Descended) {
    found.push(Descent {
        from: from.clone(),
        to: to.clone(),
        what,
    });
}

/// `RENAME TABLE a TO b, c TO d`.
fn renamed(walk: &mut Walk<'_>, default: &str, found: &mut Vec<Descent>) {
    if !walk.skip(&["TABLE", "TABLES"]) {
        return;
    }
    walk.skip_all(&["IF", "EXISTS"]);
    loop {
        let from = walk.name(default);
        walk.skip_wait();
        if !walk.skip(&["TO"]) {
            return;
        }
        if let (Some(from), Some(to)) = (from, walk.name(default)) {
            push(found, &from, &to, Descended::Rows);
        }
        if !walk.mark(',') {
            return;
        }
    }
}

/// `CREATE TABLE b LIKE a` and `CREATE TABLE b (LIKE a)`.
fn created(walk: &mut Walk<'_>, default: &str, found: &mut Vec<Descent>) {
    walk.skip_all(&["OR", "REPLACE"]);
    if !walk.skip(&["TABLE"]) {
        return;
    }
    walk.skip_all(&["IF", "NOT", "EXISTS"]);
    let Some(to) = walk.name(default) else { return };
    walk.mark('(');
    if walk.skip(&["LIKE"])
        && let Some(from) = walk.name(default)
    {
        push(found, &from, &to, Descended::Definition);
    }
}

fn altered(walk: &mut Walk<'_>, default: &str, found: &mut Vec<Descent>) {
    walk.skip_all(&["ONLINE", "OFFLINE", "IGNORE"]);
    if !walk.skip(&["TABLE"]) {
        return;
    }
    walk.skip_all(&["IF", "EXISTS"]);
    let Some(table) = walk.name(default) else {
        return;
    };
    // A statement may rename the table and its columns at once: columns are told of it under both names.
    let mut names = vec![table.clone()];
    let mut columns: Vec<(String, String)> = Vec::new();
    while !walk.0.is_empty() {
        if walk.skip(&["RENAME"]) {
            if walk.skip(&["COLUMN"]) {
                columns.extend(column(walk, true));
            } else if !walk.skip(&["INDEX", "KEY"]) {
                walk.skip_all(&["TO", "AS"]);
                walk.mark('=');
                if let Some(to) = walk.name(default) {
                    push(found, &table, &to, Descended::Rows);
                    names.push(to);
                }
            }
        } else if walk.skip(&["CHANGE"]) {
            walk.skip(&["COLUMN"]);
            columns.extend(column(walk, false));
        } else if walk.skip(&["EXCHANGE"]) {
            // EXCHANGE PARTITION p WITH TABLE other: rows go both ways.
            skip_to(walk, "TABLE");
            if let Some(other) = walk.name(default) {
                push(found, &table, &other, Descended::Rows);
                push(found, &other, &table, Descended::Rows);
            }
        } else if walk.skip(&["CONVERT"]) {
            converted(walk, default, &table, found);
        } else {
            walk.0 = walk.0.get(1..).unwrap_or_default();
        }
    }
    for (from, to) in columns.into_iter().filter(|(from, to)| from != to) {
        for name in &names {
            let (from, to) = (from.clone(), to.clone());
            push(found, name, name, Descended::Column { from, to });
        }
    }
}

/// MariaDB: `CONVERT PARTITION p TO TABLE other`, `CONVERT TABLE other TO PARTITION p …`.
fn converted(walk: &mut Walk<'_>, default: &str, table: &Name, found: &mut Vec<Descent>) {
    if walk.skip(&["TABLE"]) {
        if let Some(other) = walk.name(default) {
            push(found, &other, table, Descended::Rows);
        }
    } else if walk.skip(&["PARTITION"]) {
        skip_to(walk, "TABLE");
        if let Some(other) = walk.name(default) {
            push(found, table, &other, Descended::Rows);
        }
    }
}

fn skip_to(walk: &mut Walk<'_>, word: &str) {
    while !walk.0.is_empty() && !walk.skip(&[word]) {
        walk.0 = &walk.0[1..];
    }
}

/// `a TO b`, or `a b definition`.
fn column(walk: &mut Walk<'_>, to: bool) -> Option<(String, String)> {
    walk.skip_all(&["IF", "EXISTS"]);
    let from = walk.identifier()?;
    if to && !walk.skip(&["TO"]) {
        return None;
    }
    // What follows may be a word that begins something else.
    let next = match walk.0.first()? {
        Token::Word(text) | Token::Quoted(text) => text.clone(),
        Token::Mark(_) => return None,
    };
    walk.identifier();
    Some((from, next))
}

#[cfg(test)]
mod tests {
    use super::{Descended, TOKENS_MAX, descents};

    fn told(text: &str) -> Vec<String> {
        let told = descents(text, "shop").unwrap().into_iter().map(|descent| {
            let ((schema, table), (to_schema, to_table)) = (&descent.from, &descent.to);
            match &descent.what {
                Descended::Rows => format!("{schema}.{table} > {to_schema}.{to_table}"),
                Descended::Definition => format!("{schema}.{table} ~ {to_schema}.{to_table}"),
                Descended::Column { from, to } => format!("{to_schema}.{to_table}: {from} > {to}"),
            }
        });
        told.collect()
    }

    #[test]
    fn what_is_renamed_is_told_with_what_it_was() {
        for (text, expected) in [
            ("RENAME TABLE a TO b", &["shop.a > shop.b"][..]),
            (
                "rename tables a to hr.`t``x`, b to a, hr.`t``x` to b",
                &["shop.a > hr.t`x", "shop.b > shop.a", "hr.t`x > shop.b"],
            ),
            (
                "RENAME TABLE IF EXISTS a WAIT 5 TO b, c NOWAIT TO d",
                &["shop.a > shop.b", "shop.c > shop.d"],
            ),
            (
                "SET STATEMENT lock_wait_timeout=5 FOR RENAME TABLE a TO b",
                &["shop.a > shop.b"],
            ),
            ("ALTER TABLE a RENAME TO other.b", &["shop.a > other.b"]),
            ("ALTER TABLE a RENAME = b", &["shop.a > shop.b"]),
            ("ALTER TABLE a ADD x INT, RENAME AS b", &["shop.a > shop.b"]),
            ("/* c */ alter table a rename b", &["shop.a > shop.b"]),
            ("ALTER TABLE a RENAME INDEX x TO y, RENAME KEY y TO z", &[]),
            ("ALTER TABLE a ADD COLUMN renamed INT", &[]),
            ("RENAME USER a TO b", &[]),
            ("DROP TABLE a, b", &[]),
        ] {
            assert_eq!(told(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_made_like_another_or_takes_its_partition_is_told_with_it() {
        for (text, expected) in [
            ("CREATE TABLE b LIKE a", &["shop.a ~ shop.b"][..]),
            (
                "create or replace table if not exists x.b (like `shop`.`a`)",
                &["shop.a ~ x.b"],
            ),
            ("CREATE TABLE b (liked INT)", &[]),
            (
                "ALTER TABLE p EXCHANGE PARTITION p0 WITH TABLE q",
                &["shop.p > shop.q", "shop.q > shop.p"],
            ),
            (
                "ALTER TABLE p CONVERT PARTITION p0 TO TABLE q",
                &["shop.p > shop.q"],
            ),
            (
                "ALTER TABLE p CONVERT TABLE q TO PARTITION p0 VALUES LESS THAN (9)",
                &["shop.q > shop.p"],
            ),
            ("ALTER TABLE p CONVERT TO CHARACTER SET utf8mb4", &[]),
        ] {
            assert_eq!(told(text), expected, "{text}");
        }
    }

    #[test]
    fn columns_are_told_with_the_names_that_they_had() {
        for (text, expected) in [
            ("ALTER TABLE a RENAME COLUMN b TO c", &["shop.a: b > c"][..]),
            (
                "ALTER TABLE a CHANGE COLUMN IF EXISTS `b` `c` INT, CHANGE d d INT, CHANGE e f TEXT",
                &["shop.a: b > c", "shop.a: e > f"],
            ),
            (
                "ALTER TABLE a RENAME COLUMN b TO c, RENAME TO d",
                &["shop.a > shop.d", "shop.a: b > c", "shop.d: b > c"],
            ),
            ("ALTER TABLE a MODIFY b INT", &[]),
        ] {
            assert_eq!(told(text), expected, "{text}");
        }
    }

    #[test]
    fn what_stands_in_quotes_is_read_as_any_server_may_have() {
        for (text, expected) in [
            // sql_mode NO_BACKSLASH_ESCAPES.
            (
                r"ALTER TABLE pay COMMENT='C:\', RENAME TO pay2",
                &["shop.pay > shop.pay2"][..],
            ),
            (
                r#"ALTER TABLE pay COMMENT="C:\", RENAME pay2"#,
                &["shop.pay > shop.pay2"],
            ),
            // ANSI_QUOTES, with and without it.
            (
                r#"RENAME TABLE "a\" TO "b", x TO "c\""#,
                &[r"shop.a\ > shop.b", r"shop.x > shop.c\"],
            ),
            (
                r#"ALTER TABLE a COMMENT 'it\'s', RENAME TO "b\""#,
                &[r"shop.a > shop.b\"],
            ),
            // As it is without: the comment goes on behind the escaped quote.
            (r"ALTER TABLE pay COMMENT='it\'s, RENAME TO pay2'", &[]),
            (
                r"ALTER TABLE pay COMMENT='it\'s', RENAME TO pay2",
                &["shop.pay > shop.pay2"],
            ),
            // A comment of MySQL's, which MariaDB reads.
            (
                "ALTER TABLE pay /*M! ' */ COMMENT='x', RENAME TO pay2 /* ' */",
                &["shop.pay > shop.pay2"],
            ),
            ("RENAME TABLE /*M! a */ TO b", &["shop.a > shop.b"]),
            // No space for a server, but a letter of a name.
            ("RENAME TABLE \u{a0}a TO b", &["shop.\u{a0}a > shop.b"]),
            // Both can be read: what one of them tells counts.
            (
                r"ALTER TABLE pay COMMENT='\', RENAME TO a, COMMENT '\', RENAME TO b",
                &["shop.pay > shop.a", "shop.pay > shop.b"],
            ),
        ] {
            assert_eq!(told(text), expected, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_to_its_end_is_not_taken_for_nothing() {
        let long = "x, ".repeat(TOKENS_MAX / 2);
        for text in [
            "ALTER TABLE a COMMENT='x, RENAME TO b",
            "RENAME TABLE a TO `b",
            "RENAME TABLE a TO b /* and so on",
            "CREATE TABLE b LIKE `a",
            "SET STATEMENT x='1 FOR RENAME TABLE a TO b",
            &format!("ALTER TABLE a ORDER BY {long} RENAME TO b"),
            &format!(r"ALTER TABLE a COMMENT '\', ORDER BY {long} RENAME TO b, COMMENT '\''"),
        ] {
            assert_eq!(descents(text, "shop"), None, "{text:.60}");
        }
        for text in [
            &format!("CREATE TABLE b (a INT) PARTITION BY LIST ({long} 1)"),
            "CREATE FUNCTION f() RETURNS INT LANGUAGE JAVASCRIPT AS $$ 'x $$",
            "INSERT INTO a VALUES ('x",
            "",
        ] {
            assert_eq!(descents(text, "shop"), Some(Vec::new()), "{text:.60}");
        }
    }

    #[test]
    fn no_text_breaks_it() {
        for text in [
            "",
            "RENAME",
            "RENAME TABLE",
            "RENAME TABLE a TO",
            "ALTER TABLE a RENAME",
            "ALTER TABLE a RENAME COLUMN b TO",
            "ALTER TABLE a CHANGE b (",
            "ALTER TABLE a EXCHANGE PARTITION",
            "CREATE TABLE b LIKE",
            "CREATE TABLE",
        ] {
            assert_eq!(told(text), Vec::<String>::new(), "{text}");
        }
    }
}
