//! Stripe's API: forms in, JSON out, over HTTPS.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chassis::SecretString;
use reqwest::{Method, StatusCode, header};
use ring::hmac;
use serde::Deserialize;
use tokio::time::timeout_at;
use types::{Plan, TenantId, chain};
use url::Url;

use super::{
    config::Billing,
    event::is_id,
    subscription::{self, Subscription, TENANT},
};

/// The shape of Stripe's answers that [`subscription`] reads; without it they would change with the account's settings.
const VERSION: &str = "2025-03-31.basil";

/// What one question may take, its second try included.
const BUDGET: Duration = Duration::from_secs(10);

/// A try that takes longer is given up for another one.
const ONE_TRY: Duration = Duration::from_millis(4_500);

/// Answers have some kilobytes.
const LONGEST_ANSWER: usize = 1 << 20;

/// Stripe, with the settings of this installation. Clones share their connections.
#[derive(Clone, Debug)]
pub(crate) struct Stripe {
    client: reqwest::Client,
    url: Url,
    key: SecretString,
    live: bool,
    secrets: Arc<[hmac::Key]>,
    prices: Arc<[(Plan, String)]>,
    return_url: Url,
}

/// Why Stripe did not answer a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It may later.
    Later(String),
    /// It will not.
    Never(String),
}

impl Failure {
    /// What happened.
    pub(crate) fn words(&self) -> &str {
        match self {
            Self::Later(words) | Self::Never(words) => words,
        }
    }
}

/// A page of Stripe's for one visitor.
#[derive(Deserialize)]
struct Session {
    url: String,
}

/// What Stripe says of a request that it refuses.
#[derive(Deserialize)]
struct Refused {
    error: Reason,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    code: String,
}

