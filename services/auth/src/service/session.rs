//! `SessionService`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chassis::Origin;
use proto::auth::v1::{self as pb, session_service_server::SessionService};
use tonic::{Request, Response, Status, metadata::MetadataValue};
use types::{Micros, Secret, SessionId, Subject, UserId, chain};

use super::{account::proof, person, timestamp};
use crate::{
    Auth, Error,
    domain::{
        email::Email,
        refresh::{self, Presented, Verdict},
        throttle::{Source, Try},
        token::Kind,
    },
    history::{self, Call},
    mail::Notice,
    store::{
        self, factor,
        session::{New, Rotation, Stored},
    },
};

/// What the gateway makes the cookie of.
const COOKIE: &str = "trailmesh-set-refresh-cookie";

/// The most sessions on a page.
const LONGEST_PAGE: i32 = 200;

/// Entries of a page when the caller names no number.
const USUAL_PAGE: i32 = 50;

/// Sessions.
pub(crate) struct Sessions(pub(crate) Arc<Auth>);

/// A session whose tokens are handed out.
struct Opened {
    user: UserId,
    session: SessionId,
    refresh_token: Secret<String>,
    expires_at: Micros,
    now: Micros,
}

/// A password that was checked.
struct Proven {
    user: UserId,
    checked_at: Micros,
    /// The hash of the same password at today's cost, where the stored one was made at another.
    rehashed: Option<Vec<u8>>,
}

impl Sessions {
    async fn log_in(
        &self,
        call: &Call,
        origin: &Origin,
        request: pb::LogInRequest,
    ) -> Result<Response<pb::LogInResponse>, Error> {
        let auth = &self.0;
        let email: Email = request.email.parse().map_err(|_| Error::EmailInvalid)?;
        let password = Secret::new(request.password);
        let recovery = Secret::new(request.recovery_code);
        let device = Kind::Device.hash(&request.device_token);
        let mut tx = auth.pool.shared(origin.deadline).await?;
        let checked_at = store::now(&mut tx).await?;
        let candidate = store::account::candidate(&mut tx, &auth.sealer, &email, device).await?;
        tx.commit().await?;

        let known = device.filter(|_| candidate.known_device);
        let source = known.map_or(Source::Stranger(origin.client_address), Source::Known);
        let a_try = Try::new(&email, source);
        let tried = candidate.account.as_ref().map(|(user, _)| *user);
        let refused = |error: Error| {
            if let Some(user) = tried {
                auth.refusals.note(call.about(user), &error);
            }
            error
        };
        auth.throttle.admit(&a_try).await.map_err(refused)?;
        let proven = self.prove(candidate.account, password, checked_at, origin);
        let proven = proven.await.map_err(refused)?;
        let device_token = match known {
            Some(_) => Secret::new(request.device_token),
            None => Kind::Device.fresh(),
        };
        let opened = match self.open(call, origin, &proven, &recovery, &device_token).await {
            Ok(opened) => opened,
            Err(error) => {
                let error = refused(error);
                // Who did not know yet that a code is needed has guessed nothing.
                if matches!(error, Error::MfaCodeRequired) {
                    auth.throttle.forgive(&a_try).await;
                }
                return Err(error);
            }
        };
        auth.throttle.forgive(&a_try).await;
        let session = pb::Session {
            id: opened.session.to_string(),
            create_time: Some(timestamp(opened.now)),
            last_use_time: Some(timestamp(opened.now)),
            expire_time: Some(timestamp(opened.expires_at)),
            client_address: address(origin),
            user_agent: origin.user_agent.clone(),
            current: true,
        };
        let tokens = self.tokens(&opened)?;
        let message = pb::LogInResponse {
            tokens: None,
            session: Some(session),
            device_token: device_token.expose().clone(),
        };
        hand_out(message, tokens, request.use_cookie, |message| &mut message.tokens)
    }

    /// One error and one amount of work for an unknown address, an unverified one and a wrong password.
    async fn prove(
        &self,
        account: Option<(UserId, Secret<String>)>,
        password: Secret<String>,
        checked_at: Micros,
        origin: &Origin,
    ) -> Result<Proven, Error> {
        let hashers = &self.0.hashers;
        let phc = account.as_ref().map(|(_, phc)| phc);
        let checked = hashers.check(password.clone(), phc, origin.deadline).await?;
        let Some((user, _)) = account.filter(|_| checked.right) else {
            return Err(Error::CredentialsWrong);
        };
        let rehashed = if checked.outdated {
            let phc = hashers.hash(password, origin.deadline).await?;
            Some(store::account::seal_password(&self.0.sealer, user, &phc)?)
        } else {
            None
        };
        Ok(Proven {
            user,
            checked_at,
            rehashed,
        })
    }

