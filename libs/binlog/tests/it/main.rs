//! The decoder against real servers' logs and against bytes that no server wrote.

mod collect;
mod damage;
mod oracle;
mod refusal;
mod transactions;
mod workload;
