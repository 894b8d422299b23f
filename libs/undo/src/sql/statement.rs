//! One transition as one statement, and the assertion after it.

use std::fmt::Write;

use binlog::Op;

use super::{
    literal::{self, Match},
    name::Names,
};
use crate::transition::{Field, Transition};

/// What the head of a script sets, and what single statements step out of.
pub(super) const STRICT: &str =
    "NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION,ALLOW_INVALID_DATES,STRICT_TRANS_TABLES";
const LENIENT: &str = "NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION,ALLOW_INVALID_DATES";

/// Appends the statement that makes the transition, as the script's statement number `nth` (from 1), and its assertion.
///
/// Every statement does nothing unless all before it have succeeded in the same session (`@trail_done`): under `--force` a client goes on
/// after an error, and an interactive one that loses its connection goes on in a new session, without the transaction.
pub(super) fn write(transition: &Transition<'_>, names: &Names, nth: u64, out: &mut String) {
    let lenient = transition.fields.iter().any(|field| {
        let written = field.to.as_ref().filter(|_| field.set);
        written.is_some_and(literal::needs_lenience)
    });
    if lenient {
        push(out, format_args!("SET sql_mode = '{LENIENT}';\n"));
    }
    match transition.op {
        Op::Insert => insert(transition, names, nth, out),
        Op::Update => update(transition, names, nth, out),
        Op::Delete => {
            push(out, format_args!("DELETE FROM {} WHERE ", names.table));
            condition(transition, names, nth, out);
        }
    }
    out.push_str(";\n");
    // ROW_COUNT() is lost with the next statement, so the assertion comes first of all. An assignment of an unknown sql_mode fails with
    // error 1231, which quotes the value: the only error a plain script can raise that carries a sentence. It fails as a whole, so
    // @trail_done stays behind.
    push(
        out,
        format_args!(
            "SET sql_mode = IF(ROW_COUNT() = 1, @@sql_mode, CONCAT(@trail_stop, @trail_done + 1)), @trail_done = {nth};\n"
        ),
    );
    if lenient {
        push(out, format_args!("SET sql_mode = '{STRICT}';\n"));
    }
}

/// `INSERT … SELECT`, because VALUES takes no condition.
fn insert(transition: &Transition<'_>, names: &Names, nth: u64, out: &mut String) {
    push(out, format_args!("INSERT INTO {} (", names.table));
    let written = || transition.fields.iter().filter(|field| field.set);
    join(written(), ", ", out, |field, out| {
        out.push_str(&names.columns[field.column])
    });
    out.push_str(") SELECT ");
    join(written(), ", ", out, |field, out| {
        if let Some(to) = &field.to {
            literal::value(to, out);
        }
    });
    push(out, format_args!(" FROM DUAL WHERE @trail_done = {}", nth - 1));
}

fn update(transition: &Transition<'_>, names: &Names, nth: u64, out: &mut String) {
    push(out, format_args!("UPDATE {} SET ", names.table));
    let set = transition.fields.iter().filter(|field| field.set);
    join(set, ", ", out, |field, out| {
        if let Some(to) = &field.to {
            push(out, format_args!("{} = ", names.columns[field.column]));
            literal::value(to, out);
        }
    });
    for column in &transition.target.stamps {
        let is_set = transition
            .fields
            .iter()
            .any(|field| field.set && field.column == *column);
        if !is_set {
            let name = &names.columns[*column];
            push(out, format_args!(", {name} = {name}"));
        }
    }
    out.push_str(" WHERE ");
    condition(transition, names, nth, out);
}

/// The row must be there under its key, every column that is replaced must hold what the plan says, and all before must have succeeded.
fn condition(transition: &Transition<'_>, names: &Names, nth: u64, out: &mut String) {
    let key = &transition.target.key;
    let of_key = |field: &&Field<'_>| key.contains(&field.column);
    let guarded = |field: &&Field<'_>| {
        let replaced = field.set || transition.op == Op::Delete;
        key.is_empty() || (replaced && (!of_key(field) || needs_guard(field)))
    };
    let conditions = transition
        .fields
        .iter()
        .filter(of_key)
        .map(|field| (field, Match::Key))
        .chain(
            transition
                .fields
                .iter()
                .filter(guarded)
                .map(|field| (field, Match::Exact)),
        );
    for (field, how) in conditions {
        if let Some(from) = &field.from {
            literal::equals(&names.columns[field.column], from, how, out);
            out.push_str(" AND ");
        }
    }
    push(out, format_args!("@trail_done = {}", nth - 1));
    // Equal rows of a table without a key are interchangeable: any one of them is the right one.
    if key.is_empty() {
        out.push_str(" LIMIT 1");
    }
}

/// A key's text is found by its collation; if it is replaced, its very bytes count.
fn needs_guard(field: &Field<'_>) -> bool {
    field.from.as_ref().is_some_and(literal::is_collated)
}

fn join<'f, 'p: 'f>(
    fields: impl Iterator<Item = &'f Field<'p>>,
    separator: &str,
    out: &mut String,
    each: impl Fn(&Field<'p>, &mut String),
) {
    for (nth, field) in fields.enumerate() {
        if nth > 0 {
            out.push_str(separator);
        }
        each(field, out);
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(text);
}
