//! A shop whose every value is looked for.

use std::collections::BTreeSet;

use testkit::Server;

use super::values::{Values, mark, number};

/// What is in the rows.
pub(super) struct Rows {
    /// The schema that is denied as a whole.
    pub(super) hidden: String,
    /// What whoever is restricted may see.
    pub(super) open: Values,
    /// What they may not, the schema's name among it.
    pub(super) secret: Values,
    /// One of these is in every value.
    pub(super) marks: Values,
    /// The key of a row of `shop.people`.
    pub(super) email: String,
}

const OPEN: [&str; 5] = ["new", "paid", "sold", "stocked", "who"];

const SECRET: [&str; 10] = [
    "cardone",
    "cardtwo",
    "cardlater",
    "cardlast",
    "carddefault",
    "note",
    "mail",
    "mailnew",
    "reason",
    "reasonnew",
];

impl Rows {
    /// Tables without rows: a history begins when somebody follows.
    pub(super) fn prepare(server: &Server) -> Self {
        let (seen, unseen) = (mark(), mark());
        let hidden = format!("payroll{}", mark());
        server.sql(&format!(
            "CREATE DATABASE shop CHARACTER SET utf8mb4; CREATE DATABASE {hidden} CHARACTER SET utf8mb4; \
             CREATE TABLE shop.orders (id INT PRIMARY KEY, status VARCHAR(80), card VARCHAR(80), note BLOB); \
             CREATE TABLE shop.people (email VARCHAR(80) PRIMARY KEY, name VARCHAR(80)); \
             CREATE TABLE shop.stock (id INT PRIMARY KEY, status VARCHAR(80)); \
             CREATE TABLE {hidden}.pay (id INT PRIMARY KEY, salary BIGINT, reason VARCHAR(80))",
        ));
        let mut secret = Values::texts(&SECRET, &unseen);
        let mut marks = Values::default();
        for name in ["salary", "salarynew"] {
            let number = number();
            secret.add_number(name, number);
            marks.add_number(name, number);
        }
        marks.add("what is open", seen.clone());
        marks.add("what is secret", unseen);
        secret.add("the hidden schema", hidden.clone());
        Self {
            email: secret.text("mailnew").to_owned(),
            open: Values::texts(&OPEN, &seen),
            hidden,
            secret,
            marks,
        }
    }

    /// Rows that come, change and go, and a statement about a definition.
    pub(super) fn live(&self, server: &Server) {
        let open = |name: &str| self.open.text(name);
        let secret = |name: &str| self.secret.text(name);
        let pay = format!("{}.pay", self.hidden);
        let (new, paid, sold, stocked, who) = (
            open("new"),
            open("paid"),
            open("sold"),
            open("stocked"),
            open("who"),
        );
        let (one, two, later, last) = (
            secret("cardone"),
            secret("cardtwo"),
            secret("cardlater"),
            secret("cardlast"),
        );
        let (mail, renamed) = (secret("mail"), secret("mailnew"));
        server.sql(&format!(
            "INSERT INTO shop.orders VALUES (1, '{new}', '{one}', '{note}'), (2, '{new}', '{two}', NULL); \
             INSERT INTO shop.people VALUES ('{mail}', '{who}'); INSERT INTO shop.stock VALUES (1, '{stocked}'); \
             INSERT INTO {pay} VALUES (1, {salary}, '{reason}'); \
             UPDATE shop.orders SET card = '{later}' WHERE id = 1; UPDATE shop.orders SET status = '{paid}' WHERE id = 2; \
             UPDATE shop.people SET email = '{renamed}'; UPDATE {pay} SET salary = {raised}, reason = '{because}'; \
             ALTER TABLE shop.orders ALTER card SET DEFAULT '{default}'; \
             START TRANSACTION; DELETE FROM shop.orders WHERE id = 1; UPDATE {pay} SET reason = 'none'; COMMIT; \
             UPDATE shop.orders SET card = '{last}' WHERE id = 2; UPDATE shop.stock SET status = '{sold}'",
            note = secret("note"),
            salary = secret("salary"),
            raised = secret("salarynew"),
            reason = secret("reason"),
            because = secret("reasonnew"),
            default = secret("carddefault"),
        ));
    }

    /// The value of [`Self::live`]'s last change.
    pub(super) fn last(&self) -> &str {
        self.open.text("sold")
    }

    /// Everything that is in a row.
    pub(super) fn names(&self) -> BTreeSet<&str> {
        &self.open.names() | &self.secret.names()
    }

    /// What of everything that is in a row is in a place.
    pub(super) fn names_in(&self, place: &[u8]) -> BTreeSet<&str> {
        &self.open.names_in(place) | &self.secret.names_in(place)
    }
}
