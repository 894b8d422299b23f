//! The chassis over real sockets and in real processes.

#[cfg(test)]
mod admin;
#[cfg(test)]
mod agents;
#[cfg(test)]
mod caller;
#[cfg(test)]
mod child;
#[cfg(test)]
mod config;
#[cfg(test)]
mod delegation;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod exposition;
#[cfg(test)]
mod peer;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod rotation;
#[cfg(test)]
mod run;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod stack;
#[cfg(test)]
mod telemetry;
#[cfg(test)]
mod token;
