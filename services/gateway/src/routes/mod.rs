//! What the edge offers, from the descriptors: an HTTP route for every `google.api.http` mapping and a gRPC route for every method that
//! people, programs or anyone may call. A method that only services or agents may call has no route: at the edge it does not exist.
//!
//! Templates: `/v1/servers/{server.id}:verb`. A variable is one whole segment and never empty; its value is percent-decoded once. A literal
//! beats a variable. Two templates that the same request could mean are refused at start, and so is a mapping whose fields do not exist
//! or cannot be bound.

pub(crate) mod comments;
mod mapping;
mod template;
#[cfg(test)]
mod tests;
mod tree;

use std::{collections::BTreeMap, sync::Arc};

use chassis::policy::{CallerKind, Rule, Table};
use http::Method;
use prost_reflect::{MessageDescriptor, MethodDescriptor, ServiceDescriptor};
use types::Feature;

use crate::{
    audit::Audited,
    json::schema::{MessageId, Schema},
};
pub(crate) use mapping::FieldPath;
use mapping::Mapping;
pub(crate) use tree::percent_decoded;
use tree::{Node, Reached};

/// Descriptors that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A method without a rule.
    #[error("{0} has no rule")]
    NoRule(String),
    /// A mapping that makes no sense.
    #[error("the HTTP mapping {template:?} of {method}: {problem}")]
    Mapping {
        /// `/package.Service/Method`
        method: String,
        /// The path of the mapping.
        template: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Two mappings that the same request could mean.
    #[error("the HTTP mappings of {0} and {1} are the same: {2}")]
    Conflict(String, String, String),
    /// A rule that takes a feature which no plan has.
    #[error("the rule of {0} takes the feature {1:?}, which is not known")]
    Feature(String, String),
}

/// How many messages go which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One and one.
    Unary,
    /// One and many.
    ServerStream,
    /// Many and one. Over HTTP the body is bytes, see [`crate::json::upload`].
    ClientUpload,
    /// Many and many; gRPC only.
    Bidi,
}

/// Where the body of an HTTP request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyRule {
    /// There is none.
    None,
    /// It is the whole request.
    Whole,
    /// It is one field of the request; the index is that of the field by number.
    Field(usize),
    /// It is one field of type `google.api.HttpBody`: bytes of any content type, exactly as they came.
    Raw(usize),
}

/// What the body of an HTTP answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerRule {
    /// The whole answer, as JSON.
    Whole,
    /// The bytes in one field of type `google.api.HttpBody`, of one answer or of each of a stream one after the other; the field's number.
    Raw(u32),
}

/// The HTTP side of a route.
#[derive(Clone, Debug)]
pub struct Form {
    /// The verb.
    pub method: Method,
    /// The path, as the proto writes it.
    pub template: String,
}

/// A method as the edge offers it in one way.
#[derive(Clone, Debug)]
pub struct Route {
    /// `/package.Service/Method`
    pub path: String,
    /// Who may call it and what it takes.
    pub rule: Rule,
    /// The request.
    pub input: MessageDescriptor,
    /// The answer.
    pub output: MessageDescriptor,
    /// How many messages go which way.
    pub kind: Kind,
    /// The service of the mesh that serves it: `auth` of package `trailmesh.auth.v1`.
    pub service: String,
    /// Where an HTTP body goes.
    pub body: BodyRule,
    /// What an HTTP answer's body is.
    pub answer: AnswerRule,
    /// The HTTP mapping; none on a gRPC route.
    pub http: Option<Form>,
    /// The method.
    pub(crate) method: MethodDescriptor,
    pub(crate) schema: Arc<Schema>,
    pub(crate) input_id: MessageId,
    pub(crate) output_id: MessageId,
    /// The fields of the template's variables.
    pub(crate) variables: Vec<FieldPath>,
    /// What the audit log keeps of a call; none for calls that it does not keep.
    pub(crate) audited: Option<Arc<Audited>>,
}

/// The values of a path's variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bindings(pub(crate) Vec<String>);

/// What a request's verb and path lead to.
#[derive(Debug)]
pub enum Found {
    /// A route.
    Route(Arc<Route>, Bindings),
    /// Routes for other verbs.
    MethodNotAllowed(Vec<Method>),
    /// Nothing.
    NotFound,
    /// The path is no path: a broken percent-escape, or not UTF-8 behind it.
    Malformed,
}

