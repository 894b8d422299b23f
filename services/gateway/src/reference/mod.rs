//! The reference as one HTML page that needs nothing else: no script, no font, no picture, light or dark as the reader likes.

mod example;
mod fields;
mod html;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chassis::policy::{CallerKind, StepUp};
use prost_reflect::ServiceDescriptor;

use crate::routes::{
    AnswerRule, BodyRule, Kind, Route, Routes,
    comments::{Comments, title},
};
use fields::Types;
use html::{escape, paragraphs};

const STYLE: &str = include_str!("style.css");
const USING: &str = include_str!("using.html");

/// The policy under which the page may be served: its own style and nothing else.
pub fn content_security_policy() -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, STYLE.as_bytes());
    let digest = STANDARD.encode(digest.as_ref());
    format!(
        "default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// The page.
pub fn page(routes: &Routes) -> String {
    let comments = Comments::of(routes.table().pool());
    let mut types = Types::default();
    let services: Vec<_> = routes
        .table()
        .pool()
        .services()
        .map(|service| (methods(routes, &service), service))
        .filter(|(methods, _)| !methods.is_empty())
        .collect();
    let mut navigation = String::new();
    let mut sections = String::new();
    for (methods, service) in &services {
        navigation.push_str(&links(service, methods, &comments));
        sections.push_str(&section(routes, service, methods, &comments, &mut types));
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>Trailmesh: API reference</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<div class=\"page\">\n\
         <nav aria-label=\"Contents\">\n<a class=\"name\" href=\"#top\">Trailmesh API</a>\n<h2><a href=\"#using\">Using it</a></h2>\n{navigation}\
         <h2><a href=\"#types\">Types</a></h2>\n</nav>\n<main id=\"top\">\n{USING}{sections}\
         <section>\n<h2 id=\"types\">Types</h2>\n{}</section>\n\
         <footer>Made from the same descriptors that the gateway serves by.</footer>\n</main>\n</div>\n</body>\n</html>\n",
        types.all(&comments),
    )
}

/// The methods of a service that the edge offers, each with its HTTP forms.
fn methods(routes: &Routes, service: &ServiceDescriptor) -> Vec<Arc<Route>> {
    let paths = service
        .methods()
        .map(|method| format!("/{}/{}", service.full_name(), method.name()));
    paths.filter_map(|path| routes.grpc(&path).cloned()).collect()
}

fn anchor(route: &Route) -> String {
    format!("{}.{}", route.method.parent_service().name(), route.method.name())
}

fn links(service: &ServiceDescriptor, methods: &[Arc<Route>], comments: &Comments) -> String {
    let item = |route: &Arc<Route>| {
        format!(
            "<li><a href=\"#{}\">{}</a></li>\n",
            escape(&anchor(route)),
            escape(route.method.name())
        )
    };
    let items: String = methods.iter().map(item).collect();
    let (name, title) = (escape(service.name()), escape(title(comments.service(service))));
    format!("<h2><a href=\"#{name}\">{title}</a></h2>\n<ul>\n{items}</ul>\n")
}

fn section(
    routes: &Routes,
    service: &ServiceDescriptor,
    methods: &[Arc<Route>],
    comments: &Comments,
    types: &mut Types,
) -> String {
    let about = comments.service(service);
    let articles: String = methods
        .iter()
        .map(|route| article(routes, route, comments, types))
        .collect();
    format!(
        "<section>\n<h2 id=\"{}\">{}</h2>\n{}{articles}</section>\n",
        escape(service.name()),
        escape(title(about)),
        paragraphs(about),
    )
}

fn article(routes: &Routes, route: &Arc<Route>, comments: &Comments, types: &mut Types) -> String {
    let forms: Vec<_> = routes.http().filter(|form| form.path == route.path).collect();
    let mut calls = String::new();
    for form in forms.iter().filter_map(|form| form.http.as_ref()) {
        let (verb, path) = (form.method.as_str(), escape(&form.template));
        calls.push_str(&format!(
            "<div class=\"call\"><span class=\"verb {verb}\">{verb}</span><code>{path}</code></div>\n"
        ));
    }
    let rpc = escape(&route.path);
    calls.push_str(&format!(
        "<div class=\"call\"><span class=\"verb gRPC\">gRPC</span><code class=\"rpc\">{rpc}</code></div>\n"
    ));
    let shown = forms.first().copied().unwrap_or(route);
    format!(
        "<article id=\"{}\">\n<h3>{}</h3>\n{}{calls}<ul class=\"facts\">\n{}</ul>\n{}{}{}</article>\n",
        escape(&anchor(route)),
        escape(route.method.name()),
        paragraphs(comments.method(&route.method)),
        facts(route),
        types.request(shown, comments),
        types.answer(&route.output, comments),
        with_curl(shown),
    )
}

/// Who may call, and what a call takes.
fn facts(route: &Route) -> String {
    let rule = &route.rule;
    let mut facts = String::new();
    let mut fact = |text: String| facts.push_str(&format!("<li>{text}</li>\n"));
    match (&rule.caller, rule.lowest_role) {
        (CallerKind::User, Some(role)) => fact(format!("role {} or above", role.word())),
        (CallerKind::User, None) => fact("any account".to_owned()),
        _ => fact("anyone".to_owned()),
    }
    match rule.caller {
        CallerKind::User if rule.session_only => fact("no API keys".to_owned()),
        CallerKind::User => fact(format!("key scope <code>{}</code>", escape(&rule.permission))),
        _ => {}
    }
    if rule.cost > 1 {
        fact(format!("costs {} units", rule.cost));
    }
    if let Some(feature) = &rule.feature {
        fact(format!("plan with {}", escape(feature)));
    }
    if rule.strict_rate {
        fact("counted per address".to_owned());
    }
    match rule.step_up {
        StepUp::Totp => facts.push_str("<li class=\"second\">takes a code in <code>X-MFA-Code</code></li>\n"),
        StepUp::Own => facts.push_str("<li class=\"second\">consumes <code>X-MFA-Code</code> itself</li>\n"),
        StepUp::None => {}
    }
    match route.kind {
        Kind::Unary => {}
        Kind::ServerStream if matches!(route.answer, AnswerRule::Raw(_)) => {
            facts.push_str("<li>answers with a file; one that is cut off ends abnormally</li>\n")
        }
        Kind::ServerStream => facts.push_str("<li>answers with a stream</li>\n"),
        Kind::ClientUpload => facts.push_str("<li>takes a stream of bytes</li>\n"),
        Kind::Bidi => facts.push_str("<li>a stream both ways, gRPC only</li>\n"),
    }
    facts
}

/// How curl calls it.
fn with_curl(route: &Route) -> String {
    let Some(form) = &route.http else {
        return String::new();
    };
    let mut lines = vec![match form.method.as_str() {
        "GET" => format!("curl \"$TRAILMESH{}\"", form.template),
        verb => format!("curl -X {verb} \"$TRAILMESH{}\"", form.template),
    }];
    if route.rule.caller == CallerKind::User {
        lines.push("-H \"Authorization: Bearer $TOKEN\"".to_owned());
    }
    if route.rule.step_up != StepUp::None {
        lines.push("-H \"X-MFA-Code: $CODE\"".to_owned());
    }
    if let BodyRule::Raw(_) = route.body {
        lines.push("--data-binary @file".to_owned());
    } else if route.kind == Kind::ClientUpload {
        lines.push("-H \"Content-Type: application/octet-stream\" --data-binary @file".to_owned());
    } else if route.body != BodyRule::None {
        let body = example::body(route);
        lines.push(format!("-H \"Content-Type: application/json\" -d '{body}'"));
    }
    format!(
        "<details><summary>with curl</summary>\n<pre><code>{}</code></pre></details>\n",
        escape(&lines.join(" \\\n  "))
    )
}
