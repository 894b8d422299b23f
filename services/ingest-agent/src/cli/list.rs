//! `changes`, `history`, `txn`: lists of changes, whole or followed.

use std::{
    io::{self, BufWriter},
    path::Path,
    time::Duration,
};

use answer::{follow::end, question::Question};
use binlog::Position;
use trail::{Filter, Order, Reader};
use types::Code;

use super::{
    args, cover,
    entries::{Entries, Entry, Statements},
    names::Transaction,
    note,
    parse::Limit,
    question::question,
    stop::Stop,
};
use crate::{
    error::Error,
    exit::Exit,
    render::{
        self, ChangeError, Format, Render,
        screen::{Screen, Style},
    },
};

/// Changes a person can take in at once.
pub(super) const TABLE_LIMIT: usize = 100;
/// Changes shown before new ones, as `tail -f` does.
pub(super) const FOLLOW_LIMIT: usize = 10;
/// How soon a new commit is seen; each look costs a few system calls.
const POLL: Duration = Duration::from_millis(200);

/// A list: what is asked for and how it is to look.
struct List<'a> {
    reader: Reader,
    filter: Filter,
    listing: &'a args::Listing,
    transaction: Option<Transaction>,
    out: Box<dyn Render>,
}

/// `trail changes`.
pub(super) fn changes(store: &Path, args: &args::Changes) -> Result<Exit, Error> {
    let question = question(&args.tables, &args.rows.keys, &args.filters, None);
    List::new(store, question, &args.listing)?.run()
}

/// `trail history`.
pub(super) fn history(store: &Path, args: &args::History) -> Result<Exit, Error> {
    let (tables, keys) = ([args.table.clone()], [args.key.clone()]);
    let question = question(&tables, &keys, &args.filters, None);
    List::new(store, question, &args.listing)?.run()
}

/// `trail txn`.
pub(super) fn txn(store: &Path, args: &args::Txn) -> Result<Exit, Error> {
    let transaction = Some(&args.transaction);
    let question = question(&args.tables, &args.rows.keys, &args.filters, transaction);
    List::new(store, question, &args.listing)?.run()
}

/// A fault of the store, told as such.
pub(super) fn store_fault(error: &trail::Error) -> Error {
    Error::from_fault("the store", error)
}

impl<'a> List<'a> {
    fn new(store: &Path, question: Question, listing: &'a args::Listing) -> Result<Self, Error> {
        if listing.follow {
            can_be_followed(&question, listing)?;
        }
        let reader = super::open(store)?;
        let mut filter = question.filter(&reader)?;
        filter.order = order_of(listing, question.transaction.is_some());
        let out = render::changes(listing.format, BufWriter::new(io::stdout()), Screen::stdout());
        Ok(Self {
            reader,
            filter,
            listing,
            transaction: question.transaction,
            out,
        })
    }

    fn run(mut self) -> Result<Exit, Error> {
        if self.listing.follow {
            return self.follow();
        }
        let limit = match (self.listing.limit, self.listing.format) {
            (Some(limit), _) => limit,
            (None, Format::Table) => Limit::Of(TABLE_LIMIT),
            (None, _) => Limit::All,
        };
        let printed = self.print(limit)?;
        self.out.finish().map_err(|error| Error::from_output(&error))?;
        let mut judged = self.filter.clone();
        if let Some(last) = &printed.last {
            if self.transaction.is_some() {
                // A transaction is stored whole or not at all, whatever is missing elsewhere.
                judged = Filter {
                    transaction: Some(last.at.clone()),
                    epoch: Some(last.epoch),
                    ..Filter::default()
                };
            } else if printed.more && self.filter.order == Order::Newest {
                judged.after = Some(last.clone());
            }
        }
        if printed.more {
            let end = if self.filter.order == Order::Newest {
                "earlier"
            } else {
                "later"
            };
            note::note(&format!(
                "there are {end} changes; see more with --limit N, or all with --limit all"
            ));
        }
        let exit = cover::tell(&self.reader, &self.reader.coverage_of(&judged));
        if printed.last.is_none() {
            self.nothing(exit)
        } else {
            Ok(exit)
        }
    }

    /// Prints up to `limit` entries.
    fn print(&mut self, limit: Limit) -> Result<Printed, Error> {
        let mut filter = self.filter.clone();
        if let Limit::Of(count) = limit {
            filter.limit = Some(count.saturating_add(1));
        }
        let mut printed = Printed::default();
        for (nth, entry) in Entries::find(&self.reader, &filter, self.statements())
            .map_err(|error| store_fault(&error))?
            .enumerate()
        {
            let entry = entry.map_err(|error| store_fault(&error))?;
            if limit == Limit::Of(nth) {
                printed.more = true;
                break;
            }
            printed.last = Some(self.entry(&entry)?);
        }
        Ok(printed)
    }

    fn statements(&self) -> Statements {
        match (self.listing.format.shows_schema_changes(), &self.transaction) {
            (false, _) => Statements::No,
            (true, None) => Statements::OfTables,
            (true, Some(_)) => Statements::All,
        }
    }

