//! The forms of the audit log, read by parsers and schemas of others.

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod outsiders;
#[cfg(test)]
mod properties;
