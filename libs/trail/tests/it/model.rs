//! A log that is made up, a plan of how it is read, and a store as simple as can be: a list.

use std::sync::Arc;

use binlog::{Change, LogPos, Op, Position, SchemaChange, Table};
use proptest::{collection::vec, option, prelude::*, sample::Index};
use trail::{Filter, Order, TableFilter};
use types::Micros;

use crate::fixture::{
    Absent, Act, Int, Null, RowSpec, TxnSpec, Value, changes_of, gtid, int, key, orders, statements_of,
    table, text, varchar,
};

/// Something in the log.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Txn(TxnSpec),
    /// An event without a transaction, or a new file.
    Event {
        at: LogPos,
        end: LogPos,
    },
}

impl Item {
    pub(crate) fn at(&self) -> &LogPos {
        match self {
            Self::Txn(txn) => &txn.at,
            Self::Event { at, .. } => at,
        }
    }

    pub(crate) fn end(&self) -> &LogPos {
        match self {
            Self::Txn(txn) => &txn.end,
            Self::Event { end, .. } => end,
        }
    }
}

/// A stretch of one epoch's log that is read without a break.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    pub(crate) epoch: u32,
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// The transaction after it is begun and lost.
    pub(crate) torn: bool,
    pub(crate) then: Then,
}

/// What comes after a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Nothing,
    Sync,
    Reopen,
}

/// The made-up world.
#[derive(Clone, Debug)]
pub(crate) struct World {
    /// By epoch.
    pub(crate) logs: Vec<Vec<Item>>,
    pub(crate) plan: Vec<Stretch>,
    pub(crate) filters: Vec<Filter>,
    pub(crate) tail_bytes_max: u64,
    pub(crate) chunk_bytes_max: u64,
}

/// Tables of every kind: a plain key, one of two columns, none; and a later definition of the first.
fn tables() -> Vec<Arc<Table>> {
    vec![
        orders(),
        table(
            "shop",
            "items",
            vec![int("order"), int("line"), varchar("note")],
            &[1, 0],
        ),
        table("logs", "lines", vec![int("level"), varchar("line")], &[]),
        table(
            "shop",
            "orders",
            vec![int("id"), varchar("Status"), int("qty"), varchar("note")],
            &[0],
        ),
        table(
            "logs",
            "wide",
            (0..11).map(|n| int(&format!("c{n}"))).collect(),
            &[10],
        ),
    ]
}

fn value(column: &binlog::Column) -> BoxedStrategy<Value> {
    match column.ty {
        binlog::ColumnType::Int { .. } => (0..4_i32).prop_map(Int).boxed(),
        _ => prop::sample::select(vec!["", "new", "paid", "a somewhat longer text"])
            .prop_map(text)
            .boxed(),
    }
}

fn row(table: &Arc<Table>) -> impl Strategy<Value = Vec<Value>> + use<> {
    let keyed: Vec<bool> = (0..)
        .zip(&table.columns)
        .map(|(n, _)| table.key.iter().any(|part| part.column == n))
        .collect();
    let cells: Vec<_> = table.columns.iter().map(value).collect();
    (cells, vec(prop::bool::weighted(0.2), keyed.len())).prop_map(move |(mut cells, nulls)| {
        for (cell, _) in cells
            .iter_mut()
            .zip(nulls.iter().zip(&keyed))
            .filter(|(_, (null, keyed))| **null && !**keyed)
        {
            *cell = Null;
        }
        cells
    })
}

/// As `binlog_row_image=MINIMAL` logs it: the key before, what changed after.
fn minimal(table: &Table, before: &mut [Value], after: &mut [Value]) {
    for index in 0..before.len() {
        if before[index] == after[index] {
            after[index] = Absent;
        }
        if !table.key.iter().any(|part| part.column as usize == index) {
            before[index] = Absent;
        }
    }
}

