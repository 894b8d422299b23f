//! How the payment provider is reached. All of it or nothing: without, plans are the operator's word.

use std::{path::PathBuf, str::FromStr};

use chassis::{ConfigError, SecretString, Settings, require_tls_url};
use types::Plan;
use url::Url;

/// The payment provider.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Billing {
    /// Where Stripe's API is
    #[arg(
        long,
        env = "TRAILMESH_TENANT_STRIPE_URL",
        value_name = "URL",
        default_value = "https://api.stripe.com"
    )]
    pub tenant_stripe_url: Url,
    /// PEM file of the authority that signed the certificate of another endpoint; without it, the public authorities
    #[arg(long, env = "TRAILMESH_TENANT_STRIPE_CA_FILE", value_name = "FILE")]
    pub tenant_stripe_ca_file: Option<PathBuf>,
    /// Stripe's secret key, `sk_live_…` or `sk_test_…`, or a restricted one. Without it nobody can buy, and the operator sets plans
    #[arg(long, env = "TRAILMESH_TENANT_STRIPE_KEY", hide_env_values = true)]
    pub tenant_stripe_key: Option<SecretString>,
    /// The secrets of the webhook, `whsec_…`, separated by commas: two while one is being changed
    #[arg(long, env = "TRAILMESH_TENANT_STRIPE_WEBHOOK_SECRETS", hide_env_values = true)]
    pub tenant_stripe_webhook_secrets: Option<SecretString>,
    /// What plans cost: `pro=price_…,premium=price_…`; the last price of a plan is the one that is sold
    #[arg(
        long,
        env = "TRAILMESH_TENANT_STRIPE_PRICES",
        value_name = "PLAN=PRICE",
        value_delimiter = ','
    )]
    pub tenant_stripe_prices: Vec<PriceOf>,
    /// Where Stripe's pages lead back to
    #[arg(long, env = "TRAILMESH_TENANT_STRIPE_RETURN_URL", value_name = "URL")]
    pub tenant_stripe_return_url: Option<Url>,
}

/// After `whsec_`: Stripe's have 32.
const SHORTEST_SECRET: usize = 16;

/// The price of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceOf {
    /// What it buys.
    pub plan: Plan,
    /// `price_…`
    pub price: String,
}

impl FromStr for PriceOf {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (plan, price) = text.split_once('=').ok_or("write plan=price_…")?;
        let plan = plan
            .trim()
            .parse()
            .ok()
            .filter(|plan| [Plan::Pro, Plan::Premium].contains(plan));
        let price = price.trim();
        if !super::event::is_id(price, "price_") {
            return Err("the id of a price begins with price_");
        }
        Ok(Self {
            plan: plan.ok_or("pro and premium are sold")?,
            price: price.to_owned(),
        })
    }
}

impl Billing {
    /// Whether a key is of Stripe's live mode; none is no key of Stripe's.
    pub(super) fn live(key: &str) -> Option<bool> {
        let is = |prefixes: [&str; 2]| prefixes.iter().any(|prefix| key.starts_with(prefix));
        if is(["sk_live_", "rk_live_"]) {
            return Some(true);
        }
        is(["sk_test_", "rk_test_"]).then_some(false)
    }

    /// The secrets of the webhook, one by one.
    pub(super) fn secrets(&self) -> Vec<&str> {
        let all = self.tenant_stripe_webhook_secrets.as_ref();
        let one_by_one = all.map(|all| all.expose().split(',').map(str::trim));
        one_by_one
            .into_iter()
            .flatten()
            .filter(|secret| !secret.is_empty())
            .collect()
    }

    pub(crate) fn check(&self, settings: &Settings) -> Result<(), ConfigError> {
        let dev = settings.dev;
        let no_secrets = self.secrets().is_empty();
        let wrong = |name: &str, problem: &str, remedy: &str| {
            Err(ConfigError::new(
                format!("TRAILMESH_TENANT_STRIPE_{name}"),
                problem,
                remedy,
            ))
        };
        let missing = "is needed with the other settings of Stripe";
        let Some(key) = &self.tenant_stripe_key else {
            let any = !no_secrets || !self.tenant_stripe_prices.is_empty();
            return if any || self.tenant_stripe_return_url.is_some() {
                wrong("KEY", missing, "write sk_live_… or sk_test_…")
            } else {
                Ok(())
            };
        };
        let url = self.tenant_stripe_url.as_str();
        require_tls_url("TRAILMESH_TENANT_STRIPE_URL", url, dev)?;
        settings.require_region("TRAILMESH_TENANT_STRIPE_URL", url)?;
        if Self::live(key.expose()).is_none() {
            return wrong(
                "KEY",
                "is no secret key of Stripe",
                "write sk_live_… or sk_test_…",
            );
        }
        if no_secrets {
            return wrong("WEBHOOK_SECRETS", missing, "write whsec_…");
        }
        if !self.secrets().into_iter().all(is_webhook_secret) {
            return wrong(
                "WEBHOOK_SECRETS",
                "has what is no secret of a webhook",
                "write what Stripe shows of the endpoint: whsec_ and at least 16 characters",
            );
        }
        for plan in [Plan::Pro, Plan::Premium] {
            if !self.tenant_stripe_prices.iter().any(|of| of.plan == plan) {
                return wrong(
                    "PRICES",
                    "lacks the price of a plan",
                    "write pro=price_…,premium=price_…",
                );
            }
        }
        match &self.tenant_stripe_return_url {
            Some(url) => require_tls_url("TRAILMESH_TENANT_STRIPE_RETURN_URL", url.as_str(), dev),
            None => wrong("RETURN_URL", missing, "write https://…"),
        }
    }
}

