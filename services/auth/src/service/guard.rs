//! `GuardService`: who is behind a credential, and was this call confirmed.

use std::{net::IpAddr, sync::Arc, time::Instant};

use chassis::{
    policy::{StepUp, Table},
    token::{self, KeySet, LIFETIME},
};
use opentelemetry::{KeyValue, metrics::Counter};
use proto::auth::v1 as pb;
use tonic::{Request, Response, Status};
use types::{AgentId, Context, Fault as _, Micros, Seat, ServerId, Subject, TenantId};

use crate::{
    Auth, Error,
    domain::{
        api_key::{ApiKey, seen_from},
        delegation::may_be_served,
    },
    history::{self, Call},
    service::timestamp,
    store::{
        api_key::Uses,
        credential::{self, Key, Person},
        factor::{self, Proof, Verdict},
    },
};

/// The service.
pub(crate) struct Guard {
    auth: Arc<Auth>,
    policy: Arc<Table>,
    keys: KeySet,
    uses: Uses,
    refused: Counter<u64>,
    confirmed: Counter<u64>,
}

impl Guard {
    /// With what `runtime` gives: rules, keys, instruments, and a task that writes down when keys were used.
    pub(crate) fn new(auth: Arc<Auth>, runtime: &chassis::Runtime) -> Self {
        let meter = runtime.meter();
        let refused = meter
            .u64_counter("auth.credentials.refused")
            .with_description("Credentials refused, by kind and cause");
        let confirmed = meter
            .u64_counter("auth.step_up.calls")
            .with_description("Calls to be confirmed with a second factor, by outcome");
        Self {
            policy: runtime.policy(),
            keys: runtime.keys(),
            uses: Uses::start(auth.pool.clone(), runtime),
            refused: refused.build(),
            confirmed: confirmed.build(),
            auth,
        }
    }

    async fn context(
        &self,
        origin: &chassis::Origin,
        request: pb::AuthenticateRequest,
    ) -> Result<Context, Error> {
        let deadline = origin.deadline;
        // A wrong id is answered as the id of a tenant that there is not; but only to who proves who they are.
        let tenant = match request.tenant_id.as_str() {
            "" => Ok(None),
            id => id.parse().map(Some).map_err(|_| Error::TenantNotFound),
        };
        match request.credential {
            Some(pb::authenticate_request::Credential::AccessToken(token)) => {
                self.session(&token, tenant, deadline).await
            }
            Some(pb::authenticate_request::Credential::ApiKey(text)) => {
                let Some(key) = ApiKey::parse(&text) else {
                    return Err(self.refuse("api_key", "junk"));
                };
                let address = request.client_address.parse().ok();
                self.key(&key, tenant, address, origin).await
            }
            None => Err(self.refuse("none", "absent")),
        }
    }

    async fn session(
        &self,
        token: &str,
        tenant: Result<Option<TenantId>, Error>,
        deadline: Instant,
    ) -> Result<Context, Error> {
        let access = match self.auth.rings.verify_access(token).await {
            Err(Error::CredentialInvalid) => return Err(self.refuse("access_token", "forged")),
            verified => verified?,
        };
        let wanted = tenant.as_ref().ok().copied().flatten();
        let mut tx = self.auth.pool.shared(deadline).await?;
        let person = credential::person(&mut tx, access, wanted).await?;
        let seatless = person.as_ref().is_some_and(|person| person.seats.is_empty());
        if let Some(tenant) = wanted.filter(|_| seatless)
            && let Some(host) = credential::moved(&mut tx, access.user, tenant).await?
        {
            return Err(Error::TenantMoved(host));
        }
        // Nothing to keep, and nobody waits for the end of a reading.
        drop(tx);
        let Some(Person { mfa_enabled, seats }) = person else {
            return Err(self.refuse("access_token", "ended"));
        };
        let seat = match tenant? {
            Some(_) => Some(seats.into_iter().next().ok_or(Error::TenantNotFound)?),
            None => only(seats),
        };
        Ok(Context {
            subject: Subject::Person {
                user: access.user,
                session: access.session,
            },
            seat,
            mfa_enabled,
        })
    }

