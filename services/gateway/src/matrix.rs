//! Who may call what, as a page of Markdown: made from the same rules that the edge and the services enforce.

use std::{collections::BTreeMap, fmt::Write as _};

use chassis::policy::{Audit, CallerKind, Rule, StepUp};
use types::Role;

use crate::routes::{
    Routes,
    comments::{Comments, title},
};

const HEAD: &str = "\
<!-- Made from proto/ by `./dev docs`; a test fails when it is not what the protos say. -->
# Who may call what

What is not listed here is refused. Gateway and services read the same rules; both check them.

## Roles

Each role has every right of the roles before it. A role in single agent pools gives its rights for the servers and agents of those pools.
An API key has at most the role of its owner, and of that only the scopes it was given.

";

const METHODS: &str = "
## Methods

* **From**: who may call: anyone, everyone with an account, members from a role on, or services of the mesh by the name in their certificate.
* **Key scope**: the scope that an API key needs. A dash: API keys may not call.
* **Second factor**: *code*: a code of `X-MFA-Code` is consumed for exactly this call, from people who have a second factor, and with an API key
  always its owner's. *own*: the method consumes the code itself. Otherwise, for methods that change something, why none is taken.
* **Cost**: units of the rate limits. *strict*: counted per client address too, and refused when counting is impossible.
";

/// The page.
pub fn markdown(routes: &Routes) -> String {
    let comments = Comments::of(routes.table().pool());
    let mut page = HEAD.to_owned();
    roles(routes, &mut page);
    page.push_str(METHODS);
    for service in routes.table().pool().services() {
        let methods: Vec<_> = service
            .methods()
            .filter_map(|method| {
                routes
                    .table()
                    .rule(&format!("/{}/{}", service.full_name(), method.name()))
            })
            .collect();
        if methods.is_empty() {
            continue;
        }
        line(&mut page, format_args!("\n### {}", service.full_name()));
        line(
            &mut page,
            format_args!("\n{}.\n", title(comments.service(&service))),
        );
        line(
            &mut page,
            format_args!("| Method | HTTP | From | Key scope | Second factor | Audit | Cost |"),
        );
        line(&mut page, format_args!("|---|---|---|---|---|---|---|"));
        for rule in methods {
            line(&mut page, format_args!("{}", row(routes, rule)));
        }
    }
    page
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _ = writeln!(page, "{text}");
}

/// Permission by role.
fn roles(routes: &Routes, page: &mut String) {
    let mut permissions: BTreeMap<(Role, &str), usize> = BTreeMap::new();
    for rule in routes.table().rules() {
        if let Some(role) = rule.lowest_role {
            *permissions.entry((role, &rule.permission)).or_default() += 1;
        }
    }
    let names: Vec<_> = Role::ALL.iter().map(|role| role.word()).collect();
    line(
        page,
        format_args!("| Permission | {} | Methods |", names.join(" | ")),
    );
    line(page, format_args!("|---|{}---|", ":-:|".repeat(names.len())));
    for ((lowest, permission), methods) in permissions {
        let cells: Vec<_> = Role::ALL
            .iter()
            .map(|role| if *role >= lowest { "yes" } else { "" })
            .collect();
        line(
            page,
            format_args!("| `{permission}` | {} | {methods} |", cells.join(" | ")),
        );
    }
}

fn row(routes: &Routes, rule: &Rule) -> String {
    let forms: Vec<_> = routes
        .http()
        .filter(|route| route.path == rule.path)
        .filter_map(|route| route.http.as_ref())
        .map(|form| format!("`{} {}`", form.method, form.template))
        .collect();
    let key = match rule.caller {
        CallerKind::User if !rule.session_only => format!("`{}`", rule.permission),
        _ => "–".to_owned(),
    };
    let mut cost = rule.cost.to_string();
    if rule.strict_rate {
        cost.push_str(", strict");
    }
    if let Some(feature) = &rule.feature {
        cost.push_str(&format!(", plan with `{feature}`"));
    }
    let cells = [
        rule.method().to_owned(),
        forms.join("<br>"),
        from(rule),
        key,
        second_factor(rule),
        audit(rule).to_owned(),
        cost,
    ];
    format!("| {} |", cells.join(" | "))
}

fn from(rule: &Rule) -> String {
    match (&rule.caller, rule.lowest_role) {
        (CallerKind::Public, _) => "anyone".to_owned(),
        (CallerKind::User, Some(role)) => role.word().to_owned(),
        (CallerKind::User, None) => "account".to_owned(),
        (CallerKind::Agent, _) => "agents".to_owned(),
        (CallerKind::Peers(names), _) => format!("services: {}", names.join(", ")),
    }
}

fn second_factor(rule: &Rule) -> String {
    match rule.step_up {
        StepUp::Totp => "**code**".to_owned(),
        StepUp::Own => "own".to_owned(),
        StepUp::None => rule.no_step_up_because.replace('|', "\\|"),
    }
}

fn audit(rule: &Rule) -> &'static str {
    match rule.audit {
        Audit::None => "",
        Audit::Read => "read",
        Audit::Change => "change",
        Audit::Security => "security",
    }
}
