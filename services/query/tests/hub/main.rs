//! The hub with real connections: agents that dial over TLS and serve, replicas that hold them, one Redis.
//!
//! Who an agent's caller is and which servers there are is told by stand-ins for auth, tenant and vault, because thousands of agents are not
//! enrolled in a test; the hub, its replicas, Redis, PostgreSQL and every connection are what they are in production.

#[cfg(test)]
mod agent;
#[cfg(test)]
mod many;
#[cfg(test)]
mod neighbours;
#[cfg(test)]
mod one;
#[cfg(test)]
mod world;