fn row_spec() -> impl Strategy<Value = RowSpec> {
    (
        prop::sample::select(tables()),
        0..3,
        prop::bool::weighted(0.2),
        option::weighted(0.3, "[a-c]{1,9}"),
        any::<bool>(),
    )
        .prop_flat_map(|(table, op, partial, query, ones)| {
            (row(&table), row(&table), Just((table, op, partial, query, ones)))
        })
        .prop_map(|(mut before, mut after, (table, op, partial, query, ones))| {
            if partial && op == 1 && !table.key.is_empty() {
                minimal(&table, &mut before, &mut after);
            }
            let query = query.map(|text: String| text.into());
            let before = (op != 0).then_some(before);
            let after = (op != 2).then_some(after);
            RowSpec {
                table,
                before,
                after,
                query,
                ones,
            }
        })
}

fn act() -> impl Strategy<Value = Act> {
    let ddl = prop::sample::select(vec![
        "alter table orders",
        "drop schema shop",
        "truncate logs . lines",
    ]);
    prop_oneof![9 => row_spec().prop_map(Act::Row), 1 => ddl.prop_map(|sql| Act::Ddl(sql.to_owned()))]
}

/// An item without its place.
#[derive(Clone, Debug)]
enum Seed {
    Txn {
        acts: Vec<Act>,
        committed: bool,
        named: bool,
        thread_id: Option<u32>,
        pause: i64,
    },
    Event,
    Rotate,
}

fn seed() -> impl Strategy<Value = Seed> {
    // A clock may be set back, so times need not grow.
    let txn = (
        vec(act(), 0..6),
        prop::bool::weighted(0.9),
        any::<bool>(),
        option::of(1..4_u32),
        -3..20_i64,
    )
        .prop_map(|(acts, committed, named, thread_id, pause)| Seed::Txn {
            acts,
            committed,
            named,
            thread_id,
            pause,
        });
    prop_oneof![8 => txn, 1 => Just(Seed::Event), 1 => Just(Seed::Rotate)]
}

/// Puts items one after the other. The files' numbers pass a power of ten, so that they do not sort as text.
fn place(seeds: Vec<Seed>, epoch: usize) -> Vec<Item> {
    let (mut file, mut offset, mut time, mut number) = (98, 4, 1_000_000 + 10_000 * epoch as i64, 0);
    let mut items = Vec::new();
    for seed in seeds {
        let at = LogPos::new(&format!("binlog.{file}"), offset);
        offset += 50;
        if matches!(seed, Seed::Rotate) {
            (file, offset) = (file + 1, 4);
        }
        let end = LogPos::new(&format!("binlog.{file}"), offset);
        items.push(match seed {
            Seed::Event | Seed::Rotate => Item::Event { at, end },
            Seed::Txn {
                acts,
                committed,
                named,
                thread_id,
                pause,
            } => {
                time += pause;
                number += 1;
                let gtid = named.then(|| gtid(number));
                Item::Txn(TxnSpec {
                    at,
                    end,
                    gtid,
                    thread_id,
                    time: Micros(time),
                    acts,
                    committed,
                })
            }
        });
    }
    items
}

fn stretch(logs: &[Vec<Item>]) -> impl Strategy<Value = Stretch> + use<> {
    let lengths: Vec<usize> = logs.iter().map(Vec::len).collect();
    let then = prop_oneof![2 => Just(Then::Nothing), 1 => Just(Then::Sync), 1 => Just(Then::Reopen)];
    (
        0..lengths.len(),
        any::<Index>(),
        any::<Index>(),
        prop::bool::weighted(0.3),
        then,
    )
        .prop_map(move |(epoch, a, b, torn, then)| {
            let (a, b) = (a.index(lengths[epoch]), b.index(lengths[epoch]));
            Stretch {
                epoch: epoch as u32,
                from: a.min(b),
                to: a.max(b) + 1,
                torn,
                then,
            }
        })
}