    /// Consumes the second factor and begins the session, in one transaction.
    async fn open(
        &self,
        call: &Call,
        origin: &Origin,
        proven: &Proven,
        recovery: &Secret<String>,
        device_token: &Secret<String>,
    ) -> Result<Opened, Error> {
        let auth = &self.0;
        let user = proven.user;
        let mut tx = auth.pool.shared(origin.deadline).await?;
        if !store::account::password_unchanged(&mut tx, user, proven.checked_at).await? {
            return Err(Error::CredentialsWrong);
        }
        let verdict = factor::consume(auth, &mut tx, user, proof(origin, recovery)).await?;
        let shown = verdict.shown(recovery);
        if let Err(refusal) = verdict.pass() {
            // The wrong try stays counted.
            tx.commit().await?;
            auth.outbox.wake();
            return Err(refusal);
        }
        let now = store::now(&mut tx).await?;
        let session = SessionId::fresh();
        let key = Secret::new(rand::random::<[u8; 32]>().to_vec());
        let expires_at = after(now, auth.config.session_lifetime);
        let new = New {
            id: session,
            user,
            key: &key,
            created_at: now,
            expires_at,
            idle_until: expires_at.min(after(now, auth.config.session_idle)),
            client_address: &address(origin),
            user_agent: &origin.user_agent,
        };
        store::session::insert(&mut tx, &auth.sealer, &new).await?;
        if let Some(device) = Kind::Device.hash(device_token.expose()) {
            store::account::remember_device(&mut tx, user, device).await?;
        }
        if let Some(sealed) = &proven.rehashed {
            store::account::rehash(&mut tx, user, sealed, proven.checked_at).await?;
        }
        let mut entry = call.of(&Subject::Person { user, session });
        if let Some(shown) = shown {
            entry = entry.target("second_factor", shown);
        }
        entry.write(&mut tx).await?;
        tx.commit().await?;
        auth.outbox.wake();
        Ok(Opened {
            user,
            session,
            refresh_token: Secret::new(refresh::token(session, 0, key.expose())),
            expires_at,
            now,
        })
    }

    async fn refresh(
        &self,
        origin: &Origin,
        request: pb::RefreshSessionRequest,
    ) -> Result<Response<pb::RefreshSessionResponse>, Error> {
        let given = Secret::new(request.refresh_token);
        let from_cookie = given.expose().is_empty();
        let text = match &origin.refresh_cookie {
            Some(cookie) if from_cookie => cookie.expose(),
            _ => given.expose(),
        };
        let arrived = Instant::now();
        let presented = Presented::read(text).ok_or(Error::InvalidGrant)?;
        let mut tx = self.0.pool.shared(origin.deadline).await?;
        let mut turn = self.turn(&mut tx, origin, &presented, arrived).await?;
        if matches!(turn, Turned::Beaten) {
            // The second look finds that the generation was replaced: there is no third.
            turn = self.turn(&mut tx, origin, &presented, arrived).await?;
        }
        tx.commit().await?;
        let opened = match turn {
            Turned::Opened(opened) => opened,
            Turned::Reused => {
                self.0.outbox.wake();
                return Err(Error::RefreshTokenReused);
            }
            Turned::Beaten => return Err(Error::Internal("a refresh token was beaten twice".to_owned())),
        };
        let tokens = self.tokens(&opened)?;
        let message = pb::RefreshSessionResponse { tokens: None };
        hand_out(message, tokens, from_cookie, |message| &mut message.tokens)
    }

