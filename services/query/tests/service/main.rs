//! QueryService through a real hub and a real agent over a real store. Who is who, and which servers and rules there are, is told by
//! stand-ins for auth, tenant and vault.

#[cfg(test)]
mod denied;
#[cfg(test)]
mod lineage;
#[cfg(test)]
mod neighbours;
#[cfg(test)]
mod origin;
#[cfg(test)]
mod pages;
#[cfg(test)]
mod renamed;
#[cfg(test)]
mod sizes;
#[cfg(test)]
mod status;
#[cfg(test)]
mod store;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod wire;
#[cfg(test)]
mod world;
