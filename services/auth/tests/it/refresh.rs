//! Refresh tokens rotate: the scenarios that GoTrue names, with what each must come to here, and the three in which it is too kind.

use std::time::Duration;

use proto::auth::v1 as pb;
use tonic::Code;

use crate::world::{Person, Replica, World, distinct, eventually, reason, request, request_with};

/// A session of a new account.
struct Session {
    id: String,
    person: Person,
    tokens: pb::Tokens,
}

async fn session(world: &World) -> Session {
    let person = world.person().await;
    let answer = world.auth.log_in(&person).await.unwrap();
    Session {
        id: answer.session.unwrap().id,
        person,
        tokens: answer.tokens.unwrap(),
    }
}

async fn next(replica: &Replica, token: &str) -> String {
    replica.refresh(token).await.unwrap().refresh_token
}

async fn refused(replica: &Replica, token: &str) -> String {
    let status = replica.refresh(token).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    reason(&status)
}

/// Lets so many seconds pass for a session: all that happened to it is so much longer ago.
fn pass(world: &World, session: &str, seconds: f64) {
    world.database.sql(&format!(
        "UPDATE auth.session SET
           recent = coalesce((SELECT jsonb_agg(jsonb_set(turn, '{{at}}', to_jsonb((turn->>'at')::bigint - ({seconds} * 1e6)::bigint)))
                              FROM jsonb_array_elements(recent) AS turn), '[]'),
           created_at = created_at - make_interval(secs => {seconds}), expires_at = expires_at - make_interval(secs => {seconds}),
           idle_until = idle_until - make_interval(secs => {seconds}), used_at = used_at - make_interval(secs => {seconds})
         WHERE id = '{session}'"
    ));
}

/// Dates the latest replacement of the only session an hour ahead, so that a slow machine is in time for its window. Gives 1 if there is one.
const HELD_OPEN: &str = "UPDATE auth.session SET recent = jsonb_build_array(jsonb_build_object('generation', generation - 1, 'at',
    (extract(epoch FROM clock_timestamp()) * 1e6)::bigint + 3600000000)) WHERE generation > 0 RETURNING 1";

fn generation(world: &World, session: &str) -> String {
    world.database.sql(&format!(
        "SELECT generation FROM auth.session WHERE id = '{session}'"
    ))
}

/// TestNormalUse.
#[tokio::test(flavor = "multi_thread")]
async fn each_token_gives_the_next() {
    let world = World::new().await;
    let session = session(&world).await;
    let mut tokens = vec![session.tokens.refresh_token.clone()];
    for _ in 0..20 {
        let refreshed = world.auth.refresh(tokens.last().unwrap()).await.unwrap();
        assert_eq!(refreshed.session_expire_time, session.tokens.session_expire_time);
        assert!(world.auth.context(&refreshed.access_token).await.is_ok());
        tokens.push(refreshed.refresh_token);
        pass(&world, &session.id, 60.0);
        // What passed for the row did not for the answer.
        world.database.sql(&format!(
            "UPDATE auth.session SET expires_at = expires_at + interval '60 s', created_at = created_at + interval '60 s' WHERE id = '{}'",
            session.id
        ));
    }
    assert_eq!(distinct(&tokens), 21);
    assert!(tokens.iter().all(|token| token.starts_with("bt_rt_")));
    assert_eq!(generation(&world, &session.id), "20");
}

/// TestMaliciousReuse and TestRefreshTokenReuseRevocation.
#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_token_ends_the_session_and_its_owner_hears_of_it() {
    let world = World::new().await;
    let session = session(&world).await;
    let stolen = session.tokens.refresh_token.clone();
    let owners = world.auth.refresh(&stolen).await.unwrap();
    pass(&world, &session.id, 10.001);
    assert_eq!(refused(&world.auth, &stolen).await, "REFRESH_TOKEN_REUSED");
    assert_eq!(refused(&world.auth, &owners.refresh_token).await, "INVALID_GRANT");
    assert_eq!(refused(&world.auth, &stolen).await, "INVALID_GRANT");
    for access in [&session.tokens.access_token, &owners.access_token] {
        let status = world.auth.context(access).await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unauthenticated, "CREDENTIAL_INVALID")
        );
    }
    let mail = world.mail(&session.person.email, "A session was ended for safety", 1);
    assert!(mail.contains("from 192.0.2.1"), "{mail}");
    assert!(world.auth.log_in(&session.person).await.is_ok());
}

/// TestFailToSaveReuse: the answer was lost on its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_can_be_asked_for_again_for_ten_seconds() {
    let world = World::new().await;
    let session = session(&world).await;
    let first = session.tokens.refresh_token.clone();
    let lost = next(&world.auth, &first).await;
    for _ in 0..3 {
        assert_eq!(next(&world.auth, &first).await, lost);
    }
    // Half of the window, and the other half for a slow machine; the rule's own tests know its end to the microsecond.
    pass(&world, &session.id, 5.0);
    assert_eq!(next(&world.auth, &first).await, lost);
    assert_eq!(generation(&world, &session.id), "1");
    let second = next(&world.auth, &lost).await;
    assert_eq!(next(&world.auth, &lost).await, second);
}

