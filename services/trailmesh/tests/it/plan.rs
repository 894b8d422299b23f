//! `trailmesh plan`: what a tenant has bought, by the operator's word.

use std::process::{Command, Output, Stdio};

use pg::migrate::Set;
use testkit::{Database, Postgres};
use types::TenantId;

use crate::text;

const SETS: [Set; 5] = [
    auth::MIGRATIONS,
    tenant::MIGRATIONS,
    vault::MIGRATIONS,
    query::MIGRATIONS,
    recovery::MIGRATIONS,
];

/// `trailmesh plan …` with a database.
fn plan(db: &Database<'_>, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trailmesh"))
        .arg("plan")
        .args(arguments)
        .env_clear()
        .env("TRAILMESH_REGION", "eu")
        .env("TRAILMESH_DATABASE_URL", db.url("trailmesh_tenant"))
        .env("TRAILMESH_DATABASE_CA_FILE", &Postgres::shared().ca)
        .stdin(Stdio::null())
        .output()
        .expect("trailmesh runs")
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn a_plan_is_set_and_shown() {
    let db = Postgres::shared().database(&pg::migrate::fingerprint(&SETS), |url| async move {
        let options = pg::migrate::Options {
            ca_file: Some(Postgres::shared().ca.clone()),
            ..pg::migrate::Options::default()
        };
        pg::migrate::run(&url, &SETS, &options).await.expect("migrations");
    });
    let id = TenantId::fresh();
    let (tenant, place) = (id.to_string(), format!("t_{}", id.digits()));
    db.sql(&format!(
        "INSERT INTO tenant.tenant (id, name, region, cell) VALUES ('{tenant}', 'Acme', 'eu', '1');
         INSERT INTO tenant.member (user_id, tenant_id, role) VALUES ('usr_1', '{tenant}', 'owner')"
    ));
    db.sql(&format!(
        "SELECT trailmesh.enter('shared', '-'); SELECT trailmesh.create_tenant_schema('{place}')"
    ));

    let (code, words) = said(&plan(&db, &["show", &tenant]));
    assert_eq!(code, Some(0), "{words}");
    assert!(
        words.starts_with(&format!("{tenant}: free (agreed: free)\n")),
        "{words}"
    );
    assert!(
        words.contains("servers        0 of 2\n") && words.contains("members        1 of 3\n"),
        "{words}"
    );

    let (code, words) = said(&plan(&db, &["set", &tenant, "pro"]));
    assert_eq!(code, Some(0), "{words}");
    assert!(
        words.contains(&format!("{tenant}: pro (agreed: pro)\n")),
        "{words}"
    );
    db.sql(&format!(
        "INSERT INTO {place}.server (id, name, host, port, username, tls_mode, pool_id)
             SELECT 's' || n, 's' || n, 'h', 1, '', 'required', 'p' FROM generate_series(1, 5) AS n"
    ));
    let (code, words) = said(&plan(&db, &["set", &tenant, "free"]));
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains("servers        5 of 2, 3 frozen\n"), "{words}");

    for (arguments, expected) in [
        (["show", "nonsense", ""], 2),
        (["set", &tenant, "gold"], 2),
        (["show", &TenantId::fresh().to_string(), ""], 1),
    ] {
        let arguments: Vec<&str> = arguments.into_iter().filter(|word| !word.is_empty()).collect();
        let (code, words) = said(&plan(&db, &arguments));
        assert_eq!(code, Some(expected), "{arguments:?}: {words}");
    }
}
