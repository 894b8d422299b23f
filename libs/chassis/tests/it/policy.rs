//! Who may call what, over all methods and all peers: generated from the rules, so that a new method is tested by being there.

use chassis::{
    Error,
    policy::{CallerKind, Rule, StepUp, Table},
};
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};
use tonic::{Code, service::Routes};
use types::{Context, Role, Subject};

use crate::scene::{Mesh, Service, bearer, bind, call, person, reason, signer};

const PEERS: [&str; 7] = [
    "gateway", "auth", "tenant", "vault", "query", "recovery", "stranger",
];

fn rules() -> Vec<Rule> {
    let table = Table::load(proto::DESCRIPTOR_SET).unwrap();
    table.rules().cloned().collect()
}

/// A service that has no handler: whoever gets past the policy gets UNIMPLEMENTED.
async fn bare(mesh: &Mesh) -> Service {
    let runtime = bind("auth", &mesh.settings("auth", &[])).await;
    runtime.publish_keys(vec![signer().verifying_key()]);
    Service::start(runtime, Routes::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_rule_allows_a_peer_is_denied_for_every_method() {
    let mesh = Mesh::new();
    let service = bare(&mesh).await;
    for name in PEERS {
        let runtime = mesh.caller(name, &[("auth", service.address)]).await;
        let peer = runtime.peer("auth").unwrap();
        for rule in rules() {
            let status = call(peer.clone(), &rule.path, &[]).await.unwrap_err();
            let wanted = match &rule.caller {
                CallerKind::Peers(peers) if peers.iter().any(|peer| peer == name) => Code::Unimplemented,
                CallerKind::Public if name == "gateway" => Code::Unimplemented,
                CallerKind::User if name == "gateway" => Code::Unauthenticated,
                _ => Code::PermissionDenied,
            };
            assert_eq!(status.code(), wanted, "{name} {}", rule.path);
            let reasons = ["CALLER_NOT_ALLOWED", "CONTEXT_MISSING", ""];
            assert!(reasons.contains(&reason(&status).as_str()), "{status:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_without_a_rule_is_denied_to_everybody() {
    let mesh = Mesh::new();
    let service = bare(&mesh).await;
    let runtime = mesh.caller("gateway", &[("auth", service.address)]).await;
    let peer = runtime.peer("auth").unwrap();
    for path in [
        "/",
        "/trailmesh.auth.v1.GuardService",
        "/trailmesh.auth.v1.GuardService/",
        "/trailmesh.auth.v1.GuardService/Nothing",
        "/trailmesh.auth.v1.GuardService/authenticate",
        "//trailmesh.auth.v1.GuardService/Authenticate",
        "/trailmesh.auth.v1.GuardService/Authenticate/",
        "/trailmesh.auth.v1.GuardService/%41uthenticate",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ] {
        let status = call(peer.clone(), path, &[]).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{path}");
    }
}

/// What `context` gets from `rule`: the code and the reason.
fn wanted(rule: &Rule, context: &Context) -> (Code, &'static str) {
    let session = matches!(context.subject, Subject::Person { .. });
    let seat = context.seat.as_ref();
    if rule.session_only && !session {
        return (Code::PermissionDenied, "SESSION_REQUIRED");
    }
    let scopes = seat.and_then(|seat| seat.scopes.as_ref());
    if scopes.is_some_and(|scopes| !scopes.contains(&rule.permission)) {
        return (Code::PermissionDenied, "SCOPE_MISSING");
    }
    if rule.lowest_role.is_some() {
        match seat {
            None => return (Code::InvalidArgument, "TENANT_REQUIRED"),
            Some(seat) => {
                let role = if rule.tenant_wide {
                    seat.role
                } else {
                    seat.highest_role()
                };
                if role < rule.lowest_role {
                    return (Code::PermissionDenied, "ROLE_TOO_LOW");
                }
            }
        }
    }
    if rule.step_up == StepUp::Totp {
        return (Code::PermissionDenied, "GRANT_REQUIRED");
    }
    (Code::Unimplemented, "")
}

fn contexts() -> Vec<Context> {
    let mut contexts = vec![person(None)];
    contexts.extend(Role::ALL.iter().map(|role| person(Some(*role))));
    let mut homeless = person(None);
    homeless.seat = None;
    contexts.push(homeless);
    let mut pooled = person(Some(Role::Viewer));
    if let Some(seat) = &mut pooled.seat {
        seat.pools.insert(types::PoolId::fresh(), Role::Operator);
    }
    contexts.push(pooled.clone());
    // As the key of an owner that is limited to one pool: admin there, nothing in the rest.
    if let Some(seat) = &mut pooled.seat {
        seat.role = None;
        seat.pools.insert(types::PoolId::fresh(), Role::Admin);
    }
    contexts.push(pooled);
    for scopes in [
        None,
        Some(vec![]),
        Some(vec!["servers:manage".to_owned(), "tenant:view".to_owned()]),
    ] {
        let mut key = person(Some(Role::Owner));
        key.subject = Subject::Key {
            key: types::KeyId::fresh(),
            owner: key.subject.user(),
        };
        if let Some(seat) = &mut key.seat {
            seat.scopes = scopes;
        }
        contexts.push(key);
    }
    contexts
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_scopes_and_sessions_count_on_every_method() {
    let mesh = Mesh::new();
    let service = bare(&mesh).await;
    let runtime = mesh.caller("gateway", &[("auth", service.address)]).await;
    let peer = runtime.peer("auth").unwrap();
    for rule in rules().into_iter().filter(|rule| rule.caller == CallerKind::User) {
        for context in contexts() {
            let metadata = [("authorization", bearer(&context))];
            let status = call(peer.clone(), &rule.path, &metadata).await.unwrap_err();
            let (code, reasoned) = wanted(&rule, &context);
            assert_eq!(
                (status.code(), reason(&status).as_str()),
                (code, reasoned),
                "{} {context:?}",
                rule.path
            );
        }
    }
}

/// The descriptor set with another rule for the method at `path`; without one if `change` says so.
fn with_rule(path: &str, change: &dyn Fn(&mut DynamicMessage) -> bool) -> Vec<u8> {
    let pool = DescriptorPool::decode(proto::DESCRIPTOR_SET).expect("a set");
    let rule = pool
        .get_extension_by_name("trailmesh.policy.v1.rule")
        .expect("the extension");
    let (_, rest) = path.split_once("trailmesh.").expect("one of ours");
    let (service, method) = rest.rsplit_once('/').expect("a path");
    let (package, service) = service.rsplit_once('.').expect("a package");
    let set = pool
        .get_message_by_name("google.protobuf.FileDescriptorSet")
        .expect("its type");
    let mut set = DynamicMessage::decode(set, proto::DESCRIPTOR_SET).expect("a set");
    let mut changed = 0;
    for file in each(&mut set, "file") {
        if file.get_field_by_name("package").expect("a package").as_str()
            != Some(&format!("trailmesh.{package}"))
        {
            continue;
        }
        for found in each(file, "service").filter(|found| is(found, service)) {
            for found in each(found, "method").filter(|found| is(found, method)) {
                let options = found
                    .get_field_by_name_mut("options")
                    .and_then(Value::as_message_mut);
                let options = options.expect("options");
                let mut value = options.get_extension(&rule).into_owned();
                let keep = change(value.as_message_mut().expect("a rule"));
                options.clear_extension(&rule);
                if keep {
                    options.set_extension(&rule, value);
                }
                changed += 1;
            }
        }
    }
    assert_eq!(changed, 1, "{path}");
    set.encode_to_vec()
}

fn each<'m>(message: &'m mut DynamicMessage, field: &str) -> impl Iterator<Item = &'m mut DynamicMessage> {
    let list = message.get_field_by_name_mut(field).and_then(Value::as_list_mut);
    list.expect("a list").iter_mut().filter_map(Value::as_message_mut)
}

fn is(message: &DynamicMessage, name: &str) -> bool {
    message
        .get_field_by_name("name")
        .is_some_and(|value| value.as_str() == Some(name))
}

#[test]
fn a_rule_that_is_not_complete_keeps_the_service_from_starting() {
    let authenticate = "/trailmesh.auth.v1.GuardService/Authenticate";
    let sign_up = "/trailmesh.auth.v1.AccountService/SignUp";
    let register = "/trailmesh.tenant.v1.ServerService/RegisterServer";
    let list = "/trailmesh.tenant.v1.ServerService/ListServers";
    let account = "/trailmesh.tenant.v1.TenantService/ListTenants";
    let number = Value::EnumNumber;
    let text = |text: &str| Value::String(text.to_owned());
    let cases: Vec<(&str, &str, Value)> = vec![
        (authenticate, "caller", number(0)),
        (authenticate, "caller", number(99)),
        (authenticate, "caller", number(1)),
        (authenticate, "peers", Value::List(vec![])),
        (authenticate, "permission", number(2)),
        (authenticate, "audit", number(0)),
        (authenticate, "audit", number(99)),
        (authenticate, "no_step_up_because", text("")),
        (authenticate, "session_only", Value::Bool(true)),
        (authenticate, "timeout_ms", Value::U32(60_001)),
        (sign_up, "step_up", number(1)),
        (register, "permission", number(0)),
        (register, "permission", number(99)),
        (register, "step_up", number(0)),
        (register, "step_up", number(99)),
        (register, "no_step_up_because", text("it does")),
        (sign_up, "tenant_wide", Value::Bool(true)),
        (authenticate, "tenant_wide", Value::Bool(true)),
        (account, "tenant_wide", Value::Bool(true)),
        (register, "peers", Value::List(vec![text("auth")])),
        (list, "step_up", number(99)),
    ];
    for (path, field, value) in cases {
        let set = with_rule(path, &|rule| {
            rule.set_field_by_name(field, value.clone());
            true
        });
        let loaded = Table::load(&set);
        assert!(
            matches!(&loaded, Err(Error::Rule { path: of, .. }) if of == path),
            "{path} {field} {value:?}: {loaded:?}"
        );
    }
    assert!(Table::load(&with_rule(list, &|_| true)).is_ok());
}

#[test]
fn a_method_without_a_rule_keeps_the_service_from_starting() {
    for rule in rules() {
        let loaded = Table::load(&with_rule(&rule.path, &|_| false));
        assert!(
            matches!(&loaded, Err(Error::Rule { path, .. }) if *path == rule.path),
            "{}",
            rule.path
        );
    }
}
