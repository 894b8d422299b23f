//! The decoder against real servers' logs and against bytes that no server wrote.

mod bounds;
mod charsets;
mod collect;
mod damage;
mod oracle;
mod quotes;
mod refusal;
mod selected;
mod transactions;
mod workload;
