//! Mails leave after the commit, at least once, and say only what they should.

use proto::auth::v1 as pb;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    sync::mpsc,
};
use tonic::Code;

use crate::world::{
    PASSWORD, Person, Setup, World, eventually, fresh_email, reason, request, request_with, token_of,
};

fn invitation(email: &str) -> pb::SendInvitationRequest {
    pb::SendInvitationRequest {
        email: email.to_owned(),
        invited_by: "Grace Hopper".to_owned(),
        tenant_name: "Compilers".to_owned(),
        token: "inv_token_1".to_owned(),
        expire_time: Some(prost_types::Timestamp {
            seconds: 1_800_000_000,
            nanos: 0,
        }),
    }
}

fn to(flag: String) -> Setup {
    Setup {
        flags: vec![flag],
        ..Setup::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_carries_names_as_text_and_the_link() {
    let world = World::new().await;
    let email = fresh_email();
    let message = pb::SendInvitationRequest {
        invited_by: "Eve\r\nBcc: victim@example.com\r\n\r\n http://evil.example/a www.evil.example"
            .to_owned(),
        ..invitation(&email)
    };
    world
        .auth
        .mails()
        .send_invitation(request(message))
        .await
        .unwrap();
    let mail = world.mail(&email, "You are invited to Trailmesh", 1);
    assert_eq!(token_of(&mail), "inv_token_1");
    assert!(
        mail.contains("\"Compilers\"") && mail.contains("2027-01-15T08:00:00Z"),
        "{mail}"
    );
    assert!(
        !mail
            .lines()
            .any(|line| line.starts_with("Bcc") || line.starts_with("http://evil")),
        "{mail}"
    );
    assert!(!mail.contains("evil.example"), "{mail}");
    for (bad, wanted) in [
        (
            pb::SendInvitationRequest {
                email: format!("{email}\r\nBcc: x@example.com"),
                ..invitation(&email)
            },
            "EMAIL_INVALID",
        ),
        (
            pb::SendInvitationRequest {
                token: String::new(),
                ..invitation(&email)
            },
            "TOKEN_INVALID",
        ),
        (
            pb::SendInvitationRequest {
                token: "a b".to_owned(),
                ..invitation(&email)
            },
            "TOKEN_INVALID",
        ),
        (
            pb::SendInvitationRequest {
                expire_time: None,
                ..invitation(&email)
            },
            "TOKEN_INVALID",
        ),
    ] {
        let status = world
            .auth
            .mails()
            .send_invitation(request(bad))
            .await
            .unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, wanted)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_service_tenant_sends_invitations() {
    let world = World::new().await;
    let mut mails = proto::auth::v1::mail_service_client::MailServiceClient::new(world.auth.gateway.clone());
    let status = mails
        .send_invitation(request(invitation(&fresh_email())))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_could_not_go_out_goes_out_later_even_from_another_process() {
    // Nobody listens there.
    let mut world = World::with(to(format!(
        "--smtp-url=smtp://127.0.0.1:{}",
        testkit::free_port()
    )))
    .await;
    let person = Person {
        email: fresh_email(),
        password: PASSWORD.to_owned(),
    };
    world.auth.sign_up(&person).await.unwrap();
    eventually("a failed try", || {
        (world.database.sql("SELECT count(*) FROM auth.outbox WHERE kind = 'letter' AND attempts = 1 AND done_at IS NULL AND due_at > clock_timestamp()") == "1").then_some(())
    });
    world.setup = Setup::default();
    world.restart().await;
    world
        .database
        .sql("UPDATE auth.outbox SET due_at = clock_timestamp() WHERE done_at IS NULL");
    let token = token_of(&world.mail(&person.email, "Verify your address", 1));
    world
        .auth
        .accounts()
        .verify_email(request(pb::VerifyEmailRequest { token }))
        .await
        .unwrap();
    assert!(world.auth.log_in(&person).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_is_sent_though_the_process_died_right_after_the_answer() {
    let mut world = World::new().await;
    for _ in 0..5 {
        let person = Person {
            email: fresh_email(),
            password: PASSWORD.to_owned(),
        };
        world.auth.sign_up(&person).await.unwrap();
        world.restart().await;
        // A lease of the process that died would run for minutes.
        eventually("the mail", || {
            world.database.sql(
                "UPDATE auth.outbox SET due_at = least(due_at, clock_timestamp()) WHERE done_at IS NULL",
            );
            (!world.mails(&person.email).is_empty()).then_some(())
        });
    }
}

/// A mail server that takes everything and hands over what it got.
async fn mail_server() -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("smtp://{}", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::channel(100);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let (read, mut write) = stream.into_split();
                let mut lines = BufReader::new(read).lines();
                let mut mail = String::new();
                let mut in_data = false;
                write.write_all(b"220 ready\r\n").await.unwrap();
                while let Ok(Some(line)) = lines.next_line().await {
                    mail += &line;
                    mail.push('\n');
                    let answer: &[u8] = match line.as_str() {
                        "." if in_data => {
                            in_data = false;
                            let _ = sender.send(std::mem::take(&mut mail)).await;
                            b"250 taken\r\n"
                        }
                        _ if in_data => continue,
                        "DATA" => {
                            in_data = true;
                            b"354 go on\r\n"
                        }
                        "QUIT" => b"221 bye\r\n",
                        _ => b"250 fine\r\n",
                    };
                    write.write_all(answer).await.unwrap();
                }
            });
        }
    });
    (url, receiver)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_server_gets_one_recipient_and_our_sender() {
    let (url, mut mails) = mail_server().await;
    let mut setup = to(format!("--smtp-url={url}"));
    setup
        .flags
        .push("--mail-from=Trailmesh <no-reply@trail.example>".to_owned());
    let world = World::with(setup).await;
    let email = fresh_email();
    let from = [("trailmesh-user-agent", "x")];
    world
        .auth
        .mails()
        .send_invitation(request_with(invitation(&email), &from))
        .await
        .unwrap();
    let mail = tokio::time::timeout(std::time::Duration::from_secs(30), mails.recv())
        .await
        .unwrap()
        .unwrap();
    assert!(mail.contains("MAIL FROM:<no-reply@trail.example>"), "{mail}");
    assert_eq!(mail.matches("RCPT TO:").count(), 1);
    assert!(
        mail.contains(&format!("RCPT TO:<{email}>")) && mail.contains("inv_token_1"),
        "{mail}"
    );
    eventually("the entry to be done and wiped", || {
        (world
            .database
            .sql("SELECT count(*) FROM auth.outbox WHERE done_at IS NOT NULL AND body IS NULL")
            == "1")
            .then_some(())
    });
}

async fn invite(world: &World, email: &str) -> Result<(), tonic::Status> {
    let mut mails = world.auth.mails();
    mails
        .send_invitation(request(invitation(email)))
        .await
        .map(|_| ())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_gets_five_invitations_an_hour_and_twenty_a_day_whoever_invites() {
    let world = World::new().await;
    let email = fresh_email();
    let refused = |status: tonic::Status| {
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::ResourceExhausted, "TOO_MANY_INVITATIONS")
        );
    };
    for hour in 0..4 {
        let tries = futures_util::future::join_all((0..8).map(|_| invite(&world, &email))).await;
        let (taken, left): (Vec<_>, Vec<_>) = tries.into_iter().partition(Result::is_ok);
        assert_eq!((taken.len(), left.len()), (5, 3), "{hour}");
        left.into_iter().for_each(|answer| refused(answer.unwrap_err()));
        world
            .database
            .sql("UPDATE auth.outbox SET created_at = created_at - interval '1 hour'");
    }
    refused(invite(&world, &email).await.unwrap_err());
    invite(&world, &fresh_email()).await.unwrap();
    world
        .database
        .sql("UPDATE auth.outbox SET created_at = created_at - interval '1 day'");
    invite(&world, &email).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_accounts_go_before_invitations() {
    let mut world = World::new().await;
    let person = world.person().await;
    // Nobody listens there.
    world.setup = to(format!("--smtp-url=smtp://127.0.0.1:{}", testkit::free_port()));
    world.restart().await;
    // The database counts its rows when there are next to none, and believes that from then on: it plans for one.
    world.database.sql("ANALYZE auth.outbox");
    for _ in 0..20 {
        invite(&world, &fresh_email()).await.unwrap();
    }
    let message = pb::RequestPasswordResetRequest {
        email: person.email.clone(),
    };
    world
        .auth
        .accounts()
        .request_password_reset(request(message))
        .await
        .unwrap();
    eventually("all to have failed", || {
        let waiting =
            "SELECT count(*) FROM auth.outbox WHERE done_at IS NULL AND kind = 'letter' AND attempts > 0";
        (world.database.sql(waiting) == "21").then_some(())
    });
    // Who took a letter decides when it is due again: nobody may hold one when the test does.
    world.auth.stop().await;
    let later = "UPDATE auth.outbox SET due_at = clock_timestamp() + interval '1 hour' WHERE done_at IS NULL";
    world.database.sql(later);
    let (url, mut mails) = mail_server().await;
    world.setup = to(format!("--smtp-url={url}"));
    world.restart().await;
    world.database.sql(
        "UPDATE auth.outbox SET due_at = clock_timestamp() - interval '1 hour' * (allowance = 'invitation')::int \
         WHERE done_at IS NULL",
    );
    let mut place = 0;
    loop {
        let next = tokio::time::timeout(std::time::Duration::from_secs(30), mails.recv());
        let mail = next.await.unwrap().unwrap();
        place += 1;
        if mail.contains("Subject: Set a new password") {
            break;
        }
    }
    // Eight are sent at a time.
    assert!(place <= 8, "{place}");
}
