//! Text that is no text, in every string of every request: it is stored as it is, or refused with its field; nothing else happens.

use std::collections::HashMap;

use proto::{common::v1::Role as PbRole, tenant::v1::*};
use tonic::Code;

use crate::{
    rpc::Rpc,
    world::{Caller, World, new_server, new_tenant},
};

const HOSTILE: &[&str] = &[
    "'; DROP SCHEMA tenant CASCADE; --",
    "' OR '1'='1",
    "\"; DELETE FROM server; --",
    "$1 $2 $$ $x$",
    "%' ESCAPE '\\",
    "\\",
    "\0",
    "a\0b",
    "\u{202e}gnp.exe",
    "\u{feff}x",
    "e\u{301}\u{327}\u{323}",
    "👩‍👩‍👧‍👦",
    "ﷺ",
    "\u{10ffff}",
    "\r\nX-Injected: 1",
    "{{7*7}} ${jndi:ldap://x}",
    "../../../etc/passwd",
];

/// Asks, and lets only an answer or a refusal of these kinds pass.
async fn harmless<Q: Rpc>(caller: &Caller<'_>, request: Q) -> bool {
    match caller.call(request).await {
        Ok(_) => true,
        Err(no) => {
            let kind = matches!(
                no.code,
                Code::InvalidArgument
                    | Code::NotFound
                    | Code::AlreadyExists
                    | Code::Aborted
                    | Code::ResourceExhausted
            );
            assert!(kind, "{}: {no:?}", Q::PATH);
            assert!(
                no.code != Code::InvalidArgument || !no.field.is_empty(),
                "{}: {no:?}",
                Q::PATH
            );
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_text_in_every_string_is_stored_or_refused() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let mine = anna.server("db", "").await;
    let role = PbRole::Viewer.into();
    for text in HOSTILE
        .iter()
        .map(|text| (*text).to_owned())
        .chain(["x".repeat(100_000)])
    {
        let text = || text.clone();
        harmless(
            &anna,
            UpdateTenantRequest {
                tenant: Some(Tenant {
                    name: text(),
                    ..Default::default()
                }),
                update_mask: None,
            },
        )
        .await;
        // The name it has by now would delete it.
        let name = format!("{}?", text());
        harmless(&anna, DeleteTenantRequest { name }).await;
        harmless(&anna, GetDeletionRequest { tenant_id: text() }).await;
        harmless(
            &anna,
            ListTenantsRequest {
                page_token: text(),
                page_size: 0,
            },
        )
        .await;
        harmless(
            &anna,
            ListMembersRequest {
                page_token: text(),
                page_size: 0,
            },
        )
        .await;
        harmless(&anna, GetMemberRequest { user_id: text() }).await;
        harmless(
            &anna,
            SetMemberRoleRequest {
                user_id: text(),
                role,
            },
        )
        .await;
        harmless(&anna, RemoveMemberRequest { user_id: text() }).await;
        harmless(
            &anna,
            BindRoleRequest {
                user_id: text(),
                pool_id: text(),
                role,
            },
        )
        .await;
        harmless(
            &anna,
            UnbindRoleRequest {
                user_id: text(),
                pool_id: text(),
            },
        )
        .await;
        harmless(
            &anna,
            InviteMemberRequest {
                email: text(),
                role,
                pool_id: String::new(),
            },
        )
        .await;
        harmless(
            &anna,
            InviteMemberRequest {
                email: format!("{}@example.com", text()),
                role,
                pool_id: text(),
            },
        )
        .await;
        harmless(
            &anna,
            ListInvitationsRequest {
                page_token: text(),
                page_size: 0,
            },
        )
        .await;
        harmless(
            &anna,
            RevokeInvitationRequest {
                invitation_id: text(),
            },
        )
        .await;
        harmless(&anna, AcceptInvitationRequest { token: text() }).await;
        harmless(&anna, CreateAgentPoolRequest { name: text() }).await;
        harmless(
            &anna,
            ListAgentPoolsRequest {
                page_token: text(),
                page_size: 0,
            },
        )
        .await;
        harmless(&anna, DeleteAgentPoolRequest { pool_id: text() }).await;
        harmless(
            &anna,
            CreateAgentRequest {
                name: text(),
                pool_id: String::new(),
            },
        )
        .await;
        harmless(
            &anna,
            CreateAgentRequest {
                name: "a".into(),
                pool_id: text(),
            },
        )
        .await;
        harmless(&anna, GetAgentRequest { agent_id: text() }).await;
        harmless(
            &anna,
            ListAgentsRequest {
                page_token: text(),
                pool_id: text(),
                page_size: 0,
            },
        )
        .await;
        harmless(&anna, RenewEnrolmentRequest { agent_id: text() }).await;
        harmless(&anna, RevokeAgentRequest { agent_id: text() }).await;
        harmless(&anna, GetServerRequest { server_id: text() }).await;
        harmless(
            &anna,
            ListServersRequest {
                page_token: text(),
                pool_id: text(),
                page_size: 0,
            },
        )
        .await;
        harmless(&anna, DeleteServerRequest { server_id: text() }).await;
        let set = SetServerCredentialRequest {
            server_id: text(),
            kind: 1,
            value: text(),
        };
        harmless(&anna, set).await;
        for server in servers(&text()) {
            harmless(
                &anna,
                RegisterServerRequest {
                    server: Some(server.clone()),
                    ..Default::default()
                },
            )
            .await;
            let server = Some(Server {
                id: mine.id.clone(),
                ..server
            });
            harmless(
                &anna,
                UpdateServerRequest {
                    server,
                    update_mask: None,
                },
            )
            .await;
        }
        let update_mask = Some(prost_types::FieldMask { paths: vec![text()] });
        harmless(
            &anna,
            UpdateServerRequest {
                server: Some(mine.clone()),
                update_mask,
            },
        )
        .await;
        for rule in rules(&text()) {
            harmless(&anna, CreateAccessRuleRequest { rule: Some(rule) }).await;
        }
        harmless(
            &anna,
            ListAccessRulesRequest {
                page_token: text(),
                page_size: 0,
            },
        )
        .await;
        harmless(&anna, DeleteAccessRuleRequest { rule_id: text() }).await;
        harmless(
            &anna,
            ExplainAccessRequest {
                role,
                server_id: mine.id.clone(),
                schema_name: text(),
                table_name: text(),
            },
        )
        .await;
        harmless(&world.person("carl@example.com"), new_tenant(&text())).await;
        world
            .db
            .sql("DELETE FROM auth.account WHERE email = 'carl@example.com'");
    }
    // All is still there.
    let server_id = mine.id.clone();
    assert!(anna.call(GetServerRequest { server_id }).await.is_ok());
    assert!(anna.call(GetTenantRequest {}).await.is_ok());
}

fn servers(text: &str) -> Vec<Server> {
    let (text, good) = (|| text.to_owned(), || new_server("hostile"));
    vec![
        Server {
            name: text(),
            ..good()
        },
        Server {
            host: text(),
            ..good()
        },
        Server {
            username: text(),
            ..good()
        },
        Server {
            pool_id: text(),
            ..good()
        },
        Server {
            etag: text(),
            ..good()
        },
        Server {
            labels: HashMap::from([(text(), text())]),
            ..good()
        },
    ]
}

fn rules(text: &str) -> Vec<AccessRule> {
    let text = || text.to_owned();
    let good = || AccessRule {
        role: PbRole::Viewer.into(),
        schema_name: "s".into(),
        table_name: "t".into(),
        effect: Effect::Deny.into(),
        ..Default::default()
    };
    vec![
        AccessRule {
            schema_name: text(),
            ..good()
        },
        AccessRule {
            table_name: text(),
            ..good()
        },
        AccessRule {
            columns: vec![text()],
            ..good()
        },
        AccessRule {
            server_id: text(),
            ..good()
        },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_text_that_is_allowed_comes_back_as_it_was() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let text = "'; DROP TABLE server; -- $1 \\ \" 👩‍👩‍👧‍👦 e\u{301}";
    let server = Server {
        username: "o'neil\"; --".into(),
        labels: HashMap::from([(text.to_owned(), text.to_owned())]),
        ..new_server("db")
    };
    let stored = anna
        .call(RegisterServerRequest {
            server: Some(server.clone()),
            ..Default::default()
        })
        .await
        .unwrap()
        .server
        .unwrap();
    assert_eq!(
        (&stored.username, &stored.labels),
        (&server.username, &server.labels)
    );
    let rule = AccessRule {
        role: PbRole::Analyst.into(),
        schema_name: text.into(),
        table_name: text.into(),
        columns: vec![text.into()],
        effect: Effect::Deny.into(),
        ..Default::default()
    };
    anna.call(CreateAccessRuleRequest { rule: Some(rule) })
        .await
        .unwrap();
    let explain = ExplainAccessRequest {
        role: 2,
        server_id: stored.id,
        schema_name: text.into(),
        table_name: text.into(),
    };
    assert_eq!(anna.call(explain).await.unwrap().denied_columns, [text]);
    let name = "Robert'); DROP TABLE tenant;-- 株式会社";
    let tenant = anna.call(new_tenant(name)).await.unwrap().tenant.unwrap();
    assert_eq!(tenant.name, name);
}
