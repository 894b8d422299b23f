//! Enrolment: a token that works once becomes a certificate for a key that was made here.

use std::{path::Path, sync::Arc};

use http::Uri;
use proto::vault::v1::{self as pb, agent_identity_service_client::AgentIdentityServiceClient};
use rustls::{ClientConfig, RootCertStore, client::Resumption, crypto::ring as provider, version::TLS13};
use types::{AgentId, Secret, TenantId};

use super::{
    dial::{Dialer, Mesh, pinned},
    error::Error,
    folder::{Folder, Record},
    identity::NewKey,
    pins::{Pin, Pins, Seen},
    proxy::Proxy,
    rpc::{Rpc, answer},
    trust::Trust,
};
use crate::remote::dial::roots;

/// What enrolling takes.
#[derive(Debug)]
pub struct Enrol {
    /// Where to keep what comes of it.
    pub folder: Folder,
    /// The mesh's URL.
    pub mesh: String,
    /// The token.
    pub token: Secret<String>,
    /// The keys of the mesh's door, if a person knows them: none, or at least two.
    pub pins: Vec<Pin>,
    /// Authorities that vouch for the mesh's door, PEM, instead of the well-known ones.
    pub ca: Option<std::path::PathBuf>,
    /// What `--proxy` says.
    pub proxy: Option<String>,
    /// The folder's agent comes back as who it was, with a new token; what it has stored stays.
    pub again: bool,
}

/// An agent that is now known to the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which.
    pub agent: AgentId,
    /// The key that the door showed, if it is none of those that count from now on.
    pub door_not_pinned: Option<Pin>,
}

/// Enrols. The folder is written only after the mesh has said yes.
pub async fn enrol(enrol: &Enrol) -> Result<Enrolled, Error> {
    let mesh = Mesh::parse(&enrol.mesh)?;
    let proxy = Proxy::choose(enrol.proxy.as_deref(), &mesh.host, mesh.port)?;
    let mut pins = given(&enrol.pins)?;
    let seen = Seen::default();
    let before = before(enrol)?;
    if let Some(before) = &before {
        pins = pins.or_else(|| before.pins.clone());
    }
    let config = tls(pins.clone(), enrol.ca.as_deref(), seen.clone())?;
    enrol.folder.make()?;
    let _lock = enrol.folder.take().await?;
    let dialer = Dialer { mesh, proxy };
    let key = NewKey::make()?;
    let (answer, shown) = ask(&dialer, config, &seen, pins.as_ref(), &enrol.token, &key).await?;
    keep(enrol, &dialer.mesh, key, Kept { pins, shown, before }, answer)
}

/// Whose the folder is; none if it is nobody's yet.
fn before(enrol: &Enrol) -> Result<Option<Record>, Error> {
    let usage = |why: String, hint| Error::Usage {
        what: enrol.folder.path().display().to_string(),
        why,
        hint,
    };
    match (enrol.folder.record(), enrol.again) {
        (Err(Error::NotEnrolled { .. }), false) => Ok(None),
        (Ok(record), true) => Ok(Some(record)),
        (Ok(record), false) => Err(usage(
            format!("it belongs to {} already", record.agent),
            "give --again with a new token of this agent, or another --dir for another agent; the token has not been used",
        )),
        (Err(Error::NotEnrolled { .. }), true) => Err(usage(
            "it holds no agent that could come back".to_owned(),
            "leave --again out, or name the agent's folder with --dir; the token has not been used",
        )),
        (Err(other), _) => Err(other),
    }
}

/// What a person pinned: nothing, or enough.
pub(super) fn given(pins: &[Pin]) -> Result<Option<Pins>, Error> {
    if pins.is_empty() {
        return Ok(None);
    }
    Pins::new(pins.to_vec()).map(Some).map_err(|why| Error::Usage {
        what: "--pin".to_owned(),
        why,
        hint: "give --pin for the key in use and for the one that is kept for later",
    })
}

