//! A transaction that is one call of a function, in one message: for what is written down so often that four round trips each are too many.

use std::{fmt::Write as _, sync::Arc};

use sqlx::{Postgres, pool::PoolConnection};
use types::Errand;

use super::Transaction;
use crate::{
    Connection, Error,
    backends::{Backend, Backends},
    entrance::{self, Side, hex},
};

/// What it gave, and the connection, on which nothing is under way.
pub(crate) type Called = (Vec<i64>, PoolConnection<Postgres>, Backend);

impl Transaction {
    /// Begins, calls and commits. Whatever fails, the connection comes back clean or not at all.
    pub(crate) async fn at_once(
        inner: PoolConnection<Postgres>,
        service: &'static str,
        errand: &Errand,
        backends: Arc<Backends>,
        call: &str,
    ) -> Result<Called, Error> {
        let side = Side::Tenant(errand.tenant);
        let (mut words, key) = entrance::begin(service, side, errand.deadline);
        let _ = write!(words, "; {call}; COMMIT");
        let mut transaction = Self {
            connection: Connection::new(inner, errand.deadline),
            service,
            tenant: Some(errand.tenant),
            side,
            key,
            backend: Backend::new(backends),
        };
        // It may have come as far as the commit.
        let answered = transaction.connection.numbers(words).await;
        let (process, numbers) = answered.map_err(|error| error.while_entering().while_committing())?;
        transaction.backend.is(process);
        transaction.backend.knows(errand.tenant);
        let inner = transaction.connection.take().ok_or(Error::Aborted)?;
        Ok((numbers, inner, transaction.backend.clone()))
    }
}

/// The call of a function that takes texts and gives numbers. The texts stand in it as hexadecimal digits: whatever is in them, it is no SQL.
pub(crate) fn words(function: &'static str, texts: &[String]) -> String {
    let mut words = format!("SELECT {function}(ARRAY[");
    for (count, text) in texts.iter().enumerate() {
        let comma = if count == 0 { "" } else { ", " };
        let digits = hex(text.as_bytes());
        let _ = write!(
            words,
            "{comma}pg_catalog.convert_from(pg_catalog.decode('{digits}', 'hex'), 'UTF8')"
        );
    }
    words.push_str("]::pg_catalog.text[])");
    words
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn a_text_is_digits_in_its_call() {
        let texts = ["a'); DROP TABLE rows; --\\".to_owned(), String::new()];
        let said = words("tenant.audit_append", &texts);
        let literals: Vec<&str> = said.split('\'').skip(1).step_by(2).collect();
        let digits = "6127293b2044524f50205441424c4520726f77733b202d2d5c";
        assert_eq!(literals, [digits, "hex", "UTF8", "", "hex", "UTF8"]);
        assert!(!said.contains("DROP"), "{said}");
    }
}
