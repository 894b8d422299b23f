//! Heads of audit chains.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proto::vault::v1 as pb;
use ring::{
    digest::{SHA256, digest},
    signature::{ED25519, UnparsedPublicKey},
};
use tonic::Code;
use types::TenantId;

use crate::world::{Vault, World};

/// Whether a statement is signed by one of the vault's published keys.
pub(crate) async fn signed(vault: &Vault, statement: &str, signature: &str, key_id: &str) -> bool {
    let keys = vault
        .ask_as_anyone(pb::GetSigningKeysRequest {})
        .await
        .unwrap()
        .keys;
    let key = keys.iter().find(|key| key.key_id == key_id).unwrap();
    let public = URL_SAFE_NO_PAD.decode(&key.ed25519).unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    UnparsedPublicKey::new(&ED25519, public)
        .verify(statement.as_bytes(), &signature)
        .is_ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn request(tenant: TenantId, size: i64, byte: u8) -> pb::SignAuditHeadRequest {
    pb::SignAuditHeadRequest {
        tenant_id: tenant.to_string(),
        size,
        hash: vec![byte; 32].into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_signed_only_if_it_is_ahead_of_the_last_one() {
    let world = World::new();
    let vault = world.vault(&[]).await;
    let tenant = TenantId::fresh();
    let none = pb::GetAuditHeadRequest {
        tenant_id: tenant.to_string(),
    };
    assert!(vault.ask(none.clone()).await.unwrap().head.is_none());

    let first = vault.ask(request(tenant, 10, 1)).await.unwrap().head.unwrap();
    assert!(signed(&vault, &first.statement, &first.signature, &first.key_id).await);
    assert!(
        !signed(
            &vault,
            &first.statement.replace("10", "11"),
            &first.signature,
            &first.key_id
        )
        .await
    );
    let said: serde_json::Value = serde_json::from_str(&first.statement).unwrap();
    assert_eq!(said["type"], "audit-head");
    assert_eq!(said["tenant"], tenant.to_string());
    assert_eq!(
        (said["region"].as_str(), said["cell"].as_str()),
        (Some("eu"), Some("1"))
    );
    assert_eq!(
        (said["size"].as_i64(), said["prev"].as_str()),
        (Some(10), Some(""))
    );
    assert_eq!(said["hash"], "01".repeat(32));

    // Asked again: the same one, to the byte.
    let again = vault.ask(request(tenant, 10, 1)).await.unwrap().head.unwrap();
    assert_eq!(again, first);
    for (size, byte) in [(10, 2), (9, 1), (1, 1)] {
        let no = vault.ask(request(tenant, size, byte)).await.unwrap_err();
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::FailedPrecondition, "HEAD_NOT_AHEAD")
        );
    }
    let second = vault.ask(request(tenant, 11, 2)).await.unwrap().head.unwrap();
    let said: serde_json::Value = serde_json::from_str(&second.statement).unwrap();
    assert_eq!(
        said["prev"],
        hex(digest(&SHA256, first.statement.as_bytes()).as_ref())
    );
    assert_eq!(vault.ask(none).await.unwrap().head, Some(second));
    // Another tenant's chain is another's.
    assert!(vault.ask(request(TenantId::fresh(), 1, 9)).await.is_ok());
    // Nor does the vault's own role put the head back.
    let back = format!("BEGIN; UPDATE vault.audit_head SET size = 5 WHERE tenant_id = '{tenant}'; COMMIT");
    let admin = world.db.admin_url();
    let refused = std::process::Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"])
        .arg(format!("--dbname={admin}"))
        .arg(format!("--command={back}"))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("only moves ahead"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_heads_at_once_the_signed_ones_make_one_chain() {
    let world = World::new();
    let vaults = [world.vault(&[]).await, world.vault(&[]).await];
    let tenant = TenantId::fresh();
    let asked = (0..100_i64).map(|number| {
        let vault = &vaults[usize::try_from(number % 2).unwrap()];
        async move { vault.ask(request(tenant, number % 10 + 1, number as u8)).await }
    });
    let answers = futures_util::future::join_all(asked).await;
    let mut heads: Vec<serde_json::Value> = Vec::new();
    for answer in answers {
        match answer {
            Ok(answer) => heads.push(serde_json::from_str(&answer.head.unwrap().statement).unwrap()),
            Err(no) => assert_eq!(no.reason, "HEAD_NOT_AHEAD"),
        }
    }
    // No two different heads of one size: nothing was forked.
    let mut sizes: Vec<i64> = heads.iter().map(|head| head["size"].as_i64().unwrap()).collect();
    sizes.sort_unstable();
    let count = sizes.len();
    sizes.dedup();
    assert_eq!(sizes.len(), count);
    let mut before: Vec<&str> = heads.iter().map(|head| head["prev"].as_str().unwrap()).collect();
    before.sort_unstable();
    before.dedup();
    assert_eq!(before.len(), count, "each continues another one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_head_is_told_with_its_field() {
    let world = World::new();
    let vault = world.vault(&[]).await;
    let tenant = TenantId::fresh();
    for (request, field) in [
        (
            pb::SignAuditHeadRequest {
                tenant_id: "acme".to_owned(),
                ..request(tenant, 1, 1)
            },
            "tenant_id",
        ),
        (request(tenant, 0, 1), "size"),
        (
            pb::SignAuditHeadRequest {
                hash: vec![1; 31].into(),
                ..request(tenant, 1, 1)
            },
            "hash",
        ),
    ] {
        let no = vault.ask(request).await.unwrap_err();
        assert_eq!((no.code, no.field.as_str()), (Code::InvalidArgument, field));
    }
}
