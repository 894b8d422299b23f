use chassis::policy::Table;
use http::header;

use super::{SCRIPT, SOURCES, STYLE, digest, find, page};

/// What stands between `before` and `after`, everywhere.
fn all<'p>(page: &'p str, before: &str, after: &str) -> Vec<&'p str> {
    page.split(before)
        .skip(1)
        .filter_map(|rest| rest.split(after).next())
        .collect()
}

#[test]
fn the_policy_lets_this_script_and_this_style_run_and_nothing_else() {
    for (path, title, content) in SOURCES {
        let response = find(path).unwrap();
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap();
        let page = page(title, content);
        for (kind, tag) in [("script", "script"), ("style", "style")] {
            let found = all(&page, &format!("<{tag}>"), &format!("</{tag}>"));
            assert_eq!(found.len(), 1, "{path}");
            let wanted = format!("; {kind}-src 'sha256-{}';", digest(found[0]));
            assert!(policy.contains(&wanted), "{policy}");
        }
        assert!(policy.starts_with("default-src 'none';"));
        assert!(!policy.contains("unsafe") && !policy.contains("http"));
    }
    assert!(find("/verify-email/").is_none());
}

#[test]
fn the_pages_need_nothing_else_and_store_nothing() {
    for (path, title, content) in SOURCES {
        let page = page(title, content);
        for forbidden in [
            "<img",
            "<link",
            "@import",
            "url(",
            " src=",
            " style=",
            " onclick",
            " action=",
            "localStorage",
            "sessionStorage",
            "document.cookie",
            "innerHTML",
            "eval(",
            "{TOKEN}",
            "{FACTOR}",
        ] {
            assert!(!page.contains(forbidden), "{forbidden} in {path}");
        }
        for tag in [
            "details", "form", "label", "noscript", "p", "pre", "code", "div", "main",
        ] {
            let opened =
                page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        let fields = all(&page, "<input id=\"", "\"");
        for name in &fields {
            assert!(page.contains(&format!("<label for=\"{name}\">")), "{name}");
        }
        assert_eq!(fields.len(), page.matches(" autocomplete=\"").count());
        assert!(page.contains("role=\"alert\"") && page.contains("<noscript>"));
    }
    assert!(STYLE.contains("prefers-color-scheme:dark"));
}

/// The names of a request's fields in JSON.
fn fields(table: &Table, method: &str) -> Vec<String> {
    let (service, method) = method.rsplit_once('.').unwrap();
    let service = table.pool().get_service_by_name(service).unwrap();
    let input = service
        .methods()
        .find(|one| one.name() == method)
        .unwrap()
        .input();
    input.fields().map(|field| field.json_name().to_owned()).collect()
}

#[test]
fn the_script_sends_what_the_protos_take() {
    let table = Table::load(proto::DESCRIPTOR_SET).unwrap();
    for (method, path, left_out) in [
        (
            "trailmesh.auth.v1.AccountService.VerifyEmail",
            "v1/auth/verify-email",
            &[][..],
        ),
        (
            "trailmesh.auth.v1.AccountService.ResetPassword",
            "v1/auth/reset-password",
            &[],
        ),
        (
            "trailmesh.auth.v1.SessionService.LogIn",
            "v1/auth/login",
            &["useCookie", "deviceToken"],
        ),
        (
            "trailmesh.tenant.v1.MemberService.AcceptInvitation",
            "v1/invitations:accept",
            &[],
        ),
        ("trailmesh.auth.v1.SessionService.LogOut", "v1/auth/logout", &[]),
    ] {
        let calls = all(SCRIPT, &format!("post(\"{path}\", "), ")");
        assert_eq!(calls.len(), 1, "{path}");
        // The body where the call is, or as a constant of that name before it.
        let body = match calls[0].strip_prefix('{') {
            Some(body) => body,
            None => {
                let name = calls[0].split(',').next().unwrap();
                all(SCRIPT, &format!("const {name} = {{"), "};")[0]
            }
        };
        let sent: Vec<_> = body
            .split('}')
            .next()
            .unwrap()
            .split(',')
            .filter_map(|member| Some(member.split_once(':')?.0.trim().to_owned()))
            .collect();
        let mut wanted = fields(&table, method);
        wanted.retain(|field| !left_out.contains(&field.as_str()));
        assert_eq!(sent, wanted, "{method}");
    }
}
