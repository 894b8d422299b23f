//! `trail agent` against a mesh that speaks the real protocols: TLS with real certificates, gRPC, proxies, and real database servers.

mod barred;
mod cli;
mod dist;
mod enrolling;
mod following;
mod handover;
mod links;
mod proxy;
mod stand;