/// Everything that the edge offers.
#[derive(Debug)]
pub struct Routes {
    table: Arc<Table>,
    grpc: BTreeMap<String, Arc<Route>>,
    http: Vec<Arc<Route>>,
    tree: Node,
}

impl Routes {
    /// Makes the routes of every service in the table's descriptors.
    pub fn load(table: Arc<Table>) -> Result<Self, Error> {
        let schema = Arc::new(Schema::new(table.pool()));
        let mut routes = Self {
            table: Arc::clone(&table),
            grpc: BTreeMap::new(),
            http: Vec::new(),
            tree: Node::default(),
        };
        for service in table.pool().services() {
            for method in service.methods() {
                routes.add(&schema, &service, method)?;
            }
        }
        Ok(routes)
    }

    fn add(
        &mut self,
        schema: &Arc<Schema>,
        service: &ServiceDescriptor,
        method: MethodDescriptor,
    ) -> Result<(), Error> {
        let path = format!("/{}/{}", service.full_name(), method.name());
        let rule = self
            .table
            .rule(&path)
            .ok_or_else(|| Error::NoRule(path.clone()))?;
        if let Some(feature) = &rule.feature
            && !Feature::ALL.iter().any(|known| known.word() == feature)
        {
            return Err(Error::Feature(path, feature.clone()));
        }
        if !matches!(rule.caller, CallerKind::Public | CallerKind::User) {
            return Ok(());
        }
        let (input, output) = (method.input(), method.output());
        let no_rule = || Error::NoRule(path.clone());
        let input_id = schema.id(input.full_name()).ok_or_else(no_rule)?;
        let output_id = schema.id(output.full_name()).ok_or_else(no_rule)?;
        let plain = Route {
            path: path.clone(),
            rule: rule.clone(),
            kind: kind(&method),
            service: peer(service.package_name()),
            body: BodyRule::None,
            answer: AnswerRule::Whole,
            http: None,
            schema: Arc::clone(schema),
            audited: Audited::of(rule, schema, input_id, output_id).map(Arc::new),
            input_id,
            output_id,
            variables: Vec::new(),
            input,
            output,
            method: method.clone(),
        };
        for mapping in Mapping::of(&method) {
            self.add_http(&plain, &mapping)?;
        }
        self.grpc.insert(path, Arc::new(plain));
        Ok(())
    }

    fn add_http(&mut self, plain: &Route, mapping: &Mapping) -> Result<(), Error> {
        let wrong = |problem: String| Error::Mapping {
            method: plain.path.clone(),
            template: mapping.template.clone(),
            problem,
        };
        let (template, route) = mapping.bind(plain).map_err(wrong)?;
        let route = Arc::new(route);
        self.tree
            .insert(&mapping.method, &template, Arc::clone(&route))
            .map_err(|other| {
                Error::Conflict(
                    other.path.clone(),
                    plain.path.clone(),
                    format!("{} {}", mapping.method, mapping.template),
                )
            })?;
        self.http.push(route);
        Ok(())
    }

    /// The route of an HTTP request; `path` is raw, without its query. HEAD finds what GET finds.
    pub fn find(&self, method: &Method, path: &str) -> Found {
        match self.tree.find(method, path) {
            Reached::Route(route, values) => Found::Route(route, Bindings(values)),
            Reached::Other(methods) => Found::MethodNotAllowed(methods),
            Reached::Nothing => Found::NotFound,
            Reached::Malformed => Found::Malformed,
        }
    }

    /// The route of `/package.Service/Method`.
    pub fn grpc(&self, path: &str) -> Option<&Arc<Route>> {
        self.grpc.get(path)
    }

    /// Every method that the edge offers, by path.
    pub fn methods(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.grpc.values()
    }

    /// Every HTTP route, in the order of the protos.
    pub fn http(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.http.iter()
    }

    /// The rules that the routes stand on, also those of methods without a route.
    pub fn table(&self) -> &Table {
        &self.table
    }
}

fn kind(method: &MethodDescriptor) -> Kind {
    match (method.is_client_streaming(), method.is_server_streaming()) {
        (false, false) => Kind::Unary,
        (false, true) => Kind::ServerStream,
        (true, false) => Kind::ClientUpload,
        (true, true) => Kind::Bidi,
    }
}

/// `auth` of `trailmesh.auth.v1`.
fn peer(package: &str) -> String {
    package.split('.').nth(1).unwrap_or(package).to_owned()
}
