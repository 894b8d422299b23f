//! `changes`, `history`, `txn` of a server of a mesh.

use std::io::{self, BufWriter};

use answer::{names::Transaction, question::Question};
use change::position_of;
use proto::{
    change::v1 as pb,
    query::v1::{GetCoverageRequest, GetRowHistoryRequest, GetTransactionRequest, StreamChangesRequest},
};
use types::Code;

use super::{
    Redacted, Server, block_on, filter, follow, query,
    rows::{End, Rows, transaction_page},
    statements::Statements,
};
use crate::{
    cli::{
        args,
        list::{TABLE_LIMIT, can_be_followed, order_of},
        note,
        parse::Limit,
        question::question,
    },
    error::Error,
    exit::Exit,
    remote::SHORT,
    render::{self, ChangeError, Format, Render, Shown, ShownStatement, screen::Screen},
};

/// What is asked for and how it is to look.
struct List<'a> {
    server: &'a Server,
    question: &'a Question,
    filter: pb::Filter,
    listing: &'a args::Listing,
    out: Out,
}

/// Where entries go, and what is remembered of them.
pub(super) struct Out {
    render: Box<dyn Render>,
    printed: usize,
    redacted: Redacted,
    /// Where the last printed change stands.
    pub(super) last: Option<pb::Position>,
}

/// `trail changes --server NAME`.
pub(in crate::cli) fn changes(server: &str, args: &args::Changes) -> Result<Exit, Error> {
    let question = question(&args.tables, &args.rows.keys, &args.filters, None);
    list(server, &args.mesh, &question, &args.listing, false)
}

/// `trail history --server NAME`.
pub(in crate::cli) fn history(server: &str, args: &args::History) -> Result<Exit, Error> {
    let (tables, keys) = ([args.table.clone()], [args.key.clone()]);
    let question = question(&tables, &keys, &args.filters, None);
    list(server, &args.mesh, &question, &args.listing, true)
}

/// `trail txn --server NAME`.
pub(in crate::cli) fn txn(server: &str, args: &args::Txn) -> Result<Exit, Error> {
    let transaction = Some(&args.transaction);
    let question = question(&args.tables, &args.rows.keys, &args.filters, transaction);
    list(server, &args.mesh, &question, &args.listing, false)
}

fn list(
    name: &str,
    mesh: &args::Mesh,
    question: &Question,
    listing: &args::Listing,
    history: bool,
) -> Result<Exit, Error> {
    if listing.follow {
        can_be_followed(question, listing)?;
    }
    let filter = filter(question)?;
    if listing.follow {
        return follow::follow(name, mesh, &filter, listing);
    }
    block_on(async {
        let server = Server::open(name, mesh).await?;
        let list = List {
            server: &server,
            question,
            filter,
            listing,
            out: Out::new(listing.format),
        };
        list.run(history).await
    })
}

/// Which changes, in which order, from which method.
struct Plan<'s> {
    rows: Rows<'s>,
    statements: Statements<'s>,
    order: pb::Order,
    /// The store does not know the transaction, and may not have to: something is missing from it.
    unknown: bool,
}

impl<'a> List<'a> {
    async fn run(mut self, history: bool) -> Result<Exit, Error> {
        let limit = match (self.listing.limit, self.listing.format) {
            (Some(limit), _) => limit,
            (None, Format::Table) => Limit::Of(TABLE_LIMIT),
            (None, _) => Limit::All,
        };
        let plan = match &self.question.transaction {
            Some(transaction) => match self.of_transaction(transaction, limit).await? {
                Some(plan) => plan,
                None => return self.no_transaction(transaction).await,
            },
            None => self.of_tables(history, limit).await?,
        };
        let (order, unknown) = (plan.order, plan.unknown);
        let (more, end) = self.print(plan, limit).await?;
        self.out.finish()?;
        if more {
            let end = if order == pb::Order::Newest {
                "earlier"
            } else {
                "later"
            };
            note::note(&format!(
                "there are {end} changes; see more with --limit N, or all with --limit all"
            ));
        }
        self.out.redacted.tell();
        let exit = self.server.judge(end.coverage.as_ref()).await?;
        if self.out.printed == 0 {
            note::note(match (&self.question.transaction, unknown) {
                (None, _) => "no change matches",
                (Some(_), false) => "no change of this transaction matches",
                (Some(_), true) => "the transaction is not in the store",
            });
        }
        Ok(exit)
    }

