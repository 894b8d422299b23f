//! Sealing and opening as service tenant does it.

use std::time::{Duration, Instant};

use proto::vault::v1 as pb;
use tonic::Code;
use types::TenantId;

use crate::world::{World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sealed_opens_in_its_place_and_in_no_other() {
    let world = World::new();
    let vault = world.vault(&[]).await;
    let (one, other) = (TenantId::fresh(), TenantId::fresh());
    // Every place: two tenants, records, fields, versions; both forms.
    let mut places = Vec::new();
    for tenant in [one, other] {
        for record in 0..25 {
            for field in ["secret", "other", "third", "s", "se"] {
                for version in [1, 2] {
                    for form in [pb::SecretForm::Fernet, pb::SecretForm::Aes256Gcm] {
                        let place = pb::SecretPlace {
                            field: field.to_owned(),
                            version,
                            ..crate::world::place(tenant, record)
                        };
                        places.push((place, form));
                    }
                }
            }
        }
    }
    assert_eq!(places.len(), 1_000);
    let mut sealed = Vec::new();
    for (number, (place, form)) in places.iter().enumerate() {
        let request = pb::SealSecretRequest {
            place: Some(place.clone()),
            value: format!("value {number}").into_bytes().into(),
            form: (*form).into(),
        };
        sealed.push(vault.ask(request).await.unwrap().envelope);
    }
    // Each in its own place, and in the places that are one step away in each direction.
    for (number, (place, _)) in places.iter().enumerate() {
        assert_eq!(
            vault.open(place, &sealed[number]).await.unwrap(),
            format!("value {number}")
        );
        for away in [1, 2, 4, 20, 500] {
            let elsewhere = &places[(number + away) % places.len()].0;
            if elsewhere != place {
                let no = vault.open(elsewhere, &sealed[number]).await.unwrap_err();
                assert_eq!(
                    (no.code, no.reason.as_str()),
                    (Code::FailedPrecondition, "SECRET_UNREADABLE")
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_sinks_secret_is_opened_for_a_service() {
    let world = World::new();
    let vault = world.vault(&[]).await;
    let tenant = TenantId::fresh();
    for kind in [
        pb::SecretKind::MysqlPassword,
        pb::SecretKind::ServiceToken,
        pb::SecretKind::SshKey,
        pb::SecretKind::Dsn,
        pb::SecretKind::TlsKey,
    ] {
        let place = pb::SecretPlace {
            kind: kind.into(),
            ..crate::world::place(tenant, 1)
        };
        let sealed = vault.seal(&place, "hunter2").await;
        let no = vault.open(&place, &sealed.envelope).await.unwrap_err();
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::PermissionDenied, "KIND_NOT_OPENED_HERE")
        );
        // Nor by calling it a sink's.
        let disguised = crate::world::place(tenant, 1);
        let no = vault.open(&disguised, &sealed.envelope).await.unwrap_err();
        assert_eq!(no.reason, "SECRET_UNREADABLE");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn query_seals_and_opens_keys_of_uploads_and_nothing_else() {
    let world = World::new();
    let vault = world.vault(&[]).await;
    let tenant = TenantId::fresh();
    let place = |kind: pb::SecretKind| pb::SecretPlace {
        kind: kind.into(),
        ..crate::world::place(tenant, 1)
    };
    let seal = |kind| pb::SealSecretRequest {
        place: Some(place(kind)),
        value: vec![9; 32].into(),
        form: pb::SecretForm::Aes256Gcm.into(),
    };
    let open = |place: &pb::SecretPlace, envelope: &str| pb::OpenUploadKeyRequest {
        place: Some(place.clone()),
        envelope: envelope.to_owned(),
    };
    let key = place(pb::SecretKind::UploadKey);
    let sealed = vault
        .ask_as_query(seal(pb::SecretKind::UploadKey))
        .await
        .unwrap()
        .envelope;
    let opened = vault.ask_as_query(open(&key, &sealed)).await.unwrap();
    assert_eq!(opened.value, vec![9; 32]);
    // In another place it does not open, and nobody else opens or seals one.
    let elsewhere = pb::SecretPlace {
        version: key.version + 1,
        ..key.clone()
    };
    let no = vault.ask_as_query(open(&elsewhere, &sealed)).await.unwrap_err();
    assert_eq!(no.reason, "SECRET_UNREADABLE");
    assert_eq!(
        vault.ask(open(&key, &sealed)).await.unwrap_err().reason,
        "CALLER_NOT_ALLOWED"
    );
    assert_eq!(
        vault.open(&key, &sealed).await.unwrap_err().reason,
        "KIND_NOT_OPENED_HERE"
    );
    for kind in [
        pb::SecretKind::MysqlPassword,
        pb::SecretKind::ServiceToken,
        pb::SecretKind::SshKey,
        pb::SecretKind::Dsn,
        pb::SecretKind::TlsKey,
        pb::SecretKind::SinkSecret,
    ] {
        let no = vault.ask_as_query(seal(kind)).await.unwrap_err();
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::PermissionDenied, "KIND_NOT_SEALED_HERE")
        );
        let sealed = vault.ask(seal(kind)).await.unwrap().envelope;
        let no = vault.ask_as_query(open(&place(kind), &sealed)).await.unwrap_err();
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::PermissionDenied, "KIND_NOT_OPENED_HERE")
        );
        // Nor by calling it a key of an upload.
        let no = vault.ask_as_query(open(&key, &sealed)).await.unwrap_err();
        assert_eq!(no.reason, "SECRET_UNREADABLE");
    }
    let no = vault.ask(seal(pb::SecretKind::UploadKey)).await.unwrap_err();
    assert_eq!(no.reason, "KIND_NOT_SEALED_HERE");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_sealed_is_told_with_its_field() {
    let world = World::new();
    let vault = world.vault(&[]).await;
    let place = crate::world::place(TenantId::fresh(), 1);
    let request = |place: &pb::SecretPlace, length: usize| pb::SealSecretRequest {
        place: Some(place.clone()),
        value: vec![b'x'; length].into(),
        form: 0,
    };
    for (request, field) in [
        (request(&place, 0), "value"),
        (request(&place, 65_537), "value"),
        (
            pb::SealSecretRequest {
                form: 9,
                ..request(&place, 1)
            },
            "form",
        ),
        (
            pb::SealSecretRequest {
                place: None,
                ..request(&place, 1)
            },
            "place",
        ),
    ] {
        let no = vault.ask(request).await.unwrap_err();
        assert_eq!(
            (no.code, no.reason.as_str(), no.field.as_str()),
            (Code::InvalidArgument, "FIELD_INVALID", field)
        );
    }
    let largest = vault.ask(request(&place, 65_536)).await.unwrap();
    assert_eq!(vault.open(&place, &largest.envelope).await.unwrap().len(), 65_536);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_without_its_root_is_sealed_and_everything_else_of_it_runs() {
    let world = World::new();
    let sealed = world.vault_in(&["--root-key="], &[]).await;
    let place = crate::world::place(TenantId::fresh(), 1);
    let no = eventually("an answer", async || {
        let request = pb::SealSecretRequest {
            place: Some(place.clone()),
            value: b"x".to_vec().into(),
            form: 0,
        };
        let no = sealed.ask(request).await.unwrap_err();
        (no.reason != "PEER_UNREACHABLE").then_some(no)
    })
    .await;
    assert_eq!((no.code, no.reason.as_str()), (Code::Unavailable, "VAULT_SEALED"));
    let head = pb::SignAuditHeadRequest {
        tenant_id: place.tenant_id.clone(),
        size: 1,
        hash: vec![7; 32].into(),
    };
    assert_eq!(sealed.ask(head).await.unwrap_err().reason, "VAULT_SEALED");
    // What needs no key is answered.
    let owner = world.tenant().await;
    let encryption = sealed.ask_as(&owner, pb::GetEncryptionRequest {}).await.unwrap();
    assert!(encryption.versions.is_empty());
    assert!(
        sealed
            .ask_as_anyone(pb::GetSigningKeysRequest {})
            .await
            .unwrap()
            .keys
            .is_empty()
    );
    assert!(
        sealed.metrics().await.contains("vault_sealed"),
        "{}",
        sealed.metrics().await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_root_opens_nothing() {
    let world = World::new();
    let vault = world.vault(&[]).await;
    let place = crate::world::place(TenantId::fresh(), 1);
    let sealed = vault.seal(&place, "hunter2").await;
    let other = world
        .vault_in(&["--root-key=AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="], &[])
        .await;
    let elsewhere = world.vault_in(&[], &[]).await;
    let no = eventually("an answer", async || {
        let no = other.open(&place, &sealed.envelope).await.unwrap_err();
        (no.reason != "PEER_UNREACHABLE").then_some(no)
    })
    .await;
    assert_eq!(no.reason, "VAULT_SEALED");
    let opened = eventually("the second replica", async || {
        elsewhere.open(&place, &sealed.envelope).await.ok()
    })
    .await;
    assert_eq!(opened, "hunter2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_vault_is_open_within_two_seconds_and_opens_what_was_sealed_before() {
    let world = World::new();
    let first = world.vault(&[]).await;
    let place = crate::world::place(TenantId::fresh(), 1);
    let sealed = first.seal(&place, "hunter2").await;
    first.stop.cancel();
    let began = Instant::now();
    let second = world.vault_in(&[], &[]).await;
    let opened = eventually("the second one", async || {
        second.open(&place, &sealed.envelope).await.ok()
    })
    .await;
    assert_eq!(opened, "hunter2");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_in_no_dump_and_no_metric() {
    let world = World::new();
    let vault = world.vault(&[]).await;
    let owner = world.tenant().await;
    let canary = "canary-3f9d1c7b5a";
    let mut kept = Vec::new();
    for number in 0..5 {
        let place = owner.sink(number);
        let sealed = vault.seal(&place, &format!("{canary}-{number}")).await;
        world.keep(&place, &sealed);
        kept.push((place, sealed));
    }
    vault.ask_as(&owner, pb::RotateKeyRequest {}).await.unwrap();
    eventually("all to be sealed anew", async || {
        (world.under(owner.tenant()) == "2|5").then_some(())
    })
    .await;
    for (place, _) in &kept {
        let opened = vault.open(place, &world.kept(place)).await.unwrap();
        assert!(opened.starts_with(canary));
    }
    let dump = String::from_utf8(world.db.dump()).unwrap();
    assert!(
        dump.contains(&world.kept(&kept[0].0)),
        "the search finds what is there"
    );
    let base64 = |text: &str| {
        use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
        STANDARD_NO_PAD.encode(text)
    };
    for text in [
        canary.to_owned(),
        base64(canary)[..16].to_owned(),
        crate::world::ROOT.to_owned(),
    ] {
        assert!(!dump.contains(&text), "{text}");
        assert!(!vault.metrics().await.contains(&text));
    }
}