    async fn key(
        &self,
        key: &ApiKey,
        tenant: Result<Option<TenantId>, Error>,
        address: Option<IpAddr>,
        origin: &chassis::Origin,
    ) -> Result<Context, Error> {
        let mut tx = self.auth.pool.shared(origin.deadline).await?;
        let found = credential::key(&mut tx, &key.sha256()).await?;
        if found.is_none()
            && let Some(host) = credential::moved_with(&mut tx, &key.sha256()).await?
        {
            return Err(Error::TenantMoved(host));
        }
        drop(tx);
        let Some(Key {
            id,
            owner,
            limits,
            mfa_enabled,
            seat,
            stale,
            frozen,
        }) = found
        else {
            return Err(self.refuse("api_key", "unknown"));
        };
        if !limits.admits(address) {
            let error = self.refuse("api_key", "network");
            let from = history::From::new(origin).at(address);
            let entry = Call::from(history::AUTHENTICATE, from).about(owner);
            let entry = entry.target("key_id", id).in_tenant(Some(seat.tenant));
            self.auth.refusals.note(entry, &error);
            return Err(error);
        }
        if tenant?.is_some_and(|tenant| tenant != seat.tenant) {
            return Err(Error::TenantNotFound);
        }
        if frozen {
            self.refuse("api_key", "frozen");
            return Err(Error::KeyFrozen);
        }
        if stale {
            self.uses.note(id, address.map(seen_from).unwrap_or_default());
        }
        Ok(Context {
            subject: Subject::Key { key: id, owner },
            seat: Some(limits.seat(seat)),
            mfa_enabled,
        })
    }

    async fn step_up(
        &self,
        call: &Call,
        request: &pb::ConsumeStepUpRequest,
        deadline: Instant,
    ) -> Result<String, Error> {
        let (context, _) = self.keys.context(&request.context_token).map_err(|error| {
            tracing::warn!(
                cause = error.cause(),
                "the gateway presented a context token that does not hold"
            );
            Error::CredentialInvalid
        })?;
        let rule = self.policy.rule(&request.method);
        let Some(rule) = rule.filter(|rule| rule.step_up == StepUp::Totp) else {
            return Err(invalid(
                "method",
                "METHOD_WITHOUT_STEP_UP",
                "the method takes no proof of a second factor",
            ));
        };
        // What is for a tenant is told to that one, what is for the account to all.
        let seat = context.seat.as_ref().filter(|_| rule.lowest_role.is_some());
        let entry = call.of(&context.subject).target("method", &rule.path);
        let entry = entry.in_tenant(seat.map(|seat| seat.tenant));
        let sha256: [u8; 32] = request
            .request_sha256
            .as_ref()
            .try_into()
            .map_err(|_| invalid("request_sha256", "SHA256_INVALID", "a SHA-256 has 32 bytes"))?;
        let consumed = self
            .consume(&context, &request.code, deadline, entry.clone())
            .await;
        consumed.inspect_err(|error| self.auth.refusals.note(entry, error))?;
        let signer = self.auth.rings.signer()?;
        Ok(signer.grant(&context, self.auth.region, &request.method, &sha256, token::now())?)
    }

    async fn consume(
        &self,
        context: &Context,
        code: &str,
        deadline: Instant,
        entry: history::Entry,
    ) -> Result<(), Error> {
        let mut tx = self.auth.pool.shared(deadline).await?;
        // A session or key that ended after its context token was made confirms nothing.
        if !credential::lives(&mut tx, &context.subject).await? {
            return Err(self.refuse("context_token", "ended"));
        }
        let proof = (!code.is_empty()).then_some(Proof::Code(code));
        let key = match context.subject {
            Subject::Key { key, .. } => Some(key),
            Subject::Person { .. } => None,
        };
        let user = context.subject.user();
        let verdict = factor::consume_for(&self.auth, &mut tx, user, key, proof).await?;
        if matches!(verdict, Verdict::Passed) {
            entry.write(&mut tx).await?;
        }
        tx.commit().await?;
        self.auth.outbox.wake();
        match (verdict, &context.subject) {
            (Verdict::NoFactor, Subject::Key { .. }) => Err(Error::MfaRequired),
            (verdict, _) => verdict.pass(),
        }
    }

