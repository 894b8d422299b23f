//! Rotation while everything is in use: two vaults in this process, over a real database, without the network before them.

use std::{
    collections::HashMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Parser;
use opentelemetry::metrics::MeterProvider as _;
use testkit::{Database, Postgres};
use tokio_util::sync::CancellationToken;
use types::{Errand, Region, TenantId};

use crate::{
    Cell, Config, Core,
    domain::place::{Form, Kind, Place},
    store,
};

const SETS: [pg::migrate::Set; 3] = [auth::MIGRATIONS, tenant::MIGRATIONS, crate::MIGRATIONS];

/// What is aimed at: operations a second, of which one in four seals.
const PER_SECOND: u64 = 2_000;

/// For how long.
const LASTS: Duration = Duration::from_secs(6);

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    config: Config,
}

async fn pool(db: &Database<'_>, service: &'static str) -> pg::Pool {
    let mut own = pg::Settings::new(&db.url(&format!("trailmesh_{service}"))).unwrap();
    own.database_ca_file = Some(Postgres::shared().ca.clone());
    pg::Pool::open(&own, service, false).await.unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// A vault at work, all but its sockets.
async fn vault(db: &Database<'_>, stop: &CancellationToken, rotates: bool) -> Core {
    let config = Flags::parse_from([
        "vault",
        "--root-key=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "--rotation-pause=50ms",
        "--settle=4s",
    ])
    .config;
    let cell = Cell {
        region: Region::Eu,
        name: "1".to_owned(),
    };
    let meter = opentelemetry::metrics::noop::NoopMeterProvider::new().meter("test");
    let core = crate::core(pool(db, "vault").await, &config, cell, &meter).unwrap();
    core.keys.unseal().await.unwrap();
    tokio::spawn(core.keys.clone().watch(stop.clone()));
    if rotates {
        tokio::spawn(core.rotation.clone().run(stop.clone()));
    }
    core
}

/// What is kept of each place now, as its owner has just read it.
type Kept = Arc<RwLock<Vec<(Place, String)>>>;

fn read(db: &Database<'_>, tenants: &[TenantId], kept: &Kept) {
    let mut rows = Vec::new();
    for tenant in tenants {
        let text = db.sql(&format!(
            "SELECT server_id, kind, version, envelope FROM t_{}.credential",
            tenant.digits()
        ));
        for line in text.lines() {
            let parts: Vec<&str> = line.split('|').collect();
            let place = Place {
                tenant: *tenant,
                kind: parts[1].parse().unwrap(),
                record: parts[0].to_owned(),
                field: "value".to_owned(),
                version: parts[2].parse().unwrap(),
            };
            rows.push((place, parts[3].to_owned()));
        }
    }
    *kept.write().unwrap() = rows;
}

/// A tenant with servers, each with a credential.
async fn fill(db: &Database<'static>, core: &Core, count: usize) -> TenantId {
    let tenant = TenantId::fresh();
    let own = pool(db, "tenant").await;
    let mut tx = own.shared(soon()).await.unwrap();
    pg::create_tenant_schema(&mut tx, tenant).await.unwrap();
    tx.commit().await.unwrap();
    let errand = Errand {
        tenant,
        deadline: soon(),
    };
    let mut tx = core.pool.errand(&errand).await.unwrap();
    for number in 0..count {
        let place = Place {
            tenant,
            kind: Kind::MysqlPassword,
            record: format!("srv_{number}"),
            field: "value".to_owned(),
            version: 1,
        };
        let form = if number % 2 == 0 {
            Form::Fernet
        } else {
            Form::Aes256Gcm
        };
        let sealed = core
            .keys
            .seal(&place, value(&place).as_bytes(), form, soon())
            .await
            .unwrap();
        sqlx::query(
            "WITH s AS (INSERT INTO server (id, name, host, port, username, tls_mode, pool_id)
                 VALUES ($1, $1, 'h', 3306, 'u', 'required', 'agp_1'))
             SELECT 1",
        )
        .bind(&place.record)
        .execute(&mut *tx)
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO credential (server_id, kind, envelope, key_version) VALUES ($1, 'mysql_password', $2, $3)",
        )
        .bind(&place.record)
        .bind(&sealed.envelope)
        .bind(sealed.key_version)
        .execute(&mut *tx)
        .await
        .unwrap();
    }
    tx.commit().await.unwrap();
    tenant
}

