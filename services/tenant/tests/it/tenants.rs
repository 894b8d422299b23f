//! TenantService.

use prost_types::FieldMask;
use proto::{
    common::v1::{Plan, Region, Role as PbRole},
    tenant::v1::*,
};
use tonic::Code;
use types::Role;

use crate::world::{World, new_tenant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_tenant_has_its_owner_its_pool_and_its_schema() {
    let world = World::new().await;
    let anna = world.person("anna@example.com");
    let tenant = anna
        .call(new_tenant("Müller & Söhne"))
        .await
        .unwrap()
        .tenant
        .unwrap();
    assert_eq!(tenant.name, "Müller & Söhne");
    assert_eq!(
        (tenant.region(), tenant.plan(), tenant.cell.as_str()),
        (Region::Eu, Plan::Free, "1")
    );
    assert!(tenant.create_time.is_some());

    let anna = anna.in_tenant(&tenant.id).await;
    assert_eq!(anna.context.seat.as_ref().unwrap().role, Some(Role::Owner));
    let pools = anna.call(ListAgentPoolsRequest::default()).await.unwrap().pools;
    assert_eq!(
        pools.iter().map(|pool| pool.name.as_str()).collect::<Vec<_>>(),
        ["default"]
    );
    assert_eq!(
        anna.call(GetTenantRequest {}).await.unwrap().tenant,
        Some(tenant.clone())
    );
    assert_eq!(
        anna.call(ListServersRequest::default()).await.unwrap().servers,
        []
    );
    let schema = format!("t_{}", &tenant.id[4..]);
    let made = world.db.sql(&format!(
        "SELECT count(*) FROM pg_tables WHERE schemaname = '{schema}'"
    ));
    assert!(made.parse::<u32>().unwrap() >= 4, "{made}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_made_in_the_installations_region_only() {
    let world = World::new().await;
    let anna = world.person("anna@example.com");
    let request = |region: i32| CreateTenantRequest {
        name: "A".to_owned(),
        region,
    };
    let no = anna.refused(request(Region::Us.into())).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::FailedPrecondition, "WRONG_REGION")
    );
    for unknown in [0, 3, -1] {
        let no = anna.refused(request(unknown)).await;
        assert_eq!((no.code, no.field.as_str()), (Code::InvalidArgument, "region"));
    }
    let no = anna.refused(new_tenant("")).await;
    assert_eq!(
        (no.code, no.field.as_str(), no.reason.as_str()),
        (Code::InvalidArgument, "name", "FIELD_INVALID")
    );
    assert_eq!(world.db.sql("SELECT count(*) FROM tenant.tenant"), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_person_owns_at_most_ten_tenants() {
    let world = World::new().await;
    let anna = world.person("anna@example.com");
    for count in 0..8 {
        anna.call(new_tenant(&format!("T{count}"))).await.unwrap();
    }
    // Six at once, for two places.
    let made = crate::concurrency::all((0..6).map(|_| anna.call(new_tenant("T")))).await;
    assert_eq!(made.iter().filter(|outcome| outcome.is_ok()).count(), 2);
    for no in made.into_iter().filter_map(Result::err) {
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::ResourceExhausted, "TENANT_LIMIT")
        );
    }
    assert!(
        world
            .person("bert@example.com")
            .call(new_tenant("B"))
            .await
            .is_ok()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_name_of_a_tenant_changes() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let update = |name: &str, paths: &[&str]| UpdateTenantRequest {
        tenant: Some(Tenant {
            name: name.to_owned(),
            region: Region::Us.into(),
            plan: Plan::Enterprise.into(),
            ..Tenant::default()
        }),
        update_mask: (!paths.is_empty()).then(|| FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        }),
    };
    let after = anna.call(update("New", &["name"])).await.unwrap().tenant.unwrap();
    assert_eq!(
        (after.name.as_str(), after.region(), after.plan()),
        ("New", Region::Eu, Plan::Enterprise)
    );
    assert_eq!(
        anna.call(update("Newer", &[]))
            .await
            .unwrap()
            .tenant
            .unwrap()
            .name,
        "Newer"
    );
    assert_eq!(
        anna.call(update("", &[])).await.unwrap().tenant.unwrap().name,
        "Newer"
    );
    for path in ["region", "plan", "id", "nme", "tenant.name", "'; --"] {
        let no = anna.refused(update("X", &[path])).await;
        assert_eq!(
            (no.code, no.field.as_str()),
            (Code::InvalidArgument, "update_mask"),
            "{path}"
        );
    }
    let no = anna.refused(update("", &["name"])).await;
    assert_eq!(
        (no.code, no.field.as_str()),
        (Code::InvalidArgument, "tenant.name")
    );
    assert_eq!(anna.refused(UpdateTenantRequest::default()).await.field, "tenant");
    let admin = world.member(&anna, Some(Role::Admin), &[]).await;
    assert_eq!(
        admin.refused(update("X", &["name"])).await.code,
        Code::PermissionDenied
    );
    // Not even by hand does a tenant's region change.
    let refused = world.db.sql(
        "DO $$ BEGIN UPDATE tenant.tenant SET region = 'us'; RAISE 'changed'; EXCEPTION WHEN check_violation THEN NULL; END $$; SELECT region FROM tenant.tenant",
    );
    assert!(refused.ends_with("eu"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_lists_their_tenants_page_by_page() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let bert = world.member(&anna, Some(Role::Analyst), &[]).await;
    let own = bert.call(new_tenant("Bert's")).await.unwrap().tenant.unwrap();
    let all = bert.call(ListTenantsRequest::default()).await.unwrap();
    let seen: Vec<(String, PbRole)> = all
        .memberships
        .iter()
        .map(|m| (m.tenant.as_ref().unwrap().id.clone(), m.role()))
        .collect();
    assert_eq!(
        seen,
        [
            (anna.tenant().to_string(), PbRole::Analyst),
            (own.id.clone(), PbRole::Owner)
        ]
    );
    let page = |token: &str| ListTenantsRequest {
        page_size: 1,
        page_token: token.to_owned(),
    };
    let first = bert.call(page("")).await.unwrap();
    let second = bert.call(page(&first.next_page_token)).await.unwrap();
    assert_eq!(second.memberships[0].tenant.as_ref().unwrap().id, own.id);
    assert_eq!(second.next_page_token, "");
    let no = anna.refused(page(&first.next_page_token)).await;
    assert_eq!(
        (no.code, no.field.as_str()),
        (Code::InvalidArgument, "page_token")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_tenant_is_gone_for_its_members() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    world.db.sql("UPDATE tenant.tenant SET state = 'suspended'");
    let no = anna.refused(GetTenantRequest {}).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::NotFound, "TENANT_NOT_FOUND")
    );
    let name = "p".to_owned();
    assert_eq!(
        anna.refused(CreateAgentPoolRequest { name }).await.reason,
        "TENANT_NOT_FOUND"
    );
    assert_eq!(
        anna.call(ListTenantsRequest::default())
            .await
            .unwrap()
            .memberships,
        []
    );
    assert_eq!(world.seat(anna.user(), &anna.tenant().to_string()).await, None);
}
