//! Subscriptions and the lives of tenants.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stripe_says_while_a_tenant_rests_counts_when_it_is_back() {
    let (stripe, world) = with_stripe().await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    let bert = world.owner_on("bert@example.com", Plan::Free).await;
    buy(&stripe, &anna, "sub_1", "active", "price_pro").await;
    wait_for_plan(&world, anna.tenant(), Plan::Pro);
    let becomes = |state: &str| {
        let sql = "UPDATE tenant.tenant SET state =";
        world
            .db
            .sql(&format!("{sql} '{state}' WHERE id = '{}'", anna.tenant()))
    };
    becomes("suspended");
    let ended = subscription("sub_1", anna.tenant(), "canceled", "price_pro", 1);
    stripe.becomes(&ended);
    deliver(&bert, &event("evt_end", UPDATED, &ended)).await;
    testkit::eventually("a look that came too early", || {
        let row = world
            .db
            .sql("SELECT seen < hinted, dead_time IS NULL FROM tenant.subscription WHERE problem = 'its tenant is not active'");
        (row == "t|t").then_some(())
    });
    assert_eq!(plan_of(&world, anna.tenant()), "pro");
    becomes("active");
    hurry(&world);
    buy(&stripe, &bert, "sub_2", "active", "price_pro").await;
    wait_for_plan(&world, anna.tenant(), Plan::Free);
    assert_eq!(settled(&world, "sub_1"), "ended|pro|alive");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_becomes_another_tenants_gives_the_first_one_nothing() {
    let (stripe, world) = with_stripe().await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    let bert = world.owner_on("bert@example.com", Plan::Free).await;
    buy(&stripe, &anna, "sub_1", "active", "price_pro").await;
    wait_for_plan(&world, anna.tenant(), Plan::Pro);
    let now_berts = subscription("sub_1", bert.tenant(), "active", "price_pro", 1);
    stripe.becomes(&now_berts);
    deliver(&bert, &event("evt_bert", UPDATED, &now_berts)).await;
    wait_for_plan(&world, bert.tenant(), Plan::Pro);
    wait_for_plan(&world, anna.tenant(), Plan::Free);
    // To one that is not of this installation.
    let strangers = subscription("sub_1", TenantId::fresh(), "active", "price_pro", 1);
    stripe.becomes(&strangers);
    deliver(&bert, &event("evt_stranger", UPDATED, &strangers)).await;
    wait_for_plan(&world, bert.tenant(), Plan::Free);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_ends_whatever_its_price_and_whoever_it_names() {
    let (stripe, world) = with_stripe().await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    buy(&stripe, &anna, "sub_1", "active", "price_pro").await;
    wait_for_plan(&world, anna.tenant(), Plan::Pro);
    // Its price is not sold any more, and somebody has emptied its metadata.
    let mut ended = subscription("sub_1", anna.tenant(), "canceled", "price_of_before", 1);
    ended["metadata"] = json!({});
    stripe.becomes(&ended);
    deliver(&anna, &event("evt_end", UPDATED, &ended)).await;
    wait_for_plan(&world, anna.tenant(), Plan::Free);
    assert_eq!(settled(&world, "sub_1"), "ended|pro|alive");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_whose_plan_cannot_be_ended_keeps_nobody_waiting() {
    let (stripe, world) = with_stripe().await;
    let anna = world.owner_on("anna@example.com", Plan::Free).await;
    let bert = world.owner_on("bert@example.com", Plan::Free).await;
    buy(&stripe, &anna, "sub_1", "active", "price_pro").await;
    wait_for_plan(&world, anna.tenant(), Plan::Pro);
    world.db.sql(&format!(
        "ALTER TABLE t_{}.server RENAME TO lost;
         UPDATE tenant.subscription SET state = 'past_due', grace_until = now() - interval '1 day'",
        anna.tenant().digits()
    ));
    for (round, plan) in [(2, Plan::Pro), (3, Plan::Premium)] {
        buy(
            &stripe,
            &bert,
            &format!("sub_{round}"),
            "active",
            &format!("price_{}", plan.word()),
        )
        .await;
        wait_for_plan(&world, bert.tenant(), plan);
    }
    assert_eq!(plan_of(&world, anna.tenant()), "pro");
}
