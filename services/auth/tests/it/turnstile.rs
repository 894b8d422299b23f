//! Sign-up behind Turnstile, against a small server that answers as `siteverify` does.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Response, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use proto::auth::v1 as pb;
use tokio::net::TcpListener;
use tonic::{Code, Status};

use crate::world::{PASSWORD, Person, Setup, World, distinct, fresh_email, reason, request};

/// What the server does next.
#[derive(Clone)]
enum Next {
    Answer(u16, &'static str),
    Hang,
}

const GOOD: &str = r#"{"success":true,"hostname":"trail.example","action":"signup","challenge_ts":"2026-01-01T00:00:00Z","error-codes":[],"cdata":""}"#;

#[derive(Clone, Default)]
struct Siteverify {
    script: Arc<Mutex<VecDeque<Next>>>,
    forms: Arc<Mutex<Vec<String>>>,
}

impl Siteverify {
    async fn start() -> (Self, String) {
        let server = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/siteverify", listener.local_addr().unwrap());
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = serving.clone();
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let server = server.clone();
                    async move {
                        let form = request.into_body().collect().await?.to_bytes();
                        server
                            .forms
                            .lock()
                            .unwrap()
                            .push(String::from_utf8_lossy(&form).into_owned());
                        let next = server
                            .script
                            .lock()
                            .unwrap()
                            .pop_front()
                            .unwrap_or(Next::Answer(200, GOOD));
                        let Next::Answer(status, body) = next else {
                            return std::future::pending().await;
                        };
                        let answer = Response::builder()
                            .status(status)
                            .body(Full::new(Bytes::from_static(body.as_bytes())));
                        Ok::<_, hyper::Error>(answer.unwrap())
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        (server, url)
    }

    fn then(&self, next: &[Next]) {
        self.script.lock().unwrap().extend(next.iter().cloned());
        self.forms.lock().unwrap().clear();
    }

    /// The value of a field in each request since the script was written.
    fn values(&self, name: &str) -> Vec<String> {
        let forms = self.forms.lock().unwrap();
        let value = |form: &String| {
            let prefix = format!("{name}=");
            form.split('&')
                .find_map(|pair| pair.strip_prefix(&prefix))
                .map(str::to_owned)
        };
        forms.iter().filter_map(value).collect()
    }
}

async fn world(url: &str) -> World {
    World::with(Setup {
        flags: vec![
            format!("--turnstile-url={url}"),
            "--turnstile-secret=the-secret".to_owned(),
            "--turnstile-hostnames=trail.example,www.trail.example".to_owned(),
        ],
        ..Setup::default()
    })
    .await
}

async fn sign_up(world: &World, token: &str) -> Result<(), Status> {
    let message = pb::SignUpRequest {
        email: fresh_email(),
        password: PASSWORD.to_owned(),
        display_name: String::new(),
        turnstile_token: token.to_owned(),
    };
    world.auth.accounts().sign_up(request(message)).await.map(drop)
}

fn asked(world: &World) -> String {
    world
        .database
        .sql("SELECT count(*) FROM auth.outbox WHERE kind = 'request'")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_up_takes_a_good_token_for_this_host_and_this_action() {
    let (server, url) = Siteverify::start().await;
    let world = world(&url).await;
    sign_up(&world, "a-token").await.unwrap();
    assert_eq!(server.values("response"), ["a-token"]);
    assert_eq!(server.values("secret"), ["the-secret"]);
    assert_eq!(server.values("remoteip"), ["192.0.2.1"]);
    for refused in [
        r#"{"success":false,"error-codes":["timeout-or-duplicate"]}"#,
        r#"{"success":true,"hostname":"evil.example","action":"signup"}"#,
        r#"{"success":true,"hostname":"trail.example.evil.example","action":"signup"}"#,
        r#"{"success":true,"hostname":"trail.example","action":"login"}"#,
        r#"{"success":true,"hostname":"trail.example"}"#,
        r#"{"success":true,"action":"signup"}"#,
    ] {
        server.then(&[Next::Answer(200, refused)]);
        let status = sign_up(&world, "a-token").await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, "CHALLENGE_FAILED"),
            "{refused}"
        );
        assert_eq!(server.values("response").len(), 1);
    }
    // What cannot be a token is not even asked about.
    server.then(&[]);
    for token in ["", &"x".repeat(2_049)] {
        assert_eq!(
            reason(&sign_up(&world, token).await.unwrap_err()),
            "CHALLENGE_FAILED"
        );
    }
    assert!(server.values("response").is_empty());
    assert_eq!(asked(&world), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tries_carry_one_key_and_what_cannot_be_checked_is_not_let_in() {
    let (server, url) = Siteverify::start().await;
    let world = world(&url).await;
    server.then(&[Next::Answer(500, "oops"), Next::Answer(200, GOOD)]);
    sign_up(&world, "a-token").await.unwrap();
    let keys = server.values("idempotency_key");
    assert_eq!((keys.len(), distinct(&keys)), (2, 1));
    assert!(keys[0].parse::<uuid::Uuid>().is_ok());
    for script in [
        [Next::Answer(500, "oops"), Next::Answer(503, "oops")],
        [Next::Answer(200, "no JSON"), Next::Answer(200, "[]")],
        [Next::Answer(302, ""), Next::Answer(302, "")],
    ] {
        server.then(&script);
        let status = sign_up(&world, "a-token").await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unavailable, "CHALLENGE_UNAVAILABLE")
        );
        assert_eq!(server.values("response").len(), 2);
    }
    for body in [
        r#"{"success":false,"error-codes":["internal-error"]}"#,
        r#"{"success":false,"error-codes":["invalid-input-secret"]}"#,
    ] {
        server.then(&[Next::Answer(200, body)]);
        assert_eq!(
            reason(&sign_up(&world, "a-token").await.unwrap_err()),
            "CHALLENGE_UNAVAILABLE"
        );
    }
    assert_eq!(asked(&world), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_siteverify_that_hangs_costs_three_seconds_at_most() {
    let (server, url) = Siteverify::start().await;
    let world = world(&url).await;
    server.then(&[Next::Hang, Next::Hang]);
    let start = Instant::now();
    let status = sign_up(&world, "a-token").await.unwrap_err();
    assert_eq!(reason(&status), "CHALLENGE_UNAVAILABLE");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert_eq!(server.values("response").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_secret_sign_up_is_closed_outside_dev() {
    let world = World::with(Setup {
        dev: false,
        ..Setup::default()
    })
    .await;
    let person = Person {
        email: fresh_email(),
        password: PASSWORD.to_owned(),
    };
    let status = world.auth.sign_up(&person).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::FailedPrecondition, "SIGN_UP_CLOSED")
    );
}
