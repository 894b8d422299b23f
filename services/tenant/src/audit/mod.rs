//! The tenants' audit logs: written down, read, and seen to the end.
//!
//! What holds:
//! * An intent that was answered is in the chain, and stays: the log is written by two functions of the database only, which append.
//! * An entry has one beginning and one result, however often either is told: ids decide.
//! * An intent without a result 30 s after its deadline is closed as unknown, once.
//! * An event in the inbox reaches each log it belongs to exactly once; one that cannot be understood is set aside and holds up nobody.
//! * The vault signs each chain within ten seconds of its growth; when it cannot, everything else goes on and the next head catches up.
//! * A record that cannot be read is told of, and keeps nobody from the others.
//! * What the tenant's plan no longer keeps is cut off at the front, and the chain says so.

mod append;
mod error;
mod filter;
mod operator;
pub(crate) mod read;
mod service;
mod stream;
mod task;
mod vault;
mod wire;
mod work;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chassis::places::Places;
use proto::tenant::v1::audit_service_server::AuditServiceServer;

pub(crate) use error::Error;
pub use operator::{last_audit_head, read_audit_log};

use crate::{Config, store::Store};

/// Streams of logs that one process follows at a time.
const STREAMS: usize = 200;

/// Of these, for one tenant.
const OF_A_TENANT: usize = 8;

/// The logs.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    store: Store,
    appender: append::Appender,
    vault: vault::Vault,
    region: types::Region,
    streams: Places,
    unreadable: read::Unreadable,
    measure: work::Measure,
}

impl Log {
    /// Of the tenants in this store; begins what goes on without a request.
    pub(crate) fn start(store: Store, config: &Config, runtime: &chassis::Runtime) -> Self {
        let (appender, writing) = append::Appender::new(store.clone());
        let log = Self {
            appender,
            vault: vault::Vault::new(runtime.peer("vault").ok()),
            region: runtime.region(),
            streams: Places::new(STREAMS, OF_A_TENANT),
            unreadable: read::Unreadable::new(&runtime.meter()),
            measure: work::Measure::new(&runtime.meter()),
            store,
        };
        let (often, heads, seldom) = (
            config.tenant_audit_pause,
            config.tenant_head_pause,
            config.tenant_sweep_pause,
        );
        let stopping = runtime.stopping();
        runtime.spawn("audit-append", writing);
        runtime.spawn("audit-inbox", task::inbox(log.clone(), often, stopping.clone()));
        runtime.spawn("audit-close", task::close(log.clone(), often, stopping.clone()));
        runtime.spawn("audit-heads", task::heads(log.clone(), heads, stopping.clone()));
        runtime.spawn("audit-trim", task::trim(log.clone(), seldom, stopping));
        log
    }

    /// The service.
    pub(crate) fn service(&self) -> AuditServiceServer<service::Audit> {
        AuditServiceServer::new(service::Audit(self.clone()))
    }
}

/// Microseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
