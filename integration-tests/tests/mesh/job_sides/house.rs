//! Two tenants in one mesh, each with a server, an agent beside it, and rows.

use std::sync::{Arc, Weak};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Engine, Server};
use tokio::{sync::Mutex, task::block_in_place};

use super::rows::Rows;
use crate::{
    apart::Apart,
    beside::{Beside, caught_up, register},
    mesh::{Caller, Place},
    person::Person,
    uploaded,
};

/// One tenant.
pub(super) struct Side {
    pub(super) tenant: String,
    /// `srv_…` of the server `shop`.
    pub(super) server: String,
    /// Its log, uploaded: `upl_…`
    pub(super) upload: String,
    /// Another server's name, which only this tenant has.
    pub(super) cellar: String,
    pub(super) rows: Rows,
    /// An undo plan: `pln_…`
    pub(super) plan: String,
    pub(super) agent: Beside,
    pub(super) database: Server,
    session: Caller,
    keys: [String; 3],
}

impl Side {
    /// A tenant whose agent has stored everything that its database did.
    pub(super) async fn new(place: &Place, folder: &TempDir, name: &str) -> Self {
        let mut owner = Person::new(place, name).await;
        let tenant = owner.found_tenant(name).await;
        let agent = Beside::start(place, &mut owner, name).await;
        let database = block_in_place(|| Server::private(Engine::Mariadb, &folder.path().join(name), &[]));
        let rows = block_in_place(|| Rows::prepare(&database));
        let server = register(&mut owner, "shop", &database).await;
        let cellar = format!("{name}-cellar");
        let nowhere =
            json!({"name": cellar, "host": "127.0.0.1", "port": testkit::free_port(), "username": "trail"});
        owner
            .caller
            .post("/v1/servers", json!({"server": nowhere}))
            .await
            .ok();
        caught_up(&owner, "shop", &database).await;
        block_in_place(|| rows.live(&database));
        caught_up(&owner, "shop", &database).await;
        let (file, log) = block_in_place(|| {
            let (file, _) = database.position();
            database.rotate();
            let log = std::fs::read(database.binlog(&file)).expect("a log");
            (file, log)
        });
        let upload = uploaded::upload(&owner.caller, &format!("{name}-log"), &file, log).await;
        let body = json!({"filter": {"tables": [{"schema": "shop", "table": "orders"}]}});
        let planned = owner.caller.post("/v1/servers/shop/undo-plans", body).await.ok();
        let mut keys = Vec::new();
        for role in ["ROLE_OWNER", "ROLE_ANALYST", "ROLE_OPERATOR"] {
            keys.push(key(&mut owner, role).await);
        }
        let keys: [String; 3] = keys.try_into().expect("three keys");
        Self {
            tenant,
            server,
            upload,
            cellar,
            rows,
            plan: planned["plan"]["id"].as_str().expect("an id").to_owned(),
            agent,
            database,
            session: owner.caller,
            keys,
        }
    }

    /// Calls with an owner's key.
    pub(super) fn owner(&self, place: &Place) -> Caller {
        self.keys(place)[0].clone()
    }

    /// Those who call with an owner's, an analyst's and an operator's key.
    pub(super) fn keys(&self, place: &Place) -> [Caller; 3] {
        let nobody = Caller::nobody(place);
        self.keys.each_ref().map(|key| nobody.with(key))
    }

    /// The owner in person.
    pub(super) fn session(&self, place: &Place) -> Caller {
        Caller::nobody(place)
            .with(&self.session.credential)
            .within(&self.tenant)
    }

    /// Where the transactions of a server begin, oldest first.
    pub(super) async fn transactions(&self, place: &Place) -> Vec<String> {
        let body = json!({"order": "ORDER_OLDEST"});
        let found = self
            .owner(place)
            .post("/v1/servers/shop/changes:query", body)
            .await
            .ok();
        let changes = found["changes"].as_array().expect("changes");
        let mut all: Vec<String> = changes.iter().map(transaction).collect();
        all.dedup();
        all
    }
}

fn transaction(change: &Value) -> String {
    let position = &change["position"];
    format!(
        "{}:{}",
        position["file"].as_str().expect("a file"),
        position["offset"]
    )
}

/// An API key of a role.
async fn key(owner: &mut Person, role: &str) -> String {
    let body = json!({"name": role.to_lowercase().replace('_', "-"), "role": role});
    let made = owner.confirmed(Method::POST, "/v1/keys", Some(body)).await.ok();
    made["secret"].as_str().expect("a key").to_owned()
}

/// A mesh with two tenants.
pub(super) struct House {
    pub(super) apart: Apart,
    pub(super) sides: [Side; 2],
    _folder: TempDir,
}

impl House {
    /// The one of all tests that run at this time; it goes with the last of them.
    pub(super) async fn shared() -> Arc<Self> {
        static HOUSE: Mutex<Weak<House>> = Mutex::const_new(Weak::new());
        let mut shared = HOUSE.lock().await;
        if let Some(house) = shared.upgrade() {
            return house;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let apart = block_in_place(Apart::start);
        let (one, other) = tokio::join!(
            Side::new(&apart.place, &folder, "alice"),
            Side::new(&apart.place, &folder, "bob")
        );
        let house = Arc::new(Self {
            apart,
            sides: [one, other],
            _folder: folder,
        });
        *shared = Arc::downgrade(&house);
        house
    }
}
