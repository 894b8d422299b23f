//! Two tenants side by side: what is one's is nothing to the other.

use prost::Message as _;
use proto::{common::v1::Role as PbRole, tenant::v1::*};
use tonic::Code;
use types::{AgentId, InvitationId, PoolId, Role, RuleId, ServerId, UserId};

use crate::{
    rpc::{Rpc, all_paths},
    world::{Caller, No, World, new_server},
};

/// One thing of each kind, all named with the canary.
struct Things {
    user: String,
    invitation: String,
    pool: String,
    server: String,
    agent: String,
    rule: String,
    tokens: Vec<String>,
}

const CANARY: &str = "canary-7f3a";

async fn things(world: &World, owner: &Caller<'_>, word: &str) -> Things {
    let pool = owner.pool(&format!("{word}-pool")).await;
    let server = owner.server(&format!("{word}-server"), &pool).await.id;
    owner.server(&format!("{word}-z"), &pool).await;
    owner.agent(&format!("{word}-z"), &pool).await;
    owner.deny("", &format!("{word}-z"), "t").await;
    let page_size = 1;
    let tokens = vec![
        owner
            .call(ListServersRequest {
                page_size,
                ..Default::default()
            })
            .await
            .unwrap()
            .next_page_token,
        owner
            .call(ListAgentPoolsRequest {
                page_size,
                ..Default::default()
            })
            .await
            .unwrap()
            .next_page_token,
    ];
    Things {
        user: world
            .member(owner, Some(Role::Viewer), &[(&pool, Role::Operator)])
            .await
            .user()
            .to_string(),
        invitation: owner
            .invite(&format!("{word}@example.com"), PbRole::Viewer, &pool)
            .await
            .unwrap()
            .id,
        agent: owner
            .agent(&format!("{word}-agent"), &pool)
            .await
            .agent
            .unwrap()
            .id,
        rule: owner.deny(&server, &format!("{word}-schema"), "t").await.id,
        pool,
        server,
        tokens,
    }
}

impl Things {
    fn unknown() -> Self {
        Self {
            user: UserId::fresh().to_string(),
            invitation: InvitationId::fresh().to_string(),
            pool: PoolId::fresh().to_string(),
            server: ServerId::fresh().to_string(),
            agent: AgentId::fresh().to_string(),
            rule: RuleId::fresh().to_string(),
            tokens: vec![],
        }
    }

    fn all(text: &str) -> Self {
        let text = || text.to_owned();
        Self {
            user: text(),
            invitation: text(),
            pool: text(),
            server: text(),
            agent: text(),
            rule: text(),
            tokens: vec![],
        }
    }
}

async fn no<Q: Rpc>(caller: &Caller<'_>, asked: &mut Vec<(&'static str, No)>, request: Q) {
    let refused = caller.refused(request).await;
    asked.push((Q::PATH, refused));
}

