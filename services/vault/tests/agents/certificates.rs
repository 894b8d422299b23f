//! What is issued, as others see it; renewal; and certificates that do not count.

use proto::vault::v1 as pb;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use tonic::Code;

use crate::world::{Agent, Keys, World, file, openssl};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssl_finds_a_client_certificate_and_nothing_else() {
    let world = World::new().await;
    let anna = world.owner().await;
    let agent = anna.enrolled("a1", "").await;
    let (leaf, authority) = agent.certificate.chain.split_at(
        agent
            .certificate
            .chain
            .rfind("-----BEGIN CERTIFICATE-----")
            .unwrap(),
    );
    let leaf = file(&world, "leaf.pem", leaf);
    let authority = file(&world, "authority.pem", authority);
    let (leaf, authority) = (leaf.to_str().unwrap(), authority.to_str().unwrap());
    let verify = |purpose: &str| {
        openssl(&[
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            authority,
            leaf,
        ])
    };
    verify("sslclient").unwrap();
    for purpose in ["sslserver", "smimesign", "crlsign"] {
        assert!(verify(purpose).is_err(), "{purpose}");
    }
    // It makes no further certificates.
    let text = openssl(&["x509", "-in", leaf, "-noout", "-text"]).unwrap();
    for line in [
        "CA:FALSE",
        "Digital Signature",
        "TLS Web Client Authentication",
        &format!(
            "URI:spiffe://trailmesh/eu/tenant/{}/agent/{}",
            agent.tenant, agent.id
        ),
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(!text.contains("Server Authentication"));
    let serial = openssl(&["x509", "-in", leaf, "-noout", "-serial"]).unwrap();
    let serial = serial.trim().trim_start_matches("serial=").to_lowercase();
    assert_eq!(serial, agent.certificate.serial);
    let hold = |seconds: &str| openssl(&["x509", "-in", leaf, "-noout", "-checkend", seconds]).is_ok();
    assert!(hold("86000") && !hold("86500"));
    let text = openssl(&["x509", "-in", authority, "-noout", "-text"]).unwrap();
    assert!(
        text.contains("CA:TRUE, pathlen:0") && text.contains("Certificate Sign"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_openssl_are_understood_and_other_keys_refused() {
    let world = World::new().await;
    let anna = world.owner().await;
    world.wait_for_authority();
    let server = anna.server("db1", "", "the password").await;
    let path = |name: &str| world.folder.path().join(name).to_str().unwrap().to_owned();
    for (name, algorithm, options) in [
        ("ed25519", "ed25519", &[][..]),
        ("p256", "EC", &["ec_paramgen_curve:P-256"][..]),
    ] {
        let (key, csr) = (path(&format!("{name}.key")), path(&format!("{name}.csr")));
        request(algorithm, options, &key, &csr, &[]);
        let (id, token) = anna.agent(name, "").await;
        let enrol = pb::EnrolAgentRequest {
            enrolment_token: token,
            csr: std::fs::read_to_string(&csr).unwrap(),
        };
        let answer = world.vault().enrol_agent(enrol).await.unwrap().into_inner();
        assert_eq!(answer.agent_id, id);
        let agent = Agent {
            id,
            tenant: answer.tenant_id,
            certificate: answer.certificate.unwrap(),
            key: std::fs::read_to_string(&key).unwrap(),
        };
        world.connect(&agent).open(&server).await.unwrap();
    }
    let (_, token) = anna.agent("refused", "").await;
    for (name, algorithm, options, more) in [
        ("rsa", "RSA", &["rsa_keygen_bits:2048"][..], &[][..]),
        ("rsa-weak", "RSA", &["rsa_keygen_bits:1024"][..], &[][..]),
        ("p384", "EC", &["ec_paramgen_curve:P-384"][..], &[][..]),
        ("p224", "EC", &["ec_paramgen_curve:P-224"][..], &[][..]),
        ("k1", "EC", &["ec_paramgen_curve:secp256k1"][..], &[][..]),
        (
            "explicit",
            "EC",
            &["ec_paramgen_curve:P-256", "ec_param_enc:explicit"][..],
            &[][..],
        ),
        ("sha1", "EC", &["ec_paramgen_curve:P-256"][..], &["-sha1"][..]),
        ("sha512", "EC", &["ec_paramgen_curve:P-256"][..], &["-sha512"][..]),
        ("ed448", "ed448", &[][..], &[][..]),
    ] {
        let (key, csr) = (path(&format!("{name}.key")), path(&format!("{name}.csr")));
        request(algorithm, options, &key, &csr, more);
        let enrol = pb::EnrolAgentRequest {
            enrolment_token: token.clone(),
            csr: std::fs::read_to_string(&csr).unwrap(),
        };
        let no = crate::world::No::from(world.vault().enrol_agent(enrol).await.unwrap_err());
        assert_eq!(no.reason, "CSR_INVALID", "{name}");
    }
    world.enrol(&token).await.unwrap();
}

fn request(algorithm: &str, options: &[&str], key: &str, csr: &str, more: &[&str]) {
    let mut make = vec!["genpkey", "-algorithm", algorithm, "-out", key];
    for option in options {
        make.extend(["-pkeyopt", option]);
    }
    openssl(&make).unwrap();
    let mut sign = vec![
        "req",
        "-new",
        "-key",
        key,
        "-out",
        csr,
        "-subj",
        "/CN=my agent/O=Acme",
    ];
    sign.extend(["-addext", "subjectAltName=DNS:a.example.com"]);
    sign.extend(more);
    openssl(&sign).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_in_a_request_are_ignored() {
    let world = World::new().await;
    let anna = world.owner().await;
    world.wait_for_authority();
    let (id, token) = anna.agent("a1", "").await;
    let keys = Keys::naming("spiffe://trailmesh/eu/service/gateway", "gateway");
    let agent = world.enrol_with(&token, keys).await.unwrap();
    assert_eq!(agent.id, id);
    let leaf = file(&world, "leaf.pem", &agent.certificate.chain);
    let text = openssl(&["x509", "-in", leaf.to_str().unwrap(), "-noout", "-text"]).unwrap();
    assert!(
        !text.contains("gateway") && !text.contains("example.com"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_in_the_second_half_of_its_life() {
    let world = World::new().await;
    let anna = world.owner().await;
    let server = anna.server("db1", "", "the password").await;
    let agent = anna.enrolled("a1", "").await;
    let connection = world.connect(&agent);
    let keys = Keys::new(&PKCS_ECDSA_P256_SHA256);
    let no = connection.renew(&keys).await.unwrap_err();
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::FailedPrecondition, "RENEWAL_TOO_EARLY")
    );
    let grow_old = |hours: u32| {
        world.db.sql(&format!(
            "UPDATE vault.agent_certificate SET issue_time = issue_time - interval '{hours} hours'"
        ));
    };
    grow_old(11);
    assert_eq!(
        connection.renew(&keys).await.unwrap_err().reason,
        "RENEWAL_TOO_EARLY"
    );
    // 25 hours of which 13 are over; the database's clock decides.
    grow_old(14);
    let certificate = connection.renew(&keys).await.unwrap();
    assert_ne!(certificate.serial, agent.certificate.serial);
    // The old one holds until it ends; but nobody collects certificates.
    connection.open(&server).await.unwrap();
    assert_eq!(
        connection.renew(&keys).await.unwrap_err().reason,
        "RENEWAL_TOO_EARLY"
    );
    let renewed = Agent {
        certificate,
        key: keys.key.serialize_pem(),
        ..agent
    };
    let connection = world.connect(&renewed);
    connection.open(&server).await.unwrap();
    assert_eq!(
        connection.renew(&keys).await.unwrap_err().reason,
        "RENEWAL_TOO_EARLY"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_renewals_at_once_one_is_answered_with_a_certificate() {
    let world = World::new().await;
    let anna = world.owner().await;
    let agent = anna.enrolled("a1", "").await;
    world
        .db
        .sql("UPDATE vault.agent_certificate SET issue_time = issue_time - interval '30 hours'");
    let (connection, keys) = (world.connect(&agent), Keys::new(&PKCS_ED25519));
    let outcomes = futures_util::future::join_all((0..6).map(|_| connection.renew(&keys))).await;
    let (renewed, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(renewed.len(), 1);
    for no in refused {
        assert_eq!(no.unwrap_err().reason, "RENEWAL_TOO_EARLY");
    }
    assert_eq!(world.db.sql("SELECT count(*) FROM vault.agent_certificate"), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_agent_keeps_its_identity() {
    let world = World::new().await;
    let anna = world.owner().await;
    let agent = anna.enrolled("a1", "").await;
    world
        .db
        .sql(&format!("UPDATE {}.agent SET frozen_time = now()", anna.schema()));
    world
        .db
        .sql("UPDATE vault.agent_certificate SET issue_time = issue_time - interval '30 hours'");
    world
        .connect(&agent)
        .renew(&Keys::new(&PKCS_ED25519))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_the_vault_does_not_know_is_nobodys() {
    let world = World::new().await;
    let anna = world.owner().await;
    let server = anna.server("db1", "", "the password").await;
    let agent = anna.enrolled("a1", "").await;
    let other = anna.enrolled("a2", "").await;
    let connection = world.connect(&agent);
    connection.open(&server).await.unwrap();
    let serial = &agent.certificate.serial;
    for (break_it, mend_it) in [
        // Given up one by one.
        (
            format!("UPDATE vault.agent_certificate SET revoke_time = now() WHERE serial = '{serial}'"),
            format!("UPDATE vault.agent_certificate SET revoke_time = NULL WHERE serial = '{serial}'"),
        ),
        // Of another agent.
        (
            format!(
                "UPDATE vault.agent_certificate SET agent_id = '{}' WHERE serial = '{serial}'",
                other.id
            ),
            format!(
                "UPDATE vault.agent_certificate SET agent_id = '{}' WHERE serial = '{serial}'",
                agent.id
            ),
        ),
        // Never issued, though the authority's signature is on it.
        (
            format!("DELETE FROM vault.agent_certificate WHERE serial = '{serial}'"),
            String::new(),
        ),
    ] {
        world.db.sql(&break_it);
        for no in [
            connection.open(&server).await.unwrap_err(),
            connection.renew(&Keys::new(&PKCS_ED25519)).await.unwrap_err(),
        ] {
            assert_eq!(no.reason, "AGENT_REVOKED");
        }
        if !mend_it.is_empty() {
            world.db.sql(&mend_it);
            connection.open(&server).await.unwrap();
        }
    }
}
