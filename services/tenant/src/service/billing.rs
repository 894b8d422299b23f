//! BillingService.

use std::{
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use proto::{common::v1::Plan as PbPlan, tenant::v1 as pb};
use tokio::sync::Notify;
use tonic::{Request, Response, Status, metadata::MetadataMap};
use types::{Feature, Plan, Scope};
use url::Url;

use super::{Core, wire};
use crate::{
    billing::{
        event::Event,
        signature,
        stripe::{Failure, Stripe},
        subscription::State,
        worker::Measures,
    },
    domain::{
        Problem,
        plan::{Count, Use},
    },
    error::Error,
    store::{self, billing::Known},
};

/// Stripe's largest events have some hundred kilobytes.
const LONGEST_EVENT: usize = 1 << 20;

/// BillingService.
#[derive(Clone, Debug)]
pub(crate) struct Billing {
    pub(crate) core: Core,
    /// None where the operator sets plans.
    pub(crate) stripe: Option<Stripe>,
    pub(crate) measures: Measures,
    /// Wakes the worker.
    pub(crate) hinted: Arc<Notify>,
}

fn limits(plan: Plan, used: &Use) -> Vec<pb::PlanLimit> {
    let limits = plan.limits();
    let limit = |name: &str, limit: i64, count: Count| pb::PlanLimit {
        name: name.to_owned(),
        limit,
        used: count.used,
        frozen: count.frozen,
    };
    let none = Count::default();
    vec![
        limit("servers", limits.servers.into(), used.servers),
        limit("members", limits.members.into(), used.members),
        limit("api_keys", limits.api_keys.into(), used.api_keys),
        limit("agents", limits.agents.into(), used.agents),
        limit("audit_sinks", limits.audit_sinks.into(), used.audit_sinks),
        limit("audit_days", limits.audit_days.into(), none),
        limit("change_days", limits.change_days.into(), none),
        limit("uploads", limits.uploads.into(), used.uploads),
        limit(
            "upload_bytes",
            i64::try_from(limits.upload_bytes).unwrap_or(i64::MAX),
            none,
        ),
    ]
}

fn pb_state(known: Option<&Known>) -> pb::SubscriptionState {
    match known.map(|known| known.state) {
        None | Some(State::Incomplete) => pb::SubscriptionState::Unspecified,
        Some(State::Active) => pb::SubscriptionState::Active,
        Some(State::PastDue) => pb::SubscriptionState::PastDue,
        Some(State::Suspended) => pb::SubscriptionState::Suspended,
        Some(State::Ended) => pb::SubscriptionState::Ended,
    }
}

/// The only value of Stripe's header.
fn signature(metadata: &MetadataMap) -> Option<&str> {
    let mut values = metadata.get_all("stripe-signature").iter();
    let first = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(first)
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

fn page(found: Result<Url, Failure>) -> Result<String, Error> {
    match found {
        Ok(url) => Ok(url.into()),
        Err(failure) => {
            tracing::error!(why = failure.words(), "Stripe gave no page");
            Err(Error::BillingUnavailable)
        }
    }
}

impl Billing {
    async fn plan(&self, scope: &Scope) -> Result<pb::GetPlanResponse, Error> {
        let mut tx = self.core.store.registry(scope).await?;
        tx.enter_shared().await?;
        let plan = store::tenant::get(&mut tx, scope.tenant()).await?.plan;
        let subscriptions = store::billing::of_tenant(&mut tx, scope.tenant()).await?;
        let used = store::plan::used(&mut tx, scope.tenant(), plan).await?;
        let counts = subscriptions.first();
        let features = Feature::ALL.iter().filter(|feature| plan.has(**feature));
        Ok(pb::GetPlanResponse {
            plan: wire::plan(plan).into(),
            limits: limits(plan, &used),
            features: features.map(|feature| feature.word().to_owned()).collect(),
            subscription: pb_state(counts).into(),
            paid_until: counts.and_then(|known| wire::timestamp(known.paid_until)),
        })
    }

    async fn checkout(&self, scope: &Scope, wanted: i32) -> Result<String, Error> {
        let stripe = self.stripe.as_ref().ok_or(Error::BillingNotConfigured)?;
        let plan = match PbPlan::try_from(wanted) {
            Ok(PbPlan::Pro) => Plan::Pro,
            Ok(PbPlan::Premium) => Plan::Premium,
            _ => return Err(Problem::from("pro and premium are sold").at("plan").into()),
        };
        let price = stripe.price(plan).ok_or(Error::BillingNotConfigured)?;
        let known = self.subscriptions(scope).await?;
        if known
            .iter()
            .any(|one| !matches!(one.state, State::Ended | State::Incomplete))
        {
            return Err(Error::SubscriptionExists);
        }
        let customer = known.first().map(|one| one.customer.as_str());
        let key = format!("checkout-{}-{}-{}", scope.tenant(), plan.word(), scope.request);
        page(
            stripe
                .checkout(scope.tenant(), customer, price, &key, scope.deadline)
                .await,
        )
    }

    async fn portal(&self, scope: &Scope) -> Result<String, Error> {
        let stripe = self.stripe.as_ref().ok_or(Error::BillingNotConfigured)?;
        let known = self.subscriptions(scope).await?;
        let customer = &known.first().ok_or(Error::NoSubscription)?.customer;
        let key = format!("portal-{}-{}", scope.tenant(), scope.request);
        page(stripe.portal(customer, &key, scope.deadline).await)
    }

    /// The tenant's subscriptions, for a caller who is still its owner.
    async fn subscriptions(&self, scope: &Scope) -> Result<Vec<Known>, Error> {
        let (mut tx, scope) = self.core.store.change_all(scope).await?;
        store::billing::of_tenant(&mut tx, scope.tenant()).await
    }

    async fn receive(&self, signature: Option<&str>, body: &[u8], deadline: Instant) -> Result<bool, Error> {
        let stripe = self.stripe.as_ref().ok_or(Error::EventRefused)?;
        let signature = signature.ok_or(Error::EventRefused)?;
        if body.len() > LONGEST_EVENT || !signature::holds(signature, body, stripe.secrets(), now()) {
            return Err(Error::EventRefused);
        }
        let event = Event::read(body, stripe.live()).ok_or(Error::EventRefused)?;
        let mut tx = self.core.store.directory(deadline).await?;
        let new = store::billing::receive(&mut tx, &event).await?;
        tx.commit().await?;
        self.hinted.notify_one();
        Ok(new)
    }
}

#[tonic::async_trait]
impl pb::billing_service_server::BillingService for Billing {
    async fn get_plan(
        &self,
        request: Request<pb::GetPlanRequest>,
    ) -> Result<Response<pb::GetPlanResponse>, Status> {
        let scope = chassis::scope(&request)?;
        Ok(Response::new(self.plan(&scope).await?))
    }

    async fn create_checkout_link(
        &self,
        request: Request<pb::CreateCheckoutLinkRequest>,
    ) -> Result<Response<pb::CreateCheckoutLinkResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let url = self.checkout(&scope, request.get_ref().plan).await?;
        Ok(Response::new(pb::CreateCheckoutLinkResponse { url }))
    }

    async fn create_portal_link(
        &self,
        request: Request<pb::CreatePortalLinkRequest>,
    ) -> Result<Response<pb::CreatePortalLinkResponse>, Status> {
        let scope = chassis::scope(&request)?;
        let url = self.portal(&scope).await?;
        Ok(Response::new(pb::CreatePortalLinkResponse { url }))
    }

    async fn receive_stripe_event(
        &self,
        request: Request<pb::ReceiveStripeEventRequest>,
    ) -> Result<Response<pb::ReceiveStripeEventResponse>, Status> {
        let deadline = chassis::origin(&request).deadline;
        let body = request.get_ref().payload.as_ref().map(|payload| &payload.data);
        let body = body.ok_or(Error::EventRefused)?;
        let outcome = self.receive(signature(request.metadata()), body, deadline).await;
        self.measures.event(match &outcome {
            Ok(true) => "new",
            Ok(false) => "again",
            Err(Error::EventRefused) => "refused",
            Err(_) => "failed",
        });
        outcome?;
        Ok(Response::new(pb::ReceiveStripeEventResponse {}))
    }
}
