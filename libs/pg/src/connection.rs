//! A connection while a transaction has it.

use std::{
    fmt, io,
    time::{Duration, Instant},
};

use futures_util::{
    StreamExt as _, TryStreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use sqlx::{
    AssertSqlSafe, Either, Execute, Executor, PgConnection, Postgres, Row as _, SqlStr,
    pool::PoolConnection,
    postgres::{PgArguments, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use tokio::time::timeout_at;

use crate::Error;

/// The server ends a statement at the deadline by itself; its word on that is awaited this much longer.
const GRACE: Duration = Duration::from_millis(100);

/// Where statements of a transaction go: `query.execute(&mut *transaction)`.
///
/// Other than sqlx's own connection it keeps no statement prepared on the server (behind pgbouncer the next one would look for it in
/// vain), ends each statement at the transaction's deadline, notices when one fails, and begins no transaction within the transaction.
/// A statement whose rows were not read to the end counts as failed.
pub struct Connection {
    /// Always there, until the transaction ends.
    inner: Option<PoolConnection<Postgres>>,
    deadline: Instant,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between statements.
    Ready,
    /// A statement was sent, and its answer is not complete.
    Busy,
    /// The server refused a statement: it will keep nothing.
    Failed,
    /// The session is of no further use.
    Broken,
}

impl Connection {
    pub(crate) fn new(inner: PoolConnection<Postgres>, deadline: Instant) -> Self {
        Self {
            inner: Some(inner),
            deadline,
            state: State::Ready,
        }
    }

    pub(crate) fn failed(&self) -> bool {
        self.state != State::Ready
    }

    pub(crate) fn broken(&self) -> bool {
        self.state == State::Broken
    }

    /// When the transaction must be over.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(crate) fn take(&mut self) -> Option<PoolConnection<Postgres>> {
        self.inner.take()
    }

    /// Sends `words` as one message.
    pub(crate) async fn send(&mut self, words: String) -> Result<(), Error> {
        self.execute(AssertSqlSafe(words))
            .await
            .map(|_| ())
            .map_err(Error::from)
    }

    /// Sends `words` as one message, and gives the number that the first answer begins with.
    pub(crate) async fn ask(&mut self, words: String) -> Result<Option<i32>, Error> {
        let row = self.fetch_optional(AssertSqlSafe(words)).await?;
        Ok(row.and_then(|row| row.try_get(0).ok()))
    }

    /// Sends `words` as one message, and gives the number that the first row begins with, and those of the rows after it.
    pub(crate) async fn numbers(&mut self, words: String) -> Result<(Option<i32>, Vec<i64>), Error> {
        let mut answers = self.run(AssertSqlSafe(words));
        let (mut first, mut rest) = (None, Vec::new());
        // To the end: what follows the last row may be an error.
        while let Some(answer) = answers.try_next().await? {
            match answer {
                Either::Right(row) if first.is_none() => first = Some(row),
                Either::Right(row) => rest.push(row.try_get(0)?),
                Either::Left(_) => {}
            }
        }
        Ok((first.and_then(|row| row.try_get(0).ok()), rest))
    }

    fn give(&mut self) -> Result<(&mut PgConnection, &mut State), sqlx::Error> {
        match (&mut self.inner, self.state) {
            (_, State::Broken) | (None, _) => Err(sqlx::Error::Io(io::ErrorKind::BrokenPipe.into())),
            (Some(inner), _) => Ok((inner, &mut self.state)),
        }
    }

    fn run<'e, 'q: 'e, E>(
        &'e mut self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        E: 'q + Execute<'q, Postgres>,
    {
        let until = (self.deadline + GRACE).into();
        let (connection, state) = match self.give() {
            Ok(given) => given,
            Err(error) => return stream::once(async { Err(error) }).boxed(),
        };
        if *state == State::Ready {
            *state = State::Busy;
        }
        let answers = connection.fetch_many(Unnamed(query));
        stream::try_unfold((answers, state), move |(mut answers, state)| async move {
            match timeout_at(until, answers.try_next()).await {
                Ok(Ok(Some(answer))) => Ok(Some((answer, (answers, state)))),
                Ok(Ok(None)) => {
                    if *state == State::Busy {
                        *state = State::Ready;
                    }
                    Ok(None)
                }
                Ok(Err(error)) => {
                    *state = if Error::breaks_connection(&error) {
                        State::Broken
                    } else {
                        State::Failed
                    };
                    Err(error)
                }
                Err(_) => {
                    *state = State::Broken;
                    Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into()))
                }
            }
        })
        .boxed()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

impl<'c> Executor<'c> for &'c mut Connection {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.run(query)
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            let mut answers = self.run(query);
            let mut first = None;
            // To the end: what follows the first row may be an error.
            while let Some(answer) = answers.try_next().await? {
                if let Either::Right(row) = answer {
                    first.get_or_insert(row);
                }
            }
            Ok(first)
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move { self.give()?.0.prepare_with(sql, parameters).await })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move { self.give()?.0.describe(sql).await })
    }
}

/// A query that leaves no prepared statement behind.
struct Unnamed<E>(E);

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Unnamed<E> {
    fn sql(self) -> SqlStr {
        self.0.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        None
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, sqlx::error::BoxDynError> {
        self.0.take_arguments()
    }

    fn persistent(&self) -> bool {
        false
    }
}