/// GoTrue takes the parent of the live token for ever (supabase/auth#1901).
#[tokio::test(flavor = "multi_thread")]
async fn the_parent_of_an_unused_token_is_refused_after_ten_seconds() {
    let world = World::new().await;
    let session = session(&world).await;
    let parent = session.tokens.refresh_token.clone();
    next(&world.auth, &parent).await;
    pass(&world, &session.id, 3_600.0);
    assert_eq!(refused(&world.auth, &parent).await, "REFRESH_TOKEN_REUSED");
}

/// GoTrue's window hangs on the session's last refresh, whichever token is presented.
#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_by_the_owner_opens_no_window_for_an_old_token() {
    let world = World::new().await;
    let session = session(&world).await;
    let old = session.tokens.refresh_token.clone();
    let current = next(&world.auth, &old).await;
    pass(&world, &session.id, 20.0 * 86_400.0);
    let newest = next(&world.auth, &current).await;
    assert_eq!(refused(&world.auth, &old).await, "REFRESH_TOKEN_REUSED");
    assert_eq!(refused(&world.auth, &newest).await, "INVALID_GRANT");
}

/// In GoTrue each accepted re-use renews the window.
#[tokio::test(flavor = "multi_thread")]
async fn replays_do_not_keep_the_window_open() {
    let world = World::new().await;
    let session = session(&world).await;
    let old = session.tokens.refresh_token.clone();
    let current = next(&world.auth, &old).await;
    // Six seconds, which leaves four to a slow machine.
    for _ in 0..3 {
        pass(&world, &session.id, 2.0);
        assert_eq!(next(&world.auth, &old).await, current);
    }
    // Eleven since the replacement, five since the latest replay.
    pass(&world, &session.id, 5.0);
    assert_eq!(refused(&world.auth, &old).await, "REFRESH_TOKEN_REUSED");
}

/// TestConcurrentReuse, fifty-fold, on four instances. A machine so busy that it sends callers away, or is too slow for them, is asked again.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_at_once_make_one_rotation_and_get_one_token() {
    let world = World::new().await;
    let session = session(&world).await;
    let others = [
        world.replica().await,
        world.replica().await,
        world.replica().await,
    ];
    let replicas = [&world.auth, &others[0], &others[1], &others[2]];
    let tasks = (0..1_000).map(|number| {
        let mut client = replicas[number % 4].sessions();
        let message = pb::RefreshSessionRequest {
            refresh_token: session.tokens.refresh_token.clone(),
        };
        tokio::spawn(async move {
            loop {
                let mut message = request(message.clone());
                // More than a caller has: what is given up when it is half done is done again.
                message.set_timeout(Duration::from_secs(50));
                match client.refresh_session(message).await {
                    Ok(answer) => return answer.into_inner().tokens.unwrap().refresh_token,
                    Err(status) => {
                        let busy = [Code::Unavailable, Code::DeadlineExceeded].contains(&status.code());
                        assert!(busy, "{status:?}");
                    }
                }
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    eventually("the rotation", || {
        (!world.database.sql(HELD_OPEN).is_empty()).then_some(())
    });
    let mut tokens = Vec::new();
    for task in tasks {
        tokens.push(task.await.unwrap());
    }
    assert_eq!((tokens.len(), distinct(&tokens)), (1_000, 1));
    assert_eq!(generation(&world, &session.id), "1");
}

/// TestInvalidRefreshTokens.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_no_live_token_gets_one_answer() {
    let world = World::new().await;
    let (mine, other) = (session(&world).await, session(&world).await);
    let token = mine.tokens.refresh_token.clone();
    let mut texts = vec![
        String::new(),
        "bt_rt_".to_owned(),
        "garbage".to_owned(),
        "bt_rt_' OR 1=1; --".to_owned(),
        token[..token.len() - 1].to_owned(),
        format!("{token}A"),
        token.to_uppercase(),
        "x".repeat(100_000),
        mine.tokens.access_token.clone(),
    ];
    // The session of another token with the key of this one: whole by its checksum, but signed by nobody.
    world
        .database
        .sql(&format!("DELETE FROM auth.session WHERE id = '{}'", other.id));
    texts.push(other.tokens.refresh_token.clone());
    let mut answers = Vec::new();
    for text in &texts {
        let status = world.auth.refresh(text).await.unwrap_err();
        answers.push((status.code(), status.message().to_owned(), reason(&status)));
    }
    assert_eq!(distinct(&answers), 1, "{answers:?}");
    assert_eq!(answers[0].2, "INVALID_GRANT");
    // None of it touched the session.
    assert!(world.auth.refresh(&token).await.is_ok());
}

/// A token whose session got another key is no token of it: what stands in the database decides, not the checksum.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_signed_with_another_sessions_key_is_refused() {
    let world = World::new().await;
    let person = world.person().await;
    let victim = world.auth.log_in(&person).await.unwrap();
    let (id, token) = (victim.session.unwrap().id, victim.tokens.unwrap().refresh_token);
    let attacker = world.auth.log_in(&person).await.unwrap().session.unwrap().id;
    world.database.sql(&format!(
        "UPDATE auth.session SET hmac_key = (SELECT hmac_key FROM auth.session WHERE id = '{attacker}') WHERE id = '{id}'"
    ));
    // The sealed key opens in its own row only: damage, not an answer about the token, and nothing is let in.
    let status = world.auth.refresh(&token).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().starts_with("internal error"), "{status:?}");
}

/// TestSessionTimebox.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_lives_past_its_thirty_days_not_even_within_the_ten_seconds() {
    let world = World::new().await;
    let session = session(&world).await;
    let first = session.tokens.refresh_token.clone();
    pass(&world, &session.id, 30.0 * 86_400.0 - 60.0);
    let second = world.auth.refresh(&first).await.unwrap();
    // The access token ends with the session.
    let (access, end) = (
        second.access_expire_time.unwrap(),
        second.session_expire_time.unwrap(),
    );
    assert!(
        access.seconds <= end.seconds && end.seconds - access.seconds < 5,
        "{access:?} {end:?}"
    );
    pass(&world, &session.id, 61.0);
    world.database.sql(&format!(
        "UPDATE auth.session SET recent = jsonb_build_array(jsonb_build_object('generation', 0, 'at',
           (extract(epoch FROM clock_timestamp()) * 1e6)::bigint)) WHERE id = '{}'",
        session.id
    ));
    assert_eq!(refused(&world.auth, &first).await, "INVALID_GRANT");
    assert_eq!(refused(&world.auth, &second.refresh_token).await, "INVALID_GRANT");
}