    /// One look at the session, and what follows from it.
    async fn turn(
        &self,
        tx: &mut pg::Transaction,
        origin: &Origin,
        presented: &Presented,
        arrived: Instant,
    ) -> Result<Turned, Error> {
        let session = presented.session;
        let stored = store::session::find(tx, &self.0.sealer, session)
            .await?
            .ok_or(Error::InvalidGrant)?;
        if !presented.is_made_with(stored.key.expose()) {
            return Err(Error::InvalidGrant);
        }
        let at = before(stored.now, arrived.elapsed());
        let generation = match stored.state.judge(presented.generation, at, stored.now) {
            Verdict::Over => return Err(Error::InvalidGrant),
            Verdict::Reused => return self.end_reused(tx, origin, session, &stored).await,
            Verdict::Again => stored.state.generation,
            Verdict::Rotate(recent) => {
                let rotation = Rotation {
                    from: presented.generation,
                    recent: &recent,
                    now: stored.now,
                    idle_until: after(stored.now, self.0.config.session_idle),
                    client_address: &address(origin),
                    user_agent: &origin.user_agent,
                };
                if !store::session::rotate(tx, session, &rotation).await? {
                    return Ok(Turned::Beaten);
                }
                presented.generation + 1
            }
        };
        Ok(Turned::Opened(Opened {
            user: stored.user,
            session,
            refresh_token: Secret::new(refresh::token(session, generation, stored.key.expose())),
            expires_at: stored.state.expires_at,
            now: stored.now,
        }))
    }

    async fn end_reused(
        &self,
        tx: &mut pg::Transaction,
        origin: &Origin,
        session: SessionId,
        stored: &Stored,
    ) -> Result<Turned, Error> {
        // Of several who find it out at once, one ends the session and tells.
        if store::session::end(tx, stored.user, session).await? {
            let notice = Notice::RefreshReused {
                client_address: address(origin),
            };
            self.0.outbox.notice(tx, stored.user, notice).await?;
            let call = Call::from(history::REFRESH_SESSION, history::From::new(origin));
            let entry = call.about(stored.user).target("session_id", session);
            entry.refused(&Error::RefreshTokenReused).write(tx).await?;
            tracing::warn!(%session, user = %stored.user, "a refresh token was used again; its session is ended");
        }
        Ok(Turned::Reused)
    }

    fn tokens(&self, opened: &Opened) -> Result<pb::Tokens, Error> {
        let Opened {
            user,
            session,
            expires_at,
            now,
            ..
        } = *opened;
        let (access_token, access_expires) = self.0.rings.access_token(user, session, expires_at, now)?;
        Ok(pb::Tokens {
            access_token: access_token.expose().clone(),
            access_expire_time: Some(timestamp(access_expires)),
            refresh_token: opened.refresh_token.expose().clone(),
            session_expire_time: Some(timestamp(expires_at)),
        })
    }

    async fn page(
        &self,
        who: &chassis::Account,
        request: &pb::ListSessionsRequest,
    ) -> Result<pb::ListSessionsResponse, Error> {
        let (user, current) = person(&who.subject)?;
        let size = match request.page_size {
            0 => USUAL_PAGE,
            size @ 1..=LONGEST_PAGE => size,
            size if size > LONGEST_PAGE => LONGEST_PAGE,
            _ => return Err(Error::PageSizeInvalid),
        };
        let before = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|_| Error::PageTokenInvalid)?),
        };
        let mut tx = self.0.pool.shared(who.deadline).await?;
        let mut seen = store::session::list(&mut tx, user, before, i64::from(size) + 1).await?;
        let more = seen.len() > usize::try_from(size).unwrap_or_default();
        seen.truncate(usize::try_from(size).unwrap_or_default());
        let next_page_token = seen
            .last()
            .filter(|_| more)
            .map(|last| last.id.to_string())
            .unwrap_or_default();
        let session = |seen: store::session::Seen| pb::Session {
            id: seen.id.to_string(),
            create_time: Some(timestamp(seen.created_at)),
            last_use_time: Some(timestamp(seen.used_at)),
            expire_time: Some(timestamp(seen.expires_at)),
            client_address: seen.client_address,
            user_agent: seen.user_agent,
            current: seen.id == current,
        };
        Ok(pb::ListSessionsResponse {
            sessions: seen.into_iter().map(session).collect(),
            next_page_token,
        })
    }

    /// Ends a session of the caller's. One that is over already is fine; one that is not theirs is not there.
    async fn end(&self, call: &Call, who: &chassis::Account, session: SessionId) -> Result<(), Error> {
        let (user, _) = person(&who.subject)?;
        let mut tx = self.0.pool.shared(who.deadline).await?;
        if store::session::end(&mut tx, user, session).await? {
            let entry = call.of(&who.subject).target("session_id", session);
            entry.write(&mut tx).await?;
        } else if !store::session::is_of(&mut tx, user, session).await? {
            return Err(Error::SessionNotFound);
        }
        Ok(tx.commit().await?)
    }

    async fn end_others(&self, call: &Call, who: &chassis::Account) -> Result<u64, Error> {
        let (user, session) = person(&who.subject)?;
        let mut tx = self.0.pool.shared(who.deadline).await?;
        let ended = store::session::end_others(&mut tx, user, Some(session)).await?;
        call.of(&who.subject).write(&mut tx).await?;
        tx.commit().await?;
        Ok(ended)
    }
}