/// What is sealed for a place.
fn value(place: &Place) -> String {
    format!("{} {} {}", place.tenant, place.record, place.version)
}

/// Opens and seals at a pace; each operation is checked.
async fn work(core: Core, kept: Kept, done: Arc<AtomicU64>, stop: Arc<AtomicBool>, start: usize) {
    let mut at = start;
    let mut pace = tokio::time::interval(Duration::from_millis(4));
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        for _ in 0..PER_SECOND / 2 / 250 {
            at += 1;
            let (place, envelope) = {
                let kept = kept.read().unwrap();
                kept[at * 7 % kept.len()].clone()
            };
            let opened = core.keys.open(&place, &envelope, soon()).await;
            let opened = opened.unwrap_or_else(|error| panic!("{error}: {envelope}"));
            assert_eq!(opened.expose(), value(&place).as_bytes());
            done.fetch_add(1, Ordering::Relaxed);
            if at.is_multiple_of(4) {
                let sealed = core
                    .keys
                    .seal(&place, value(&place).as_bytes(), Form::Fernet, soon())
                    .await
                    .unwrap();
                done.fetch_add(1, Ordering::Relaxed);
                if at.is_multiple_of(400) {
                    store_new(&core, &place, &sealed).await;
                }
            }
        }
    }
}

