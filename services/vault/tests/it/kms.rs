//! The root in AWS KMS: a server of it that others wrote.

use std::{
    io::Write as _,
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use types::TenantId;

use crate::world::{World, eventually, place};

/// moto's KMS. Killed when dropped.
struct Kms {
    process: Child,
    port: u16,
    key: String,
}

impl Drop for Kms {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn post(port: u16, target: &str, body: &str) -> String {
    use std::io::Read as _;
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        socket,
        "POST / HTTP/1.1\r\nhost: localhost:{port}\r\nx-amz-target: TrentService.{target}\r\n\
         content-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\nconnection: close\r\n\
         authorization: AWS4-HMAC-SHA256 Credential=test/20260101/eu-central-1/kms/aws4_request, SignedHeaders=host, Signature=x\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    text
}

impl Kms {
    fn start(port: u16) -> Self {
        let process = Command::new(testkit::python())
            .args([
                "-B",
                "-m",
                "moto.server",
                "-H",
                "127.0.0.1",
                "-p",
                &port.to_string(),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        testkit::eventually("moto to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
        let made = post(port, "CreateKey", "{}");
        let after = made
            .split("\"KeyId\": \"")
            .nth(1)
            .or_else(|| made.split("\"KeyId\":\"").nth(1));
        let key = after
            .unwrap_or_else(|| panic!("{made}"))
            .split('"')
            .next()
            .unwrap()
            .to_owned();
        Self { process, port, key }
    }
}

fn flags(port: u16, key: &str) -> Vec<String> {
    vec![
        format!("--kms-key-id={key}"),
        format!("--kms-endpoint=http://127.0.0.1:{port}"),
        "--kms-region=eu-central-1".to_owned(),
        "--kms-timeout=1s".to_owned(),
        "--aws-access-key-id=test".to_owned(),
        "--aws-secret-access-key=test".to_owned(),
    ]
}

fn texts(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tree_hangs_on_a_key_in_kms_that_knows_for_which_cell_and_version_it_is() {
    let world = World::new();
    let kms = tokio::task::spawn_blocking(|| Kms::start(testkit::free_port()))
        .await
        .unwrap();
    let flags = flags(kms.port, &kms.key);
    let vault = world.vault(&texts(&flags)).await;
    let place = place(TenantId::fresh(), 1);
    let sealed = vault.seal(&place, "hunter2").await;
    let second = world.vault(&texts(&flags)).await;
    assert_eq!(second.open(&place, &sealed.envelope).await.unwrap(), "hunter2");
    assert_eq!(
        world.db.sql("SELECT root FROM vault.kek"),
        format!("aws-kms:{}", kms.key)
    );

    // The wrapped key of another version: KMS itself refuses, since the encryption context is another.
    let row = world.db.sql("SELECT encode(wrapped, 'base64') FROM vault.kek");
    let blob: String = row.split_whitespace().collect();
    let context = |version: u8, cell: u8| {
        format!(
            "{{\"KeyId\":\"{}\",\"CiphertextBlob\":\"{blob}\",\"EncryptionContext\":{{\"trailmesh:region\":\"eu\",\
             \"trailmesh:cell\":\"{cell}\",\"trailmesh:kek-version\":\"{version}\"}}}}",
            kms.key
        )
    };
    let port = kms.port;
    let ask = |body: String| tokio::task::spawn_blocking(move || post(port, "Decrypt", &body));
    assert!(ask(context(1, 1)).await.unwrap().contains("Plaintext"));
    for wrong in [context(2, 1), context(1, 2)] {
        assert!(ask(wrong).await.unwrap().contains("InvalidCiphertext"));
    }
    // Without the foreign keys that stand in its way.
    world
        .db
        .sql("SET session_replication_role = replica; UPDATE vault.kek SET version = 2");
    let moved = world.vault_in(&texts(&flags), &[]).await;
    let no = eventually("an answer", async || {
        let no = moved.open(&place, &sealed.envelope).await.unwrap_err();
        (no.reason != "PEER_UNREACHABLE").then_some(no)
    })
    .await;
    assert_eq!(no.reason, "VAULT_SEALED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_whose_kms_is_away_is_sealed_and_opens_by_itself_within_two_seconds_after_it_is_back() {
    let world = World::new();
    let port = testkit::free_port();
    let flags = flags(port, "alias/root");
    let vault = world.vault_in(&texts(&flags), &[]).await;
    let place = place(TenantId::fresh(), 1);
    let no = eventually("an answer", async || {
        let no = vault.open(&place, "btv2:1:AAAA").await.unwrap_err();
        (no.reason != "PEER_UNREACHABLE").then_some(no)
    })
    .await;
    assert_eq!(no.reason, "VAULT_SEALED");
    let kms = tokio::task::spawn_blocking(move || Kms::start(port))
        .await
        .unwrap();
    let alias = format!("{{\"AliasName\":\"alias/root\",\"TargetKeyId\":\"{}\"}}", kms.key);
    tokio::task::spawn_blocking(move || post(port, "CreateAlias", &alias))
        .await
        .unwrap();
    let began = Instant::now();
    eventually("the vault to open", async || {
        let no = vault.open(&place, "btv2:1:AAAA").await.unwrap_err();
        (no.reason == "SECRET_UNREADABLE").then_some(())
    })
    .await;
    // Five times the promise, since machines are busy with other tests.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
}