/// Every RPC that takes an id, once for each id it takes, with `own` where the other ids of the request must be good ones.
async fn ask(caller: &Caller<'_>, own: &Things, foreign: &Things) -> Vec<(&'static str, No)> {
    let mut asked = Vec::new();
    let all = &mut asked;
    let Things {
        user,
        invitation,
        pool,
        server,
        agent,
        rule,
        ..
    } = foreign;
    let (user, invitation, pool) = (|| user.clone(), || invitation.clone(), || pool.clone());
    let (server, agent, rule) = (|| server.clone(), || agent.clone(), || rule.clone());
    let role = PbRole::Viewer.into();

    no(caller, all, GetMemberRequest { user_id: user() }).await;
    no(
        caller,
        all,
        SetMemberRoleRequest {
            user_id: user(),
            role,
        },
    )
    .await;
    no(caller, all, RemoveMemberRequest { user_id: user() }).await;
    no(
        caller,
        all,
        BindRoleRequest {
            user_id: user(),
            pool_id: own.pool.clone(),
            role,
        },
    )
    .await;
    no(
        caller,
        all,
        BindRoleRequest {
            user_id: own.user.clone(),
            pool_id: pool(),
            role,
        },
    )
    .await;
    no(
        caller,
        all,
        UnbindRoleRequest {
            user_id: user(),
            pool_id: own.pool.clone(),
        },
    )
    .await;
    no(
        caller,
        all,
        UnbindRoleRequest {
            user_id: own.user.clone(),
            pool_id: pool(),
        },
    )
    .await;
    no(
        caller,
        all,
        InviteMemberRequest {
            email: "x@example.com".into(),
            role,
            pool_id: pool(),
        },
    )
    .await;
    no(
        caller,
        all,
        RevokeInvitationRequest {
            invitation_id: invitation(),
        },
    )
    .await;
    no(caller, all, DeleteAgentPoolRequest { pool_id: pool() }).await;
    no(
        caller,
        all,
        CreateAgentRequest {
            name: "x".into(),
            pool_id: pool(),
        },
    )
    .await;
    no(caller, all, GetAgentRequest { agent_id: agent() }).await;
    no(
        caller,
        all,
        ListAgentsRequest {
            pool_id: pool(),
            ..Default::default()
        },
    )
    .await;
    no(caller, all, RenewEnrolmentRequest { agent_id: agent() }).await;
    no(caller, all, RevokeAgentRequest { agent_id: agent() }).await;
    let new = |pool_id| {
        Some(Server {
            pool_id,
            ..new_server("x")
        })
    };
    no(
        caller,
        all,
        RegisterServerRequest {
            server: new(pool()),
            ..Default::default()
        },
    )
    .await;
    no(caller, all, GetServerRequest { server_id: server() }).await;
    no(
        caller,
        all,
        ListServersRequest {
            pool_id: pool(),
            ..Default::default()
        },
    )
    .await;
    let change = |id, pool_id| UpdateServerRequest {
        server: Some(Server {
            id,
            pool_id,
            port: 1,
            ..Default::default()
        }),
        update_mask: None,
    };
    no(caller, all, change(server(), String::new())).await;
    no(caller, all, change(own.server.clone(), pool())).await;
    no(caller, all, DeleteServerRequest { server_id: server() }).await;
    let kind = proto::vault::v1::SecretKind::MysqlPassword.into();
    let set = SetServerCredentialRequest {
        server_id: server(),
        kind,
        value: "x".into(),
    };
    no(caller, all, set).await;
    no(caller, all, ListServerCredentialsRequest { server_id: server() }).await;
    let delete = DeleteServerCredentialRequest {
        server_id: server(),
        kind,
    };
    no(caller, all, delete).await;
    let limited = AccessRule {
        role: PbRole::Viewer.into(),
        server_id: server(),
        schema_name: "*".into(),
        table_name: "*".into(),
        effect: Effect::Deny.into(),
        ..Default::default()
    };
    no(caller, all, CreateAccessRuleRequest { rule: Some(limited) }).await;
    no(caller, all, DeleteAccessRuleRequest { rule_id: rule() }).await;
    let explain = ExplainAccessRequest {
        role,
        server_id: server(),
        schema_name: "a".into(),
        table_name: "b".into(),
    };
    no(caller, all, explain).await;
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_of_another_tenant_are_answered_like_nonsense_to_the_byte() {
    let world = World::new().await;
    let (anna, bert) = (
        world.owner("anna@example.com").await,
        world.owner("bert@example.com").await,
    );
    let hers = things(&world, &anna, CANARY).await;
    let own = things(&world, &bert, "plain").await;
    let unknown = ask(&bert, &own, &Things::unknown()).await;
    for (path, no) in &unknown {
        assert_eq!(no.code, Code::NotFound, "{path}: {no:?}");
        assert!(no.reason.ends_with("_NOT_FOUND"), "{path}: {no:?}");
    }
    assert_eq!(ask(&bert, &own, &hers).await, unknown, "ids of another tenant");
    // Of another kind, of no kind, and hostile. (An empty pool is the pool `default`.)
    let kinds = [
        Things {
            user: hers.server.clone(),
            invitation: hers.user.clone(),
            pool: hers.agent.clone(),
            server: hers.pool.clone(),
            agent: hers.rule.clone(),
            rule: hers.invitation.clone(),
            tokens: vec![],
        },
        Things::all("nonsense"),
        Things::all("'; DROP SCHEMA tenant CASCADE; --"),
        Things::all("srv_00000000000000000000000000\0"),
        Things::all(&own.server.to_uppercase()),
        Things::all(&"x".repeat(10_000)),
    ];
    for kind in &kinds {
        assert_eq!(ask(&bert, &own, kind).await, unknown, "{}", kind.server);
    }
    // None of it has touched what is hers.
    let left = things_left(&anna).await;
    assert_eq!(
        left,
        [
            ("servers", 2),
            ("agents", 2),
            ("rules", 2),
            ("pools", 2),
            ("members", 2),
            ("invitations", 1)
        ]
    );
}

async fn things_left(owner: &Caller<'_>) -> [(&'static str, usize); 6] {
    [
        (
            "servers",
            owner
                .call(ListServersRequest::default())
                .await
                .unwrap()
                .servers
                .len(),
        ),
        (
            "agents",
            owner
                .call(ListAgentsRequest::default())
                .await
                .unwrap()
                .agents
                .len(),
        ),
        (
            "rules",
            owner
                .call(ListAccessRulesRequest::default())
                .await
                .unwrap()
                .rules
                .len(),
        ),
        (
            "pools",
            owner
                .call(ListAgentPoolsRequest::default())
                .await
                .unwrap()
                .pools
                .len(),
        ),
        (
            "members",
            owner
                .call(ListMembersRequest::default())
                .await
                .unwrap()
                .members
                .len(),
        ),
        (
            "invitations",
            owner
                .call(ListInvitationsRequest::default())
                .await
                .unwrap()
                .invitations
                .len(),
        ),
    ]
}