/// Which rows: tables, keys, operations, column. Out of what the log holds, so that something is found now and then.
fn rows_wanted(items: &[(u32, Item)]) -> impl Strategy<Value = Filter> + use<> {
    let changes = |(epoch, item): &(u32, Item)| match item {
        Item::Txn(txn) => changes_of(*epoch, txn),
        Item::Event { .. } => Vec::new(),
    };
    let both = |change: Change| [Some(change.key), change.new_key].into_iter().flatten();
    let mut keys: Vec<_> = items.iter().flat_map(changes).flat_map(both).collect();
    keys.push(key(&orders(), &[Int(77), Null, Null]));
    let schemas = prop::sample::select(vec!["shop", "logs"]);
    let names = prop::sample::select(vec!["orders", "items", "lines", "nothing"]);
    let table = |(schema, table): (&str, Option<&str>)| TableFilter {
        schema: schema.to_owned(),
        table: table.map(str::to_owned),
    };
    let tables = (schemas, option::weighted(0.8, names)).prop_map(table);
    let ops = prop::sample::select(vec![Op::Insert, Op::Update, Op::Delete]);
    let columns = prop::sample::select(vec!["STATUS", "qty", "c3", "none"]);
    (
        prop_oneof![2 => Just(vec![]), 2 => vec(tables, 1..3)],
        prop_oneof![2 => Just(vec![]), 2 => vec(prop::sample::select(keys), 1..4)],
        prop_oneof![2 => Just(vec![]), 1 => vec(ops, 1..3)],
        option::weighted(0.2, columns.prop_map(str::to_owned)),
    )
        .prop_map(|(tables, keys, ops, column)| Filter {
            tables,
            keys,
            ops,
            column,
            ..Filter::default()
        })
}

/// Which of them, and how; times and places out of what the log holds.
fn filter(logs: &[Vec<Item>]) -> impl Strategy<Value = Filter> + use<> {
    let of_epoch =
        |(epoch, log): (u32, &Vec<Item>)| log.iter().map(|item| (epoch, item.clone())).collect::<Vec<_>>();
    let items: Vec<(u32, Item)> = (0..).zip(logs).flat_map(of_epoch).collect();
    let rows = rows_wanted(&items);
    let item = move || prop::sample::select(items.clone());
    let time = |(_, item): (u32, Item)| match item {
        Item::Txn(txn) => txn.time,
        Item::Event { .. } => Micros(1_000_050),
    };
    let position = |((epoch, item), ordinal): ((u32, Item), u64)| Position {
        epoch,
        at: item.at().clone(),
        ordinal,
    };
    let when = (
        option::weighted(0.2, item().prop_map(time)),
        option::weighted(0.2, item().prop_map(time)),
        option::weighted(0.1, (1..30_u64).prop_map(gtid)),
        option::weighted(0.1, item().prop_map(|(_, item)| item.at().clone())),
        option::weighted(0.2, 0..2_u32),
        option::weighted(0.2, (item(), 0..4_u64).prop_map(position)),
        option::weighted(0.2, (item(), 0..4_u64).prop_map(position)),
    );
    let order = prop_oneof![Just(Order::Oldest), Just(Order::Newest)];
    (rows, when, order, option::weighted(0.3, 0..9_usize)).prop_map(|(rows, when, order, limit)| {
        let (since, until, gtid, transaction, epoch, after, before) = when;
        Filter {
            since,
            until,
            gtid,
            transaction,
            epoch,
            after,
            before,
            order,
            limit,
            ..rows
        }
    })
}

pub(crate) fn world() -> impl Strategy<Value = World> {
    let logs = vec(vec(seed(), 1..40), 1..3).prop_map(|logs| {
        let epochs = (0..).zip(logs).map(|(epoch, seeds)| place(seeds, epoch));
        epochs.collect::<Vec<_>>()
    });
    logs.prop_flat_map(|logs| {
        (
            vec(stretch(&logs), 1..5),
            vec(filter(&logs), 24),
            Just(logs),
            prop_oneof![3 => 200..6_000_u64, 1 => Just(1 << 20)],
            300..4_000_u64,
        )
    })
    .prop_map(|(plan, filters, logs, tail_bytes_max, chunk_bytes_max)| World {
        logs,
        plan,
        filters,
        tail_bytes_max,
        chunk_bytes_max,
    })
}