    fn order(&self) -> pb::Order {
        match order_of(self.listing, self.question.transaction.is_some()) {
            trail::Order::Newest => pb::Order::Newest,
            trail::Order::Oldest => pb::Order::Oldest,
        }
    }

    fn shows_statements(&self) -> bool {
        self.listing.format.shows_schema_changes()
    }

    async fn of_tables(&self, history: bool, limit: Limit) -> Result<Plan<'a>, Error> {
        let (order, server) = (self.order(), self.server);
        let statements = if self.shows_statements() {
            Statements::of(server, &self.filter, order == pb::Order::Oldest).await?
        } else {
            Statements::none(server)
        };
        let rows = match (history, &self.filter.tables[..], &self.filter.keys[..]) {
            (true, [table], [key]) => {
                let request = GetRowHistoryRequest {
                    table: Some(table.clone()),
                    key: key.clone(),
                    filter: Some(pb::Filter {
                        tables: Vec::new(),
                        keys: Vec::new(),
                        ..self.filter.clone()
                    }),
                    order: order.into(),
                    ..GetRowHistoryRequest::default()
                };
                Rows::history(server, request, wanted(limit))
            }
            _ => Rows::stream(server, self.stream(order), wanted(limit)),
        };
        Ok(Plan {
            rows,
            statements,
            order,
            unknown: false,
        })
    }

    fn stream(&self, order: pb::Order) -> StreamChangesRequest {
        StreamChangesRequest {
            filter: Some(self.filter.clone()),
            order: order.into(),
            ..StreamChangesRequest::default()
        }
    }

    /// A transaction whole by the method for it; a part of it by a filter, once it is known to be there.
    async fn of_transaction(
        &self,
        transaction: &Transaction,
        limit: Limit,
    ) -> Result<Option<Plan<'a>>, Error> {
        let (order, server) = (self.order(), self.server);
        let request = GetTransactionRequest {
            transaction: transaction.to_string(),
            ..GetTransactionRequest::default()
        };
        let Some((first, found)) = transaction_page(server, &mut request.clone(), Some(1)).await? else {
            return Ok(None);
        };
        let unknown = first.changes.is_empty() && found.is_empty();
        let alone = pb::Filter {
            gtid: String::new(),
            transaction: String::new(),
            ..self.filter.clone()
        };
        let whole = alone == pb::Filter::default();
        let statements = if !self.shows_statements() {
            Statements::none(server)
        } else if whole {
            let mut found = found;
            if order == pb::Order::Newest {
                found.reverse();
            }
            Statements::given(server, found)
        } else {
            Statements::of(server, &self.filter, order == pb::Order::Oldest).await?
        };
        let rows = if whole && order == pb::Order::Oldest {
            Rows::transaction(server, request, wanted(limit))
        } else {
            Rows::stream(server, self.stream(order), wanted(limit))
        };
        Ok(Some(Plan {
            rows,
            statements,
            order,
            unknown,
        }))
    }

    /// The store of the agent does not know the transaction. That is no answer while something is missing from it.
    async fn no_transaction(&self, transaction: &Transaction) -> Result<Exit, Error> {
        let request = GetCoverageRequest {
            server: self.server.name.clone(),
        };
        let what = &self.server.what;
        let asked = self
            .server
            .mesh
            .ask(what, request, SHORT, |channel, request| async move {
                query(channel).get_coverage(request).await
            });
        let coverage = asked.await?.into_inner().coverage;
        if coverage.as_ref().is_some_and(|coverage| !coverage.complete) {
            let exit = self.server.judge(coverage.as_ref()).await?;
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

    /// Prints up to `limit` entries. Says whether there is more, and how the answer ended.
    async fn print(&mut self, plan: Plan<'_>, limit: Limit) -> Result<(bool, End), Error> {
        let Plan {
            mut rows,
            mut statements,
            order,
            ..
        } = plan;
        let (mut more, mut ending) = (false, End::default());
        while let Some(frame) = rows.next().await? {
            for change in &frame.changes {
                if more {
                    break;
                }
                let at = change.position.as_ref().map(position_of);
                while let (Some(statement), Some(at)) = (statements.peek().await?, &at) {
                    let is_due = match order {
                        pb::Order::Newest => statement > *at,
                        _ => statement < *at,
                    };
                    if !is_due || self.out.is_full(limit) {
                        break;
                    }
                    self.out.statement(statements.take())?;
                }
                more = self.out.is_full(limit);
                if !more {
                    self.out.change(change)?;
                }
            }
            self.out.saw(frame.redacted);
            ending = frame.end.unwrap_or(ending);
        }
        more |= ending.more;
        while !more && statements.peek().await?.is_some() {
            more = self.out.is_full(limit);
            if !more {
                self.out.statement(statements.take())?;
            }
        }
        if statements.hidden > 0 {
            note::note(&format!(
                "{} statements about tables that your role does not see are left out",
                statements.hidden
            ));
        }
        Ok((more, ending))
    }
}

/// How many rows to ask for: as many as entries, and one at least, for 0 asks for all.
fn wanted(limit: Limit) -> Option<u64> {
    match limit {
        Limit::Of(count) => Some((count as u64).max(1)),
        Limit::All => None,
    }
}

/// An entry that breaks the rules of its message.
fn odd(what: &str) -> Error {
    Error::new(
        Code::Corrupt,
        "the mesh's answer",
        format!("{what} does not say where it stands"),
    )
}

impl Out {
    pub(super) fn new(format: Format) -> Self {
        Self {
            render: render::changes(format, BufWriter::new(io::stdout()), Screen::stdout()),
            printed: 0,
            redacted: Redacted::default(),
            last: None,
        }
    }

    fn is_full(&self, limit: Limit) -> bool {
        limit == Limit::Of(self.printed)
    }

    pub(super) fn change(&mut self, change: &pb::Change) -> Result<(), Error> {
        let shown = Shown::sent(change).ok_or_else(|| odd("a change"))?;
        self.render.change(shown).map_err(|error| match error {
            ChangeError::Output(error) => Error::from_output(&error),
            ChangeError::Problem(problem) => Error::from_fault("the mesh's answer", &problem),
        })?;
        self.redacted.see(change);
        self.printed += 1;
        self.last.clone_from(&change.position);
        Ok(())
    }

    fn statement(&mut self, statement: Option<pb::SchemaChange>) -> Result<(), Error> {
        let Some(statement) = statement else {
            return Ok(());
        };
        let shown = ShownStatement::sent(&statement).ok_or_else(|| odd("a statement"))?;
        self.render
            .schema_change(shown)
            .map_err(|error| Error::from_output(&error))?;
        self.printed += 1;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), Error> {
        self.render.flush().map_err(|error| Error::from_output(&error))
    }

    pub(super) fn finish(&mut self) -> Result<(), Error> {
        self.render.finish().map_err(|error| Error::from_output(&error))
    }

    /// Remembers that something was redacted.
    pub(super) fn saw(&mut self, redacted: bool) {
        self.redacted.any |= redacted;
    }

    /// Says what was redacted.
    pub(super) fn tell(&self) {
        self.redacted.tell();
    }
}
