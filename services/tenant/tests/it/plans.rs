//! What a plan has room for, and what becomes of the rest.

use std::collections::BTreeSet;

use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use proto::{
    common::v1::{Plan as PbPlan, Role as PbRole},
    tenant::v1::*,
};
use tonic::Code;
use types::{Plan, Role, TenantId};

use crate::{
    concurrency::all,
    world::{Caller, No, World, new_server, new_tenant},
};

fn is_plan_limit(no: &No) -> bool {
    (no.code, no.reason.as_str()) == (Code::FailedPrecondition, "PLAN_LIMIT")
}

async fn set_plan(world: &World, tenant: TenantId, plan: Plan) -> tenant::operator::PlanShown {
    tenant::operator::set_plan(&world.config(), false, tenant, plan)
        .await
        .unwrap()
}

fn register(name: &str) -> RegisterServerRequest {
    RegisterServerRequest {
        server: Some(new_server(name)),
        ..Default::default()
    }
}

/// What is frozen of a kind, by name.
async fn frozen_servers(caller: &Caller<'_>) -> Vec<String> {
    let servers = caller.call(ListServersRequest::default()).await.unwrap().servers;
    servers
        .into_iter()
        .filter(|server| server.frozen)
        .map(|server| server.name)
        .collect()
}

fn limit(plan: &GetPlanResponse, name: &str) -> (i64, i64, i64) {
    let limit = plan.limits.iter().find(|limit| limit.name == name).unwrap();
    (limit.limit, limit.used, limit.frozen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_fifty_who_want_the_last_place_at_once_one_gets_it() {
    let world = World::new().await;
    let anna = world.owner_on("anna@example.com", Plan::Pro).await;
    let schema = format!("t_{}", anna.tenant().digits());
    world.db.sql(&format!(
        "INSERT INTO {schema}.server (id, name, host, port, username, tls_mode, pool_id)
             SELECT 's' || n, 's' || n, 'h', 1, '', 'required', 'p' FROM generate_series(1, 19) AS n;
         INSERT INTO {schema}.agent (id, name, pool_id, enrolment_sha256, enrolment_expire_time)
             SELECT 'a' || n, 'a' || n, 'p', sha256(n::text::bytea), now() FROM generate_series(1, 39) AS n;
         INSERT INTO tenant.member (user_id, tenant_id, role)
             SELECT 'u' || n, '{}', 'viewer' FROM generate_series(1, 23) AS n",
        anna.tenant()
    ));
    let servers = all((0..50).map(async |n| anna.call(register(&format!("db{n}"))).await)).await;
    let agents = all((0..50).map(async |n| {
        anna.call(CreateAgentRequest {
            name: format!("agent{n}"),
            pool_id: String::new(),
        })
        .await
    }))
    .await;
    let invitations =
        all((0..50).map(async |n| anna.invite(&format!("{n}@example.com"), PbRole::Viewer, "").await)).await;
    let (servers, agents) = (
        servers.into_iter().map(|one| one.map(drop)).collect::<Vec<_>>(),
        agents.into_iter().map(|one| one.map(drop)).collect(),
    );
    let invitations = invitations.into_iter().map(|one| one.map(drop)).collect();
    for outcomes in [servers, agents, invitations] {
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        for no in outcomes.into_iter().filter_map(Result::err) {
            assert!(is_plan_limit(&no), "{no:?}");
        }
    }
    let plan = anna.call(GetPlanRequest {}).await.unwrap();
    assert_eq!(limit(&plan, "servers"), (20, 20, 0));
    assert_eq!(limit(&plan, "agents"), (40, 40, 0));
    assert_eq!(limit(&plan, "members"), (25, 25, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_no_room_hears_how_much_there_is_and_where_there_is_more() {
    let world = World::new().await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    anna.server("first", "").await;
    anna.server("second", "").await;
    let no = anna.refused(register("third")).await;
    assert!(is_plan_limit(&no));
    assert_eq!(
        no.message,
        "the plan free has room for 2 servers: the plan pro has room for 20"
    );
    anna.invite("bert@example.com", PbRole::Viewer, "").await.unwrap();
    anna.invite("carl@example.com", PbRole::Viewer, "").await.unwrap();
    let no = anna
        .invite("dora@example.com", PbRole::Viewer, "")
        .await
        .unwrap_err();
    assert!(is_plan_limit(&no));
    assert_eq!(
        no.message,
        "the plan free has room for 3 members, open invitations among them: the plan pro has room for 25"
    );
    // Asking again for who is invited takes no place more.
    anna.invite("carl@example.com", PbRole::Analyst, "")
        .await
        .unwrap();
    let plan = anna.call(GetPlanRequest {}).await.unwrap();
    assert_eq!((plan.plan(), plan.features.len()), (PbPlan::Free, 0));
    assert_eq!(limit(&plan, "servers"), (2, 2, 0));
    assert_eq!(limit(&plan, "members"), (3, 3, 0));
    assert_eq!(limit(&plan, "api_keys"), (3, 0, 0));
    assert_eq!(limit(&plan, "audit_days"), (30, 0, 0));
    // A new tenant's plan counts at once, whatever the context token says.
    set_plan(&world, anna.tenant(), Plan::Pro).await;
    assert!(anna.call(register("third")).await.is_ok());
    let plan = anna.call(GetPlanRequest {}).await.unwrap();
    assert_eq!(plan.features, ["audit-export", "uploads"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_smaller_plan_freezes_the_newest_and_a_larger_one_thaws_the_oldest() {
    let world = World::new().await;
    let anna = world.owner_on("anna@example.com", Plan::Pro).await;
    for name in ["a", "b", "c", "d"] {
        anna.server(name, "").await;
        anna.agent(name, "").await;
    }
    let mut members = Vec::new();
    for role in [Role::Viewer, Role::Admin, Role::Viewer, Role::Owner] {
        members.push(world.member(&anna, Some(role), &[]).await);
    }
    // Of the keys, which are auth's, this service sees how many live.
    world.db.sql(&format!(
        "INSERT INTO auth.api_key (id, sha256, prefix, tenant_id, owner_id, name, role, scopes, pools, networks, create_time, expire_time, revoke_time)
             SELECT 'key_' || n, sha256(n::text::bytea), 'bt_live_abc', '{}', '{}', 'k', 'viewer', '{{}}', '{{}}', '{{}}', now(),
                 now() + interval '1 day', CASE WHEN n = 6 THEN now() END FROM generate_series(1, 6) AS n",
        anna.tenant(),
        anna.user()
    ));
    let shown = set_plan(&world, anna.tenant(), Plan::Free).await;
    assert_eq!(
        shown.rows.map(|row| (row.what, row.used, row.most, row.frozen)),
        [
            ("servers", 4, 2, 2),
            ("members", 5, 3, 2),
            ("API keys", 5, 3, 2),
            ("agents", 4, 2, 2)
        ]
    );
    assert_eq!(frozen_servers(&anna).await, ["c", "d"]);
    let agents = anna.call(ListAgentsRequest::default()).await.unwrap().agents;
    let frozen: Vec<_> = agents
        .iter()
        .filter(|agent| agent.frozen)
        .map(|agent| agent.name.as_str())
        .collect();
    assert_eq!(frozen, ["c", "d"]);

    // Two owners and the oldest of the others are left; who is frozen has no seat, and can do nothing with the one of a moment ago.
    let tenant = anna.tenant().to_string();
    let seat = async |of: usize| world.seat(members[of].user(), &tenant).await.is_some();
    assert_eq!(
        [seat(0).await, seat(1).await, seat(2).await, seat(3).await],
        [true, false, false, true]
    );
    let no = members[1]
        .invite("x@example.com", PbRole::Viewer, "")
        .await
        .unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::PermissionDenied, "NOT_A_MEMBER")
    );
    let listed = anna.call(ListMembersRequest::default()).await.unwrap().members;
    assert_eq!(listed.iter().filter(|member| member.frozen).count(), 2);
    let own = members[1]
        .call(ListTenantsRequest::default())
        .await
        .unwrap()
        .memberships;
    assert!(own.len() == 1 && own[0].frozen);

    // Whoever goes makes room for the oldest that waits; nobody new comes before.
    assert!(is_plan_limit(&anna.refused(register("e")).await));
    let server_id = |name: &str| {
        format!(
            "SELECT id FROM t_{}.server WHERE name = '{name}'",
            anna.tenant().digits()
        )
    };
    let delete = async |name: &str| {
        let server_id = world.db.sql(&server_id(name));
        anna.call(DeleteServerRequest { server_id }).await.unwrap();
    };
    delete("a").await;
    assert_eq!(frozen_servers(&anna).await, ["d"]);
    delete("d").await;
    assert_eq!(frozen_servers(&anna).await, [""; 0]);
    assert!(is_plan_limit(&anna.refused(register("e")).await));
    let agent_id = agents[0].id.clone();
    anna.call(RevokeAgentRequest { agent_id }).await.unwrap();
    let plan = anna.call(GetPlanRequest {}).await.unwrap();
    assert_eq!(limit(&plan, "agents"), (2, 3, 1));

    // Nobody gets round the plan by becoming an owner, who is never frozen.
    let promote = |of: usize| SetMemberRoleRequest {
        user_id: members[of].user().to_string(),
        role: PbRole::Owner.into(),
    };
    assert!(is_plan_limit(&anna.refused(promote(1)).await));
    assert!(anna.call(promote(0)).await.is_ok());
    assert!(is_plan_limit(&anna.refused(promote(1)).await));
    let back = SetMemberRoleRequest {
        role: PbRole::Viewer.into(),
        ..promote(0)
    };
    anna.call(back).await.unwrap();

    // An owner who is one no more gives the place away, or loses it.
    let demote = SetMemberRoleRequest {
        user_id: members[3].user().to_string(),
        role: PbRole::Viewer.into(),
    };
    anna.call(demote).await.unwrap();
    assert_eq!(
        [seat(0).await, seat(1).await, seat(2).await, seat(3).await],
        [true, true, false, false]
    );

    let shown = set_plan(&world, anna.tenant(), Plan::Premium).await;
    assert!(shown.rows.iter().all(|row| row.frozen == 0));
    assert_eq!(
        [seat(0).await, seat(1).await, seat(2).await, seat(3).await],
        [true; 4]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_of_a_larger_plan_is_accepted_where_there_is_room() {
    let world = World::new().await;
    let anna = world.owner_on("anna@example.com", Plan::Pro).await;
    anna.invite("bert@example.com", PbRole::Viewer, "").await.unwrap();
    let token = world.mails(1)[0].token.clone();
    for _ in 0..2 {
        world.member(&anna, Some(Role::Viewer), &[]).await;
    }
    set_plan(&world, anna.tenant(), Plan::Free).await;
    let bert = world.person("bert@example.com");
    let accept = AcceptInvitationRequest { token };
    let no = bert.refused(accept.clone()).await;
    assert!(is_plan_limit(&no), "{no:?}");
    set_plan(&world, anna.tenant(), Plan::Pro).await;
    assert!(bert.call(accept).await.is_ok());
}

/// What somebody does to a tenant.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Plan(Plan),
    AddServer,
    AddAgent,
    AddMember,
    DeleteServer(usize),
    RevokeAgent(usize),
    RemoveMember(usize),
    Promote(usize),
    Demote(usize),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let plan = prop_oneof![5 => Just(Plan::Free), 2 => Just(Plan::Pro), 1 => Just(Plan::Premium)];
    let deed = prop_oneof![
        2 => plan.prop_map(Deed::Plan),
        3 => Just(Deed::AddServer),
        3 => Just(Deed::AddAgent),
        3 => Just(Deed::AddMember),
        2 => any::<usize>().prop_map(Deed::DeleteServer),
        2 => any::<usize>().prop_map(Deed::RevokeAgent),
        2 => any::<usize>().prop_map(Deed::RemoveMember),
        1 => any::<usize>().prop_map(Deed::Promote),
        1 => any::<usize>().prop_map(Deed::Demote),
    ];
    proptest::collection::vec(deed, 25)
}

/// What there should be, the oldest first.
struct Model {
    plan: Plan,
    servers: Vec<String>,
    agents: Vec<String>,
    /// With whether they are owners; the first one is who acts.
    members: Vec<(String, bool)>,
}

impl Model {
    fn frozen(&self) -> BTreeSet<String> {
        let limits = self.plan.limits();
        let beyond = |things: &[String], most: u32| -> Vec<String> {
            things.iter().skip(most as usize).cloned().collect()
        };
        let owners = self.members.iter().filter(|(_, owner)| *owner).count();
        let others = self.members.iter().filter(|(_, owner)| !owner).map(|(id, _)| id);
        let room = (limits.members as usize).saturating_sub(owners);
        let mut frozen: BTreeSet<String> = others.skip(room).cloned().collect();
        frozen.extend(beyond(&self.servers, limits.servers));
        frozen.extend(beyond(&self.agents, limits.agents));
        frozen
    }

    fn all(&self) -> BTreeSet<String> {
        let members = self.members.iter().map(|(id, _)| id);
        self.servers
            .iter()
            .chain(&self.agents)
            .chain(members)
            .cloned()
            .collect()
    }
}

fn chosen<T>(things: &[T], which: usize) -> Option<usize> {
    (!things.is_empty()).then(|| which % things.len())
}

/// Does it to the tenant and to the model. What is added is refused exactly when there is no room.
async fn act(world: &World, anna: &Caller<'_>, model: &mut Model, deed: Deed, name: &str) {
    let limits = model.plan.limits();
    match deed {
        Deed::Plan(plan) => {
            set_plan(world, anna.tenant(), plan).await;
            model.plan = plan;
        }
        Deed::AddServer => {
            let added = anna.call(register(name)).await;
            assert_eq!(added.is_ok(), model.servers.len() < limits.servers as usize);
            model.servers.extend(added.map(|added| added.server.unwrap().id));
        }
        Deed::AddAgent => {
            let (name, pool_id) = (name.to_owned(), String::new());
            let added = anna.call(CreateAgentRequest { name, pool_id }).await;
            assert_eq!(added.is_ok(), model.agents.len() < limits.agents as usize);
            model.agents.extend(added.map(|added| added.agent.unwrap().id));
        }
        Deed::AddMember if model.members.len() < limits.members as usize => {
            let member = world.member(anna, Some(Role::Viewer), &[]).await;
            model.members.push((member.user().to_string(), false));
        }
        Deed::AddMember => {
            let no = anna
                .invite("x@example.com", PbRole::Viewer, "")
                .await
                .unwrap_err();
            assert!(is_plan_limit(&no));
        }
        Deed::DeleteServer(which) => {
            if let Some(which) = chosen(&model.servers, which) {
                let server_id = model.servers.remove(which);
                anna.call(DeleteServerRequest { server_id }).await.unwrap();
            }
        }
        Deed::RevokeAgent(which) => {
            if let Some(which) = chosen(&model.agents, which) {
                let agent_id = model.agents.remove(which);
                anna.call(RevokeAgentRequest { agent_id }).await.unwrap();
            }
        }
        Deed::RemoveMember(which) => {
            if let Some(which) = chosen(&model.members[1..], which) {
                let (user_id, _) = model.members.remove(which + 1);
                anna.call(RemoveMemberRequest { user_id }).await.unwrap();
            }
        }
        Deed::Promote(which) | Deed::Demote(which) => {
            if let Some(which) = chosen(&model.members[1..], which) {
                let owner = matches!(deed, Deed::Promote(_));
                let user_id = model.members[which + 1].0.clone();
                let waits = owner && model.frozen().contains(&user_id);
                let role = if owner { PbRole::Owner } else { PbRole::Viewer };
                let role = role.into();
                let done = anna.call(SetMemberRoleRequest { user_id, role }).await;
                match done {
                    Ok(_) if !waits => model.members[which + 1].1 = owner,
                    done => assert!(waits && is_plan_limit(&done.unwrap_err())),
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_done_the_newest_beyond_the_plan_are_frozen_and_nothing_is_lost() {
    let world = World::new().await;
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[4; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    for round in 0..5 {
        let deeds = deeds().new_tree(&mut runner).unwrap().current();
        let anna = world
            .owner_on(&format!("anna{round}@example.com"), Plan::Free)
            .await;
        let mut model = Model {
            plan: Plan::Free,
            servers: Vec::new(),
            agents: Vec::new(),
            members: vec![(anna.user().to_string(), true)],
        };
        let (tenant, schema) = (anna.tenant(), format!("t_{}", anna.tenant().digits()));
        let rows = format!(
            "SELECT coalesce(string_agg(id || ' ' || frozen, ',' ORDER BY id), '') FROM (
                 SELECT id, frozen_time IS NOT NULL AS frozen FROM {schema}.server
                 UNION ALL SELECT id, frozen_time IS NOT NULL FROM {schema}.agent WHERE state <> 'revoked'
                 UNION ALL SELECT user_id, frozen_time IS NOT NULL FROM tenant.member WHERE tenant_id = '{tenant}') AS t"
        );
        for (step, deed) in deeds.iter().enumerate() {
            act(&world, &anna, &mut model, *deed, &format!("n{step}")).await;
            let rows = world.db.sql(&rows);
            let rows: Vec<(&str, bool)> = rows
                .split(',')
                .filter_map(|row| row.split_once(' '))
                .map(|(id, frozen)| (id, frozen == "true"))
                .collect();
            let there: BTreeSet<String> = rows.iter().map(|(id, _)| (*id).to_owned()).collect();
            let frozen = rows
                .iter()
                .filter(|(_, frozen)| *frozen)
                .map(|(id, _)| (*id).to_owned());
            assert_eq!(there, model.all(), "{step} of {deeds:?}");
            assert_eq!(
                frozen.collect::<BTreeSet<_>>(),
                model.frozen(),
                "{step} of {deeds:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_seen_by_every_member_and_bought_by_owners_in_person() {
    let world = World::new().await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    let checkout = || CreateCheckoutLinkRequest {
        plan: PbPlan::Pro.into(),
    };
    for role in Role::ALL {
        let caller = world.member(&anna, Some(*role), &[]).await;
        assert!(caller.call(GetPlanRequest {}).await.is_ok(), "{role:?}");
        for no in [
            caller.refused(checkout()).await,
            caller.refused(CreatePortalLinkRequest {}).await,
        ] {
            let expected = if *role == Role::Owner {
                (Code::FailedPrecondition, "BILLING_NOT_CONFIGURED")
            } else {
                (Code::PermissionDenied, "ROLE_TOO_LOW")
            };
            assert_eq!((no.code, no.reason.as_str()), expected, "{role:?}");
        }
    }
    let key = anna.key(&["billing:manage", "tenant:view"]);
    for no in [
        key.refused(checkout()).await,
        key.refused(CreatePortalLinkRequest {}).await,
    ] {
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::PermissionDenied, "SESSION_REQUIRED")
        );
    }
    // Nobody who is limited to a pool sees what the tenant pays.
    let pool = anna.pool("p").await;
    let limited = world.member(&anna, None, &[(&pool, Role::Operator)]).await;
    let no = limited.refused(GetPlanRequest {}).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::PermissionDenied, "ROLE_TOO_LOW")
    );
    // Without Stripe no event is taken, whoever signs it.
    let no = anna.refused(ReceiveStripeEventRequest::default()).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::InvalidArgument, "EVENT_REFUSED")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operators_word_is_kept_in_the_tenants_log() {
    let world = World::new().await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    let shown = set_plan(&world, anna.tenant(), Plan::Pro).await;
    assert_eq!((shown.plan, shown.agreed), (Plan::Pro, Plan::Pro));
    // What changes nothing is no entry.
    set_plan(&world, anna.tenant(), Plan::Pro).await;
    let shown = tenant::operator::show_plan(&world.config(), false, anna.tenant())
        .await
        .unwrap();
    assert_eq!(shown.plan, Plan::Pro);
    assert_eq!(plan_changes(&world, anna.tenant()), ["free pro operator"]);
    let unknown = tenant::operator::set_plan(&world.config(), false, TenantId::fresh(), Plan::Pro).await;
    assert!(unknown.is_err());
}

/// Before, after and who, of each change in the log or on its way there.
pub(crate) fn plan_changes(world: &World, tenant: TenantId) -> Vec<String> {
    let what = "concat_ws(' ', e -> 'targets' ->> 'plan_before', e -> 'targets' ->> 'plan', e -> 'actor' ->> 'service')";
    let rows = world.db.sql(&format!(
        "SELECT coalesce(string_agg({what}, ',' ORDER BY e ->> 'id'), '') FROM (
             SELECT DISTINCT ON (e ->> 'id') e FROM (
                 SELECT event AS e FROM tenant.audit_inbox WHERE tenant_id = '{tenant}'
                 UNION ALL SELECT body::jsonb -> 'event' FROM t_{}.audit_record WHERE part = 'event') AS told) AS t
         WHERE e ->> 'method' = '/trailmesh.operator/SetPlan'",
        tenant.digits()
    ));
    rows.split(',')
        .filter(|row| !row.is_empty())
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plan_that_tenants_begin_with_is_agreed_on() {
    let world = World::with_flags(vec!["--tenant-first-plan=pro".to_owned()]).await;
    let anna = world.person("anna@example.com");
    let tenant = anna.call(new_tenant("Acme")).await.unwrap().tenant.unwrap();
    assert_eq!(tenant.plan(), PbPlan::Pro);
    let tenant = tenant.id.parse().unwrap();
    let shown = tenant::operator::show_plan(&world.config(), false, tenant)
        .await
        .unwrap();
    assert_eq!((shown.plan, shown.agreed), (Plan::Pro, Plan::Pro));
}