/// As the owner of a record does when its value is set: whatever is there, the new one replaces it.
async fn store_new(core: &Core, place: &Place, sealed: &crate::keys::Sealed) {
    let errand = Errand {
        tenant: place.tenant,
        deadline: soon(),
    };
    let mut tx = core.pool.errand(&errand).await.unwrap();
    sqlx::query("UPDATE credential SET envelope = $2, key_version = $3 WHERE server_id = $1")
        .bind(&place.record)
        .bind(&sealed.envelope)
        .bind(sealed.key_version)
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

fn database() -> Database<'static> {
    let postgres = Postgres::shared();
    postgres.database(&pg::migrate::fingerprint(&SETS), |url| async move {
        let options = pg::migrate::Options {
            ca_file: Some(Postgres::shared().ca.clone()),
            ..pg::migrate::Options::default()
        };
        pg::migrate::run(&url, &SETS, &options).await.unwrap();
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kek_of_before_a_restore_wraps_nothing_after_it() {
    let (db, stop) = (database(), CancellationToken::new());
    let before = vault(&db, &stop, false).await;
    assert_eq!(before.keys.new_kek(1).await.unwrap(), 2);
    // The database of the moment before; and another vault makes another second KEK.
    db.sql(
        "DELETE FROM vault.kek WHERE version = 2;
         UPDATE vault.kek SET state = 'active', supersede_time = NULL WHERE version = 1",
    );
    let after = vault(&db, &stop, false).await;
    assert_eq!(after.keys.new_kek(1).await.unwrap(), 2);
    let place = Place {
        tenant: TenantId::fresh(),
        kind: Kind::SinkSecret,
        record: "asn_1".to_owned(),
        field: "secret".to_owned(),
        version: 1,
    };
    let sealed = before
        .keys
        .seal(&place, b"kept", Form::Fernet, soon())
        .await
        .unwrap();
    let opened = after.keys.open(&place, &sealed.envelope, soon()).await.unwrap();
    assert_eq!(opened.expose(), b"kept");
    let mut tx = before.pool.shared(soon()).await.unwrap();
    let own = before.keys.seal_own(&mut tx, "test", "1", b"own").await.unwrap();
    tx.commit().await.unwrap();
    let opened = after.keys.open_own("test", "1", &own, soon()).await.unwrap();
    assert_eq!(opened.expose(), b"own");
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_opens_while_all_keys_change() {
    let db = database();
    let stop = CancellationToken::new();
    let vaults = [vault(&db, &stop, true).await, vault(&db, &stop, true).await];
    let mut tenants = Vec::new();
    for _ in 0..3 {
        tenants.push(fill(&db, &vaults[0], 100).await);
    }
    let kept: Kept = Arc::default();
    read(&db, &tenants, &kept);

    let (done, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let workers: Vec<_> = vaults
        .iter()
        .enumerate()
        .map(|(number, core)| {
            tokio::spawn(work(
                core.clone(),
                kept.clone(),
                done.clone(),
                end.clone(),
                number * 50,
            ))
        })
        .collect();
    let began = Instant::now();
    let mut rotations = 0;
    while began.elapsed() < LASTS {
        db.sql(
            "UPDATE vault.data_key SET create_time = now() - interval '31 days' WHERE state = 'active';
             UPDATE vault.kek SET create_time = now() - interval '91 days' WHERE state = 'active'",
        );
        rotations += 1;
        for _ in 0..5 {
            let (tenants, kept) = (tenants.clone(), kept.clone());
            tokio::task::block_in_place(|| read(&db, &tenants, &kept));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let took = began.elapsed();
    end.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    let count = done.load(Ordering::Relaxed);
    let rate = count as f64 / took.as_secs_f64();
    eprintln!(
        "{count} operations, {rate:.0} a second, while all keys changed {rotations} times: none failed"
    );

    // And in the end all is under the newest version, and the older ones are gone.
    for tenant in &tenants {
        testkit_eventually(&db, *tenant).await;
    }
    read(&db, &tenants, &kept);
    let rows = kept.read().unwrap().clone();
    for (place, envelope) in rows {
        let opened = vaults[1].keys.open(&place, &envelope, soon()).await.unwrap();
        assert_eq!(opened.expose(), value(&place).as_bytes());
    }
    stop.cancel();
}

async fn testkit_eventually(db: &Database<'_>, tenant: TenantId) {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let states = db.sql(&format!(
            "SELECT state, count(*) FROM vault.data_key WHERE tenant_id = '{tenant}' GROUP BY 1"
        ));
        let states: HashMap<&str, &str> = states.lines().filter_map(|line| line.split_once('|')).collect();
        if states.len() == 2 && states.contains_key("destroyed") && states.get("active") == Some(&"1") {
            return;
        }
        assert!(Instant::now() < deadline, "{states:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Goes with `./dev bench`-like runs: how fast one core opens and seals, in this build.
#[tokio::test]
async fn a_rough_measure_of_opening_and_of_sealing_anew() {
    let key = crate::keys::DataKey {
        tenant: TenantId::fresh(),
        version: 1,
        key: crate::domain::cipher::Key::fresh().unwrap(),
    };
    let place = Place {
        tenant: key.tenant,
        kind: Kind::MysqlPassword,
        record: "srv_1".to_owned(),
        field: "value".to_owned(),
        version: 1,
    };
    for form in [Form::Fernet, Form::Aes256Gcm] {
        let sealed = crate::keys::seal_with(&key, &place, form, b"correct horse battery staple").unwrap();
        let envelope = sealed.envelope.parse().unwrap();
        let began = Instant::now();
        let mut count = 0_u32;
        while began.elapsed() < Duration::from_millis(200) {
            assert!(crate::keys::open_with(&key, &place, &envelope).is_ok());
            count += 1;
        }
        let each = began.elapsed().as_secs_f64() / f64::from(count) * 1e6;
        eprintln!("{form:?}: {each:.1} µs to open, once the key is there");
    }
    // The tables are still those of the crate: a renamed one would be lost silently.
    let names: Vec<_> = store::sealed::SEALED.iter().map(|sealed| sealed.table).collect();
    assert_eq!(names, ["credential", "audit_sink", "upload_key"]);
}
