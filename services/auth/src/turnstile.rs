//! Turnstile: whether a person stands behind a sign-up. Asks Cloudflare's `siteverify`; what cannot be checked is not let in.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chassis::SecretString;
use serde::Deserialize;
use types::chain;
use url::Url;
use uuid::Uuid;

use crate::{Config, Error};

/// What both tries may take together.
const BUDGET: Duration = Duration::from_secs(3);

/// A try that takes longer is given up for another one.
const ONE_TRY: Duration = Duration::from_millis(1_400);

/// Cloudflare's own bound.
const LONGEST_TOKEN: usize = 2_048;

/// Answers are a few hundred bytes.
const LONGEST_ANSWER: usize = 16 * 1_024;

/// The widget must have been shown for this.
const ACTION: &str = "signup";

/// The way to `siteverify`.
#[derive(Clone, Debug)]
pub(crate) struct Turnstile {
    client: reqwest::Client,
    url: Url,
    secret: SecretString,
    hostnames: Arc<[String]>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    success: bool,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    action: String,
    #[serde(default, rename = "error-codes")]
    errors: Vec<String>,
}

impl Turnstile {
    /// None where no secret is configured.
    pub(crate) fn new(config: &Config) -> Result<Option<Self>, Error> {
        let Some(secret) = &config.turnstile_secret else {
            return Ok(None);
        };
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(1))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Error::Internal(format!("no HTTP client: {}", chain(&error))))?;
        Ok(Some(Self {
            client,
            url: config.turnstile_url.clone(),
            secret: secret.clone(),
            hostnames: config.turnstile_hostnames.iter().cloned().collect(),
        }))
    }

    /// Whether the widget's token is good for a sign-up. It is so once.
    pub(crate) async fn check(&self, token: &str, address: &str, deadline: Instant) -> Result<(), Error> {
        if token.is_empty() || token.len() > LONGEST_TOKEN {
            return Err(Error::ChallengeFailed);
        }
        // Both tries carry one key, so that the second may see the first one's answer though a token works once.
        let key = Uuid::new_v4().to_string();
        let end = deadline.min(Instant::now() + BUDGET);
        for attempt in 1..=2 {
            let until = end.min(Instant::now() + ONE_TRY);
            match tokio::time::timeout_at(until.into(), self.ask(token, address, &key)).await {
                Ok(Ok(answer)) => return self.judge(&answer),
                Ok(Err(error)) => tracing::warn!(attempt, "siteverify: {error}"),
                Err(_) => tracing::warn!(attempt, "siteverify: no answer in time"),
            }
        }
        Err(Error::ChallengeUnavailable)
    }

    async fn ask(&self, token: &str, address: &str, key: &str) -> Result<Answer, String> {
        let mut form = vec![
            ("secret", self.secret.expose()),
            ("response", token),
            ("idempotency_key", key),
        ];
        if !address.is_empty() {
            form.push(("remoteip", address));
        }
        // The error's own words would name the URL only, never the form.
        let request = self.client.post(self.url.clone()).form(&form);
        let mut response = request.send().await.map_err(|error| chain(&error))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| chain(&error))? {
            body.extend_from_slice(&chunk);
            if body.len() > LONGEST_ANSWER {
                return Err("the answer is too long".to_owned());
            }
        }
        // A refused token is answered with 200 or 400, and JSON in both.
        if !status.is_success() && status.as_u16() != 400 {
            return Err(format!("status {status}"));
        }
        serde_json::from_slice(&body).map_err(|error| format!("status {status}, {error}"))
    }

    fn judge(&self, answer: &Answer) -> Result<(), Error> {
        if answer.errors.iter().any(|error| error == "internal-error") {
            return Err(Error::ChallengeUnavailable);
        }
        if answer.errors.iter().any(|error| error.ends_with("-input-secret")) {
            tracing::error!("siteverify does not know our secret");
            return Err(Error::ChallengeUnavailable);
        }
        let hostname = self
            .hostnames
            .iter()
            .any(|known| known.eq_ignore_ascii_case(&answer.hostname));
        if answer.success && hostname && answer.action == ACTION {
            Ok(())
        } else {
            Err(Error::ChallengeFailed)
        }
    }
}