/// What came of presenting a refresh token.
enum Turned {
    /// The session goes on.
    Opened(Opened),
    /// It is ended.
    Reused,
    /// Somebody else rotated between our look and our write.
    Beaten,
}

/// The instant so long after `start`.
fn after(start: Micros, duration: Duration) -> Micros {
    Micros(
        start
            .0
            .saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
    )
}

/// The instant so long before `end`.
fn before(end: Micros, duration: Duration) -> Micros {
    Micros(
        end.0
            .saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
    )
}

fn address(origin: &Origin) -> String {
    origin
        .client_address
        .map(|address| address.to_string())
        .unwrap_or_default()
}

/// Puts the tokens into the answer, or the refresh token into its cookie instead.
fn hand_out<T>(
    mut message: T,
    mut tokens: pb::Tokens,
    in_cookie: bool,
    place: impl FnOnce(&mut T) -> &mut Option<pb::Tokens>,
) -> Result<Response<T>, Error> {
    let cookie = in_cookie.then(|| std::mem::take(&mut tokens.refresh_token));
    *place(&mut message) = Some(tokens);
    let mut response = Response::new(message);
    if let Some(cookie) = cookie {
        let value = MetadataValue::try_from(cookie).map_err(|error| Error::Internal(chain(&error)))?;
        response.metadata_mut().insert(COOKIE, value);
    }
    Ok(response)
}

#[tonic::async_trait]
impl SessionService for Sessions {
    async fn log_in(
        &self,
        request: Request<pb::LogInRequest>,
    ) -> Result<Response<pb::LogInResponse>, Status> {
        let origin = chassis::origin(&request);
        let call = Call::new(history::LOG_IN, &request);
        Ok(self.log_in(&call, &origin, request.into_inner()).await?)
    }

    async fn refresh_session(
        &self,
        request: Request<pb::RefreshSessionRequest>,
    ) -> Result<Response<pb::RefreshSessionResponse>, Status> {
        let origin = chassis::origin(&request);
        Ok(self.refresh(&origin, request.into_inner()).await?)
    }

    async fn log_out(
        &self,
        request: Request<pb::LogOutRequest>,
    ) -> Result<Response<pb::LogOutResponse>, Status> {
        let who = chassis::account(&request)?;
        let (_, session) = person(&who.subject)?;
        let call = Call::new(history::LOG_OUT, &request);
        self.end(&call, &who, session).await?;
        let mut response = Response::new(pb::LogOutResponse {});
        response
            .metadata_mut()
            .insert(COOKIE, MetadataValue::from_static(""));
        Ok(response)
    }

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<pb::ListSessionsResponse>, Status> {
        let who = chassis::account(&request)?;
        Ok(Response::new(self.page(&who, request.get_ref()).await?))
    }

    async fn revoke_session(
        &self,
        request: Request<pb::RevokeSessionRequest>,
    ) -> Result<Response<pb::RevokeSessionResponse>, Status> {
        let who = chassis::account(&request)?;
        let session = request
            .get_ref()
            .session_id
            .parse()
            .map_err(|_| Error::SessionNotFound)?;
        let call = Call::new(history::REVOKE_SESSION, &request);
        self.end(&call, &who, session).await?;
        Ok(Response::new(pb::RevokeSessionResponse {}))
    }

    async fn revoke_other_sessions(
        &self,
        request: Request<pb::RevokeOtherSessionsRequest>,
    ) -> Result<Response<pb::RevokeOtherSessionsResponse>, Status> {
        let who = chassis::account(&request)?;
        let call = Call::new(history::REVOKE_OTHER_SESSIONS, &request);
        let ended = self.end_others(&call, &who).await?;
        Ok(Response::new(pb::RevokeOtherSessionsResponse {
            ended_sessions: i32::try_from(ended).unwrap_or(i32::MAX),
        }))
    }
}
