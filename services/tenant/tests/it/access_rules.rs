//! AccessRuleService.

use proto::{common::v1::Role as PbRole, tenant::v1::*};
use tonic::Code;
use types::{Role, RuleId, ServerId};

use crate::world::{Caller, World};

fn rule(effect: Effect, schema: &str, table: &str, columns: &[&str]) -> AccessRule {
    AccessRule {
        role: PbRole::Analyst.into(),
        schema_name: schema.to_owned(),
        table_name: table.to_owned(),
        columns: columns.iter().map(|column| (*column).to_owned()).collect(),
        effect: effect.into(),
        ..AccessRule::default()
    }
}

async fn create(caller: &Caller<'_>, rule: AccessRule) -> CreateAccessRuleResponse {
    caller
        .call(CreateAccessRuleRequest { rule: Some(rule) })
        .await
        .unwrap()
}

async fn explain(caller: &Caller<'_>, role: PbRole, server_id: &str, table: &str) -> ExplainAccessResponse {
    let request = ExplainAccessRequest {
        role: role.into(),
        server_id: server_id.to_owned(),
        schema_name: "shop".to_owned(),
        table_name: table.to_owned(),
    };
    caller.call(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_are_made_listed_in_order_and_deleted() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let server_id = anna.server("db", "").await.id;
    let mut made = Vec::new();
    for table in ["z", "a", "m"] {
        let wanted = AccessRule {
            server_id: server_id.clone(),
            ..rule(Effect::Deny, "shop", table, &["Card", "iban"])
        };
        let answer = create(&anna, wanted.clone()).await;
        assert_eq!(answer.warnings, [] as [&str; 0]);
        let stored = answer.rule.unwrap();
        assert_eq!(
            stored,
            AccessRule {
                id: stored.id.clone(),
                create_time: stored.create_time,
                ..wanted
            }
        );
        made.push(stored);
    }
    let page = |page_token: String| ListAccessRulesRequest {
        page_size: 2,
        page_token,
    };
    let first = anna.call(page(String::new())).await.unwrap();
    let second = anna.call(page(first.next_page_token)).await.unwrap();
    let seen: Vec<AccessRule> = first.rules.into_iter().chain(second.rules).collect();
    assert_eq!(seen, made);
    let delete = DeleteAccessRuleRequest {
        rule_id: made[0].id.clone(),
    };
    anna.call(delete.clone()).await.unwrap();
    let no = anna.refused(delete).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::NotFound, "ACCESS_RULE_NOT_FOUND")
    );
    let unknown = DeleteAccessRuleRequest {
        rule_id: RuleId::fresh().to_string(),
    };
    assert_eq!(anna.refused(unknown).await, no);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_field_of_a_rule_is_named() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let good = || rule(Effect::Deny, "shop", "orders", &[]);
    for (field, wrong) in [
        ("rule.role", AccessRule { role: 0, ..good() }),
        ("rule.role", AccessRule { role: 77, ..good() }),
        (
            "rule.role",
            AccessRule {
                role: PbRole::Admin.into(),
                ..good()
            },
        ),
        (
            "rule.role",
            AccessRule {
                role: PbRole::Owner.into(),
                ..good()
            },
        ),
        (
            "rule.schema_name",
            AccessRule {
                schema_name: String::new(),
                ..good()
            },
        ),
        (
            "rule.schema_name",
            AccessRule {
                schema_name: "a*".into(),
                ..good()
            },
        ),
        (
            "rule.table_name",
            AccessRule {
                table_name: "x".repeat(65),
                ..good()
            },
        ),
        (
            "rule.table_name",
            AccessRule {
                table_name: "a\0b".into(),
                ..good()
            },
        ),
        (
            "rule.columns",
            AccessRule {
                columns: vec![String::new()],
                ..good()
            },
        ),
        (
            "rule.columns",
            AccessRule {
                columns: vec!["c".into(); 257],
                ..good()
            },
        ),
        ("rule.effect", AccessRule { effect: 0, ..good() }),
        ("rule.effect", AccessRule { effect: 9, ..good() }),
    ] {
        let no = anna.refused(CreateAccessRuleRequest { rule: Some(wrong) }).await;
        assert_eq!((no.code, no.field.as_str()), (Code::InvalidArgument, field));
    }
    assert_eq!(
        anna.refused(CreateAccessRuleRequest { rule: None }).await.field,
        "rule"
    );
    let foreign = AccessRule {
        server_id: ServerId::fresh().to_string(),
        ..good()
    };
    let no = anna
        .refused(CreateAccessRuleRequest { rule: Some(foreign) })
        .await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::NotFound, "SERVER_NOT_FOUND")
    );
    let request = |role: i32, schema: &str, table: &str| ExplainAccessRequest {
        role,
        server_id: ServerId::fresh().to_string(),
        schema_name: schema.into(),
        table_name: table.into(),
    };
    assert_eq!(anna.refused(request(0, "a", "b")).await.field, "role");
    assert_eq!(anna.refused(request(1, "", "b")).await.field, "schema_name");
    assert_eq!(anna.refused(request(1, "a", "")).await.field, "table_name");
    assert_eq!(
        anna.refused(request(1, "a", "b")).await.reason,
        "SERVER_NOT_FOUND"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_role_sees_is_explained_with_its_rules() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let server = anna.server("db", "").await.id;
    let nothing_said = explain(&anna, PbRole::Analyst, &server, "orders").await;
    assert_eq!(
        nothing_said,
        ExplainAccessResponse {
            visible: true,
            ..ExplainAccessResponse::default()
        }
    );

    let allowed = create(&anna, rule(Effect::Allow, "shop", "orders", &["Id", "card"]))
        .await
        .rule
        .unwrap()
        .id;
    let denied = create(&anna, rule(Effect::Deny, "*", "*", &["CARD"]))
        .await
        .rule
        .unwrap()
        .id;
    let partly = explain(&anna, PbRole::Analyst, &server, "orders").await;
    assert_eq!(
        (partly.visible, partly.allowed_columns, partly.denied_columns),
        (true, vec!["Id".to_owned()], vec!["CARD".to_owned()])
    );
    assert_eq!(partly.rule_ids, [allowed, denied]);

    let table = anna.deny(&server, "shop", "secrets").await.id;
    let hidden = explain(&anna, PbRole::Analyst, &server, "secrets").await;
    assert_eq!((hidden.visible, hidden.rule_ids), (false, vec![table.clone()]));
    // As is what a tool fills in its place.
    let ghost = explain(&anna, PbRole::Analyst, &server, "_Secrets_gho").await;
    assert_eq!((ghost.visible, ghost.rule_ids), (false, vec![table]));
    for exempt in [PbRole::Admin, PbRole::Owner] {
        assert!(explain(&anna, exempt, &server, "secrets").await.visible);
    }
    assert!(explain(&anna, PbRole::Operator, &server, "secrets").await.visible);
    let other = anna.server("other", "").await.id;
    assert!(explain(&anna, PbRole::Analyst, &other, "secrets").await.visible);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collisions_are_told_and_stored_all_the_same() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let deny = create(&anna, rule(Effect::Deny, "shop", "orders", &[]))
        .await
        .rule
        .unwrap()
        .id;
    let told = |answer: &CreateAccessRuleResponse, word: &str| {
        assert_eq!(answer.warnings.len(), 1, "{answer:?}");
        assert!(
            answer.warnings[0].contains(&deny) && answer.warnings[0].contains(word),
            "{answer:?}"
        );
    };
    let allow = create(&anna, rule(Effect::Allow, "shop", "orders", &[])).await;
    told(&allow, "a denial wins");
    anna.call(DeleteAccessRuleRequest {
        rule_id: allow.rule.unwrap().id,
    })
    .await
    .unwrap();
    told(
        &create(&anna, rule(Effect::Deny, "shop", "orders", &["card"])).await,
        "hides the whole table",
    );
    let wide = create(&anna, rule(Effect::Deny, "shop", "*", &[])).await;
    assert_eq!(wide.warnings.len(), 2);
    let viewer = AccessRule {
        role: PbRole::Viewer.into(),
        ..rule(Effect::Allow, "shop", "orders", &[])
    };
    assert_eq!(create(&anna, viewer).await.warnings.len(), 0);
    assert_eq!(
        anna.call(ListAccessRulesRequest::default())
            .await
            .unwrap()
            .rules
            .len(),
        4
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warnings_and_rules_are_bounded() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let schema = format!("t_{}", anna.tenant().digits());
    world.db.sql(&format!(
        "INSERT INTO {schema}.access_rule (id, role, schema_name, table_name, columns, effect)
         SELECT 'acr_' || lpad(n::text, 26, '0'), 'analyst', 'shop', 'orders', '{{}}', 'deny' FROM generate_series(1, 999) AS n"
    ));
    let answer = create(&anna, rule(Effect::Allow, "*", "*", &[])).await;
    assert_eq!(answer.warnings.len(), 21);
    assert!(answer.warnings[20].contains("979 more"));
    let no = anna
        .refused(CreateAccessRuleRequest {
            rule: Some(rule(Effect::Allow, "*", "*", &[])),
        })
        .await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::ResourceExhausted, "ACCESS_RULE_LIMIT")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_limited_to_a_pool_reads_the_rules_of_its_servers() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let (eu, us) = (anna.pool("eu").await, anna.pool("us").await);
    let (mine, other) = (
        anna.server("mine", &eu).await.id,
        anna.server("other", &us).await.id,
    );
    let expected = [anna.deny(&mine, "a", "b").await, anna.deny("", "c", "d").await];
    anna.deny(&other, "e", "f").await;
    let bert = world.member(&anna, None, &[(&eu, Role::Analyst)]).await;
    assert_eq!(
        bert.call(ListAccessRulesRequest::default()).await.unwrap().rules,
        expected
    );
    assert!(explain(&bert, PbRole::Analyst, &mine, "b").await.visible);
    let request = |server_id: String| ExplainAccessRequest {
        role: 2,
        server_id,
        schema_name: "a".into(),
        table_name: "b".into(),
    };
    let unknown = bert.refused(request(ServerId::fresh().to_string())).await;
    assert_eq!(bert.refused(request(other)).await, unknown);
}