/// A list.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) changes: Vec<Change>,
    pub(crate) statements: Vec<SchemaChange>,
    /// By epoch: from where to where the log was read.
    pub(crate) read: Vec<(u32, LogPos, LogPos)>,
    pub(crate) transactions: u64,
}

impl Model {
    /// What a store holds that was fed by `plan`.
    pub(crate) fn of(world: &World) -> Self {
        let mut model = Self::default();
        for (epoch, log) in (0..).zip(&world.logs) {
            let is_read = |nth: usize| {
                world
                    .plan
                    .iter()
                    .any(|s| s.epoch == epoch && (s.from..s.to).contains(&nth))
            };
            for (_, item) in log.iter().enumerate().filter(|(nth, _)| is_read(*nth)) {
                match model.read.last_mut() {
                    Some((known, _, to)) if *known == epoch && to == item.at() => to.clone_from(item.end()),
                    _ => model.read.push((epoch, item.at().clone(), item.end().clone())),
                }
                if let Item::Txn(txn) = item {
                    model.changes.extend(changes_of(epoch, txn));
                    model.statements.extend(statements_of(epoch, txn));
                    model.transactions += u64::from(txn.committed);
                }
            }
        }
        model
    }

    pub(crate) fn find(&self, filter: &Filter) -> Vec<Change> {
        let mut found: Vec<Change> = self
            .changes
            .iter()
            .filter(|change| matches(change, filter))
            .cloned()
            .collect();
        finish(&mut found, filter);
        found
    }

    pub(crate) fn statements(&self, filter: &Filter) -> Vec<SchemaChange> {
        let wanted = |change: &&SchemaChange| {
            let is_about = |wanted: &TableFilter| {
                change.targets.iter().any(|target| {
                    let any = wanted.table.is_none() || target.table.is_none();
                    target.schema == wanted.schema && (any || target.table == wanted.table)
                })
            };
            (filter.tables.is_empty() || filter.tables.iter().any(is_about))
                && stands(&change.position, change.commit_time, filter)
                && filter
                    .gtid
                    .as_ref()
                    .is_none_or(|gtid| change.gtid.as_ref() == Some(gtid))
        };
        let mut found: Vec<SchemaChange> = self.statements.iter().filter(wanted).cloned().collect();
        finish(&mut found, filter);
        found
    }
}

fn finish<T>(found: &mut Vec<T>, filter: &Filter) {
    if filter.order == Order::Newest {
        found.reverse();
    }
    found.truncate(filter.limit.unwrap_or(usize::MAX));
}

fn stands(position: &Position, time: Micros, filter: &Filter) -> bool {
    filter.since.is_none_or(|since| since <= time)
        && filter.until.is_none_or(|until| time < until)
        && filter.transaction.as_ref().is_none_or(|at| position.at == *at)
        && filter.epoch.is_none_or(|epoch| position.epoch == epoch)
        && filter.after.as_ref().is_none_or(|after| after < position)
        && filter.before.as_ref().is_none_or(|before| position < before)
}

/// Whether the filter, apart from order and limit, asks for the change.
pub(crate) fn matches(change: &Change, filter: &Filter) -> bool {
    let Table { schema, name, .. } = &*change.table;
    let table = |wanted: &TableFilter| {
        wanted.schema == *schema && wanted.table.as_ref().is_none_or(|table| table == name)
    };
    (filter.tables.is_empty() || filter.tables.iter().any(table))
        && (filter.keys.is_empty()
            || filter
                .keys
                .iter()
                .any(|key| change.key == *key || change.new_key.as_ref() == Some(key)))
        && (filter.ops.is_empty() || filter.ops.contains(&change.op))
        && filter
            .gtid
            .as_ref()
            .is_none_or(|gtid| change.gtid.as_ref() == Some(gtid))
        && filter.column.as_ref().is_none_or(|name| changed(change, name))
        && stands(&change.position, change.commit_time, filter)
}

fn changed(change: &Change, name: &str) -> bool {
    let columns = change.changed().unwrap();
    columns
        .iter()
        .any(|column| change.table.columns[*column].name.eq_ignore_ascii_case(name))
}
