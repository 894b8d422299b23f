//! Service auth through its RPCs: a real `start` behind mutual TLS, PostgreSQL, Redis, and mails in a folder.
#[cfg(test)]
mod accounts;
#[cfg(test)]
mod actor;
#[cfg(test)]
mod api_key;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod delegation;
#[cfg(test)]
mod guard;
#[cfg(test)]
mod mails;
#[cfg(test)]
mod mfa;
#[cfg(test)]
mod passwords;
#[cfg(test)]
mod plans;
#[cfg(test)]
mod refresh;
#[cfg(test)]
mod ring;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod throttle;
#[cfg(test)]
mod turnstile;
#[cfg(test)]
mod world;
