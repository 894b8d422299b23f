//! People: from the sign-up on, by the same calls as anybody.

use reqwest::Method;
use serde_json::{Value, json};
use totp_rs::{Builder, Secret, Totp};

use crate::mesh::{Answer, Caller, Place};

/// A person with an account and a session.
pub(crate) struct Person {
    pub(crate) email: String,
    pub(crate) password: String,
    pub(crate) user_id: String,
    /// Calls with the session's access token.
    pub(crate) caller: Caller,
    pub(crate) refresh_token: String,
    factor: Option<Factor>,
}

/// Somebody's authenticator.
pub(crate) struct Factor {
    totp: Totp,
    /// The step of the newest code it gave away.
    last: u64,
}

/// The code of the step before is given away while so many seconds of this one are left: with this one it ends, and a machine at work on other
/// tests takes a while to ask.
pub(crate) const LEFT: u64 = 10;

impl Factor {
    /// A code that was not given away before. Codes of the step before this one count too, so the second of two mostly comes at once, and a
    /// further one when its time has come.
    pub(crate) async fn code(&mut self) -> String {
        loop {
            let now = now();
            let step = ((now + LEFT) / 30 - 1).max(self.last + 1);
            if step <= now / 30 {
                self.last = step;
                return self.totp.generate(step * 30).to_string();
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }
}

pub(crate) fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a time")
        .as_secs()
}

impl Person {
    /// Signs up, proves the address, logs in. `name` makes the address.
    pub(crate) async fn new(mesh: &Place, name: &str) -> Self {
        let email = format!("{name}-{}@example.com", uuid::Uuid::new_v4().simple());
        let password = format!("correct horse {name} battery");
        let nobody = Caller::nobody(mesh);
        nobody
            .post(
                "/v1/auth/sign-up",
                json!({"email": email, "password": password, "displayName": name}),
            )
            .await
            .ok();
        let token = mesh.mailed_token(&email, "token=");
        let account = nobody
            .post("/v1/auth/verify-email", json!({"token": token}))
            .await
            .ok();
        let user_id = account["account"]["id"].as_str().expect("an id").to_owned();
        let mut person = Self {
            email,
            password,
            user_id,
            caller: nobody,
            refresh_token: String::new(),
            factor: None,
        };
        let answer = person.log_in("").await.ok();
        person.take_tokens(&answer);
        person
    }

    /// Tries to log in, with a code if it is not empty.
    pub(crate) async fn log_in(&self, code: &str) -> Answer {
        let body = json!({"email": self.email, "password": self.password});
        self.caller
            .with("")
            .within("")
            .call_with(Method::POST, "/v1/auth/login", code, Some(&body))
            .await
    }

    /// Calls with these tokens from now on.
    pub(crate) fn take_tokens(&mut self, answer: &Value) {
        let token = |name: &str| answer["tokens"][name].as_str().expect("a token").to_owned();
        self.caller.credential = token("accessToken");
        self.refresh_token = token("refreshToken");
    }

    /// Enrols and activates a second factor.
    pub(crate) async fn enrol(&mut self) -> Vec<String> {
        let enrolled = self
            .caller
            .post(
                "/v1/account/mfa/totp:enrol",
                json!({"currentPassword": self.password}),
            )
            .await
            .ok();
        let secret = Secret::try_from_base32(enrolled["secret"].as_str().expect("a secret")).expect("base32");
        let totp = Builder::new().with_secret(secret).build().expect("a TOTP");
        let mut factor = Factor { totp, last: 0 };
        let code = factor.code().await;
        self.factor = Some(factor);
        let path = "/v1/account/mfa/totp:activate";
        let activated = self
            .caller
            .call_with(Method::POST, path, &code, Some(&json!({})))
            .await
            .ok();
        let codes = activated["recoveryCodes"].as_array().expect("codes");
        codes
            .iter()
            .map(|code| code.as_str().expect("a code").to_owned())
            .collect()
    }

    /// A fresh code; empty for who has no factor.
    pub(crate) async fn code(&mut self) -> String {
        match &mut self.factor {
            Some(factor) => factor.code().await,
            None => String::new(),
        }
    }

    /// The newest code that [`Self::code`] or the enrolment used already.
    pub(crate) fn code_again(&self) -> String {
        let factor = self.factor.as_ref().expect("a factor");
        factor.totp.generate(factor.last * 30).to_string()
    }

    /// A call that takes a second factor, with a fresh code.
    pub(crate) async fn confirmed(&mut self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let code = self.code().await;
        self.caller.call_with(method, path, &code, body.as_ref()).await
    }

    /// Makes a tenant and works in it from now on; gives its id.
    pub(crate) async fn found_tenant(&mut self, name: &str) -> String {
        let made = self
            .caller
            .post("/v1/tenants", json!({"name": name, "region": "REGION_US"}))
            .await
            .ok();
        let id = made["tenant"]["id"].as_str().expect("an id").to_owned();
        self.caller.tenant.clone_from(&id);
        id
    }

    /// Brings `other` into this person's tenant with a role such as `ROLE_ANALYST`.
    pub(crate) async fn take_in(&mut self, mesh: &Place, other: &mut Self, role: &str) {
        let body = json!({"email": other.email, "role": role});
        self.confirmed(Method::POST, "/v1/invitations", Some(body))
            .await
            .ok();
        let token = mesh.mailed_token(&other.email, "invit");
        other
            .caller
            .within("")
            .post("/v1/invitations:accept", json!({"token": token}))
            .await
            .ok();
        other.caller.tenant.clone_from(&self.caller.tenant);
    }
}
