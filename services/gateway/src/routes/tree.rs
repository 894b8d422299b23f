//! From a verb and a path to a route. A literal beats a variable; what only a variable matches is tried after.

use std::{collections::HashMap, sync::Arc};

use http::Method;

use super::{
    Route,
    template::{Segment, Template},
};

/// More segments than any template has.
const MOST_SEGMENTS: usize = 32;

/// What all paths with one beginning go on with.
#[derive(Debug, Default)]
pub(crate) struct Node {
    literals: HashMap<String, Node>,
    variable: Option<Box<Node>>,
    verbs: HashMap<String, Vec<(Method, Arc<Route>)>>,
}

/// What a path leads to.
#[derive(Debug)]
pub(crate) enum Reached {
    /// A route, and its variables' values from the left.
    Route(Arc<Route>, Vec<String>),
    /// Routes of other methods only.
    Other(Vec<Method>),
    /// None.
    Nothing,
    /// A `%` without two hexadecimal digits, or bytes that are not UTF-8.
    Malformed,
}

impl Node {
    /// Adds a route; gives the one that is there already for the same method and paths.
    pub(crate) fn insert(
        &mut self,
        method: &Method,
        template: &Template,
        route: Arc<Route>,
    ) -> Result<(), Arc<Route>> {
        let mut node = self;
        for segment in &template.segments {
            node = match segment {
                Segment::Literal(text) => node.literals.entry(text.clone()).or_default(),
                Segment::Variable(_) => node.variable.get_or_insert_default(),
            };
        }
        let routes = node.verbs.entry(template.verb.clone()).or_default();
        if let Some((_, other)) = routes.iter().find(|(of, _)| of == method) {
            return Err(Arc::clone(other));
        }
        routes.push((method.clone(), route));
        Ok(())
    }

    /// Looks a raw path up. HEAD finds what GET finds.
    pub(crate) fn find(&self, method: &Method, path: &str) -> Reached {
        let Some(path) = path.strip_prefix('/') else {
            return Reached::Nothing;
        };
        let raw: Vec<&str> = path.split('/').take(MOST_SEGMENTS + 1).collect();
        if raw.len() > MOST_SEGMENTS {
            return Reached::Nothing;
        }
        let Some(decoded) = raw
            .iter()
            .map(|segment| percent_decoded(segment))
            .collect::<Option<Vec<_>>>()
        else {
            return Reached::Malformed;
        };
        let method = if method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        // A colon that is written as such may begin a verb; where no such verb is known it belongs to the value.
        let verb = raw
            .last()
            .and_then(|last| last.rsplit_once(':'))
            .and_then(|(before, verb)| Some((percent_decoded(before)?, percent_decoded(verb)?)));
        if let Some((before, verb)) = verb {
            let mut segments = decoded.clone();
            if let Some(last) = segments.last_mut() {
                *last = before;
            }
            let reached = Search::new(method, &verb).run(self, &segments);
            if !matches!(reached, Reached::Nothing) {
                return reached;
            }
        }
        Search::new(method, "").run(self, &decoded)
    }
}

struct Search<'q> {
    method: &'q Method,
    verb: &'q str,
    values: Vec<String>,
    other: Vec<Method>,
}

impl<'q> Search<'q> {
    fn new(method: &'q Method, verb: &'q str) -> Self {
        Self {
            method,
            verb,
            values: Vec::new(),
            other: Vec::new(),
        }
    }

    fn run(mut self, root: &Node, segments: &[String]) -> Reached {
        match self.walk(root, segments) {
            Some(route) => Reached::Route(route, self.values),
            None if self.other.is_empty() => Reached::Nothing,
            None => {
                self.other.sort_by(|a, b| a.as_str().cmp(b.as_str()));
                self.other.dedup();
                Reached::Other(self.other)
            }
        }
    }

    fn walk(&mut self, node: &Node, segments: &[String]) -> Option<Arc<Route>> {
        let Some((segment, rest)) = segments.split_first() else {
            let routes = node.verbs.get(self.verb)?;
            let found = routes.iter().find(|(method, _)| method == self.method);
            if found.is_none() {
                self.other.extend(routes.iter().map(|(method, _)| method.clone()));
            }
            return found.map(|(_, route)| Arc::clone(route));
        };
        let literal = node.literals.get(segment).and_then(|next| self.walk(next, rest));
        if literal.is_some() {
            return literal;
        }
        let next = node.variable.as_ref().filter(|_| !segment.is_empty())?;
        self.values.push(segment.clone());
        let found = self.walk(next, rest);
        if found.is_none() {
            self.values.pop();
        }
        found
    }
}

/// The text with each `%41` as the byte it means, once; none where that is no text.
pub(crate) fn percent_decoded(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            let digits = std::str::from_utf8(digits).ok()?;
            if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after;
        } else {
            bytes.push(*byte);
        }
    }
    String::from_utf8(bytes).ok()
}