impl Stripe {
    /// None where it is not configured.
    ///
    /// # Errors
    /// When the authority's file cannot be used, in words.
    pub(crate) fn new(config: &Billing) -> Result<Option<Self>, String> {
        let (Some(key), Some(return_url)) = (&config.tenant_stripe_key, &config.tenant_stripe_return_url)
        else {
            return Ok(None);
        };
        let mut client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(2))
            .redirect(reqwest::redirect::Policy::none());
        if let Some(file) = &config.tenant_stripe_ca_file {
            let pem = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
            let authorities = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| chain(&error))?;
            client = client.tls_certs_only(authorities);
        }
        let secret = |secret: &str| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let prices = &config.tenant_stripe_prices;
        Ok(Some(Self {
            client: client.build().map_err(|error| chain(&error))?,
            url: config.tenant_stripe_url.clone(),
            live: Billing::live(key.expose()).unwrap_or(true),
            key: key.clone(),
            secrets: config.secrets().into_iter().map(secret).collect(),
            prices: prices.iter().map(|of| (of.plan, of.price.clone())).collect(),
            return_url: return_url.clone(),
        }))
    }

    /// The secrets that sign events.
    pub(crate) fn secrets(&self) -> &[hmac::Key] {
        &self.secrets
    }

    /// Whether money is real.
    pub(crate) fn live(&self) -> bool {
        self.live
    }

    /// The price at which a plan is sold.
    pub(crate) fn price(&self, plan: Plan) -> Option<&str> {
        let prices = self.prices.iter().rev();
        prices
            .into_iter()
            .find(|(of, _)| *of == plan)
            .map(|(_, price)| price.as_str())
    }

    /// A page on which the tenant's owner buys what has this price. One `key`, one page.
    pub(crate) async fn checkout(
        &self,
        tenant: TenantId,
        customer: Option<&str>,
        price: &str,
        key: &str,
        deadline: Instant,
    ) -> Result<Url, Failure> {
        let tenant = tenant.to_string();
        let mine = format!("metadata[{TENANT}]");
        let of_subscription = format!("subscription_data[metadata][{TENANT}]");
        let mut form = vec![
            ("mode", "subscription"),
            ("client_reference_id", tenant.as_str()),
            (mine.as_str(), tenant.as_str()),
            (of_subscription.as_str(), tenant.as_str()),
            ("line_items[0][price]", price),
            ("line_items[0][quantity]", "1"),
            ("success_url", self.return_url.as_str()),
            ("cancel_url", self.return_url.as_str()),
        ];
        form.extend(customer.map(|customer| ("customer", customer)));
        self.page("checkout/sessions", &form, key, deadline).await
    }

    /// A page on which a customer sees invoices, changes cards, and ends the subscription.
    pub(crate) async fn portal(&self, customer: &str, key: &str, deadline: Instant) -> Result<Url, Failure> {
        let form = [("customer", customer), ("return_url", self.return_url.as_str())];
        self.page("billing_portal/sessions", &form, key, deadline).await
    }

    /// The subscription as it is now.
    ///
    /// # Errors
    /// [`Failure::Never`] when there is none, or it is not understood.
    pub(crate) async fn subscription(&self, id: &str, deadline: Instant) -> Result<Subscription, Failure> {
        if !is_id(id, "sub_") {
            return Err(Failure::Never("it is no id of a subscription".to_owned()));
        }
        let body = self
            .ask(Method::GET, &format!("subscriptions/{id}"), None, deadline)
            .await?;
        let found = subscription::read(&body, self.live, &self.prices).map_err(Failure::Never)?;
        if found.id == id {
            Ok(found)
        } else {
            Err(Failure::Never("the answer is about another one".to_owned()))
        }
    }

    async fn page(
        &self,
        path: &str,
        form: &[(&str, &str)],
        key: &str,
        deadline: Instant,
    ) -> Result<Url, Failure> {
        let body = self.ask(Method::POST, path, Some((form, key)), deadline).await?;
        let session: Session = serde_json::from_slice(&body)
            .map_err(|error| Failure::Never(format!("the answer has no link: {error}")))?;
        let url = Url::parse(&session.url)
            .ok()
            .filter(|url| url.scheme() == "https");
        url.ok_or_else(|| Failure::Never("the link is none that people may follow".to_owned()))
    }

    /// Asks, and asks once more what may help; with the same key, so that it is done once.
    async fn ask(
        &self,
        method: Method,
        path: &str,
        form: Option<(&[(&str, &str)], &str)>,
        deadline: Instant,
    ) -> Result<Vec<u8>, Failure> {
        let end = deadline.min(Instant::now() + BUDGET);
        let mut last = Failure::Later("there was no time".to_owned());
        for _ in 1..=2 {
            let until = end.min(Instant::now() + ONE_TRY);
            last = match timeout_at(until.into(), self.ask_once(method.clone(), path, form)).await {
                Ok(Err(later @ Failure::Later(_))) => later,
                Ok(decided) => return decided,
                Err(_) => Failure::Later("no answer in time".to_owned()),
            };
            if Instant::now() >= end {
                break;
            }
        }
        Err(last)
    }

    async fn ask_once(
        &self,
        method: Method,
        path: &str,
        form: Option<(&[(&str, &str)], &str)>,
    ) -> Result<Vec<u8>, Failure> {
        let url = self
            .url
            .join(&format!("v1/{path}"))
            .map_err(|error| Failure::Never(error.to_string()))?;
        let mut request = self
            .client
            .request(method, url)
            .bearer_auth(self.key.expose())
            .header("stripe-version", VERSION)
            .header(header::ACCEPT, "application/json");
        if let Some((form, key)) = form {
            request = request.header("idempotency-key", key).form(form);
        }
        // An error of the client names the URL, never the key.
        let later = |error: reqwest::Error| Failure::Later(chain(&error));
        let mut response = request.send().await.map_err(later)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(later)? {
            body.extend_from_slice(&chunk);
            if body.len() > LONGEST_ANSWER {
                return Err(Failure::Never("the answer is too long".to_owned()));
            }
        }
        answer(response.status(), body)
    }
}

/// What a status means. The words of a refusal stay with Stripe: they may repeat what was sent.
fn answer(status: StatusCode, body: Vec<u8>) -> Result<Vec<u8>, Failure> {
    if status.is_success() {
        return Ok(body);
    }
    let said = serde_json::from_slice::<Refused>(&body)
        .ok()
        .map(|refused| refused.error);
    let said = said
        .map(|error| format!(": {} {}", error.kind, error.code))
        .unwrap_or_default();
    let words = format!("status {}{said}", status.as_u16());
    // A key that is refused is put right by the operator: 401 and 403 are tried again, like 409 (another try is under way) and 429.
    match status.as_u16() {
        401 | 403 | 408 | 409 | 429 | 500.. => Err(Failure::Later(words)),
        _ => Err(Failure::Never(words)),
    }
}
