//! What is bought: subscriptions, as the payment provider Stripe has them.
//!
//! An event is a hint. Its signature is checked ([`signature`]), its id is kept so that it counts once, and of what it says only the id of
//! the subscription is taken ([`event`]). The worker then reads the subscription itself ([`stripe`]) and writes what it saw
//! ([`worker`], `store::billing`): so neither the order of events, nor how often they come, nor a lost one between two others changes what is
//! written in the end. What a subscription may become and what it gives is in [`subscription`].
//!
//! Without Stripe configured there are no links and no events, and plans are the operator's word ([`crate::operator`]).

pub(crate) mod config;
pub(crate) mod event;
pub(crate) mod signature;
pub(crate) mod stripe;
pub(crate) mod subscription;
pub(crate) mod worker;