async fn ask(
    dialer: &Dialer,
    config: ClientConfig,
    seen: &Seen,
    pins: Option<&Pins>,
    token: &Secret<String>,
    key: &NewKey,
) -> Result<(pb::EnrolAgentResponse, Option<Pin>), Error> {
    let connected = dialer.tls(config).await;
    let stream = match (connected, seen.get(), pins) {
        (Ok(stream), ..) => stream,
        (Err(_), Some(pin), Some(pins)) if !pins.hold(pin) => {
            return Err(Error::NotPinned {
                host: dialer.mesh.url(),
                shown: pin.to_string(),
            });
        }
        (Err(error), ..) => return Err(error),
    };
    let shown = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| Pin::of(chain.first()?));
    let origin: Uri = dialer.mesh.url().parse().map_err(|_| Error::Internal {
        what: "the mesh's URL",
        why: "it is none".to_owned(),
    })?;
    let rpc = Rpc::open(&dialer.mesh.url(), stream).await?;
    let mut client = AgentIdentityServiceClient::with_origin(rpc.channel(), origin);
    let request = pb::EnrolAgentRequest {
        enrolment_token: token.expose().clone(),
        csr: key.csr.clone(),
    };
    let told = answer(client.enrol_agent(request)).await?;
    Ok((told, shown))
}

/// What counts beside the mesh's answer.
struct Kept {
    pins: Option<Pins>,
    /// The key that the door showed.
    shown: Option<Pin>,
    /// Whose the folder was.
    before: Option<Record>,
}

fn keep(
    enrol: &Enrol,
    mesh: &Mesh,
    key: NewKey,
    kept: Kept,
    told: pb::EnrolAgentResponse,
) -> Result<Enrolled, Error> {
    let wrong = |why: &str| Error::Protocol {
        what: "the mesh",
        why: why.to_owned(),
    };
    let agent = told.agent_id.parse().map_err(|_| wrong("names no agent"))?;
    let tenant = told.tenant_id.parse().map_err(|_| wrong("names no tenant"))?;
    let Kept { pins, shown, before } = kept;
    if let Some(before) = &before
        && (before.agent, before.tenant) != (agent, tenant)
    {
        return Err(Error::Usage {
            what: "the token".to_owned(),
            why: format!(
                "it was one of {agent}, but the folder belongs to {}",
                before.agent
            ),
            hint: "the token is used now and the folder is as it was: make another token, for the right agent",
        });
    }
    let certificate = told.certificate.ok_or_else(|| wrong("gives no certificate"))?;
    let trust = Trust::read(told.trust.ok_or_else(|| wrong("does not say whom to trust"))?)?;
    let identity = key.with(certificate.chain)?;
    identity.save(&enrol.folder)?;
    trust.save(&enrol.folder)?;
    let counting = pins.clone().or_else(|| trust.pins.clone());
    // Last, because a folder with this file is an agent's.
    enrol.folder.save_record(&Record {
        mesh: mesh.url(),
        tenant,
        agent,
        generation: before.map_or(0, |before| before.generation),
        pins,
    })?;
    Ok(Enrolled {
        tenant,
        agent,
        door_not_pinned: shown.filter(|shown| !counting.is_some_and(|pins| pins.hold(*shown))),
    })
}

/// TLS 1.3 to a door whose key is pinned, or else whose certificate an authority vouches for.
fn tls(pins: Option<Pins>, ca: Option<&Path>, seen: Seen) -> Result<ClientConfig, Error> {
    let mut config = match pins {
        Some(pins) => pinned(pins, seen)?.with_no_client_auth(),
        None => ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| Error::Internal {
                what: "TLS",
                why: error.to_string(),
            })?
            .with_root_certificates(authorities(ca)?)
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn authorities(ca: Option<&Path>) -> Result<RootCertStore, Error> {
    roots(ca).map_err(|error| Error::Usage {
        what: ca.map_or_else(
            || "the mesh's certificate".to_owned(),
            |path| format!("--ca {}", path.display()),
        ),
        why: match error {
            crate::error::Error::Failed(failure) => failure.why,
            crate::error::Error::Closed => "it was closed".to_owned(),
        },
        hint: "give --ca FILE with the authorities that vouch for the mesh, PEM, or --pin twice",
    })
}
