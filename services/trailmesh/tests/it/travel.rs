//! A tenant in a file, and on its way from one database into another: with real databases and real vaults, each side with its own root and keys.

mod end;
mod killed;
mod large;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use chassis::{Runtime, Settings};
use clap::Parser as _;
use pg::migrate::Set;
use proto::vault::v1::{self as pb, secret_service_client::SecretServiceClient};
use testkit::{Authority, Database, Postgres};
use types::{AgentId, KeyId, PoolId, ServerId, SinkId, TenantId, UserId};

#[rustfmt::skip]
const SETS: [Set; 5] = [auth::MIGRATIONS, tenant::MIGRATIONS, vault::MIGRATIONS, query::MIGRATIONS, recovery::MIGRATIONS];

const ARCHIVE_KEY: &str = "YXJjaGl2ZSBrZXkgb2YgdGVzdHMsIDMyIGJ5dGVzLi4=";

/// What nobody may find in a file.
const CANARY: &str = "canary-5f1d-secret-of-a-webhook";

#[derive(clap::Parser)]
struct VaultFlags {
    #[command(flatten)]
    config: vault::Config,
}

#[derive(clap::Parser)]
struct MeshFlags {
    #[command(flatten)]
    settings: Settings,
}

/// An installation.
struct Cell {
    db: Database<'static>,
    name: &'static str,
    root: &'static str,
    seal_key: &'static str,
}

impl Cell {
    fn new(name: &'static str, root: &'static str, seal_key: &'static str) -> Self {
        let db = Postgres::shared().database(&pg::migrate::fingerprint(&SETS), |url| async move {
            let options = pg::migrate::Options {
                ca_file: Some(Postgres::shared().ca.clone()),
                ..pg::migrate::Options::default()
            };
            pg::migrate::run(&url, &SETS, &options).await.unwrap();
        });
        db.sql(&format!(
            "INSERT INTO trailmesh.cell (region, cell) VALUES ('eu', '{name}')"
        ));
        Self {
            db,
            name,
            root,
            seal_key,
        }
    }

