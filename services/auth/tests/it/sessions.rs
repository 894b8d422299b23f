//! Sessions: seen and ended by their owner, and by nobody else.

use proto::auth::v1 as pb;
use tonic::Code;

use crate::world::{Person, World, as_caller, distinct, eventually, reason, request, request_with};

/// A login; the session's id, its refresh token and a context token.
async fn log_in(world: &World, person: &Person) -> (String, String, String) {
    let answer = world.auth.log_in(person).await.unwrap();
    let tokens = answer.tokens.unwrap();
    let context = world.auth.context(&tokens.access_token).await.unwrap();
    (answer.session.unwrap().id, tokens.refresh_token, context)
}

async fn list(
    world: &World,
    context: &str,
    page_size: i32,
    page_token: &str,
) -> Result<pb::ListSessionsResponse, tonic::Status> {
    let message = pb::ListSessionsRequest {
        page_size,
        page_token: page_token.to_owned(),
    };
    Ok(world
        .auth
        .sessions()
        .list_sessions(as_caller(message, context))
        .await?
        .into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_newest_first_page_by_page() {
    let world = World::new().await;
    let (person, stranger) = (world.person().await, world.person().await);
    let mut ids = Vec::new();
    let mut context = String::new();
    for _ in 0..5 {
        let (id, _, of_session) = log_in(&world, &person).await;
        ids.insert(0, id);
        context = of_session;
    }
    let (strange, _, _) = log_in(&world, &stranger).await;

    let all = list(&world, &context, 0, "").await.unwrap();
    assert_eq!(
        all.sessions
            .iter()
            .map(|session| session.id.clone())
            .collect::<Vec<_>>(),
        ids
    );
    assert_eq!(all.next_page_token, "");
    let newest = &all.sessions[0];
    assert!(newest.current && all.sessions[1..].iter().all(|session| !session.current));
    assert_eq!(
        (newest.client_address.as_str(), newest.user_agent.as_str()),
        ("192.0.2.1", "tests/1")
    );
    assert_eq!(
        newest.expire_time.unwrap().seconds - newest.create_time.unwrap().seconds,
        30 * 86_400
    );

    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let page = list(&world, &context, 2, &token).await.unwrap();
        assert!(page.sessions.len() <= 2);
        seen.extend(page.sessions.into_iter().map(|session| session.id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, ids);

    // Another's session as a place to go on from shows one's own only.
    let page = list(&world, &context, 200, &strange).await.unwrap();
    assert!(page.sessions.iter().all(|session| ids.contains(&session.id)));
    for (size, token, wanted) in [
        (-1, "", "PAGE_SIZE_INVALID"),
        (0, "x' OR 1=1", "PAGE_TOKEN_INVALID"),
    ] {
        let status = list(&world, &context, size, token).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, wanted)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_session_was_last_used_is_kept() {
    let world = World::new().await;
    let person = world.person().await;
    let (_, token, context) = log_in(&world, &person).await;
    let message = pb::RefreshSessionRequest { refresh_token: token };
    let elsewhere = [
        ("trailmesh-client-address", "2001:db8::7"),
        ("trailmesh-user-agent", "elsewhere/2"),
    ];
    world
        .auth
        .sessions()
        .refresh_session(request_with(message, &elsewhere))
        .await
        .unwrap();
    let listed = list(&world, &context, 0, "").await.unwrap().sessions.remove(0);
    assert_eq!(
        (listed.client_address.as_str(), listed.user_agent.as_str()),
        ("2001:db8::7", "elsewhere/2")
    );
    let (created, used) = (listed.create_time.unwrap(), listed.last_use_time.unwrap());
    assert!((used.seconds, used.nanos) > (created.seconds, created.nanos));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_session_is_refused_everywhere_at_once() {
    let world = World::new().await;
    let person = world.person().await;
    let (_, _, context) = log_in(&world, &person).await;
    let (id, token, other) = log_in(&world, &person).await;
    let access = world.auth.refresh(&token).await.unwrap();
    let revoke = |id: &str| pb::RevokeSessionRequest {
        session_id: id.to_owned(),
    };
    world
        .auth
        .sessions()
        .revoke_session(as_caller(revoke(&id), &context))
        .await
        .unwrap();
    // Again: it is ended, as was asked for.
    world
        .auth
        .sessions()
        .revoke_session(as_caller(revoke(&id), &context))
        .await
        .unwrap();
    let status = world.auth.context(&access.access_token).await.unwrap_err();
    assert_eq!(reason(&status), "CREDENTIAL_INVALID");
    let status = world.auth.refresh(&access.refresh_token).await.unwrap_err();
    assert_eq!(reason(&status), "INVALID_GRANT");
    let listed = list(&world, &context, 0, "").await.unwrap();
    assert_eq!(listed.sessions.len(), 1);
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn anothers_session_is_as_unknown_as_nonsense() {
    let world = World::new().await;
    let (person, stranger) = (world.person().await, world.person().await);
    let (_, _, context) = log_in(&world, &person).await;
    let (theirs, token, _) = log_in(&world, &stranger).await;
    let nobodys = types::SessionId::fresh().to_string();
    let mut answers = Vec::new();
    for id in [
        theirs.as_str(),
        nobodys.as_str(),
        "",
        "'; DROP TABLE auth.session; --",
        "usr_0",
    ] {
        let message = pb::RevokeSessionRequest {
            session_id: id.to_owned(),
        };
        let status = world
            .auth
            .sessions()
            .revoke_session(as_caller(message, &context))
            .await
            .unwrap_err();
        answers.push((status.code(), status.message().to_owned(), reason(&status)));
    }
    assert_eq!(distinct(&answers), 1, "{answers:?}");
    assert_eq!(
        (answers[0].0, answers[0].2.as_str()),
        (Code::NotFound, "SESSION_NOT_FOUND")
    );
    assert!(world.auth.refresh(&token).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_other_sessions_end_and_this_one_stays() {
    let world = World::new().await;
    let (person, stranger) = (world.person().await, world.person().await);
    let (_, theirs, _) = log_in(&world, &stranger).await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(log_in(&world, &person).await.1);
    }
    let (_, mine, context) = log_in(&world, &person).await;
    let message = pb::RevokeOtherSessionsRequest {};
    let ended = world
        .auth
        .sessions()
        .revoke_other_sessions(as_caller(message, &context))
        .await
        .unwrap();
    assert_eq!(ended.into_inner().ended_sessions, 3);
    for token in others {
        assert_eq!(
            reason(&world.auth.refresh(&token).await.unwrap_err()),
            "INVALID_GRANT"
        );
    }
    assert!(world.auth.refresh(&mine).await.is_ok() && world.auth.refresh(&theirs).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_lists_or_ends_without_a_session() {
    let world = World::new().await;
    let status = world
        .auth
        .sessions()
        .list_sessions(request(pb::ListSessionsRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let status = world
        .auth
        .sessions()
        .log_out(as_caller(pb::LogOutRequest {}, "x.y.z"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_is_taken_away_and_nothing_else() {
    let mut world = World::new().await;
    let person = world.person().await;
    let (old, _, _) = log_in(&world, &person).await;
    let (_, live, _) = log_in(&world, &person).await;
    let account = world.id(&person);
    // Only what is done grows old.
    eventually("the letters", || {
        (world
            .database
            .sql("SELECT count(*) FROM auth.outbox WHERE done_at IS NULL")
            == "0")
            .then_some(())
    });
    world.database.sql(&format!(
        "UPDATE auth.session SET revoked_at = clock_timestamp() - interval '8 days' WHERE id = '{old}';
         INSERT INTO auth.email_token (sha256, account_id, purpose, expires_at)
           VALUES (sha256('a'), '{account}', 'reset', clock_timestamp() - interval '1 s'), (sha256('b'), '{account}', 'reset', clock_timestamp() + interval '1 h');
         INSERT INTO auth.used_grant SELECT 'old' || n, clock_timestamp() - interval '1 h' FROM generate_series(1, 2500) AS n;
         INSERT INTO auth.used_grant VALUES ('new', clock_timestamp());
         INSERT INTO auth.account (id, email, email_key, created_at)
           VALUES ('usr_00000000000000000000000000', 'x@example.com', 'x@example.com', clock_timestamp() - interval '2 days');
         UPDATE auth.outbox SET done_at = done_at - interval '2 days'"
    ));
    world.restart().await;
    eventually("the sweep", || {
        let left = "SELECT (SELECT count(*) FROM auth.session) || ' ' || (SELECT count(*) FROM auth.email_token) || ' '
                      || (SELECT string_agg(id, ',') FROM auth.used_grant) || ' ' || (SELECT count(*) FROM auth.account) || ' '
                      || (SELECT count(*) FROM auth.outbox)";
        (world.database.sql(left) == "1 1 new 1 0").then_some(())
    });
    assert!(world.auth.refresh(&live).await.is_ok());
}
