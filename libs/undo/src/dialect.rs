//! What the script is written for.

/// Whose SQL the script speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// MySQL 8.0 and later.
    Mysql,
    /// MariaDB 10.11 and later.
    Mariadb,
}

/// What the script may overwrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Nothing that a later change wrote: [`Class::Clean`](crate::Class::Clean) and [`Class::Disjoint`](crate::Class::Disjoint) only.
    Safe,
    /// Also [`Class::Overlap`](crate::Class::Overlap): values the plan shows may be overwritten, values newer than the plan may not.
    Force,
}
