//! Uploads through service query as it is, over a real vault and PostgreSQL, with logs that real servers wrote. Stand-ins for auth and tenant say
//! who is who and which rules there are.

#[cfg(test)]
mod asked;
#[cfg(test)]
mod bounds;
#[cfg(test)]
mod child;
#[cfg(test)]
mod damaged;
#[cfg(test)]
mod frozen;
#[cfg(test)]
mod gone;
#[cfg(test)]
mod life;
#[cfg(test)]
mod logs;
#[cfg(test)]
mod parts;
#[cfg(test)]
mod sealed;
#[cfg(test)]
mod taken_over;
#[cfg(test)]
mod turns;
#[cfg(test)]
mod world;