fn is_webhook_secret(secret: &str) -> bool {
    secret
        .strip_prefix("whsec_")
        .is_some_and(|rest| rest.len() >= SHORTEST_SECRET)
}

#[cfg(test)]
mod tests {
    use chassis::Settings;
    use clap::Parser;
    use types::Region;

    use super::Billing;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        billing: Billing,
    }

    fn checks(flags: &[&str]) -> Result<(), String> {
        let parsed = Flags::try_parse_from([&["x"], flags].concat()).map_err(|error| error.to_string())?;
        let settings = Settings {
            region: Region::Eu,
            forbidden_domains: vec!["vendor.test".to_owned()],
            ..Settings::default()
        };
        let checked = parsed.billing.check(&settings);
        checked.map_err(|error| error.to_string())
    }

    const ALL: [&str; 4] = [
        "--tenant-stripe-key=sk_test_1",
        "--tenant-stripe-webhook-secrets=whsec_0123456789abcdef,whsec_fedcba9876543210",
        "--tenant-stripe-prices=pro=price_1,premium=price_2",
        "--tenant-stripe-return-url=https://trail.example/billing",
    ];

    #[test]
    fn stripe_is_configured_wholly_or_not_at_all() {
        assert_eq!(checks(&[]), Ok(()));
        assert_eq!(checks(&ALL), Ok(()));
        for left_out in ALL {
            let rest: Vec<&str> = ALL.into_iter().filter(|flag| *flag != left_out).collect();
            let name = left_out
                .split('=')
                .next()
                .unwrap()
                .trim_start_matches("--")
                .replace('-', "_");
            let no = checks(&rest).unwrap_err();
            assert!(no.contains(&name.to_uppercase()), "{left_out}: {no}");
        }
    }

    #[test]
    fn an_endpoint_of_another_region_or_a_forbidden_domain_is_refused() {
        for (url, fits) in [
            ("https://api.stripe.com", true),
            ("https://stripe.eu-west-1.example.com", true),
            ("https://stripe.us-east-1.example.com", false),
            ("https://stripe.vendor.test", false),
        ] {
            let url = format!("--tenant-stripe-url={url}");
            let flags: Vec<&str> = ALL.into_iter().chain([url.as_str()]).collect();
            let checked = checks(&flags);
            assert_eq!(checked.is_ok(), fits, "{url}");
            if let Err(no) = checked {
                assert!(no.contains("TRAILMESH_TENANT_STRIPE_URL"), "{no}");
            }
            // Where nobody pays there is nothing to connect to.
            assert_eq!(checks(&[&url]), Ok(()));
        }
    }

    #[test]
    fn what_cannot_be_right_is_refused() {
        for wrong in [
            "--tenant-stripe-key=pk_live_1",
            "--tenant-stripe-webhook-secrets=whsec_0123456789abcdef,secret",
            "--tenant-stripe-webhook-secrets=whsec_0123456789abcdef,whsec_",
            "--tenant-stripe-webhook-secrets=whsec_0123456789abcde",
            "--tenant-stripe-prices=pro=price_1",
            "--tenant-stripe-prices=enterprise=price_1",
            "--tenant-stripe-prices=pro=prod_1",
            "--tenant-stripe-url=http://api.stripe.com",
            "--tenant-stripe-return-url=http://trail.example",
        ] {
            let name = wrong.split('=').next().unwrap();
            let others = ALL.into_iter().filter(|flag| !flag.starts_with(name));
            let flags: Vec<&str> = others.chain([wrong]).collect();
            assert!(checks(&flags).is_err(), "{wrong}");
        }
    }
}
