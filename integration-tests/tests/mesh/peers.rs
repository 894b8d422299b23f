//! Who may call what inside the mesh: every method × every certificate, against the running services.
//!
//! A certificate alone never speaks for a person: what people may call takes the gateway's certificate and a context token that only auth
//! can sign. The golden file beside `permissions.txt` says how each service of the mesh, and an agent, is answered without one.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use chassis::policy::Table;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use reqwest::Client;

use crate::{apart::Apart, permissions::compare, person::Person, trust::Agent};

/// So long an answer is waited for, and so often once more.
const ANSWER: Duration = Duration::from_secs(5);
const TRIES: u32 = 3;

const SERVICES: [&str; 6] = ["auth", "gateway", "query", "recovery", "tenant", "vault"];

fn client(ca: &Path, identity: &str) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ca = reqwest::Certificate::from_pem(&fs::read(ca).expect("an authority")).expect("a certificate");
    let identity = reqwest::Identity::from_pem(identity.as_bytes()).expect("an identity");
    let builder = Client::builder()
        .tls_certs_only([ca])
        .identity(identity)
        .http2_prior_knowledge()
        .timeout(ANSWER);
    builder.build().expect("a client")
}

/// An agent's certificate, signed by the mesh's own authority.
fn agent(state: &Path) -> String {
    let read = |name: &str| fs::read_to_string(state.join(name)).expect("a file");
    let key = KeyPair::from_pem(&read("ca-key.pem")).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), key).expect("an authority");
    let uri =
        "spiffe://trailmesh/us/tenant/tnt_01j00000000000000000000000/agent/agt_01j00000000000000000000000";
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("a URI"))];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let pair = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&pair, &issuer).expect("a certificate");
    format!("{}{}", certificate.pem(), pair.serialize_pem())
}

/// An empty message to the method: the reason of the refusal, or that the handler saw it.
async fn outcome(client: &Client, url: &str) -> String {
    let mut tries = 0;
    let answer = loop {
        let request = client
            .post(url)
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        match request.body(vec![0_u8; 5]).send().await {
            Ok(answer) => break answer,
            // This client was once seen waiting for ever, without a connection (reqwest, issue 1323).
            Err(error) if error.is_timeout() && tries < TRIES => tries += 1,
            Err(error) if error.is_timeout() => return "no answer".to_owned(),
            // TLS 1.3 tells a client that its certificate is refused when it reads for the first time.
            Err(_) => return "no connection".to_owned(),
        }
    };
    let details = answer
        .headers()
        .get("grpc-status-details-bin")
        .map(|value| value.as_bytes().to_vec());
    let details = details
        .and_then(|text| STANDARD_NO_PAD.decode(text).ok())
        .unwrap_or_default();
    let details = String::from_utf8_lossy(&details).into_owned();
    let refusals = ["CALLER_NOT_ALLOWED", "CONTEXT_MISSING"];
    refusals
        .iter()
        .find(|reason| details.contains(**reason))
        .map_or_else(|| "may".to_owned(), |reason| (*reason).to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_admits_and_refuses_every_certificate_as_written_down() {
    let apart = Apart::start();
    let state = &apart.place.state;
    let pem = |name: &str| {
        let read = |file: String| fs::read_to_string(state.join(file)).expect("a file");
        read(format!("{name}.pem")) + &read(format!("{name}-key.pem"))
    };
    let mut callers: Vec<(&str, Client)> = SERVICES
        .iter()
        .map(|name| (*name, client(&apart.place.authority(), &pem(name))))
        .collect();
    // One that the mesh's own authority signed is no agent; the vault's is.
    callers.push(("forged agent", client(&apart.place.authority(), &agent(state))));
    let mut owner = Person::new(&apart.place, "owner").await;
    owner.found_tenant("Of an agent").await;
    let (_, enrolled) = Agent::enrol(&apart, &mut owner, "north", "").await;
    callers.push(("agent", enrolled.client));
    let table = Table::load(proto::DESCRIPTOR_SET).expect("rules");
    let mut outcomes: BTreeMap<String, Vec<(&str, String)>> = BTreeMap::new();
    for rule in table.rules() {
        let service = match rule.path.split('.').nth(1) {
            Some("auth") => &apart.auth,
            Some("vault") => &apart.vault,
            Some("query") => &apart.query,
            Some("recovery") => &apart.recovery,
            // Served by agents, on connections that they dial.
            Some("agent") => continue,
            _ => &apart.tenant,
        };
        let url = format!("https://localhost:{}{}", service.address.port(), rule.path);
        for (name, client) in &callers {
            let outcome = outcome(client, &url).await;
            outcomes
                .entry(rule.path.clone())
                .or_default()
                .push((name, outcome));
        }
    }
    let mut text = String::from(
        "# How each certificate is answered that brings no context token. Written by the test that reads it: see peers.rs.\n",
    );
    for (path, outcomes) in &outcomes {
        let _ = writeln!(text, "\n{path}");
        for (name, outcome) in outcomes {
            let _ = writeln!(text, "  {name:<16}{outcome}");
        }
    }
    compare("peers.txt", &text);
}
