//! Somebody who is signed in, and what they do: second factors, tenants, keys.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chassis::Peer;
use prost::Message;
use proto::{
    auth::v1::{
        self as pb, api_key_service_client::ApiKeyServiceClient, mfa_service_client::MfaServiceClient,
    },
    common::v1::Role,
};
use tonic::{Code, Request, Status};
use types::{PoolId, TenantId};

use crate::world::{Person, Replica, World, reason, request, request_with, step_up_of};

/// A signed-in person with a context token for `tenant`.
pub(crate) struct Actor {
    pub(crate) person: Person,
    pub(crate) id: String,
    pub(crate) access: String,
    pub(crate) context: String,
    pub(crate) tenant: String,
}

/// Six digits that are shown at this moment; good for at least half a minute.
pub(crate) fn code(secret: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    code_at(secret, now)
}

/// Six digits of another moment.
pub(crate) fn code_at(secret: &str, time: u64) -> String {
    let secret = totp_rs::Secret::try_from_base32(secret).unwrap();
    let totp = totp_rs::Builder::new()
        .with_secret(secret.as_bytes())
        .build_noncompliant();
    totp.generate(time).to_string()
}

/// A code that is not shown within minutes of now.
pub(crate) fn wrong_code(secret: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let near: Vec<String> = (0..20)
        .map(|step| code_at(secret, now + step * 30 - 300))
        .collect();
    (0..)
        .map(|n| format!("{n:06}"))
        .find(|code| !near.contains(code))
        .unwrap()
}

/// What a refused call answered: its code and reason.
pub(crate) fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.unwrap_err();
    (status.code(), reason(&status))
}