    /// For an agent: this subject may have `method` served. Gives the delegation, and when it ends.
    async fn delegation(
        &self,
        request: &pb::DelegateRequest,
        deadline: Instant,
    ) -> Result<(String, i64), Error> {
        let (context, context_ends) = self.keys.context(&request.context_token).inspect_err(|error| {
            tracing::warn!(
                cause = error.cause(),
                "service query presented a context token that does not hold"
            );
        })?;
        let agent: AgentId = request
            .agent_id
            .parse()
            .map_err(|_| invalid("agent_id", "ID_INVALID", "this is no agent's id"))?;
        let server: ServerId = request
            .server_id
            .parse()
            .map_err(|_| invalid("server_id", "ID_INVALID", "this is no server's id"))?;
        let wanted = may_be_served(&self.policy, &context, &request.method)?;
        let mut tx = self.auth.pool.shared(deadline).await?;
        let asked = credential::asked(&mut tx, &context.subject, wanted.seat.tenant, server, agent).await?;
        drop(tx);
        // Who signed out since the token was made is served no more rows.
        if !asked.lives {
            self.refuse("context_token", "ended");
            return Err(token::Error::Context("ended").into());
        }
        // Query was asked by somebody who may, or was taken over: then it presents whatever tokens it is given.
        wanted.in_pool(asked.pool.ok_or(Error::ServerNotFound)?)?;
        if !asked.serves {
            return Err(Error::AgentNotFound);
        }
        let (now, signer, region) = (token::now(), self.auth.rings.signer()?, self.auth.region);
        let about = (agent, server);
        let token = signer.delegation(&context, context_ends, about, &request.method, region, now)?;
        Ok((token, token::delegation_ends(context_ends, now)))
    }

    fn refuse(&self, kind: &'static str, cause: &'static str) -> Error {
        self.refused
            .add(1, &[KeyValue::new("kind", kind), KeyValue::new("cause", cause)]);
        Error::CredentialInvalid
    }
}

/// The seat of who has exactly one.
fn only(seats: Vec<Seat>) -> Option<Seat> {
    let mut seats = seats.into_iter();
    seats.next().filter(|_| seats.next().is_none())
}

fn invalid(field: &str, reason: &'static str, problem: &'static str) -> Error {
    Error::FieldInvalid {
        field: field.to_owned(),
        reason,
        problem,
    }
}

#[tonic::async_trait]
impl pb::guard_service_server::GuardService for Guard {
    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        let origin = chassis::origin(&request);
        let context = self.context(&origin, request.into_inner()).await?;
        let now = token::now();
        let signer = self.auth.rings.signer()?;
        let token = signer
            .context(&context, self.auth.region, now)
            .map_err(Error::from)?;
        let ends = now.saturating_add_unsigned(LIFETIME.as_secs());
        Ok(Response::new(pb::AuthenticateResponse {
            context_token: token,
            expire_time: Some(timestamp(Micros::from_secs(ends))),
        }))
    }

    async fn consume_step_up(
        &self,
        request: Request<pb::ConsumeStepUpRequest>,
    ) -> Result<Response<pb::ConsumeStepUpResponse>, Status> {
        let deadline = chassis::origin(&request).deadline;
        let call = Call::new(history::CONSUME_STEP_UP, &request);
        let outcome = self.step_up(&call, request.get_ref(), deadline).await;
        let word = outcome
            .as_ref()
            .map_or_else(|error| error.reason(), |_| "GRANTED");
        self.confirmed.add(1, &[KeyValue::new("outcome", word)]);
        Ok(Response::new(pb::ConsumeStepUpResponse {
            grant_token: outcome?,
        }))
    }

    async fn delegate(
        &self,
        request: Request<pb::DelegateRequest>,
    ) -> Result<Response<pb::DelegateResponse>, Status> {
        let deadline = chassis::origin(&request).deadline;
        let (delegation_token, ends) = self.delegation(request.get_ref(), deadline).await?;
        Ok(Response::new(pb::DelegateResponse {
            delegation_token,
            expire_time: Some(timestamp(Micros::from_secs(ends))),
        }))
    }

    async fn get_key_set(
        &self,
        _: Request<pb::GetKeySetRequest>,
    ) -> Result<Response<pb::GetKeySetResponse>, Status> {
        let keys = self
            .auth
            .rings
            .verifying_keys()
            .into_iter()
            .map(|key| pb::VerifyingKey {
                kid: key.kid,
                ed25519: key.ed25519.to_vec().into(),
            });
        Ok(Response::new(pb::GetKeySetResponse { keys: keys.collect() }))
    }
}