/// Methods whose requests have no id, those whose id is the invitation's token, those that only the gateway calls, and what `sinks`,
/// `audit_read`, `life` and `directory` ask.
const WITHOUT_IDS: [&str; 28] = [
    "AuditService/ExportAuditEntries",
    "AuditService/GetAuditHead",
    "AuditService/ListAuditEntries",
    "AuditService/RecordIntent",
    "AuditService/RecordRefusals",
    "AuditService/RecordResult",
    "AuditService/StreamAuditEntries",
    "AuditSinkService/CreateAuditSink",
    "AuditSinkService/DeleteAuditSink",
    "AuditSinkService/ListAuditSinks",
    "BillingService/CreateCheckoutLink",
    "BillingService/CreatePortalLink",
    "BillingService/GetPlan",
    "BillingService/ReceiveStripeEvent",
    "DirectoryService/GetAccess",
    "DirectoryService/ResolveServer",
    "AccessRuleService/ListAccessRules",
    "AgentPoolService/CreateAgentPool",
    "AgentPoolService/ListAgentPools",
    "MemberService/AcceptInvitation",
    "MemberService/ListInvitations",
    "MemberService/ListMembers",
    "TenantService/CreateTenant",
    "TenantService/DeleteTenant",
    "TenantService/GetDeletion",
    "TenantService/GetTenant",
    "TenantService/ListTenants",
    "TenantService/UpdateTenant",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rpc_that_takes_an_id_is_asked() {
    let world = World::new().await;
    let bert = world.owner("bert@example.com").await;
    let own = things(&world, &bert, "plain").await;
    let asked = ask(&bert, &own, &Things::unknown()).await;
    for path in all_paths() {
        let short = path.trim_start_matches("/trailmesh.tenant.v1.");
        let known = asked.iter().any(|(asked, _)| *asked == path) || WITHOUT_IDS.contains(&short);
        assert!(known, "{path} is not asked with another tenant's ids");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_list_shows_what_is_another_tenants() {
    let world = World::new().await;
    let (anna, bert) = (
        world.owner("anna@example.com").await,
        world.owner("bert@example.com").await,
    );
    let hers = things(&world, &anna, CANARY).await;
    things(&world, &bert, "plain").await;
    let mut seen = Vec::new();
    seen.extend(
        bert.call(ListServersRequest::default())
            .await
            .unwrap()
            .encode_to_vec(),
    );
    seen.extend(
        bert.call(ListAgentsRequest::default())
            .await
            .unwrap()
            .encode_to_vec(),
    );
    seen.extend(
        bert.call(ListAccessRulesRequest::default())
            .await
            .unwrap()
            .encode_to_vec(),
    );
    seen.extend(
        bert.call(ListAgentPoolsRequest::default())
            .await
            .unwrap()
            .encode_to_vec(),
    );
    seen.extend(
        bert.call(ListMembersRequest::default())
            .await
            .unwrap()
            .encode_to_vec(),
    );
    seen.extend(
        bert.call(ListInvitationsRequest::default())
            .await
            .unwrap()
            .encode_to_vec(),
    );
    seen.extend(
        bert.call(ListTenantsRequest::default())
            .await
            .unwrap()
            .encode_to_vec(),
    );
    let seen = String::from_utf8_lossy(&seen);
    assert!(
        seen.contains("plain-server") && seen.contains("plain-schema") && seen.contains("plain@example.com")
    );
    for foreign in [
        CANARY,
        &hers.server,
        &hers.pool,
        &hers.user,
        &hers.agent,
        &hers.rule,
        &hers.invitation,
        &anna.user().to_string(),
    ] {
        assert!(!seen.contains(foreign), "{foreign}");
    }
    // Nor do her page tokens open a list of his.
    for token in &hers.tokens {
        let page_token = token.clone();
        let no = bert
            .refused(ListServersRequest {
                page_token: page_token.clone(),
                ..Default::default()
            })
            .await;
        assert_eq!(
            (no.code, no.field.as_str()),
            (Code::InvalidArgument, "page_token")
        );
        assert_eq!(
            bert.refused(ListAgentPoolsRequest {
                page_token,
                page_size: 0
            })
            .await
            .message,
            no.message
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invitation_of_one_tenant_makes_no_member_of_another() {
    let world = World::new().await;
    let (anna, bert) = (
        world.owner("anna@example.com").await,
        world.owner("bert@example.com").await,
    );
    anna.invite("carl@example.com", PbRole::Viewer, "").await.unwrap();
    let token = world.mails(1)[0].token.clone();
    let mut carl = world.person("carl@example.com");
    // Even with a seat elsewhere in hand.
    carl.context.seat.clone_from(&bert.context.seat);
    let answer = carl.call(AcceptInvitationRequest { token }).await.unwrap();
    assert_eq!(answer.tenant_id, anna.tenant().to_string());
    assert_eq!(world.seat(carl.user(), &bert.tenant().to_string()).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tenants_at_once_over_two_connections_see_only_their_own() {
    let world = World::behind_pgbouncer().await;
    let mut owners = Vec::new();
    for n in 0..6 {
        owners.push(world.owner(&format!("owner{n}@example.com")).await);
    }
    let busy = owners.iter().enumerate().map(|(n, owner)| async move {
        let canary = format!("canary-{n}-");
        for round in 0..6 {
            let server = owner.server(&format!("{canary}{round}"), "").await;
            // What fails on the way leaves nothing behind either.
            owner
                .refused(RegisterServerRequest {
                    server: Some(new_server(&server.name)),
                    ..Default::default()
                })
                .await;
            owner
                .refused(GetServerRequest {
                    server_id: ServerId::fresh().to_string(),
                })
                .await;
            let seen = owner.call(ListServersRequest::default()).await.unwrap().servers;
            assert_eq!(seen.len(), round + 1);
            assert!(
                seen.iter().all(|server| server.name.starts_with(&canary)),
                "{canary}: {seen:?}"
            );
        }
    });
    crate::concurrency::all(busy).await;
}
