//! The store from outside: what is put in comes out, whatever happens in between.

#[cfg(test)]
mod basics;
#[cfg(test)]
mod bounds;
#[cfg(test)]
mod child;
#[cfg(test)]
mod concurrency;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod folder;
#[cfg(test)]
mod large;
#[cfg(test)]
mod model;
#[cfg(test)]
mod property;
#[cfg(test)]
mod reading;
#[cfg(test)]
mod refusal;
