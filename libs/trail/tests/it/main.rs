//! The store from outside: what is put in comes out, whatever happens in between.

#[cfg(test)]
mod basics;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod model;
#[cfg(test)]
mod property;
