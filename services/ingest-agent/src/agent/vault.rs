//! What an agent asks the vault, over its own mutual TLS through the mesh's door.

use http::Uri;
use proto::vault::v1::{
    self as pb, SecretKind, agent_identity_service_client::AgentIdentityServiceClient as Client,
};
use types::Secret;

use super::{
    dial::{Dialer, Papers, Room},
    error::Error,
    pins::Pin,
    rpc::{Channel, Rpc, answer},
};

/// A connection to the vault.
#[derive(Debug)]
pub(super) struct Vault {
    rpc: Rpc,
    /// The key of the door that it goes through.
    pub(super) door: Pin,
}

impl Vault {
    pub(super) async fn open(dialer: &Dialer, papers: &Papers) -> Result<Self, Error> {
        let (stream, door) = dialer.open(papers, Room::Vault).await?;
        let rpc = Rpc::open("the vault", stream).await?;
        Ok(Self { rpc, door })
    }

    pub(super) fn is_open(&self) -> bool {
        self.rpc.is_open()
    }

    fn client(&self) -> Client<Channel> {
        Client::with_origin(self.rpc.channel(), Uri::from_static("https://vault"))
    }

    /// What to follow and whom to trust.
    pub(super) async fn assignment(&self) -> Result<pb::GetAssignmentResponse, Error> {
        answer(self.client().get_assignment(pb::GetAssignmentRequest {})).await
    }

    /// A new certificate's chain, PEM.
    pub(super) async fn renew(&self, csr: &str) -> Result<String, Error> {
        let csr = csr.to_owned();
        let told = answer(
            self.client()
                .renew_certificate(pb::RenewCertificateRequest { csr }),
        )
        .await?;
        let certificate = told.certificate.ok_or_else(|| Error::Protocol {
            what: "the vault",
            why: "renews without a certificate".to_owned(),
        })?;
        Ok(certificate.chain)
    }

    /// The password for a server; none if the tenant gave none.
    pub(super) async fn password(&self, server: &str) -> Result<Option<Secret<String>>, Error> {
        let server_id = server.to_owned();
        let told = answer(
            self.client()
                .open_credentials(pb::OpenCredentialsRequest { server_id }),
        )
        .await?;
        let wrong = |why: &str| Error::Usage {
            what: "the server's credential".to_owned(),
            why: why.to_owned(),
            hint: "give the server a password in the mesh",
        };
        let mut others = false;
        for credential in told.credentials {
            if credential.kind() == SecretKind::MysqlPassword {
                let text =
                    std::str::from_utf8(&credential.value).map_err(|_| wrong("the password is not UTF-8"))?;
                return Ok(Some(Secret::new(text.to_owned())));
            }
            others = true;
        }
        if others {
            return Err(wrong(
                "it has credentials, but no password, which is what this agent logs in with",
            ));
        }
        Ok(None)
    }
}