    fn settings(&self) -> Vec<(String, String)> {
        let ca = Postgres::shared().ca.display().to_string();
        [
            ("TRAILMESH_REGION", "eu".to_owned()),
            ("TRAILMESH_CELL", self.name.to_owned()),
            ("TRAILMESH_MIGRATE_DATABASE_URL", self.db.admin_url()),
            ("TRAILMESH_DATABASE_URL", self.db.url("trailmesh_vault")),
            ("TRAILMESH_DATABASE_CA_FILE", ca),
            ("TRAILMESH_VAULT_ROOT_KEY", self.root.to_owned()),
            ("TRAILMESH_AUTH_SEAL_KEY", self.seal_key.to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// `trailmesh tenant …` with the settings of this installation, and these in their place.
    fn command(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trailmesh"));
        command
            .arg("tenant")
            .args(arguments)
            .env_clear()
            .envs(self.settings())
            .env("TRAILMESH_ARCHIVE_KEY", ARCHIVE_KEY)
            .envs(settings.iter().copied())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str], settings: &[(&str, &str)]) -> Output {
        self.command(arguments, settings).output().unwrap()
    }

    /// SQL on a tenant's side.
    fn sql_in(&self, tenant: TenantId, sql: &str) -> String {
        let place = format!("t_{}", tenant.digits());
        let told = self.db.sql(&format!(
            "SELECT trailmesh.enter('{place}', '-'); SET LOCAL search_path = {place}; {sql}"
        ));
        told.trim().to_owned()
    }

    fn state(&self, tenant: TenantId) -> String {
        self.db.sql(&format!(
            "SELECT state || coalesce(' ' || moved_to, '') FROM tenant.tenant WHERE id = '{tenant}'"
        ))
    }

    /// How many rows there are of a tenant, and the sum of what they say.
    fn content(&self, tenant: TenantId) -> String {
        let tables = [
            "server",
            "agent",
            "credential",
            "audit_sink",
            "audit_record",
            "access_rule",
            "upload",
            "upload_key",
            "upload_part",
            "upload_file",
            "upload_piece",
        ];
        let own = tables.map(|table| {
            format!("(SELECT coalesce(md5(string_agg(md5(r::text), '' ORDER BY md5(r::text))), '-') || ' ' || count(*) FROM {table} r)")
        });
        let shared = ["member", "pool", "binding", "invitation", "enrolment"].map(|table| {
            format!("(SELECT coalesce(md5(string_agg(md5(r::text), '' ORDER BY md5(r::text))), '-') FROM tenant.{table} r WHERE tenant_id = '{tenant}')")
        });
        self.sql_in(
            tenant,
            &format!("SELECT concat_ws(' ', {}, {})", own.join(", "), shared.join(", ")),
        )
    }
}

/// Two installations of one region, and a tenant in the first.
struct Scene {
    source: Cell,
    target: Cell,
    authority: Authority,
    folder: tempfile::TempDir,
    tenant: TenantId,
    owner: UserId,
    sink: SinkId,
    envelope: String,
}

/// A vault that runs.
struct Vault {
    client: SecretServiceClient<chassis::Peer>,
    stop: tokio_util::sync::CancellationToken,
    _caller: Runtime,
}

impl Drop for Vault {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Scene {
    async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let mut scene = Self {
            source: Cell::new(
                "1",
                "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
                "c2VhbCBrZXkgb2YgdGVzdHMsIDMyIGJ5dGVzIGxvbmc=",
            ),
            target: Cell::new(
                "2",
                "Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=",
                "U2VhbCBrZXkgb2YgdGhlIG90aGVyLCAzMiBieXRlcy4=",
            ),
            authority: Authority::new(folder.path()),
            folder,
            tenant: TenantId::fresh(),
            owner: UserId::fresh(),
            sink: SinkId::fresh(),
            envelope: String::new(),
        };
        scene.fill().await;
        scene
    }

    /// A tenant with something of everything.
    async fn fill(&mut self) {
        let (tenant, owner, db) = (self.tenant, self.owner, &self.source.db);
        let place = format!("t_{}", tenant.digits());
        let (analyst, pool, key) = (UserId::fresh(), PoolId::fresh(), KeyId::fresh());
        db.sql(&format!(
            "SELECT trailmesh.enter('shared', '-'); SELECT trailmesh.create_tenant_schema('{place}');
             INSERT INTO auth.account (id, email, email_key, display_name, password, verified_at) VALUES
               ('{owner}', 'owner-{owner}@example.com', 'owner-{owner}@example.com', 'Ada', 'sealed', now()),
               ('{analyst}', 'analyst-{analyst}@example.com', 'analyst-{analyst}@example.com', 'Bob', 'sealed', now());
             INSERT INTO tenant.tenant (id, name, region, cell, plan, agreed_plan) VALUES ('{tenant}', 'Acme', 'eu', '1', 'enterprise', 'enterprise');
             INSERT INTO tenant.member (tenant_id, user_id, role) VALUES ('{tenant}', '{owner}', 'owner'), ('{tenant}', '{analyst}', NULL);
             INSERT INTO tenant.pool (id, tenant_id, name) VALUES ('{pool}', '{tenant}', 'default');
             INSERT INTO tenant.binding (tenant_id, user_id, pool_id, role) VALUES ('{tenant}', '{analyst}', '{pool}', 'analyst');
             INSERT INTO tenant.invitation (id, tenant_id, email, email_key, role, invited_by, expire_time)
               VALUES ('inv_{tenant}', '{tenant}', 'c@example.com', 'c@example.com', 'viewer', '{owner}', now() + interval '1 day');
             INSERT INTO tenant.invitation_token (sha256, invitation_id) VALUES (sha256('{tenant}'), 'inv_{tenant}');
             INSERT INTO auth.api_key (id, sha256, prefix, tenant_id, owner_id, name, role, scopes, pools, networks, create_time, expire_time)
               VALUES ('{key}', sha256('{key}'), 'bt_live_eab', '{tenant}', '{owner}', 'ci', 'viewer', '{{}}', '{{}}', '{{}}', now(), now() + interval '30 days')"
        ));
        let server = ServerId::fresh();
        let agent = AgentId::fresh();
        let vault = self.vault(&self.source).await;
        self.envelope = vault.seal(&self.place()).await;
        let sealed = pb::SecretPlace {
            kind: pb::SecretKind::MysqlPassword.into(),
            record_id: server.to_string(),
            field: "password".to_owned(),
            ..self.place()
        };
        let credential = vault.seal(&sealed).await;
        let sink = self.sink;
        large::upload(&self.source, tenant, 3, 8);
        self.source.sql_in(
            tenant,
            &format!(
                "INSERT INTO server (id, name, host, port, username, tls_mode, pool_id, labels)
                   VALUES ('{server}', 'Ünïcode \"quoted\" \\ name', 'db.example', 3306, 'u', 'required', '{pool}', '{{\"a\": 1.50, \"b\": [null, \"é\"]}}');
                 INSERT INTO agent (id, name, pool_id, enrolment_sha256, enrolment_expire_time) VALUES ('{agent}', 'a', '{pool}', sha256('x'), now());
                 INSERT INTO access_rule (id, role, server_id, schema_name, table_name, columns, effect)
                   VALUES ('rul_1', 'viewer', '{server}', 's', '*', ARRAY['a', 'b,\"c'], 'deny');
                 INSERT INTO credential (server_id, kind, field, envelope, key_version) VALUES ('{server}', 'mysql_password', 'password', '{credential}', 1);
                 INSERT INTO audit_sink (id, name, kind, url, format, secret_envelope, secret_key_version)
                   VALUES ('{sink}', 'siem', 'webhook', 'https://siem.example', 'ocsf', '{}', 1);
                 SELECT count(*) FROM tenant.audit_append(ARRAY(
                   SELECT format('{{\"part\":\"event\",\"id\":\"aud_%s\",\"time\":%s}}', lpad(n::text, 26, '0'), floor(extract(epoch FROM now()) * 1000000))
                   FROM generate_series(1, 1200) AS n));
                 INSERT INTO tenant.audit_intent VALUES ('{tenant}', 'aud_x', now() + interval '1 hour');
                 INSERT INTO tenant.audit_delivery (tenant_id, sink_id, delivered_sequence) VALUES ('{tenant}', '{sink}', 7)",
                self.envelope
            ),
        );
    }

    /// Where the sink's secret is.
    fn place(&self) -> pb::SecretPlace {
        pb::SecretPlace {
            tenant_id: self.tenant.to_string(),
            kind: pb::SecretKind::SinkSecret.into(),
            record_id: self.sink.to_string(),
            field: "secret".to_owned(),
            version: 1,
        }
    }

    async fn bind(&self, name: &str, more: &[String]) -> Runtime {
        let identity = self.authority.issue(name);
        let mut flags = vec![
            name.to_owned(),
            "--listen=127.0.0.1:0".to_owned(),
            "--admin-listen=127.0.0.1:0".to_owned(),
            "--region=eu".to_owned(),
            format!("--identity-cert-file={}", identity.cert_file.display()),
            format!("--identity-key-file={}", identity.key_file.display()),
            format!("--trust-bundle-file={}", identity.bundle_file.display()),
        ];
        flags.extend(more.iter().cloned());
        let settings = MeshFlags::parse_from(flags).settings;
        Runtime::bind(name, &settings, proto::DESCRIPTOR_SET)
            .await
            .unwrap()
    }

    async fn vault(&self, cell: &Cell) -> Vault {
        let config = VaultFlags::parse_from([
            "vault".to_owned(),
            format!("--database-url={}", cell.db.url("trailmesh_vault")),
            format!("--database-ca-file={}", Postgres::shared().ca.display()),
            format!("--root-key={}", cell.root),
        ])
        .config;
        let runtime = self.bind("vault", &[format!("--cell={}", cell.name)]).await;
        let (address, stop) = (runtime.address(), runtime.stopping());
        tokio::spawn(async move { vault::start(config, runtime).await.unwrap() });
        let peer = format!("--peer=vault=https://localhost:{}", address.port());
        let caller = self.bind("tenant", &[peer]).await;
        Vault {
            client: SecretServiceClient::new(caller.peer("vault").unwrap()),
            stop,
            _caller: caller,
        }
    }

    /// The file of the destination's settings.
    fn destination(&self) -> PathBuf {
        let path = self.folder.path().join("destination.env");
        let lines: Vec<String> = self
            .target
            .settings()
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        fs::write(&path, lines.join("\n")).unwrap();
        path
    }

    fn export(&self, file: &Path) -> Output {
        let id = self.tenant.to_string();
        self.source
            .run(&["export", &id, "--file", file.to_str().unwrap()], &[])
    }

    fn import(&self, file: &Path, settings: &[(&str, &str)]) -> Output {
        self.target
            .run(&["import", "--file", file.to_str().unwrap()], settings)
    }

    fn relocate(&self) -> Command {
        let (id, destination) = (self.tenant.to_string(), self.destination());
        let arguments = [
            "move",
            &id,
            "--destination",
            destination.to_str().unwrap(),
            "--host=https://cell-2.example",
            "--format=json",
        ];
        self.source.command(&arguments, &[])
    }

    /// The sink's secret opens at the destination, whose root is another.
    async fn opens_at_the_destination(&self) {
        let vault = self.vault(&self.target).await;
        let stored = self
            .target
            .sql_in(self.tenant, "SELECT secret_envelope FROM audit_sink");
        assert_eq!(stored, self.envelope);
        assert_eq!(vault.open(&self.place(), &stored).await, CANARY);
    }
}

impl Vault {
    /// Until the vault is unsealed.
    async fn insist<T, F>(&self, call: impl Fn(SecretServiceClient<chassis::Peer>) -> F) -> T
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        for _ in 0..600 {
            match call(self.client.clone()).await {
                Ok(answer) => return answer.into_inner(),
                Err(status) if status.code() == tonic::Code::Unavailable => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(status) => panic!("{status:?}"),
            }
        }
        panic!("the vault stays sealed")
    }

    async fn seal(&self, place: &pb::SecretPlace) -> String {
        let request = pb::SealSecretRequest {
            place: Some(place.clone()),
            value: CANARY.as_bytes().to_vec().into(),
            form: pb::SecretForm::Fernet.into(),
        };
        let sealed = self.insist(|mut client| {
            let request = request.clone();
            async move { client.seal_secret(request).await }
        });
        sealed.await.envelope
    }

    async fn open(&self, place: &pb::SecretPlace, envelope: &str) -> String {
        let request = pb::OpenSinkSecretRequest {
            place: Some(place.clone()),
            envelope: envelope.to_owned(),
        };
        let opened = self.insist(|mut client| {
            let request = request.clone();
            async move { client.open_sink_secret(request).await }
        });
        String::from_utf8(opened.await.value.to_vec()).unwrap()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_tenant_is_imported_with_everything_and_its_secrets_open_there() {
    let scene = Scene::new().await;
    let (tenant, owner) = (scene.tenant, scene.owner);
    // The owner has an account there already, of another id.
    let known = UserId::fresh();
    scene.target.db.sql(&format!(
        "INSERT INTO auth.account (id, email, email_key, password, verified_at)
         VALUES ('{known}', 'owner-{owner}@example.com', 'owner-{owner}@example.com', 'theirs', now())"
    ));
    let file = scene.folder.path().join("acme.tma");
    let exported = scene.export(&file);
    assert_eq!(exported.status.code(), Some(0), "{}", stderr(&exported));
    let bytes = fs::read(&file).unwrap();
    for legible in [CANARY, "Acme", "example.com", "btv1:"] {
        assert!(
            !bytes
                .windows(legible.len())
                .any(|window| window == legible.as_bytes()),
            "{legible}"
        );
    }
    let again = scene.export(&file);
    assert_eq!(
        again.status.code(),
        Some(3),
        "a file is not overwritten: {}",
        stderr(&again)
    );

    let imported = scene.import(&file, &[]);
    assert_eq!(imported.status.code(), Some(0), "{}", stderr(&imported));
    assert_eq!(scene.target.state(tenant), "active");
    let own = "SELECT concat_ws(' ', (SELECT md5(string_agg(s::text, '')) FROM server s), (SELECT md5(string_agg(r::text, '')) FROM access_rule r),
                                (SELECT count(*) FROM audit_record), (SELECT hash FROM audit_record ORDER BY seq DESC LIMIT 1),
                                (SELECT count(*) FROM credential), (SELECT count(*) FROM agent))";
    assert_eq!(scene.target.sql_in(tenant, own), scene.source.sql_in(tenant, own));
    let there = |sql: &str| scene.target.db.sql(sql);
    assert_eq!(there("SELECT cell, plan FROM tenant.tenant"), "2|enterprise");
    assert_eq!(
        there(&format!(
            "SELECT role FROM tenant.member WHERE user_id = '{known}'"
        )),
        "owner"
    );
    assert_eq!(there("SELECT count(*) FROM tenant.member"), "2");
    assert_eq!(there("SELECT count(*) FROM tenant.invitation_token"), "1");
    assert_eq!(
        there(&format!(
            "SELECT count(*) FROM auth.api_key WHERE owner_id = '{known}'"
        )),
        "1"
    );
    assert_eq!(
        there(&format!("SELECT password FROM auth.account WHERE id = '{known}'")),
        "\\x746865697273"
    );
    assert_eq!(
        there("SELECT count(*) FROM auth.account WHERE verified_at IS NOT NULL AND password IS NOT NULL"),
        "2"
    );
    assert_eq!(
        there("SELECT signed_size, statement IS NULL FROM tenant.audit_chain"),
        "0|t"
    );
    scene.opens_at_the_destination().await;
    assert_eq!(
        scene.source.state(tenant),
        "active",
        "an export takes nothing away"
    );

    let twice = scene.import(&file, &[]);
    assert_eq!(twice.status.code(), Some(3), "{}", stderr(&twice));
    assert!(stderr(&twice).contains("is here already"), "{}", stderr(&twice));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_imported_is_refused_in_a_sentence_and_nothing_is_written() {
    let scene = Scene::new().await;
    let file = scene.folder.path().join("acme.tma");
    assert_eq!(scene.export(&file).status.code(), Some(0));
    let bytes = fs::read(&file).unwrap();
    let spoilt = scene.folder.path().join("spoilt.tma");
    let spoil = |bytes: &[u8]| fs::write(&spoilt, bytes).unwrap();
    let before = scene
        .target
        .db
        .sql("SELECT count(*) FROM trailmesh.tenant_schemas");
    let refused = |file: &Path, settings: &[(&str, &str)], exit: i32, words: &str| {
        let output = scene.import(file, settings);
        assert_eq!(output.status.code(), Some(exit), "{words}: {}", stderr(&output));
        assert!(stderr(&output).contains(words), "{words}: {}", stderr(&output));
        assert_eq!(scene.target.state(scene.tenant), "", "{words}");
        let written = "SELECT (SELECT count(*) FROM auth.account) + (SELECT count(*) FROM vault.data_key)";
        assert_eq!(scene.target.db.sql(written), "0", "{words}");
        assert_eq!(
            scene
                .target
                .db
                .sql("SELECT count(*) FROM trailmesh.tenant_schemas"),
            before
        );
    };
    let other_key = (
        "TRAILMESH_ARCHIVE_KEY",
        "b3RoZXIga2V5IG9mIHRlc3RzLCAzMiBieXRlcy4uLi4=",
    );
    refused(&file, &[other_key], 3, "another key");
    refused(&file, &[("TRAILMESH_ARCHIVE_KEY", "short")], 3, "32 bytes");
    spoil(&bytes[..bytes.len() - 100]);
    refused(&spoilt, &[], 3, "not whole");
    let mut changed = bytes.clone();
    changed[bytes.len() / 2] ^= 1;
    spoil(&changed);
    refused(&spoilt, &[], 3, "damaged");
    spoil(b"PGDMP");
    refused(&spoilt, &[], 3, "no archive");
    refused(&file, &[("TRAILMESH_REGION", "us")], 3, "never leaves its region");
    refused(&file, &[("TRAILMESH_CELL", "9")], 2, "marked");
    refused(
        &file,
        &[("TRAILMESH_AUTH_SEAL_KEY", "")],
        2,
        "TRAILMESH_AUTH_SEAL_KEY",
    );
    scene
        .target
        .db
        .sql("UPDATE trailmesh.templates SET fingerprint = 'other' WHERE service = 'tenant' AND version = 1");
    refused(&file, &[], 3, "the schemas differ");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_log_that_does_not_verify_is_not_exported() {
    let scene = Scene::new().await;
    scene.source.sql_in(
        scene.tenant,
        "UPDATE audit_record SET body = body || ' ' WHERE seq = 700",
    );
    let file = scene.folder.path().join("acme.tma");
    let refused = scene.export(&file);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("record 700 was changed"),
        "{}",
        stderr(&refused)
    );
    assert!(!file.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_tenant_is_whole_at_its_destination_and_known_at_the_source() {
    let scene = Scene::new().await;
    let tenant = scene.tenant;
    let before = scene.source.content(tenant);
    let moved = scene.relocate().output().unwrap();
    assert_eq!(moved.status.code(), Some(0), "{}", stderr(&moved));
    assert!(stderr(&moved).contains("\"fenced_ms\":"), "{}", stderr(&moved));
    assert_eq!(scene.source.state(tenant), "moved https://cell-2.example");
    assert_eq!(scene.target.state(tenant), "active");
    assert_eq!(scene.target.content(tenant), before);
    let place = format!("t_{}", tenant.digits());
    let schemas = format!("SELECT count(*) FROM pg_namespace WHERE nspname = '{place}'");
    assert_eq!(scene.source.db.sql(&schemas), "0");
    let keys = "SELECT count(*) FROM vault.data_key WHERE wrapped IS NOT NULL";
    assert_eq!(scene.source.db.sql(keys), "0");
    // Nobody sees to a log that is not there, and somebody to the one that is.
    let seen_to = "SELECT concat_ws(' ', (SELECT count(*) FROM tenant.audit_chain), (SELECT count(*) FROM tenant.audit_intent),
                                    (SELECT count(*) FROM tenant.audit_delivery))";
    assert_eq!(scene.source.db.sql(seen_to), "0 0 0");
    assert_eq!(scene.target.db.sql(seen_to), "1 1 1");
    scene.opens_at_the_destination().await;
    let again = scene.relocate().output().unwrap();
    assert_eq!(
        again.status.code(),
        Some(0),
        "what is done is done: {}",
        stderr(&again)
    );
    assert_eq!(scene.target.content(tenant), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_while_a_tenant_moves_is_in_its_copy() {
    let scene = Scene::new().await;
    let place = format!("t_{}", scene.tenant.digits());
    // As service tenant does it: what is confirmed is committed.
    let append = |n: u32| {
        format!(
            "SET LOCAL SESSION AUTHORIZATION trailmesh_tenant; SELECT trailmesh.enter('{place}', '-'); SET LOCAL ROLE {place};
             SELECT tenant.audit_append(ARRAY[format('{{\"part\":\"event\",\"id\":\"aud_0000000000000000000w{n:06}\",\"time\":%s}}', floor(extract(epoch FROM now()) * 1000000))])"
        )
    };
    let mut child = scene
        .relocate()
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut confirmed = 0_u32;
    let refused = loop {
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            scene.source.db.sql(&append(confirmed))
        }));
        match told {
            Ok(_) => confirmed += 1,
            Err(why) => break why.downcast_ref::<String>().cloned().unwrap_or_default(),
        }
        assert!(confirmed < 100_000);
    };
    assert!(child.wait().unwrap().success());
    assert!(
        refused.contains("denied") || refused.contains("does not exist"),
        "{refused}"
    );
    let there = scene
        .target
        .sql_in(scene.tenant, "SELECT count(*) FROM audit_record");
    assert_eq!(there, (1_200 + confirmed).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_moved_away_can_come_back() {
    let scene = Scene::new().await;
    let content = scene.source.content(scene.tenant);
    assert!(scene.relocate().output().unwrap().status.success());
    let back = Scene {
        source: scene.target,
        target: scene.source,
        ..scene
    };
    let moved = back.relocate().output().unwrap();
    assert_eq!(moved.status.code(), Some(0), "{}", stderr(&moved));
    assert_eq!(back.target.content(back.tenant), content);
    assert_eq!(back.target.state(back.tenant), "active");
    back.opens_at_the_destination().await;
}