/// TestSessionInactivityTimeout.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_not_used_ends() {
    let world = World::with(crate::world::Setup {
        flags: vec!["--session-idle=1h".to_owned()],
        ..crate::world::Setup::default()
    })
    .await;
    let session = session(&world).await;
    pass(&world, &session.id, 3_500.0);
    let second = next(&world.auth, &session.tokens.refresh_token).await;
    pass(&world, &session.id, 3_500.0);
    let third = next(&world.auth, &second).await;
    pass(&world, &session.id, 3_601.0);
    assert_eq!(refused(&world.auth, &third).await, "INVALID_GRANT");
}

/// The process dies at any moment of a refresh: before the commit, or between it and the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_dies_while_it_refreshes_loses_no_session() {
    let mut world = World::new().await;
    let mut token = session(&world).await.tokens.refresh_token;
    for round in 0..12_u64 {
        let mut client = world.auth.sessions();
        let message = request(pb::RefreshSessionRequest {
            refresh_token: token.clone(),
        });
        let call = tokio::spawn(async move { client.refresh_session(message).await });
        // Different moments of the call, from before it is sent until after it is answered.
        for _ in 0..round * 40 {
            tokio::task::yield_now().await;
        }
        world.restart().await;
        call.abort();
        world.database.sql(HELD_OPEN);
        token = next(&world.auth, &token).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_keep_the_token_in_a_cookie_and_out_of_the_answer() {
    let world = World::new().await;
    let person = world.person().await;
    let cookie_of = |metadata: &tonic::metadata::MetadataMap| {
        metadata
            .get("trailmesh-set-refresh-cookie")
            .map(|value| value.to_str().unwrap().to_owned())
    };
    let message = pb::LogInRequest {
        use_cookie: true,
        ..person.log_in()
    };
    let answer = world.auth.sessions().log_in(request(message)).await.unwrap();
    let first = cookie_of(answer.metadata()).unwrap();
    let tokens = answer.into_inner().tokens.unwrap();
    assert!(first.starts_with("bt_rt_") && tokens.refresh_token.is_empty());

    let with_cookie = |cookie: &str| {
        request_with(
            pb::RefreshSessionRequest::default(),
            &[("trailmesh-refresh-cookie", cookie)],
        )
    };
    let answer = world
        .auth
        .sessions()
        .refresh_session(with_cookie(&first))
        .await
        .unwrap();
    let second = cookie_of(answer.metadata()).unwrap();
    assert_ne!(first, second);
    assert!(answer.into_inner().tokens.unwrap().refresh_token.is_empty());

    // A token in the message is answered in the message, whatever the cookie says.
    let mut both = with_cookie("bt_rt_garbage");
    both.get_mut().refresh_token = second;
    let answer = world.auth.sessions().refresh_session(both).await.unwrap();
    assert_eq!(cookie_of(answer.metadata()), None);
    let tokens = answer.into_inner().tokens.unwrap();
    assert!(tokens.refresh_token.starts_with("bt_rt_"));

    let context = world.auth.context(&tokens.access_token).await.unwrap();
    let answer = world
        .auth
        .sessions()
        .log_out(crate::world::as_caller(pb::LogOutRequest {}, &context))
        .await
        .unwrap();
    assert_eq!(cookie_of(answer.metadata()).as_deref(), Some(""));
    assert_eq!(refused(&world.auth, &tokens.refresh_token).await, "INVALID_GRANT");
}
