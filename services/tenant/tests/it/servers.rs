//! ServerService.

use std::collections::HashMap;

use prost_types::FieldMask;
use proto::tenant::v1::*;
use tonic::Code;
use types::{PoolId, Role, ServerId};

use crate::world::{World, new_server};

fn update(server: Server, paths: &[&str]) -> UpdateServerRequest {
    UpdateServerRequest {
        server: Some(server),
        update_mask: (!paths.is_empty()).then(|| FieldMask {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        }),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_registered_with_what_was_said_and_read_back() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let pool_id = anna.pool("eu").await;
    let said = Server {
        name: "orders-1".into(),
        host: "[2001:db8::1]".into(),
        port: 3307,
        username: "repl".into(),
        tls_mode: TlsMode::VerifyCa.into(),
        engine: Engine::Mariadb.into(),
        pool_id,
        labels: HashMap::from([
            ("team".to_owned(), "größe".to_owned()),
            ("env".to_owned(), String::new()),
        ]),
        // Not for the client to say.
        id: "srv_mine".into(),
        etag: "mine".into(),
        ..Server::default()
    };
    let server = anna
        .call(RegisterServerRequest {
            server: Some(said.clone()),
            ..Default::default()
        })
        .await
        .unwrap()
        .server
        .unwrap();
    let expected = Server {
        id: server.id.clone(),
        etag: server.etag.clone(),
        host: "2001:db8::1".into(),
        create_time: server.create_time,
        update_time: server.create_time,
        ..said
    };
    assert_eq!(server, expected);
    assert!(server.id.parse::<ServerId>().is_ok() && !server.etag.is_empty());
    let server_id = server.id.clone();
    assert_eq!(
        anna.call(GetServerRequest { server_id }).await.unwrap().server,
        Some(server)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_out_has_its_default() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let server = Some(Server {
        name: "db".into(),
        host: "h".into(),
        ..Server::default()
    });
    let server = anna
        .call(RegisterServerRequest {
            server,
            ..Default::default()
        })
        .await
        .unwrap()
        .server
        .unwrap();
    assert_eq!(
        (server.port, server.tls_mode(), server.engine()),
        (3306, TlsMode::VerifyIdentity, Engine::Unspecified)
    );
    let default = anna
        .call(ListAgentPoolsRequest::default())
        .await
        .unwrap()
        .pools
        .remove(0);
    assert_eq!(server.pool_id, default.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrong_field_is_named() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let good = || new_server("db");
    let many = (0..33).map(|n| (format!("k{n}"), String::new())).collect();
    let wrong = [
        (
            "server.name",
            Server {
                name: "DB".into(),
                ..good()
            },
        ),
        (
            "server.name",
            Server {
                name: String::new(),
                ..good()
            },
        ),
        (
            "server.host",
            Server {
                host: "a:3306".into(),
                ..good()
            },
        ),
        (
            "server.host",
            Server {
                host: String::new(),
                ..good()
            },
        ),
        (
            "server.port",
            Server {
                port: 65_536,
                ..good()
            },
        ),
        ("server.port", Server { port: -1, ..good() }),
        (
            "server.username",
            Server {
                username: "u".repeat(33),
                ..good()
            },
        ),
        (
            "server.tls_mode",
            Server {
                tls_mode: 99,
                ..good()
            },
        ),
        ("server.engine", Server { engine: -5, ..good() }),
        (
            "server.labels",
            Server {
                labels: many,
                ..good()
            },
        ),
        (
            "server.labels",
            Server {
                labels: HashMap::from([(String::new(), String::new())]),
                ..good()
            },
        ),
    ];
    let mut messages = std::collections::HashSet::new();
    for (field, server) in wrong {
        let no = anna
            .refused(RegisterServerRequest {
                server: Some(server),
                ..Default::default()
            })
            .await;
        assert_eq!(
            (no.code, no.reason.as_str(), no.field.as_str()),
            (Code::InvalidArgument, "FIELD_INVALID", field)
        );
        messages.insert(no.message);
    }
    assert!(messages.len() >= 8, "{messages:?}");
    assert_eq!(
        anna.refused(RegisterServerRequest {
            server: None,
            ..Default::default()
        })
        .await
        .field,
        "server"
    );
    let server = Some(Server {
        pool_id: PoolId::fresh().to_string(),
        ..good()
    });
    let no = anna
        .refused(RegisterServerRequest {
            server,
            ..Default::default()
        })
        .await;
    assert_eq!((no.code, no.reason.as_str()), (Code::NotFound, "POOL_NOT_FOUND"));
    assert_eq!(
        anna.call(ListServersRequest::default()).await.unwrap().servers,
        []
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_unique_in_the_tenant_only() {
    let world = World::new().await;
    let (anna, bert) = (
        world.owner("anna@example.com").await,
        world.owner("bert@example.com").await,
    );
    anna.server("db", "").await;
    let other = anna.server("other", "").await;
    bert.server("db", "").await;
    let no = anna
        .refused(RegisterServerRequest {
            server: Some(new_server("db")),
            ..Default::default()
        })
        .await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::AlreadyExists, "SERVER_NAME_TAKEN")
    );
    let no = anna
        .refused(update(
            Server {
                id: other.id,
                name: "db".into(),
                ..Server::default()
            },
            &[],
        ))
        .await;
    assert_eq!(no.reason, "SERVER_NAME_TAKEN");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_takes_what_the_mask_names() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let before = anna.server("db", "").await;
    let given = Server {
        id: before.id.clone(),
        host: "new.example.com".into(),
        port: 3310,
        labels: HashMap::from([("a".to_owned(), "b".to_owned())]),
        ..Server::default()
    };
    let one = anna
        .call(update(given.clone(), &["port"]))
        .await
        .unwrap()
        .server
        .unwrap();
    assert_eq!((one.port, &one.host, one.labels.len()), (3310, &before.host, 0));
    assert_ne!(one.etag, before.etag);
    // Without a mask: all that is given, and nothing that is not.
    let all = anna.call(update(given, &[])).await.unwrap().server.unwrap();
    assert_eq!(
        (
            all.port,
            all.host.as_str(),
            all.labels.len(),
            all.username.as_str()
        ),
        (3310, "new.example.com", 1, "replica")
    );
    // Named and not given: emptied, or its default.
    let bare = Server {
        id: before.id.clone(),
        ..Server::default()
    };
    let emptied = anna
        .call(update(bare.clone(), &["labels", "username", "port"]))
        .await
        .unwrap()
        .server
        .unwrap();
    assert_eq!(
        (emptied.port, emptied.username.as_str(), emptied.labels.len()),
        (3306, "", 0)
    );
    assert_eq!(
        anna.refused(update(bare.clone(), &["name"])).await.field,
        "server.name"
    );
    assert_eq!(
        anna.refused(update(bare.clone(), &["*"])).await.field,
        "server.name"
    );
    // Nothing to change changes nothing, its etag neither.
    assert_eq!(
        anna.call(update(bare.clone(), &[]))
            .await
            .unwrap()
            .server
            .unwrap(),
        emptied
    );
    assert_eq!(
        anna.call(update(emptied.clone(), &["*"]))
            .await
            .unwrap()
            .server
            .unwrap(),
        emptied
    );
    for path in [
        "id",
        "etag",
        "engine",
        "create_time",
        "server.name",
        "labels.a",
        "Name",
        "",
        "'; --",
    ] {
        let no = anna.refused(update(bare.clone(), &[path])).await;
        assert_eq!(
            (no.code, no.field.as_str()),
            (Code::InvalidArgument, "update_mask"),
            "{path}"
        );
    }
    assert_eq!(anna.refused(UpdateServerRequest::default()).await.field, "server");
    let no = anna.refused(update(Server { port: 70_000, ..bare }, &[])).await;
    assert_eq!(no.field, "server.port");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_of_another_version_is_refused() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let before = anna.server("db", "").await;
    let change = |port: i32, etag: &str| {
        update(
            Server {
                id: before.id.clone(),
                port,
                etag: etag.to_owned(),
                ..Server::default()
            },
            &[],
        )
    };
    let after = anna.call(change(1, &before.etag)).await.unwrap().server.unwrap();
    for old in [before.etag.as_str(), "v", "nonsense", "'; --"] {
        let no = anna.refused(change(2, old)).await;
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::Aborted, "SERVER_CHANGED"),
            "{old}"
        );
    }
    assert_eq!(
        anna.call(change(3, &after.etag))
            .await
            .unwrap()
            .server
            .unwrap()
            .port,
        3
    );
    assert_eq!(anna.call(change(4, "")).await.unwrap().server.unwrap().port, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_listed_by_name_page_by_page() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let pool = anna.pool("eu").await;
    let mut names: Vec<String> = (0..7).map(|n| format!("db-{n}")).collect();
    for name in names.iter().rev() {
        anna.server(name, "").await;
    }
    anna.server("a-in-eu", &pool).await;
    names.insert(0, "a-in-eu".to_owned());
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let request = ListServersRequest {
            page_size: 3,
            page_token: token,
            ..ListServersRequest::default()
        };
        let page = anna.call(request).await.unwrap();
        assert!(page.servers.len() <= 3);
        seen.extend(page.servers.into_iter().map(|server| server.name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, names);
    let in_pool = ListServersRequest {
        pool_id: pool,
        ..ListServersRequest::default()
    };
    assert_eq!(anna.call(in_pool).await.unwrap().servers.len(), 1);
    let no = anna
        .refused(ListServersRequest {
            page_size: -1,
            ..ListServersRequest::default()
        })
        .await;
    assert_eq!((no.code, no.field.as_str()), (Code::InvalidArgument, "page_size"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_server_takes_its_rules_with_it() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let server_id = anna.server("db", "").await.id;
    anna.deny(&server_id, "shop", "orders").await;
    anna.deny("", "shop", "*").await;
    let delete = DeleteServerRequest { server_id };
    anna.call(delete.clone()).await.unwrap();
    assert_eq!(
        anna.call(ListAccessRulesRequest::default())
            .await
            .unwrap()
            .rules
            .len(),
        1
    );
    let no = anna.refused(delete).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::NotFound, "SERVER_NOT_FOUND")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_of_one_pool_knows_nothing_of_the_others() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let (eu, us) = (anna.pool("eu").await, anna.pool("us").await);
    let (mine, other) = (anna.server("mine", &eu).await, anna.server("other", &us).await);
    let bert = world.member(&anna, None, &[(&eu, Role::Operator)]).await;
    let servers = bert.call(ListServersRequest::default()).await.unwrap().servers;
    assert_eq!(servers, std::slice::from_ref(&mine));
    let unknown = ServerId::fresh().to_string();
    let get = |server_id: &str| GetServerRequest {
        server_id: server_id.to_owned(),
    };
    let delete = |server_id: &str| DeleteServerRequest {
        server_id: server_id.to_owned(),
    };
    let change = |id: &str, pool_id: &str| {
        update(
            Server {
                id: id.to_owned(),
                port: 1,
                pool_id: pool_id.to_owned(),
                ..Server::default()
            },
            &[],
        )
    };
    assert_eq!(
        bert.refused(get(&other.id)).await,
        bert.refused(get(&unknown)).await
    );
    assert_eq!(
        bert.refused(delete(&other.id)).await,
        bert.refused(delete(&unknown)).await
    );
    assert_eq!(
        bert.refused(change(&other.id, "")).await,
        bert.refused(change(&unknown, "")).await
    );
    // Moving takes the right in both pools, and a pool of others is as good as none.
    let no_pool = bert.refused(change(&mine.id, &PoolId::fresh().to_string())).await;
    assert_eq!(bert.refused(change(&mine.id, &us)).await, no_pool);
    assert_eq!(no_pool.reason, "POOL_NOT_FOUND");
    let register = |pool_id: &str| RegisterServerRequest {
        server: Some(Server {
            pool_id: pool_id.to_owned(),
            ..new_server("new")
        }),
        ..Default::default()
    };
    assert_eq!(bert.refused(register(&us)).await, no_pool);
    // The pool `default` is not theirs either.
    assert_eq!(bert.refused(register("")).await, no_pool);
    assert_eq!(
        bert.call(change(&mine.id, &eu))
            .await
            .unwrap()
            .server
            .unwrap()
            .port,
        1
    );
    bert.call(register(&eu)).await.unwrap();

    let both = world
        .member(&anna, None, &[(&eu, Role::Operator), (&us, Role::Operator)])
        .await;
    assert_eq!(
        both.call(change(&mine.id, &us))
            .await
            .unwrap()
            .server
            .unwrap()
            .pool_id,
        us
    );
    assert_eq!(bert.refused(get(&mine.id)).await.reason, "SERVER_NOT_FOUND");
    // Seeing one pool and managing another: managing counts where it is given.
    let half = world
        .member(&anna, None, &[(&eu, Role::Operator), (&us, Role::Viewer)])
        .await;
    assert!(half.call(get(&mine.id)).await.is_ok());
    assert_eq!(half.refused(delete(&mine.id)).await.reason, "SERVER_NOT_FOUND");
    let viewer_of_all = world
        .member(&anna, Some(Role::Viewer), &[(&us, Role::Operator)])
        .await;
    assert_eq!(
        viewer_of_all
            .call(ListServersRequest::default())
            .await
            .unwrap()
            .servers
            .len(),
        3
    );
    assert!(viewer_of_all.call(delete(&mine.id)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_key_does_what_its_scopes_say() {
    let world = World::new().await;
    let anna = world.owner("anna@example.com").await;
    let key = anna.key(&["servers:manage"]);
    key.server("db", "").await;
    let no = key.refused(ListServersRequest::default()).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::PermissionDenied, "SCOPE_MISSING")
    );
    // A key of an owner whose role was taken manages no members, whatever its token says.
    let key = anna.key(&["members:manage"]);
    world.db.sql(&format!(
        "UPDATE tenant.member SET role = 'operator' WHERE user_id = '{}'",
        anna.user()
    ));
    let no = key
        .invite("x@example.com", proto::common::v1::Role::Viewer, "")
        .await
        .unwrap_err();
    assert_eq!(no.reason, "ROLE_TOO_LOW");
}
