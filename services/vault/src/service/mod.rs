//! gRPC: decode, act, encode.

pub(crate) mod agent;
pub(crate) mod key;
pub(crate) mod secret;

use sqlx::types::chrono::{DateTime, Utc};

fn timestamp(time: DateTime<Utc>) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.timestamp(),
        nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default(),
    }
}

fn tenant(text: &str) -> Result<types::TenantId, crate::error::Error> {
    text.parse()
        .map_err(|_| crate::domain::Invalid::new("tenant_id", "is not a tenant's id").into())
}
