//! Subscriptions: links to Stripe's pages, its events, and what follows from them.

mod tenants;

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use proto::{common::v1::Plan as PbPlan, tenant::v1::*};
use serde_json::{Value, json};
use tonic::Code;
use types::{Plan, TenantId};

use crate::{
    plans::plan_changes,
    stripe::{KEY, SECRETS, Stripe, deliver, event, now, send, signature, subscription},
    world::{Caller, World, new_server},
};

const UPDATED: &str = "customer.subscription.updated";

async fn with_stripe() -> (Stripe, World) {
    let stripe = Stripe::start().await;
    let world = World::with_flags(stripe.flags.clone()).await;
    (stripe, world)
}

fn plan_of(world: &World, tenant: TenantId) -> String {
    world
        .db
        .sql(&format!("SELECT plan FROM tenant.tenant WHERE id = '{tenant}'"))
}

fn wait_for_plan(world: &World, tenant: TenantId, plan: Plan) {
    testkit::eventually("the plan", || {
        (plan_of(world, tenant) == plan.word()).then_some(())
    });
}

/// State, plan, what was seen, and what is wrong, once every hint was followed or given up.
fn settled(world: &World, id: &str) -> String {
    let row = format!(
        "SELECT concat_ws('|', state, plan, CASE WHEN dead_time IS NULL THEN 'alive' ELSE 'dead' END, problem)
         FROM tenant.subscription WHERE id = '{id}' AND (seen = hinted OR dead_time IS NOT NULL)"
    );
    testkit::eventually("a subscription that was looked at", || {
        let row = world.db.sql(&row);
        (!row.is_empty()).then_some(row)
    })
}

/// Makes all that waits for another try due at once.
fn hurry(world: &World) {
    world.db.sql("UPDATE tenant.subscription SET due_time = now()");
}

