//! Auth as a test orders it: it knows credentials by name and signs real tokens.
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chassis::token::{self, Signer};
use proto::auth::v1::{
    self as pb,
    authenticate_request::Credential,
    guard_service_server::{GuardService, GuardServiceServer},
};
use tonic::{Request, Response, Status, service::Routes};
use types::{Code, Context, Fault, KeyId, Plan, Region, Role, Seat, SessionId, Subject, TenantId, UserId};

use crate::echo::Session;

/// Why auth refuses.
#[derive(Debug, thiserror::Error)]
#[error("refused by auth")]
struct Refused(Code, &'static str);

impl Fault for Refused {
    fn code(&self) -> Code {
        self.0
    }
    fn reason(&self) -> &'static str {
        self.1
    }
}

fn refused(code: Code, reason: &'static str) -> Status {
    chassis::status(&Refused(code, reason))
}

/// A method and the digest of its message.
pub(crate) type Confirmed = (String, Vec<u8>);

/// Auth.
#[derive(Clone)]
pub(crate) struct Guard {
    /// What each credential stands for.
    pub(crate) known: Arc<Mutex<HashMap<String, Context>>>,
    /// Questions about credentials.
    pub(crate) asked: Arc<AtomicUsize>,
    /// The last one.
    pub(crate) last: Arc<Mutex<pb::AuthenticateRequest>>,
    /// Signs with a key that nobody has published.
    pub(crate) forges: Arc<Mutex<bool>>,
    /// Methods and digests that a code was consumed for.
    pub(crate) confirmed: Arc<Mutex<Vec<Confirmed>>>,
}

/// The code that is right.
pub(crate) const CODE: &str = "123456";

impl Guard {
    pub(crate) fn new() -> Self {
        Self {
            known: Arc::default(),
            asked: Arc::default(),
            last: Arc::default(),
            forges: Arc::default(),
            confirmed: Arc::default(),
        }
    }

    pub(crate) fn routes(&self) -> Routes {
        Routes::new(GuardServiceServer::new(self.clone())).add_service(Session)
    }

    /// A bearer token of a person with this role in a new tenant.
    pub(crate) fn person(&self, role: Role) -> String {
        let subject = Subject::Person {
            user: UserId::fresh(),
            session: SessionId::fresh(),
        };
        self.learn("token", context(subject, role, None))
    }

    /// An API key with these scopes.
    pub(crate) fn key(&self, role: Role, scopes: &[&str]) -> String {
        let subject = Subject::Key {
            key: KeyId::fresh(),
            owner: UserId::fresh(),
        };
        self.learn("bt_live_", context(subject, role, Some(scopes)))
    }

    /// A credential for `context`, as the value of the header.
    pub(crate) fn learn(&self, kind: &str, context: Context) -> String {
        let digits = UserId::fresh().digits().to_string();
        let credential = if kind == "token" {
            format!("a.{digits}.c")
        } else {
            format!("{kind}{digits}")
        };
        self.known
            .lock()
            .expect("no panic")
            .insert(credential.clone(), context);
        format!("Bearer {credential}")
    }

    /// Forgets what a header's value stands for.
    pub(crate) fn revoke(&self, bearer: &str) {
        let credential = bearer.trim_start_matches("Bearer ");
        self.known
            .lock()
            .expect("no panic")
            .remove(credential)
            .expect("a known credential");
    }

    /// Changes what a header's value stands for.
    pub(crate) fn change(&self, bearer: &str, change: impl FnOnce(&mut Context)) {
        let credential = bearer.trim_start_matches("Bearer ");
        let mut known = self.known.lock().expect("no panic");
        change(known.get_mut(credential).expect("a known credential"));
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// The key that is published.
    pub(crate) fn verifying_key() -> token::VerifyingKey {
        Signer::new("key-1".to_owned(), &[7; 32])
            .expect("a signer")
            .verifying_key()
    }

    fn signer(&self) -> Signer {
        let seed = if *self.forges.lock().expect("no panic") {
            [9; 32]
        } else {
            [7; 32]
        };
        Signer::new("key-1".to_owned(), &seed).expect("a signer")
    }
}

/// How often auth is asked about one credential in so long, where what it answered is used for 800 ms from the question on.
pub(crate) fn asked_at_most(time: Duration) -> usize {
    1 + usize::try_from(time.as_millis() / 800).expect("a test's time")
}

pub(crate) fn context(subject: Subject, role: Role, scopes: Option<&[&str]>) -> Context {
    Context {
        subject,
        seat: Some(Seat {
            tenant: TenantId::fresh(),
            region: Region::Eu,
            plan: Plan::Free,
            role: Some(role),
            pools: BTreeMap::new(),
            scopes: scopes.map(|scopes| scopes.iter().map(ToString::to_string).collect()),
        }),
        mfa_enabled: true,
    }
}

#[tonic::async_trait]
impl GuardService for Guard {
    async fn authenticate(
        &self,
        request: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let request = request.into_inner();
        *self.last.lock().expect("no panic") = request.clone();
        let (Some(Credential::AccessToken(credential)) | Some(Credential::ApiKey(credential))) =
            request.credential
        else {
            return Err(refused(Code::Invalid, "CREDENTIAL_MISSING"));
        };
        let known = self.known.lock().expect("no panic").get(&credential).cloned();
        let context = known.ok_or_else(|| refused(Code::Unauthenticated, "CREDENTIAL_INVALID"))?;
        let own = context.seat.as_ref().map(|seat| seat.tenant.to_string());
        if !request.tenant_id.is_empty() && own.as_ref() != Some(&request.tenant_id) {
            return Err(refused(Code::Missing, "TENANT_NOT_FOUND"));
        }
        let token = self.signer().context(&context, Region::Eu, token::now());
        Ok(Response::new(pb::AuthenticateResponse {
            context_token: token.expect("a token"),
            expire_time: None,
        }))
    }

    async fn consume_step_up(
        &self,
        request: Request<pb::ConsumeStepUpRequest>,
    ) -> Result<Response<pb::ConsumeStepUpResponse>, Status> {
        let request = request.into_inner();
        let keys = token::KeySet::new(Region::Eu);
        keys.replace(vec![self.signer().verifying_key()]);
        let (context, _) = keys.context(&request.context_token).expect("a context");
        match request.code.as_str() {
            "" => return Err(refused(Code::Unauthenticated, "MFA_CODE_REQUIRED")),
            CODE => {}
            _ => return Err(refused(Code::Unauthenticated, "MFA_CODE_INVALID")),
        }
        let sha256: [u8; 32] = request.request_sha256[..].try_into().expect("a digest");
        self.confirmed
            .lock()
            .expect("no panic")
            .push((request.method.clone(), sha256.to_vec()));
        let grant = self
            .signer()
            .grant(&context, Region::Eu, &request.method, &sha256, token::now());
        Ok(Response::new(pb::ConsumeStepUpResponse {
            grant_token: grant.expect("a grant"),
        }))
    }

    async fn delegate(
        &self,
        _: Request<pb::DelegateRequest>,
    ) -> Result<Response<pb::DelegateResponse>, Status> {
        Err(refused(Code::Forbidden, "CALLER_NOT_ALLOWED"))
    }

    async fn get_key_set(
        &self,
        _: Request<pb::GetKeySetRequest>,
    ) -> Result<Response<pb::GetKeySetResponse>, Status> {
        let key = Self::verifying_key();
        Ok(Response::new(pb::GetKeySetResponse {
            keys: vec![pb::VerifyingKey {
                kid: key.kid,
                ed25519: key.ed25519.to_vec().into(),
            }],
        }))
    }
}
