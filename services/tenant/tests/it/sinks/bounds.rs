//! What a sink may be, and whose.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_has_room_for_so_many_sinks_and_those_beyond_it_wait() {
    let scene = Scene::new().await;
    let free = scene.owner("free").await;
    let refused = free
        .refused(sink("archive", SinkKind::File, "", AuditFormat::Cef))
        .await;
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (Code::FailedPrecondition, "PLAN_LIMIT")
    );
    assert!(refused.message.contains("pro"), "{}", refused.message);
    let owner = scene.owner("premium").await;
    for name in ["a", "b", "c", "d", "e"] {
        create(&owner, sink(name, SinkKind::File, "", AuditFormat::Ocsf)).await;
    }
    let refused = owner
        .refused(sink("f", SinkKind::File, "", AuditFormat::Ocsf))
        .await;
    assert_eq!(refused.reason, "PLAN_LIMIT");
    let plan = |plan: &str| {
        let tenant = owner.tenant();
        scene.world.db.sql(&format!(
            "UPDATE tenant.tenant SET plan = '{plan}' WHERE id = '{tenant}'"
        ));
    };
    plan("pro");
    scene.happen(&owner, 2);
    delivered(&owner, "b", 2).await;
    let waits = until(&owner, "c", |sink| !sink.last_error.is_empty()).await;
    assert_eq!(waits.last_error, "the plan has room for 2 sinks; this one waits");
    plan("premium");
    // Nothing was lost meanwhile.
    scene
        .world
        .db
        .sql("UPDATE tenant.audit_delivery SET due_time = now()");
    delivered(&owner, "c", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_sink_is_named() {
    let scene = Scene::new().await;
    let owner = scene.owner("enterprise").await;
    let web = |url: &str| sink("hook", SinkKind::Webhook, url, AuditFormat::Ecs);
    for (request, field) in [
        (sink("", SinkKind::File, "", AuditFormat::Ecs), "sink.name"),
        (sink("../x", SinkKind::File, "", AuditFormat::Ecs), "sink.name"),
        (sink("a", SinkKind::File, "", AuditFormat::Native), "sink.format"),
        (
            sink("a", SinkKind::File, "", AuditFormat::Unspecified),
            "sink.format",
        ),
        (
            sink("a", SinkKind::File, "https://x/", AuditFormat::Ecs),
            "sink.url",
        ),
        (
            sink("a", SinkKind::Unspecified, "", AuditFormat::Ecs),
            "sink.kind",
        ),
        (
            sink("a", SinkKind::Syslog, "https://x/", AuditFormat::Ecs),
            "sink.url",
        ),
        (web("http://siem.example.com/"), "sink.url"),
        (web("https://a:b@siem.example.com/"), "sink.url"),
        (web("https://siem.example.com/\r\nx: y"), "sink.url"),
        (web("file:///etc/passwd"), "sink.url"),
        (CreateAuditSinkRequest::default(), "sink.name"),
    ] {
        let refused = owner.refused(request.clone()).await;
        assert_eq!(
            (refused.code, refused.reason.as_str(), refused.field.as_str()),
            (Code::InvalidArgument, "FIELD_INVALID", field),
            "{request:?}"
        );
    }
    create(&owner, sink("a", SinkKind::File, "", AuditFormat::Ecs)).await;
    let refused = owner
        .refused(sink("a", SinkKind::File, "", AuditFormat::Ecs))
        .await;
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (Code::AlreadyExists, "SINK_NAME_TAKEN")
    );
    let folderless = World::new().await;
    let owner = folderless.owner("anna@example.com").await;
    let refused = owner
        .refused(sink("a", SinkKind::File, "", AuditFormat::Ecs))
        .await;
    assert_eq!(refused.field, "sink.kind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_is_its_tenants_and_its_admins() {
    let scene = Scene::new().await;
    let (owner, stranger) = (scene.owner("pro").await, scene.owner("pro").await);
    let made = create(&owner, sink("a", SinkKind::File, "", AuditFormat::Ecs))
        .await
        .sink
        .unwrap();
    let delete = |sink_id: &str| DeleteAuditSinkRequest {
        sink_id: sink_id.to_owned(),
    };
    let foreign: No = stranger.refused(delete(&made.id)).await;
    let nonsense = stranger.refused(delete("asn_nonsense")).await;
    assert_eq!(
        (foreign.code, foreign.reason.as_str()),
        (Code::NotFound, "SINK_NOT_FOUND")
    );
    assert_eq!(foreign, nonsense);
    assert_eq!(listed(&stranger).await, []);
    let analyst = scene.world.member(&owner, Some(Role::Analyst), &[]).await;
    assert_eq!(listed(&analyst).await.len(), 1);
    let refused = analyst.refused(delete(&made.id)).await;
    assert_eq!(refused.code, Code::PermissionDenied);
    owner.call(delete(&made.id)).await.unwrap();
    assert_eq!(listed(&owner).await, []);
    assert_eq!(
        scene
            .world
            .db
            .sql("SELECT count(*) FROM tenant.audit_delivery")
            .trim(),
        "0"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_is_not_followed() {
    let scene = Scene::new().await;
    let owner = scene.owner("pro").await;
    let elsewhere = receivers::webhook(0, &scene.identity(), Arc::default(), |_| receivers::status(200));
    let location = format!("https://localhost:{}/", elsewhere.port);
    let receiver = receivers::webhook(0, &scene.identity(), Arc::default(), move |_| {
        let mut answer = receivers::status(307).unwrap();
        answer.headers_mut().insert("location", location.parse().unwrap());
        Some(answer)
    });
    create(&owner, webhook_sink("hook", receiver.port)).await;
    scene.happen(&owner, 1);
    until(&owner, "hook", |sink| sink.last_error == "the answer was 307").await;
    assert_eq!(elsewhere.connections(), 0);
}
