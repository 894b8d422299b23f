//! Accounts, sessions, keys and tenants, as far as `trail` meets them.

use std::sync::Mutex;

use proto::{
    auth::v1::{
        self as auth, account_service_server::AccountService, session_service_server::SessionService,
    },
    tenant::v1::{self as tenant, tenant_service_server::TenantService},
};
use tonic::{Request, Response, Status, metadata::MetadataMap};
use types::{Code, TenantId};

use super::{
    EMAIL, KEY, PASSWORD,
    door::{State, locked, now, refuse},
};

type Answer<T> = Result<Response<T>, Status>;

/// The code that counts, once.
pub(super) const CODE: &str = "123456";

/// Ada, her sessions and her tenants.
pub(super) struct People {
    pub(super) tenants: Mutex<Vec<tenant::Membership>>,
    /// Whether she has a second factor.
    pub(super) factor: Mutex<bool>,
    /// The session's number of refreshes; its tokens are made from it. None where there is no session.
    pub(super) session: Mutex<Option<u32>>,
    /// How long access tokens live, in seconds.
    pub(super) lives: Mutex<i64>,
    /// The tenants that requests named.
    pub(super) named: Mutex<Vec<String>>,
}

fn header(metadata: &MetadataMap, name: &str) -> String {
    let value = metadata.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

impl People {
    pub(super) fn of(tenant: TenantId) -> Self {
        let people = Self {
            tenants: Mutex::default(),
            factor: Mutex::default(),
            session: Mutex::default(),
            lives: Mutex::new(900),
            named: Mutex::default(),
        };
        people.joins(&tenant.to_string(), "Shop");
        people
    }

    pub(super) fn joins(&self, id: &str, name: &str) {
        locked(&self.tenants).push(tenant::Membership {
            tenant: Some(tenant::Tenant {
                id: id.to_owned(),
                name: name.to_owned(),
                ..tenant::Tenant::default()
            }),
            role: proto::common::v1::Role::Operator.into(),
            frozen: false,
        });
    }

    pub(super) fn admit(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let named = header(metadata, "x-trailmesh-tenant");
        locked(&self.named).push(named);
        let token = header(metadata, "authorization");
        let session = locked(&self.session).map(|number| format!("Bearer access-{number}"));
        if token == format!("Bearer {KEY}") || Some(token) == session {
            return Ok(());
        }
        Err(refuse(
            Code::Unauthenticated,
            "CREDENTIAL_INVALID",
            "the credential does not count",
        ))
    }

    fn tokens(&self, number: u32) -> auth::Tokens {
        let time = |seconds| prost_types::Timestamp { seconds, nanos: 0 };
        auth::Tokens {
            access_token: format!("access-{number}"),
            access_expire_time: Some(time(now() + *locked(&self.lives))),
            refresh_token: format!("refresh-{number}"),
            session_expire_time: Some(time(now() + 30 * 86_400)),
        }
    }
}

#[tonic::async_trait]
impl SessionService for State {
    async fn log_in(&self, request: Request<auth::LogInRequest>) -> Answer<auth::LogInResponse> {
        let code = header(request.metadata(), "x-mfa-code");
        let asked = request.into_inner();
        if (asked.email.as_str(), asked.password.as_str()) != (EMAIL, PASSWORD) {
            let words = "the address or the password is wrong, or the address is not verified";
            return Err(refuse(Code::Unauthenticated, "CREDENTIALS_WRONG", words));
        }
        if *locked(&self.people.factor) && asked.recovery_code != "abcd-efgh" {
            let refused = match code.as_str() {
                CODE => None,
                "" => Some(("MFA_CODE_REQUIRED", "this account has a second factor")),
                _ => Some(("MFA_CODE_INVALID", "the code does not count")),
            };
            if let Some((reason, words)) = refused {
                return Err(refuse(Code::Unauthenticated, reason, words));
            }
        }
        *locked(&self.people.session) = Some(1);
        Ok(Response::new(auth::LogInResponse {
            tokens: Some(self.people.tokens(1)),
            device_token: "device".to_owned(),
            ..auth::LogInResponse::default()
        }))
    }

    async fn refresh_session(
        &self,
        request: Request<auth::RefreshSessionRequest>,
    ) -> Answer<auth::RefreshSessionResponse> {
        let presented = request.into_inner().refresh_token;
        let mut session = locked(&self.people.session);
        let number = session.filter(|number| presented == format!("refresh-{number}"));
        let Some(number) = number else {
            *session = None;
            let words = "the session has ended";
            return Err(refuse(Code::Invalid, "INVALID_GRANT", words));
        };
        *session = Some(number + 1);
        Ok(Response::new(auth::RefreshSessionResponse {
            tokens: Some(self.people.tokens(number + 1)),
        }))
    }

    async fn log_out(&self, request: Request<auth::LogOutRequest>) -> Answer<auth::LogOutResponse> {
        self.people.admit(request.metadata())?;
        *locked(&self.people.session) = None;
        Ok(Response::new(auth::LogOutResponse {}))
    }

    async fn list_sessions(
        &self,
        _: Request<auth::ListSessionsRequest>,
    ) -> Answer<auth::ListSessionsResponse> {
        Err(uncalled())
    }

    async fn revoke_session(
        &self,
        _: Request<auth::RevokeSessionRequest>,
    ) -> Answer<auth::RevokeSessionResponse> {
        Err(uncalled())
    }

    async fn revoke_other_sessions(
        &self,
        _: Request<auth::RevokeOtherSessionsRequest>,
    ) -> Answer<auth::RevokeOtherSessionsResponse> {
        Err(uncalled())
    }
}

/// `trail` does not call this one.
pub(super) fn uncalled() -> Status {
    refuse(Code::Refused, "METHOD_NOT_FOUND", "trail does not call it")
}

#[tonic::async_trait]
impl AccountService for State {
    async fn get_account(
        &self,
        request: Request<auth::GetAccountRequest>,
    ) -> Answer<auth::GetAccountResponse> {
        self.people.admit(request.metadata())?;
        Ok(Response::new(auth::GetAccountResponse {
            account: Some(auth::Account {
                id: "usr_ada".to_owned(),
                email: EMAIL.to_owned(),
                ..auth::Account::default()
            }),
        }))
    }

    async fn sign_up(&self, _: Request<auth::SignUpRequest>) -> Answer<auth::SignUpResponse> {
        Err(uncalled())
    }

    async fn verify_email(&self, _: Request<auth::VerifyEmailRequest>) -> Answer<auth::VerifyEmailResponse> {
        Err(uncalled())
    }

    async fn resend_verification(
        &self,
        _: Request<auth::ResendVerificationRequest>,
    ) -> Answer<auth::ResendVerificationResponse> {
        Err(uncalled())
    }

    async fn change_password(
        &self,
        _: Request<auth::ChangePasswordRequest>,
    ) -> Answer<auth::ChangePasswordResponse> {
        Err(uncalled())
    }

    async fn request_password_reset(
        &self,
        _: Request<auth::RequestPasswordResetRequest>,
    ) -> Answer<auth::RequestPasswordResetResponse> {
        Err(uncalled())
    }

    async fn reset_password(
        &self,
        _: Request<auth::ResetPasswordRequest>,
    ) -> Answer<auth::ResetPasswordResponse> {
        Err(uncalled())
    }
}

#[tonic::async_trait]
impl TenantService for State {
    async fn list_tenants(
        &self,
        request: Request<tenant::ListTenantsRequest>,
    ) -> Answer<tenant::ListTenantsResponse> {
        self.people.admit(request.metadata())?;
        Ok(Response::new(tenant::ListTenantsResponse {
            memberships: locked(&self.people.tenants).clone(),
            next_page_token: String::new(),
        }))
    }

    async fn get_tenant(
        &self,
        request: Request<tenant::GetTenantRequest>,
    ) -> Answer<tenant::GetTenantResponse> {
        self.people.admit(request.metadata())?;
        Ok(Response::new(tenant::GetTenantResponse {
            tenant: locked(&self.people.tenants)[0].tenant.clone(),
        }))
    }

    async fn create_tenant(
        &self,
        _: Request<tenant::CreateTenantRequest>,
    ) -> Answer<tenant::CreateTenantResponse> {
        Err(uncalled())
    }

    async fn update_tenant(
        &self,
        _: Request<tenant::UpdateTenantRequest>,
    ) -> Answer<tenant::UpdateTenantResponse> {
        Err(uncalled())
    }

    async fn delete_tenant(
        &self,
        _: Request<tenant::DeleteTenantRequest>,
    ) -> Answer<tenant::DeleteTenantResponse> {
        Err(uncalled())
    }

    async fn get_deletion(
        &self,
        _: Request<tenant::GetDeletionRequest>,
    ) -> Answer<tenant::GetDeletionResponse> {
        Err(uncalled())
    }
}
