//! Calls for no tenant that change one are in its audit log, once.

use chassis::policy::{Audit, CallerKind, Table};
use proto::{common::v1::Role as PbRole, tenant::v1::*};

use crate::world::{World, new_tenant};

/// How often the log of a tenant tells of a method.
fn told(world: &World, tenant: &str, method: &str) -> String {
    let place = format!("t_{}", &tenant[4..]);
    let sql = |source: &str, column: &str| {
        format!(
            "SELECT coalesce(string_agg({column}, ' '), '') FROM {source} WHERE {column} LIKE '%/{method}\"%'"
        )
    };
    let inbox = world.db.sql(&sql(
        "(SELECT event::text AS e FROM tenant.audit_inbox) AS i",
        "e",
    ));
    let log = world.db.sql(&sql(&format!("{place}.audit_record"), "body"));
    // On its way from the one to the other it is in both.
    if log.is_empty() { inbox } else { log }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_makes_a_tenant_or_joins_one_stands_in_its_log() {
    let table = Table::load(proto::DESCRIPTOR_SET).unwrap();
    let own = table.rules().filter(|rule| {
        rule.path.starts_with("/trailmesh.tenant.v1.")
            && rule.caller == CallerKind::User
            && rule.lowest_role.is_none()
            && matches!(rule.audit, Audit::Change | Audit::Security)
    });
    let own: Vec<&str> = own.map(chassis::policy::Rule::method).collect();
    assert_eq!(
        own,
        ["AcceptInvitation", "CreateTenant"],
        "a new one must tell of itself too"
    );

    let world = World::new().await;
    let anna = world.person("anna@example.com");
    let tenant = anna.call(new_tenant("A")).await.unwrap().tenant.unwrap().id;
    let made = told(&world, &tenant, "CreateTenant");
    assert_eq!(made.matches("/CreateTenant\"").count(), 1, "{made}");
    assert!(
        made.contains(&anna.user().to_string()) && made.contains(&tenant),
        "{made}"
    );

    let anna = anna.in_tenant(&tenant).await;
    let invited = InviteMemberRequest {
        email: "bob@example.com".to_owned(),
        role: PbRole::Viewer.into(),
        pool_id: String::new(),
    };
    anna.call(invited).await.unwrap();
    let token = world.mails(1).pop().unwrap().token;
    let bob = world.person("bob@example.com");
    bob.call(AcceptInvitationRequest { token: token.clone() })
        .await
        .unwrap();
    bob.call(AcceptInvitationRequest { token }).await.unwrap_err();
    let joined = told(&world, &tenant, "AcceptInvitation");
    assert_eq!(joined.matches("/AcceptInvitation\"").count(), 1, "{joined}");
    assert!(
        joined.contains(&bob.user().to_string()) && joined.contains("inv_"),
        "{joined}"
    );
    assert!(!joined.contains('@'), "{joined}");
}