async fn buy(stripe: &Stripe, anna: &Caller<'_>, id: &str, status: &str, price: &str) {
    let bought = subscription(id, anna.tenant(), status, price, 1);
    stripe.becomes(&bought);
    deliver(anna, &event(&format!("evt_{id}_{status}"), UPDATED, &bought)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_is_bought_on_stripes_page() {
    let (stripe, world) = with_stripe().await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    let tenant = anna.tenant();
    let no = anna.refused(CreatePortalLinkRequest {}).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::FailedPrecondition, "NO_SUBSCRIPTION")
    );
    let checkout = |plan: PbPlan| CreateCheckoutLinkRequest { plan: plan.into() };
    for plan in [PbPlan::Unspecified, PbPlan::Free, PbPlan::Enterprise] {
        let no = anna.refused(checkout(plan)).await;
        assert_eq!((no.reason.as_str(), no.field.as_str()), ("FIELD_INVALID", "plan"));
    }
    assert!(stripe.asked().is_empty());

    let link = anna.call(checkout(PbPlan::Pro)).await.unwrap().url;
    assert_eq!(link, "https://checkout.stripe.example/c/pay/cs_1#f");
    let asked = stripe.asked();
    assert_eq!(asked.len(), 1);
    let first = &asked[0];
    assert_eq!(first.line, "POST /v1/checkout/sessions");
    assert_eq!(first.authorization, format!("Bearer {KEY}"));
    assert_eq!(first.version, "2025-03-31.basil");
    assert!(
        first
            .idempotency_key
            .starts_with(&format!("checkout-{tenant}-pro-req_"))
    );
    let tenant_text = tenant.to_string();
    for (field, value) in [
        ("mode", "subscription"),
        ("client_reference_id", tenant_text.as_str()),
        ("metadata[trailmesh_tenant]", tenant_text.as_str()),
        (
            "subscription_data[metadata][trailmesh_tenant]",
            tenant_text.as_str(),
        ),
        ("line_items[0][price]", "price_pro"),
        ("line_items[0][quantity]", "1"),
        ("success_url", "https://trail.example/billing"),
        ("cancel_url", "https://trail.example/billing"),
    ] {
        assert_eq!(first.form.get(field).map(String::as_str), Some(value), "{field}");
    }
    assert_eq!(first.form.len(), 8);

    // Paid.
    buy(&stripe, &anna, "sub_1", "active", "price_pro").await;
    wait_for_plan(&world, tenant, Plan::Pro);
    let plan = anna.call(GetPlanRequest {}).await.unwrap();
    assert_eq!(
        (plan.plan(), plan.subscription()),
        (PbPlan::Pro, SubscriptionState::Active)
    );
    assert!(plan.paid_until.unwrap().seconds > now() + 28 * 86_400);
    let no = anna.refused(checkout(PbPlan::Premium)).await;
    assert_eq!(
        (no.code, no.reason.as_str()),
        (Code::FailedPrecondition, "SUBSCRIPTION_EXISTS")
    );
    stripe.asked();
    let link = anna.call(CreatePortalLinkRequest {}).await.unwrap().url;
    assert_eq!(link, "https://billing.stripe.example/p/session/1");
    let asked = stripe.asked();
    assert_eq!(asked[0].line, "POST /v1/billing_portal/sessions");
    assert_eq!(asked[0].form["customer"], "cus_1");

    // Ended, and bought again as the same customer.
    buy(&stripe, &anna, "sub_1", "canceled", "price_pro").await;
    wait_for_plan(&world, tenant, Plan::Free);
    let plan = anna.call(GetPlanRequest {}).await.unwrap();
    assert_eq!(plan.subscription(), SubscriptionState::Ended);
    stripe.asked();
    anna.call(checkout(PbPlan::Premium)).await.unwrap();
    let form = &stripe.asked()[0].form;
    assert_eq!(
        (form["customer"].as_str(), form["line_items[0][price]"].as_str()),
        ("cus_1", "price_premium")
    );
    buy(&stripe, &anna, "sub_2", "trialing", "price_premium").await;
    wait_for_plan(&world, tenant, Plan::Premium);
    assert_eq!(
        plan_changes(&world, tenant),
        ["free pro billing", "pro free billing", "free premium billing"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stripe_that_fails_is_asked_once_more_with_the_same_key_and_then_told_of() {
    let (stripe, world) = with_stripe().await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    let checkout = || CreateCheckoutLinkRequest {
        plan: PbPlan::Pro.into(),
    };
    stripe.fail(&[503]);
    assert!(anna.call(checkout()).await.is_ok());
    let asked = stripe.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].idempotency_key, asked[1].idempotency_key);
    for (failures, tries) in [(&[500, 429][..], 2), (&[400], 1), (&[302], 1)] {
        stripe.fail(failures);
        let no = anna.refused(checkout()).await;
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::Unavailable, "BILLING_UNAVAILABLE")
        );
        assert_eq!(stripe.asked().len(), tries, "{failures:?}");
        assert!(!no.message.contains("status"), "{}", no.message);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_with_a_certificate_of_others_gets_nothing() {
    let stripe = Stripe::start().await;
    let without_authority = stripe.flags.iter().filter(|flag| !flag.contains("ca-file"));
    let world = World::with_flags(without_authority.cloned().collect()).await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    let no = anna
        .refused(CreateCheckoutLinkRequest {
            plan: PbPlan::Pro.into(),
        })
        .await;
    assert_eq!(no.reason, "BILLING_UNAVAILABLE");
    assert!(stripe.asked().is_empty());
}

/// Stripe's scheme as its documentation tells it, in another language and library.
fn signed_by_python(secret: &str, time: i64, body: &[u8]) -> String {
    let program = "import hmac,sys; t=sys.argv[2]; \
                   print(hmac.new(sys.argv[1].encode(), t.encode()+b'.'+sys.stdin.buffer.read(), 'sha256').hexdigest())";
    let mut child = Command::new("python3")
        .args(["-c", program, secret, &time.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(body).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_counts_when_its_signature_holds_and_else_nobody_hears_why_not() {
    let (_stripe, world) = with_stripe().await;
    let anna = world.person("anna@example.com");
    let object = json!({"id": "cus_1", "object": "customer", "name": "Müller\u{2028}& Söhne"});
    let new = |n: usize| event(&format!("evt_{n}"), "customer.updated", &object);
    let time = now();

    let body = new(1);
    let python = signed_by_python(SECRETS[0], time, &body);
    assert!(signature(SECRETS[0], time, &body).contains(&python));
    send(&anna, &[&format!("t={time},v1={python}")], &body)
        .await
        .unwrap();
    let body = new(2);
    let old = signed_by_python(SECRETS[1], time, &body);
    send(
        &anna,
        &[&format!("t={time},v1={},v1={old}", "f".repeat(64))],
        &body,
    )
    .await
    .unwrap();
    // Our clock may have gone on by seconds meanwhile.
    for skew in [-290, 290] {
        let body = new(usize::try_from(skew + 1_000).unwrap());
        send(&anna, &[&signature(SECRETS[0], now() + skew, &body)], &body)
            .await
            .unwrap();
    }
    let stored = world.db.sql("SELECT count(*) FROM tenant.stripe_event");
    assert_eq!(stored, "4");

    let body = new(3);
    let good = signature(SECRETS[0], now(), &body);
    let compact = serde_json::to_vec(&serde_json::from_slice::<Value>(&body).unwrap()).unwrap();
    let crlf = String::from_utf8(body.clone())
        .unwrap()
        .replace('\n', "\r\n")
        .into_bytes();
    let space = [&body[..], b" "].concat();
    let long = event(
        "evt_long",
        "customer.updated",
        &json!({"name": "x".repeat(1 << 20)}),
    );
    let live = {
        let mut live: Value = serde_json::from_slice(&new(4)).unwrap();
        live["livemode"] = json!(true);
        serde_json::to_vec(&live).unwrap()
    };
    let sign = |body: &[u8]| signature(SECRETS[0], now(), body);
    let refused: Vec<(&str, Vec<String>, Vec<u8>)> = vec![
        ("no header", vec![], body.clone()),
        ("an empty header", vec![String::new()], body.clone()),
        ("two headers", vec![good.clone(), good.clone()], body.clone()),
        ("only v0", vec![good.replace("v1=", "v0=")], body.clone()),
        (
            "a wrong secret",
            vec![signature("whsec_wrong", now(), &body)],
            body.clone(),
        ),
        (
            "too old",
            vec![signature(SECRETS[0], now() - 302, &body)],
            body.clone(),
        ),
        (
            "too new",
            vec![signature(SECRETS[0], now() + 310, &body)],
            body.clone(),
        ),
        ("written anew", vec![good.clone()], compact),
        ("other ends of lines", vec![good.clone()], crlf),
        ("a space more", vec![good.clone()], space),
        ("nothing", vec![good.clone()], Vec::new()),
        (
            "another time",
            vec![good.replacen("t=1", "t=01", 1)],
            body.clone(),
        ),
        ("too long", vec![sign(&long)], long),
        ("of live mode", vec![sign(&live)], live),
        ("no event", vec![sign(b"{}")], b"{}".to_vec()),
    ];
    let mut answers = Vec::new();
    for (what, headers, body) in refused {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let no = send(&anna, &headers, &body).await.expect_err(what);
        assert_eq!(
            (no.code, no.reason.as_str()),
            (Code::InvalidArgument, "EVENT_REFUSED"),
            "{what}"
        );
        answers.push((no.message, no.field));
    }
    answers.dedup();
    assert_eq!(answers, [("the event is refused".to_owned(), String::new())]);
    assert_eq!(world.db.sql("SELECT count(*) FROM tenant.stripe_event"), "4");
    send(&anna, &[&good], &body).await.unwrap();
}

/// Every order of `0..count`.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut orders = Vec::new();
    for shorter in self::orders(count - 1) {
        for place in 0..count {
            let mut order = shorter.clone();
            order.insert(place, count - 1);
            orders.push(order);
        }
    }
    orders
}

/// What became of a subscription whose states came about one after the other, and whose events came in `order`, the last one again at the end:
/// while an event is on its way, the subscription is what that event tells of, or something later.
async fn told(
    world: &World,
    stripe: &Stripe,
    anna: &Caller<'_>,
    id: &str,
    states: &[Value],
    order: &[usize],
) -> String {
    let mut latest = 0;
    for (step, which) in order.iter().chain(order.last()).enumerate() {
        latest = latest.max(*which);
        stripe.becomes(&states[latest]);
        let told = event(&format!("evt_{id}_{which}"), UPDATED, &states[*which]);
        deliver(anna, &told).await;
        if step % 2 == 0 {
            // Again, as Stripe does that has not heard the answer.
            deliver(anna, &told).await;
        }
    }
    settled(world, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_order_events_come_in_and_how_often_the_end_is_the_same() {
    let (stripe, world) = with_stripe().await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    let lives: [(&[(&str, &str)], &str); 3] = [
        (
            &[
                ("incomplete", "price_pro"),
                ("active", "price_pro"),
                ("past_due", "price_pro"),
                ("canceled", "price_pro"),
            ],
            "ended|pro|alive",
        ),
        (
            &[
                ("trialing", "price_pro"),
                ("past_due", "price_pro"),
                ("unpaid", "price_pro"),
                ("active", "price_premium"),
            ],
            "active|premium|alive",
        ),
        (
            &[
                ("active", "price_old"),
                ("active", "price_premium"),
                ("paused", "price_premium"),
                ("past_due", "price_premium"),
            ],
            "past_due|premium|alive",
        ),
    ];
    for (life, (states, expected)) in lives.into_iter().enumerate() {
        for (n, order) in orders(states.len()).into_iter().enumerate() {
            let id = format!("sub_{life}x{n}");
            let states: Vec<Value> = states
                .iter()
                .map(|(status, price)| subscription(&id, anna.tenant(), status, price, 1))
                .collect();
            let end = told(&world, &stripe, &anna, &id, &states, &order).await;
            assert_eq!(end, expected, "{order:?}");
        }
    }
    // Events are kept once each.
    assert_eq!(world.db.sql("SELECT count(*) FROM tenant.stripe_event"), "288");
    assert_eq!(plan_of(&world, anna.tenant()), "premium");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ended_does_not_come_back() {
    let (stripe, world) = with_stripe().await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    buy(&stripe, &anna, "sub_1", "active", "price_pro").await;
    buy(&stripe, &anna, "sub_1", "canceled", "price_pro").await;
    assert_eq!(settled(&world, "sub_1"), "ended|pro|alive");
    buy(&stripe, &anna, "sub_1", "past_due", "price_pro").await;
    assert_eq!(
        settled(&world, "sub_1"),
        "ended|pro|dead|it has ended, and now it is past_due"
    );
    assert_eq!(plan_of(&world, anna.tenant()), "free");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_understood_stays_as_it_was_until_the_event_is_sent_again() {
    let (stripe, world) = with_stripe().await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    buy(&stripe, &anna, "sub_1", "active", "price_pro").await;
    wait_for_plan(&world, anna.tenant(), Plan::Pro);
    let strange = subscription("sub_1", anna.tenant(), "active", "price_of_a_book", 1);
    stripe.becomes(&strange);
    let told = event("evt_strange", UPDATED, &strange);
    deliver(&anna, &told).await;
    assert_eq!(
        settled(&world, "sub_1"),
        "active|pro|dead|none of its prices is that of a plan"
    );
    assert_eq!(plan_of(&world, anna.tenant()), "pro");
    let shown = tenant::operator::show_plan(&world.config(), false, anna.tenant())
        .await
        .unwrap();
    assert_eq!(
        shown.subscriptions,
        ["sub_1: pro, active, gives pro; could not be looked at: none of its prices is that of a plan"]
    );
    // Put right in Stripe's dashboard, and sent again from there.
    stripe.becomes(&subscription(
        "sub_1",
        anna.tenant(),
        "active",
        "price_premium",
        1,
    ));
    deliver(&anna, &told).await;
    wait_for_plan(&world, anna.tenant(), Plan::Premium);
    assert_eq!(settled(&world, "sub_1"), "active|premium|alive");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stripe_that_is_away_changes_nothing_and_is_asked_again() {
    let (stripe, world) = with_stripe().await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    buy(&stripe, &anna, "sub_1", "active", "price_pro").await;
    wait_for_plan(&world, anna.tenant(), Plan::Pro);
    stripe.asked();
    stripe.fail(&[500, 500]);
    buy(&stripe, &anna, "sub_1", "canceled", "price_pro").await;
    testkit::eventually("a failed look", || {
        let problem = world
            .db
            .sql("SELECT problem FROM tenant.subscription WHERE attempts = 1");
        problem.starts_with("status 500").then_some(())
    });
    assert_eq!(plan_of(&world, anna.tenant()), "pro");
    hurry(&world);
    // Any event wakes the worker.
    deliver(
        &anna,
        &event(
            "evt_other",
            "customer.updated",
            &json!({"id": "cus_1", "object": "customer"}),
        ),
    )
    .await;
    wait_for_plan(&world, anna.tenant(), Plan::Free);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_of_nobody_here_is_left_alone() {
    let (stripe, world) = with_stripe().await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    let stranger = subscription("sub_1", TenantId::fresh(), "active", "price_pro", 1);
    let mut nameless = subscription("sub_2", anna.tenant(), "active", "price_pro", 1);
    nameless["metadata"] = json!({});
    for (id, object) in [("sub_1", stranger), ("sub_2", nameless)] {
        stripe.becomes(&object);
        deliver(&anna, &event(&format!("evt_{id}"), UPDATED, &object)).await;
        assert_eq!(settled(&world, id), "alive|of no tenant here");
    }
    // One that Stripe does not know either.
    let unknown = subscription("sub_3", anna.tenant(), "active", "price_pro", 1);
    deliver(&anna, &event("evt_3", UPDATED, &unknown)).await;
    assert!(settled(&world, "sub_3").starts_with("dead|status 404"));
    assert_eq!(plan_of(&world, anna.tenant()), "free");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_payment_ends_the_plan_after_two_weeks_and_freezes_what_is_too_much() {
    let (stripe, world) = with_stripe().await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    buy(&stripe, &anna, "sub_1", "active", "price_pro").await;
    wait_for_plan(&world, anna.tenant(), Plan::Pro);
    for name in ["a", "b", "c"] {
        anna.server(name, "").await;
    }
    let past_due = |id: &str, days: i64| subscription(id, anna.tenant(), "past_due", "price_pro", days);
    stripe.becomes(&past_due("sub_1", 13));
    deliver(
        &anna,
        &event(
            "evt_13",
            "invoice.payment_failed",
            &json!({"id": "in_1", "object": "invoice", "subscription": "sub_1"}),
        ),
    )
    .await;
    assert_eq!(settled(&world, "sub_1"), "past_due|pro|alive");
    let plan = anna.call(GetPlanRequest {}).await.unwrap();
    assert_eq!(
        (plan.plan(), plan.subscription()),
        (PbPlan::Pro, SubscriptionState::PastDue)
    );
    // The rest of the time passes.
    world.db.sql("UPDATE tenant.subscription SET grace_until = now()");
    deliver(
        &anna,
        &event(
            "evt_wake",
            "customer.updated",
            &json!({"id": "cus_1", "object": "customer"}),
        ),
    )
    .await;
    wait_for_plan(&world, anna.tenant(), Plan::Free);
    let servers = anna.call(ListServersRequest::default()).await.unwrap().servers;
    assert_eq!(
        servers.iter().map(|server| server.frozen).collect::<Vec<_>>(),
        [false, false, true]
    );
    // Paid after all.
    buy(&stripe, &anna, "sub_1", "active", "price_pro").await;
    deliver(
        &anna,
        &event(
            "evt_paid",
            UPDATED,
            &subscription("sub_1", anna.tenant(), "active", "price_pro", 1),
        ),
    )
    .await;
    wait_for_plan(&world, anna.tenant(), Plan::Pro);
    let servers = anna.call(ListServersRequest::default()).await.unwrap().servers;
    assert!(servers.iter().all(|server| !server.frozen));
    // One that was past due for long before anybody heard of it gives nothing.
    world.db.sql("DELETE FROM tenant.subscription");
    stripe.becomes(&past_due("sub_2", 15));
    deliver(&anna, &event("evt_15", UPDATED, &past_due("sub_2", 15))).await;
    wait_for_plan(&world, anna.tenant(), Plan::Free);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_operator_agreed_to_holds_beside_a_subscription() {
    let (stripe, world) = with_stripe().await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    let set = async |plan: Plan| {
        tenant::operator::set_plan(&world.config(), false, anna.tenant(), plan)
            .await
            .unwrap()
            .plan
    };
    buy(&stripe, &anna, "sub_1", "active", "price_pro").await;
    wait_for_plan(&world, anna.tenant(), Plan::Pro);
    assert_eq!(set(Plan::Enterprise).await, Plan::Enterprise);
    buy(&stripe, &anna, "sub_1", "canceled", "price_pro").await;
    assert_eq!(settled(&world, "sub_1"), "ended|pro|alive");
    assert_eq!(plan_of(&world, anna.tenant()), "enterprise");
    buy(&stripe, &anna, "sub_2", "active", "price_pro").await;
    assert_eq!(settled(&world, "sub_2"), "active|pro|alive");
    assert_eq!(set(Plan::Free).await, Plan::Pro);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_killed_between_an_event_and_its_effect_follows_it_when_it_is_back() {
    let stripe = Stripe::start().await;
    let world = World::apart_with_flags(stripe.flags.clone()).await;
    world.start_apart().await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    for (round, status, plan) in [
        (1, "active", Plan::Pro),
        (2, "canceled", Plan::Free),
        (3, "active", Plan::Pro),
    ] {
        stripe.asked();
        stripe.hold(true);
        buy(
            &stripe,
            &anna,
            &format!("sub_{}", round.max(2)),
            status,
            "price_pro",
        )
        .await;
        testkit::eventually("a question to Stripe", || {
            (!stripe.asked().is_empty()).then_some(())
        });
        world.kill_apart();
        stripe.hold(false);
        assert_ne!(plan_of(&world, anna.tenant()), plan.word());
        world.start_apart().await;
        hurry(&world);
        wait_for_plan(&world, anna.tenant(), plan);
    }
    assert_eq!(
        plan_changes(&world, anna.tenant()),
        ["free pro billing", "pro free billing", "free pro billing"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_took_long_undoes_nothing_that_was_seen_since() {
    let (stripe, world) = with_stripe().await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    // This process asks while the subscription is active, and its answer takes a while.
    stripe.hold(true);
    buy(&stripe, &anna, "sub_1", "active", "price_pro").await;
    testkit::eventually("a question to Stripe", || {
        (!stripe.asked().is_empty()).then_some(())
    });
    // Another one, which was told of the end, sees that.
    let ended = subscription("sub_1", anna.tenant(), "canceled", "price_pro", 1);
    stripe.becomes(&ended);
    deliver(&anna, &event("evt_end", UPDATED, &ended)).await;
    world.db.sql(
        "UPDATE tenant.subscription SET tenant_id = (SELECT id FROM tenant.tenant LIMIT 1), customer_id = 'cus_1', state = 'ended',
             plan = 'pro', paid_until = now(), seen = hinted",
    );
    stripe.hold(false);
    // The worker does one thing after the other: once it has looked at the next one, it is through with the first.
    buy(&stripe, &anna, "sub_2", "canceled", "price_pro").await;
    assert_eq!(settled(&world, "sub_2"), "ended|pro|alive");
    assert_eq!(settled(&world, "sub_1"), "ended|pro|alive");
    assert_eq!(plan_of(&world, anna.tenant()), "free");
    assert_eq!(plan_changes(&world, anna.tenant()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_was_paid_for_gives_room_at_once() {
    let (stripe, world) = with_stripe().await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    let register = |name: &str| RegisterServerRequest {
        server: Some(new_server(name)),
        ..Default::default()
    };
    for name in ["a", "b"] {
        anna.call(register(name)).await.unwrap();
    }
    assert_eq!(anna.refused(register("c")).await.reason, "PLAN_LIMIT");
    buy(&stripe, &anna, "sub_1", "active", "price_pro").await;
    wait_for_plan(&world, anna.tenant(), Plan::Pro);
    assert!(anna.call(register("c")).await.is_ok());
}