/// What a context token says.
pub(crate) fn claims(token: &str) -> serde_json::Value {
    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

impl World {
    /// Somebody new who has signed in.
    pub(crate) async fn actor(&self) -> Actor {
        let person = self.person().await;
        let access = self
            .auth
            .log_in(&person)
            .await
            .unwrap()
            .tokens
            .unwrap()
            .access_token;
        let context = self.auth.context(&access).await.unwrap();
        Actor {
            id: self.id(&person),
            person,
            access,
            context,
            tenant: String::new(),
        }
    }

    /// Somebody new with a role in a new tenant.
    pub(crate) async fn member(&self, role: &str) -> Actor {
        let tenant = self.new_tenant();
        self.join(&tenant, role).await
    }

    /// Somebody new with a role in `tenant`.
    pub(crate) async fn join(&self, tenant: &str, role: &str) -> Actor {
        let mut actor = self.actor().await;
        self.seat(tenant, &actor.id, Some(role));
        actor.tenant = tenant.to_owned();
        actor.context = self.auth.context(&actor.access).await.unwrap();
        actor
    }

    pub(crate) fn new_tenant(&self) -> String {
        let id = TenantId::fresh().to_string();
        self.database.sql(&format!(
            "INSERT INTO tenant.tenant (id, name, region, cell, plan) VALUES ('{id}', 'Test', 'eu', 'eu-1', 'enterprise')"
        ));
        id
    }

    pub(crate) fn new_pool(&self, tenant: &str) -> String {
        let id = PoolId::fresh().to_string();
        self.database.sql(&format!(
            "INSERT INTO tenant.pool (id, tenant_id, name) VALUES ('{id}', '{tenant}', '{id}')"
        ));
        id
    }

    /// Gives a person a role in a tenant, another role than before, or none.
    pub(crate) fn seat(&self, tenant: &str, user: &str, role: Option<&str>) {
        self.database.sql(&match role {
            Some(role) => format!(
                "INSERT INTO tenant.member (tenant_id, user_id, role) VALUES ('{tenant}', '{user}', '{role}') \
                 ON CONFLICT ON CONSTRAINT member_key DO UPDATE SET role = excluded.role"
            ),
            None => format!("DELETE FROM tenant.member WHERE tenant_id = '{tenant}' AND user_id = '{user}'"),
        });
    }

    /// Lets half a minute pass for a person's factor: the code that is shown was not used yet.
    pub(crate) fn next_code(&self, actor: &Actor, secret: &str) -> String {
        self.database.sql(&format!(
            "UPDATE auth.factor SET last_step = NULL WHERE account_id = '{}'",
            actor.id
        ));
        code(secret)
    }

    /// Enrols and activates a factor, and gives its secret and recovery codes. The code that is shown now is used.
    pub(crate) async fn enrol(&self, actor: &Actor) -> (String, Vec<String>) {
        let secret = self.auth.enrol(actor, None, "").await.unwrap().secret;
        let activated = self.auth.activate(actor, &code(&secret)).await.unwrap();
        (secret, activated.recovery_codes)
    }

    /// Makes a key with the code that is shown now, or without one where `secret` is empty.
    pub(crate) async fn key(
        &self,
        actor: &Actor,
        message: pb::CreateApiKeyRequest,
    ) -> Result<pb::CreateApiKeyResponse, Status> {
        self.auth.create_key(actor, message, "").await
    }
}

/// A key of a role without other limits.
pub(crate) fn key_of(role: Role) -> pb::CreateApiKeyRequest {
    pb::CreateApiKeyRequest {
        name: "test".to_owned(),
        role: role.into(),
        ..pb::CreateApiKeyRequest::default()
    }
}

impl Replica {
    pub(crate) fn mfa(&self) -> MfaServiceClient<Peer> {
        MfaServiceClient::new(self.gateway.clone())
    }

    pub(crate) fn keys(&self) -> ApiKeyServiceClient<Peer> {
        ApiKeyServiceClient::new(self.gateway.clone())
    }

    pub(crate) async fn enrol(
        &self,
        actor: &Actor,
        code: Option<&str>,
        recovery: &str,
    ) -> Result<pb::EnrolTotpResponse, Status> {
        let password = actor.person.password.clone();
        self.enrol_with(actor, code, recovery, &password).await
    }

    /// The same with another password.
    pub(crate) async fn enrol_with(
        &self,
        actor: &Actor,
        code: Option<&str>,
        recovery: &str,
        password: &str,
    ) -> Result<pb::EnrolTotpResponse, Status> {
        let message = pb::EnrolTotpRequest {
            recovery_code: recovery.to_owned(),
            current_password: password.to_owned(),
        };
        let answer = self.mfa().enrol_totp(with_code(message, actor, code)).await;
        answer.map(tonic::Response::into_inner)
    }

    pub(crate) async fn activate(
        &self,
        actor: &Actor,
        code: &str,
    ) -> Result<pb::ActivateTotpResponse, Status> {
        let request = with_code(pb::ActivateTotpRequest {}, actor, Some(code));
        self.mfa()
            .activate_totp(request)
            .await
            .map(tonic::Response::into_inner)
    }

    /// Asks for the proof for some call, which needs no tenant: changing the password.
    pub(crate) async fn step_up(&self, context: &str, code: &str) -> Result<String, Status> {
        let method = "/trailmesh.auth.v1.AccountService/ChangePassword";
        self.patient_step_up(step_up_of(context, method, b"request", code))
            .await
    }

    /// With more time than the gateway has, for machines that are busy with other tests.
    async fn patient_step_up(&self, message: pb::ConsumeStepUpRequest) -> Result<String, Status> {
        let mut request = request(message);
        request.set_timeout(Duration::from_secs(50));
        Ok(self
            .guard()
            .consume_step_up(request)
            .await?
            .into_inner()
            .grant_token)
    }

    /// A call with its proof, as the gateway makes it. Of many at once some find no connection in time, which says nothing of the call: they ask
    /// again.
    pub(crate) async fn confirmed<T: Message>(
        &self,
        context: &str,
        method: &str,
        message: T,
        code: &str,
    ) -> Result<Request<T>, Status> {
        let wanted = step_up_of(context, method, &message.encode_to_vec(), code);
        loop {
            match self.patient_step_up(wanted.clone()).await {
                Err(status) if status.code() == Code::Unavailable => {}
                grant => return Ok(with_grant(message, context, &grant?)),
            }
        }
    }

    pub(crate) async fn create_key(
        &self,
        actor: &Actor,
        message: pb::CreateApiKeyRequest,
        code: &str,
    ) -> Result<pb::CreateApiKeyResponse, Status> {
        let method = "/trailmesh.auth.v1.ApiKeyService/CreateApiKey";
        let request = self.confirmed(&actor.context, method, message, code).await?;
        self.keys()
            .create_api_key(request)
            .await
            .map(tonic::Response::into_inner)
    }

    pub(crate) async fn revoke_key(&self, actor: &Actor, key: &str) -> Result<(), Status> {
        let message = pb::RevokeApiKeyRequest {
            key_id: key.to_owned(),
        };
        let request = with_code(message, actor, None);
        self.keys().revoke_api_key(request).await.map(|_| ())
    }

    /// A context token for any credential, wanted tenant and address.
    pub(crate) async fn authenticate(
        &self,
        credential: Credential<'_>,
        tenant: &str,
        address: &str,
    ) -> Result<String, Status> {
        let credential = match credential {
            Credential::Access(token) => pb::authenticate_request::Credential::AccessToken(token.to_owned()),
            Credential::Key(key) => pb::authenticate_request::Credential::ApiKey(key.to_owned()),
        };
        let message = pb::AuthenticateRequest {
            credential: Some(credential),
            tenant_id: tenant.to_owned(),
            client_address: address.to_owned(),
        };
        Ok(self
            .guard()
            .authenticate(request(message))
            .await?
            .into_inner()
            .context_token)
    }

    /// The same for a key from one and the same address.
    pub(crate) async fn key_context(&self, key: &str) -> Result<String, Status> {
        self.authenticate(Credential::Key(key), "", "192.0.2.1").await
    }
}

/// What a client presents.
#[derive(Clone, Copy)]
pub(crate) enum Credential<'a> {
    Access(&'a str),
    Key(&'a str),
}

fn with_code<T>(message: T, actor: &Actor, code: Option<&str>) -> Request<T> {
    let bearer = format!("Bearer {}", actor.context);
    match code {
        Some(code) => request_with(message, &[("authorization", &bearer), ("mfa-code", code)]),
        None => request_with(message, &[("authorization", &bearer)]),
    }
}

/// A call with a context token and a grant.
pub(crate) fn with_grant<T>(message: T, context: &str, grant: &str) -> Request<T> {
    let bearer = format!("Bearer {context}");
    request_with(message, &[("authorization", &bearer), ("trailmesh-grant", grant)])
}
