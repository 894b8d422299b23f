//! The end of a tenant's keys.

use std::time::{Duration, Instant};

use proto::vault::v1 as pb;
use tonic::Code;

use crate::{
    heads::signed,
    world::{World, eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn after_the_destruction_nothing_opens_anywhere_and_a_signature_says_so() {
    let world = World::new();
    let (vault, other) = (world.vault(&[]).await, world.vault(&[]).await);
    let (owner, neighbour) = (world.tenant().await, world.tenant().await);
    let tenant = owner.tenant();
    let (place, theirs) = (owner.sink(1), neighbour.sink(1));
    let sealed = vault.seal(&place, "hunter2").await;
    world.keep(&place, &sealed);
    let kept = vault.seal(&theirs, "theirs").await;
    vault.ask_as(&owner, pb::RotateKeyRequest {}).await.unwrap();
    eventually("all to be sealed anew", async || {
        (world.under(tenant) == "2|1").then_some(())
    })
    .await;
    let envelopes = [sealed.envelope.clone(), world.kept(&place)];
    for envelope in &envelopes {
        for vault in [&vault, &other] {
            assert_eq!(vault.open(&place, envelope).await.unwrap(), "hunter2");
        }
    }
    let wrapped = world.db.sql(&format!(
        "SELECT encode(wrapped, 'hex') FROM vault.data_key WHERE tenant_id = '{tenant}' ORDER BY version"
    ));
    assert_eq!(wrapped.lines().count(), 2);

    let request = pb::DestroyTenantKeysRequest {
        tenant_id: tenant.to_string(),
    };
    let certificate = vault.ask(request.clone()).await.unwrap().certificate.unwrap();
    let destroyed = Instant::now();
    // The other replica has the key in its cache: for a second at most.
    loop {
        let began = Instant::now();
        match other.open(&place, &envelopes[1]).await {
            Ok(_) => assert!(
                began < destroyed + Duration::from_secs(1),
                "opened a second later"
            ),
            Err(no) => {
                assert_eq!(
                    (no.code, no.reason.as_str()),
                    (Code::FailedPrecondition, "SECRET_UNREADABLE")
                );
                break;
            }
        }
    }
    let third = world.vault(&[]).await;
    for vault in [&vault, &other, &third] {
        for envelope in &envelopes {
            let no = vault.open(&place, envelope).await.unwrap_err();
            assert_eq!(no.reason, "SECRET_UNREADABLE");
        }
    }
    assert_eq!(third.open(&theirs, &kept.envelope).await.unwrap(), "theirs");

    // The proof.
    assert!(
        signed(
            &vault,
            &certificate.statement,
            &certificate.signature,
            &certificate.key_id
        )
        .await
    );
    let said: serde_json::Value = serde_json::from_str(&certificate.statement).unwrap();
    assert_eq!(said["type"], "keys-destroyed");
    assert_eq!(said["tenant"], tenant.to_string());
    let digests: Vec<String> = said["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["sha256"].as_str().unwrap().to_owned())
        .collect();
    let expected: Vec<String> = wrapped
        .lines()
        .map(|line| {
            world
                .db
                .sql(&format!("SELECT encode(sha256(decode('{line}', 'hex')), 'hex')"))
        })
        .collect();
    assert_eq!(digests, expected);
    for vault in [&vault, &other] {
        let again = vault.ask(request.clone()).await.unwrap().certificate.unwrap();
        assert_eq!(again, certificate);
    }

    // Nothing of the keys is left, and none is made again.
    let dump = String::from_utf8(world.db.dump()).unwrap();
    for line in wrapped.lines() {
        assert!(!dump.contains(line));
    }
    let seal = pb::SealSecretRequest {
        place: Some(place.clone()),
        value: b"x".to_vec().into(),
        form: 0,
    };
    let no = vault.ask(seal).await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::FailedPrecondition, "TENANT_KEYS_DESTROYED")
    );
    let no = vault.ask_as(&owner, pb::RotateKeyRequest {}).await.unwrap_err();
    assert_eq!(no.reason, "TENANT_KEYS_DESTROYED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_without_keys_gets_its_certificate_too() {
    let world = World::new();
    let vault = world.vault(&[]).await;
    let owner = world.tenant().await;
    let request = pb::DestroyTenantKeysRequest {
        tenant_id: owner.tenant().to_string(),
    };
    let certificate = vault.ask(request).await.unwrap().certificate.unwrap();
    assert!(certificate.statement.contains("\"keys\":[]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_keys_travel_and_the_place_they_left_has_none() {
    let (here, there) = (World::new(), World::new());
    let (vault, destination) = (here.vault(&[]).await, there.vault(&[]).await);
    let owner = here.tenant().await;
    let tenant = owner.tenant();
    let place = owner.sink(1);
    let first = vault.seal(&place, "hunter2").await;
    vault.ask_as(&owner, pb::RotateKeyRequest {}).await.unwrap();
    let head = pb::SignAuditHeadRequest {
        tenant_id: tenant.to_string(),
        size: 7,
        hash: vec![7; 32].into(),
    };
    vault.ask(head.clone()).await.unwrap();

    let (from, to) = (here.operator().await, there.operator().await);
    let keys = from.export_tenant_keys(tenant).await.unwrap();
    assert!(!format!("{keys:?}").contains('['), "{keys:?}");
    let bytes = keys.to_bytes().unwrap();
    let keys = vault::operator::TenantKeys::from_bytes(bytes.expose()).unwrap();
    for _ in 0..2 {
        to.import_tenant_keys(tenant, &keys).await.unwrap();
    }
    from.forget_tenant_keys(tenant).await.unwrap();
    assert_eq!(
        destination.open(&place, &first.envelope).await.unwrap(),
        "hunter2"
    );
    let shorter = pb::SignAuditHeadRequest { size: 6, ..head };
    assert_eq!(
        destination.ask(shorter).await.unwrap_err().reason,
        "HEAD_NOT_AHEAD"
    );
    eventually("the keys to be forgotten", async || {
        vault.open(&place, &first.envelope).await.err()
    })
    .await;
    // And back.
    let keys = to.export_tenant_keys(tenant).await.unwrap();
    from.import_tenant_keys(tenant, &keys).await.unwrap();
    let opened = eventually("the keys to be back", async || {
        vault.open(&place, &first.envelope).await.ok()
    })
    .await;
    assert_eq!(opened, "hunter2");
    // Other keys are not taken over.
    let stranger = there.operator().await;
    let other = there.tenant().await;
    destination.seal(&other.sink(1), "x").await;
    let foreign = stranger.export_tenant_keys(other.tenant()).await.unwrap();
    assert!(to.import_tenant_keys(tenant, &foreign).await.is_err());
}
