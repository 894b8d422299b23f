//! The record: nothing is done that is not written down first, and what is known of its end follows.
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use http::Method;
use http_body_util::BodyExt as _;
use proto::tenant::v1 as pb;
use types::{Plan, Role};

use crate::{
    client::{Answer, Client, full, request},
    echo::{MADE, SERVER, message},
    guard::CODE,
    house::House,
};

const NOTE: &str = "not_01hzz00000000000000000000a";
const CHANGE: &str = "/v1/notes/not_01hzz00000000000000000000a:change";
const CHANGE_RPC: &str = "/trailmesh.echo.v1.EchoService/ChangeNote";

async fn until(what: &str, mut probe: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !probe() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "waited a minute for {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn of(answer: &Answer) -> String {
    answer.header("x-request-id").to_owned()
}

#[tokio::test]
async fn a_change_is_written_down_before_it_is_done_and_its_end_after() {
    let house = House::start().await;
    let client = house.h2().await;
    let who = house.guard.person(Role::Admin);
    let body = r#"{"words":"new","password":"hunter2"}"#;
    let headers = [("authorization", who.as_str()), ("user-agent", "a test")];
    let answer = client.post(CHANGE, &headers, body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(*house.echo.intended.lock().expect("no panic"), [true]);
    let request = of(&answer);
    let intent = house.record.intent_of(&request).expect("an intent");
    let call = intent.call.clone().expect("a call");
    let actor = call.actor.clone().expect("an actor");
    assert!(intent.tenant_id.starts_with("tnt_") && intent.entry_id.starts_with("aud_"));
    assert!(actor.user_id.starts_with("usr_") && actor.session_id.starts_with("ses_"));
    assert_eq!((actor.role.as_str(), actor.key_id.as_str()), ("admin", ""));
    assert_eq!(call.kind(), pb::AuditKind::Security);
    assert_eq!(call.method, CHANGE_RPC);
    assert_eq!(call.path_template, "POST /v1/notes/{note_id}:change");
    assert_eq!(call.targets, [("note_id".to_owned(), NOTE.to_owned())].into());
    assert_eq!(
        (call.client_address.as_str(), call.user_agent.as_str()),
        ("127.0.0.1", "a test")
    );
    assert!(!format!("{intent:?}").contains("hunter2"));
    let result = house.record.result_of(&request).await;
    assert_eq!(
        (result.outcome(), result.code.as_str()),
        (pb::Outcome::Succeeded, "OK")
    );
    assert_eq!(result.targets, [("note_id".to_owned(), MADE.to_owned())].into());
}

#[tokio::test]
async fn a_key_a_grant_and_grpc_are_written_down_as_well() {
    let house = House::start().await;
    let client = house.h2().await;
    let key = house.guard.key(Role::Operator, &["servers:manage"]);
    let asked = message(
        "ChangeNoteRequest",
        &format!(r#"{{"noteId":"{NOTE}","words":"not at all"}}"#),
    );
    let answer = client.grpc(CHANGE_RPC, &[("authorization", &key)], &asked).await;
    assert_eq!(answer.grpc_status(), Some(5));
    let intent = house.record.intent_of(&of(&answer)).expect("an intent");
    let call = intent.call.expect("a call");
    assert!(call.actor.expect("an actor").key_id.starts_with("key_"));
    assert_eq!((call.path_template.as_str(), call.targets.len()), ("", 1));
    let result = house.record.result_of(&of(&answer)).await;
    assert_eq!(
        (result.outcome(), result.code.as_str(), result.reason.as_str()),
        (pb::Outcome::Failed, "NOT_FOUND", "ASKED_TO_FAIL")
    );
    let who = house.guard.person(Role::Viewer);
    let headers = [("authorization", who.as_str()), ("x-mfa-code", CODE)];
    let answer = client.post("/v1/echo:privately", &headers, "{}").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let intent = house.record.intent_of(&of(&answer)).expect("an intent");
    let actor = intent.call.and_then(|call| call.actor).expect("an actor");
    assert!(
        !actor.grant_id.is_empty() && !actor.grant_id.contains('.'),
        "{actor:?}"
    );
}

#[tokio::test]
async fn without_the_record_nothing_is_changed_and_reading_goes_on() {
    for how in ["broken", "silent", "away"] {
        let house = House::start().await;
        let client = house.h2().await;
        let who = house.guard.person(Role::Admin);
        let headers = [("authorization", who.as_str())];
        match how {
            "broken" => house.record.broken.store(true, Ordering::SeqCst),
            "silent" => house.record_line.half_open(),
            _ => house.record_line.cut(),
        }
        let began = Instant::now();
        let answer = client.post(CHANGE, &headers, "{}").await;
        assert_eq!(
            (answer.status.as_u16(), answer.reason().as_str()),
            (503, "AUDIT_UNAVAILABLE"),
            "{how}"
        );
        assert!(
            began.elapsed() < Duration::from_secs(8),
            "{how}: {:?}",
            began.elapsed()
        );
        assert_eq!(answer.header("retry-after"), "1");
        let watched = client.get("/v1/count/1/on-record", &headers).await;
        assert_eq!(watched.status, 503, "{how}");
        assert_eq!(house.echo.served.load(Ordering::SeqCst), 0, "{how}");
        let read = client.get("/v1/count/1/privately", &headers).await;
        assert_eq!(read.status, 200, "{how}");
    }
}

#[tokio::test]
async fn an_intent_that_nobody_answers_is_sent_once_more_and_is_the_same_entry() {
    let house = House::start().await;
    let client = house.h2().await;
    let who = house.guard.person(Role::Admin);
    let headers = [("authorization", who.as_str())];
    house.record.unanswered.store(1, Ordering::SeqCst);
    let began = Instant::now();
    let answer = client.post(CHANGE, &headers, "{}").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let ids: Vec<_> = house
        .record
        .told()
        .intents
        .iter()
        .map(|intent| intent.entry_id.clone())
        .collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);
    assert_eq!(house.echo.served.load(Ordering::SeqCst), 1, "and done once");
}

#[tokio::test]
async fn a_result_waits_until_it_can_be_written() {
    let house = House::start().await;
    let client = house.h2().await;
    let who = house.guard.person(Role::Admin);
    let headers = [
        ("authorization", who.as_str()),
        ("content-type", "application/json"),
    ];
    let sent = request(Method::POST, CHANGE, &headers, full(r#"{"words":"held"}"#));
    let (answer, ()) = tokio::join!(client.send(sent), async {
        until("the service has begun", || {
            house.echo.served.load(Ordering::SeqCst) == 1
        })
        .await;
        house.record.broken.store(true, Ordering::SeqCst);
        house.echo.held.add_permits(1);
    });
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 200);
    assert!(house.probe("/metrics").await.contains("gateway_audit_queue"));
    house.record.broken.store(false, Ordering::SeqCst);
    let result = house.record.result_of(&of(&answer)).await;
    assert_eq!(result.outcome(), pb::Outcome::Succeeded);
}

#[tokio::test]
async fn a_client_that_breaks_off_does_not_break_off_what_is_written_down() {
    let house = House::start().await;
    for version in ["h2", "http/1.1"] {
        let before = house.echo.served.load(Ordering::SeqCst);
        let client = Client::connect(house.address, &house.bundle(), version).await;
        let who = house.guard.person(Role::Admin);
        let headers = [
            ("authorization", who.as_str()),
            ("content-type", "application/json"),
        ];
        let sent = request(Method::POST, CHANGE, &headers, full(r#"{"words":"held"}"#));
        {
            let sending = client.open(sent);
            tokio::pin!(sending);
            let begun = until("the service has begun", || {
                house.echo.served.load(Ordering::SeqCst) > before
            });
            tokio::select! {
                _ = &mut sending => panic!("too fast"),
                () = begun => {}
            }
        }
        drop(client);
        // The gateway knows that nobody waits any more.
        house.has_in_flight(0).await;
        house.echo.held.add_permits(1);
        let request = house.record.told().intents.last().expect("an intent").clone();
        let request = request.call.expect("a call").request_id;
        let result = house.record.result_of(&request).await;
        assert_eq!(
            (result.outcome(), result.code.as_str()),
            (pb::Outcome::Succeeded, "OK"),
            "{version}"
        );
    }
}

#[tokio::test]
async fn a_stream_is_closed_in_the_record_when_it_ends_however_it_ends() {
    let house = House::start().await;
    let client = house.h2().await;
    let who = house.guard.person(Role::Admin);
    let headers = [("authorization", who.as_str())];
    for (path, outcome, code) in [
        ("/v1/count/3/on-record", pb::Outcome::Succeeded, "OK"),
        (
            "/v1/count/0/on-record?failWith=5",
            pb::Outcome::Failed,
            "NOT_FOUND",
        ),
        (
            "/v1/count/3/on-record?failWith=8",
            pb::Outcome::Failed,
            "RESOURCE_EXHAUSTED",
        ),
    ] {
        let answer = client.get(path, &headers).await;
        let result = house.record.result_of(&of(&answer)).await;
        assert_eq!(
            (result.outcome(), result.code.as_str()),
            (outcome, code),
            "{path}"
        );
    }
    let path = "/v1/count/100000/on-record?every=0.01s";
    let answer = client
        .open(request(Method::GET, path, &headers, full("")))
        .await
        .expect("a head");
    let number = answer.headers()["x-request-id"]
        .to_str()
        .expect("an id")
        .to_owned();
    let mut body = answer.into_body();
    body.frame().await.expect("a frame").expect("no error");
    drop(body);
    let result = house.record.result_of(&number).await;
    assert_eq!(
        (result.outcome(), result.code.as_str()),
        (pb::Outcome::Unknown, "CANCELLED")
    );
    let late = [("authorization", who.as_str()), ("grpc-timeout", "3S")];
    let answer = client.get(path, &late).await;
    let result = house.record.result_of(&of(&answer)).await;
    assert_eq!(
        (result.outcome(), result.code.as_str()),
        (pb::Outcome::Unknown, "DEADLINE_EXCEEDED")
    );
}

const READ: &str = "/v1/notes/not_01hzz00000000000000000000a:read";

#[tokio::test]
async fn a_read_goes_on_while_it_is_written_down_and_is_shown_only_then() {
    let house = House::start().await;
    let client = house.h2().await;
    let who = house.guard.person(Role::Viewer);
    let headers = [("authorization", who.as_str())];
    house.record_line.delay(Duration::from_millis(250));
    for (path, body) in [(READ, r#"{"words":"seen"}"#), ("/v1/count/3/on-record", "")] {
        let began = Instant::now();
        let asking = async {
            match body {
                "" => client.get(path, &headers).await,
                body => client.post(path, &headers, body).await,
            }
        };
        let served = house.echo.served.load(Ordering::SeqCst);
        let serving = async {
            if path == READ {
                until("the service has served", || {
                    house.echo.served.load(Ordering::SeqCst) > served
                })
                .await;
                assert!(house.record.told().intents.is_empty(), "it did not wait");
            }
        };
        let (answer, ()) = tokio::join!(asking, serving);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(
            began.elapsed() >= Duration::from_millis(500),
            "{:?}",
            began.elapsed()
        );
        let intent = house.record.intent_of(&of(&answer)).expect("an intent");
        assert_eq!(intent.call.expect("a call").kind(), pb::AuditKind::Read);
        let result = house.record.result_of(&of(&answer)).await;
        assert_eq!(
            (result.outcome(), result.code.as_str()),
            (pb::Outcome::Succeeded, "OK")
        );
        assert!(!answer.headers.contains_key("trailmesh-server-id"));
        // Whatever name it was asked by.
        if path == READ {
            assert_eq!(
                result.targets,
                [("server_id".to_owned(), SERVER.to_owned())].into()
            );
        }
    }
}

#[tokio::test]
async fn a_read_that_is_refused_is_written_down_with_what_it_was_about() {
    let house = House::start().await;
    let client = house.h2().await;
    let who = house.guard.person(Role::Viewer);
    let headers = [("authorization", who.as_str())];
    let answer = client.post(READ, &headers, r#"{"words":"not at all"}"#).await;
    assert_eq!(answer.status, 404, "{answer:?}");
    let asked = message("ChangeNoteRequest", r#"{"words":"not at all"}"#);
    let path = "/trailmesh.echo.v1.EchoService/ReadNote";
    let by_grpc = client.grpc(path, &headers, &asked).await;
    assert_eq!(by_grpc.grpc_status(), Some(5));
    for answer in [answer, by_grpc] {
        // Whatever name it was asked by; and that is for the record alone.
        assert!(!format!("{answer:?}").contains(SERVER), "{answer:?}");
        let result = house.record.result_of(&of(&answer)).await;
        assert_eq!(result.outcome(), pb::Outcome::Failed);
        assert_eq!(
            result.targets,
            [("server_id".to_owned(), SERVER.to_owned())].into()
        );
    }
}

#[tokio::test]
async fn what_is_read_is_not_shown_when_that_cannot_be_written_down() {
    let house = House::start().await;
    let client = house.h2().await;
    let who = house.guard.person(Role::Viewer);
    let headers = [("authorization", who.as_str())];
    house.record.broken.store(true, Ordering::SeqCst);
    for words in ["secret words", "not at all"] {
        let body = format!(r#"{{"words":"{words}"}}"#);
        let answer = client.post(READ, &headers, body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.reason().as_str()),
            (503, "AUDIT_UNAVAILABLE"),
            "{words}"
        );
        assert!(!format!("{answer:?}").contains("secret words"));
    }
    let asked = message("ChangeNoteRequest", r#"{"words":"secret words"}"#);
    let path = "/trailmesh.echo.v1.EchoService/ReadNote";
    let answer = client.grpc(path, &headers, &asked).await;
    assert_eq!((answer.grpc_status(), answer.body.len()), (Some(14), 0));
}

#[tokio::test]
async fn a_read_ends_with_its_reader() {
    let house = House::start().await;
    let who = house.guard.person(Role::Viewer);
    let headers = [
        ("authorization", who.as_str()),
        ("content-type", "application/json"),
    ];
    let client = house.h2().await;
    let sent = request(Method::POST, READ, &headers, full(r#"{"words":"held"}"#));
    {
        let sending = client.open(sent);
        tokio::pin!(sending);
        let begun = until("the service has begun, and it is written down", || {
            house.echo.served.load(Ordering::SeqCst) == 1 && house.record.told().intents.len() == 1
        });
        tokio::select! {
            _ = &mut sending => panic!("too fast"),
            () = begun => {}
        }
    }
    drop(client);
    let request = house.record.told().intents[0].clone();
    let request = request.call.expect("a call").request_id;
    let result = house.record.result_of(&request).await;
    assert_eq!(
        (result.outcome(), result.code.as_str()),
        (pb::Outcome::Unknown, "CANCELLED")
    );
}

#[tokio::test]
async fn what_was_not_refused_in_time_is_told_at_the_end_and_alike_ones_once() {
    let house = House::start().await;
    let client = house.h2().await;
    let viewer = house.guard.person(Role::Viewer);
    for _ in 0..20 {
        let answer = client.post(CHANGE, &[("authorization", &viewer)], "{}").await;
        assert_eq!(answer.reason(), "ROLE_TOO_LOW");
    }
    let key = house.guard.key(Role::Admin, &["tenant:view"]);
    let answer = client.post(CHANGE, &[("authorization", &key)], "{}").await;
    assert_eq!(answer.reason(), "SCOPE_MISSING");
    let headers = [("authorization", viewer.as_str()), ("x-mfa-code", "654321")];
    let answer = client.post("/v1/echo:privately", &headers, "{}").await;
    assert_eq!(answer.reason(), "MFA_CODE_INVALID");
    let answer = client.get("/v1/costly", &[("authorization", &viewer)]).await;
    assert_eq!(answer.reason(), "PLAN_FEATURE");
    // Refused for other reasons, or nobody's: not kept.
    client
        .get("/v1/count/x/privately", &[("authorization", &viewer)])
        .await;
    client
        .post(CHANGE, &[("authorization", "Bearer a.b.c")], "{}")
        .await;
    assert!(house.record.told().intents.is_empty());
    house.stopping.cancel();
    until("the gateway has ended", || house.ended.is_finished()).await;
    let mut refusals: Vec<_> = house
        .record
        .told()
        .refusals
        .iter()
        .map(|refusal| (refusal.reason.clone(), refusal.code.clone(), refusal.count))
        .collect();
    refusals.sort();
    let wanted = [
        ("MFA_CODE_INVALID", "UNAUTHENTICATED", 1),
        ("PLAN_FEATURE", "FAILED_PRECONDITION", 1),
        ("ROLE_TOO_LOW", "PERMISSION_DENIED", 20),
        ("SCOPE_MISSING", "PERMISSION_DENIED", 1),
    ];
    let wanted = wanted.map(|(reason, code, count)| (reason.to_owned(), code.to_owned(), count));
    assert_eq!(refusals, wanted);
    let told = house.record.told();
    let first = told
        .refusals
        .iter()
        .find(|refusal| refusal.count == 20)
        .expect("one");
    let call = first.call.as_ref().expect("a call");
    assert_eq!(
        (call.kind(), call.method.as_str()),
        (pb::AuditKind::Refusal, CHANGE_RPC)
    );
    assert!(call.actor.as_ref().is_some_and(|actor| actor.role == "viewer"));
}

#[tokio::test]
async fn a_drain_waits_for_results() {
    let house = House::start().await;
    let client = house.h2().await;
    let who = house.guard.person(Role::Admin);
    let headers = [
        ("authorization", who.as_str()),
        ("content-type", "application/json"),
    ];
    let sent = request(Method::POST, CHANGE, &headers, full(r#"{"words":"held"}"#));
    let (answer, ()) = tokio::join!(client.send(sent), async {
        until("the service has begun", || {
            house.echo.served.load(Ordering::SeqCst) == 1
        })
        .await;
        house.record.broken.store(true, Ordering::SeqCst);
        house.stopping.cancel();
        house.echo.held.add_permits(1);
    });
    assert_eq!(answer.expect("an answer").status, 200);
    assert!(house.record.told().results.is_empty() && !house.ended.is_finished());
    house.record.broken.store(false, Ordering::SeqCst);
    until("the gateway has ended", || house.ended.is_finished()).await;
    assert_eq!(house.record.told().results.len(), 1);
}

#[tokio::test]
async fn a_feature_takes_a_plan_that_has_it() {
    let house = House::start().await;
    let client = house.h2().await;
    let who = house.guard.person(Role::Viewer);
    let answer = client.get("/v1/costly", &[("authorization", &who)]).await;
    assert_eq!(answer.status, 400);
    let error = answer.json()["error"].clone();
    assert_eq!(error["status"], "FAILED_PRECONDITION");
    assert_eq!(
        error["message"],
        "the plan free does not have uploads, the plan pro does"
    );
    let again = house.guard.person(Role::Viewer);
    house.guard.change(&again, |context| {
        context.seat.as_mut().expect("a seat").plan = Plan::Pro;
    });
    let answer = client.get("/v1/costly", &[("authorization", &again)]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// A person whose tenant's log cannot be written.
fn person_of_a_broken_log(house: &House, role: Role) -> (String, String) {
    let who = house.guard.person(role);
    let mut tenant = String::new();
    house.guard.change(&who, |context| {
        tenant = context.seat.as_ref().expect("a seat").tenant.to_string();
    });
    let mut broken = house.record.broken_of.lock().expect("no panic");
    broken.insert(tenant.clone());
    (who, tenant)
}

#[tokio::test]
async fn the_refusals_of_one_tenant_do_not_wait_for_the_log_of_another() {
    let house = House::start().await;
    let client = house.h2().await;
    let (stuck, stuck_tenant) = person_of_a_broken_log(&house, Role::Viewer);
    let mut people = vec![stuck];
    people.extend((0..20).map(|_| house.guard.person(Role::Viewer)));
    for who in &people {
        let answer = client.post(CHANGE, &[("authorization", who)], "{}").await;
        assert_eq!(answer.reason(), "ROLE_TOO_LOW");
    }
    house.stopping.cancel();
    until("the gateway has ended", || house.ended.is_finished()).await;
    let told = house.record.told();
    assert_eq!(told.refusals.len(), 20);
    assert!(
        told.refusals
            .iter()
            .all(|refusal| refusal.tenant_id != stuck_tenant)
    );
}

#[tokio::test]
async fn the_results_of_one_tenant_do_not_wait_for_the_log_of_another() {
    let house = House::start().await;
    let client = house.h2().await;
    let (stuck, stuck_tenant) = person_of_a_broken_log(&house, Role::Admin);
    // Each leaves an intent of which it is not known whether it was written, and so a result that is.
    for _ in 0..60 {
        let answer = client.post(CHANGE, &[("authorization", &stuck)], "{}").await;
        assert_eq!(answer.reason(), "AUDIT_UNAVAILABLE");
    }
    let began = Instant::now();
    for _ in 0..5 {
        let who = house.guard.person(Role::Admin);
        let answer = client.post(CHANGE, &[("authorization", &who)], "{}").await;
        assert_eq!(answer.status, 200);
        house.record.result_of(&of(&answer)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    house.record.broken_of.lock().expect("no panic").clear();
    until("those of the other are written", || {
        let told = house.record.told();
        let of_stuck = told
            .results
            .values()
            .filter(|result| result.tenant_id == stuck_tenant);
        of_stuck.count() == 60
    })
    .await;
}