    fn entry(&mut self, entry: &Entry) -> Result<Position, Error> {
        let written = match entry {
            Entry::Row(change) => self.out.change((&**change).into()),
            Entry::Schema(change) => self
                .out
                .schema_change((&**change).into())
                .map_err(ChangeError::from),
        };
        let position = entry.position().clone();
        written.map_err(|error| match error {
            ChangeError::Output(error) => Error::from_output(&error),
            ChangeError::Problem(problem) => {
                let what = format!(
                    "the change at {}, number {} of its transaction",
                    position.at, position.ordinal
                );
                Error::from_fault(what, &problem).hint("trail verify checks the whole store")
            }
        })?;
        Ok(position)
    }

    /// Nothing matched. Of a transaction that was named, that is an error if the store would have to know it.
    fn nothing(&self, exit: Exit) -> Result<Exit, Error> {
        let Some(transaction) = &self.transaction else {
            note::note("no change matches");
            return Ok(exit);
        };
        let alone = Filter {
            gtid: self.filter.gtid.clone(),
            transaction: self.filter.transaction.clone(),
            limit: Some(1),
            ..Filter::default()
        };
        let mut any =
            Entries::find(&self.reader, &alone, Statements::All).map_err(|error| store_fault(&error))?;
        if any.next().is_some() {
            note::note("no change of this transaction matches");
            return Ok(exit);
        }
        if exit == Exit::Incomplete {
            note::note("the transaction is not in the store");
            return Ok(exit);
        }
        let hint = match transaction {
            Transaction::Gtid(_) => "trail coverage tells which transactions the store has read",
            Transaction::At(_) => "FILE:POS is where the transaction begins, as trail changes prints it",
        };
        Err(Error::new(
            Code::Missing,
            format!("transaction {transaction}"),
            "the store holds no change by it",
        )
        .hint(hint))
    }

    /// Prints what there is, then what comes, until somebody wants the end.
    fn follow(mut self) -> Result<Exit, Error> {
        let mut stop = Stop::listen()?;
        let limit = match (self.listing.limit, self.filter.since, &self.transaction) {
            (Some(limit), ..) => limit,
            (None, None, None) => Limit::Of(FOLLOW_LIMIT),
            (None, ..) => Limit::All,
        };
        if let Limit::Of(count) = limit {
            self.filter.after = self.before_the_last(count)?;
        }
        let mut gaps = self.reader.coverage().gaps.len();
        loop {
            let end = end(&self.reader);
            for entry in Entries::find(&self.reader, &self.filter, self.statements())
                .map_err(|error| store_fault(&error))?
            {
                if stop.wanted() {
                    break;
                }
                self.entry(&entry.map_err(|error| store_fault(&error))?)?;
            }
            self.out.flush().map_err(|error| Error::from_output(&error))?;
            let coverage = self.reader.coverage();
            for gap in coverage.gaps.iter().skip(gaps) {
                note::line("INCOMPLETE", Style::Yellow, &cover::gap(gap));
            }
            gaps = coverage.gaps.len();
            self.filter.after = end.or(self.filter.after);
            while !stop.wanted() && !self.reader.refresh().map_err(|error| store_fault(&error))? {
                stop.sleep(POLL);
            }
            if stop.wanted() {
                self.out.finish().map_err(|error| Error::from_output(&error))?;
                return Ok(Exit::Done);
            }
        }
    }

    /// The position after which the last `count` entries stand.
    fn before_the_last(&self, count: usize) -> Result<Option<Position>, Error> {
        let filter = Filter {
            order: Order::Newest,
            limit: Some(count.saturating_add(1)),
            ..self.filter.clone()
        };
        let mut entries =
            Entries::find(&self.reader, &filter, self.statements()).map_err(|error| store_fault(&error))?;
        match entries.nth(count) {
            None => Ok(self.filter.after.clone()),
            Some(entry) => Ok(Some(
                entry.map_err(|error| store_fault(&error))?.position().clone(),
            )),
        }
    }
}

/// What a list came to.
#[derive(Default)]
struct Printed {
    /// The last entry.
    last: Option<Position>,
    /// Whether there would have been more.
    more: bool,
}

/// The order that a list has.
pub(super) fn order_of(listing: &args::Listing, transaction: bool) -> Order {
    match listing.order {
        Some(args::OrderName::Newest) => Order::Newest,
        Some(args::OrderName::Oldest) => Order::Oldest,
        None if listing.follow || transaction => Order::Oldest,
        None => Order::Newest,
    }
}

/// Refuses what contradicts going on for ever.
pub(super) fn can_be_followed(question: &Question, listing: &args::Listing) -> Result<(), Error> {
    let refuse = |flag: &str, why: &str| Err(Error::new(Code::Invalid, flag, why));
    if listing.format == Format::Json {
        return refuse("--follow", "a JSON array would never end; use --format ndjson");
    }
    if listing.order == Some(args::OrderName::Newest) {
        return refuse("--follow", "what is new comes last; leave out --order newest");
    }
    if question.until.is_some() {
        return refuse("--follow", "it has no end; leave out --until");
    }
    Ok(())
}
