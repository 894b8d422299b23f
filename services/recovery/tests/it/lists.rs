//! Plans, a page at a time.

use proto::{change::v1::Filter, recovery::v1::ListPlansRequest};
use testkit::Engine;
use tonic::Code;
use types::Role;

use crate::world::{World, accident, of_table};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_come_in_pages_the_newest_first_and_by_server() {
    let world = World::new().await;
    let (shop, owner, followed) = world.shop(Engine::Mariadb, &[]).await;
    let other = owner.follow(&shop).await;
    let mut made = Vec::new();
    for server in [&followed, &other, &followed, &other, &followed] {
        made.push(owner.planned(&server.id, accident(&shop)).await.id);
    }
    made.reverse();
    assert_eq!(owner.listed().await, made);

    let mut seen = Vec::new();
    let mut request = ListPlansRequest {
        page_size: 2,
        ..ListPlansRequest::default()
    };
    loop {
        let page = owner.list(request.clone()).await.unwrap();
        assert!(page.plans.len() <= 2);
        seen.extend(page.plans.into_iter().map(|plan| plan.id));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, made);

    let of_server = ListPlansRequest {
        page_size: 2,
        server_id: followed.id.clone(),
        page_token: String::new(),
    };
    let page = owner.list(of_server.clone()).await.unwrap();
    let ids: Vec<&str> = page.plans.iter().map(|plan| plan.id.as_str()).collect();
    assert_eq!(ids, [&made[0], &made[2]]);
    // The token of one list is none of another one.
    for (server_id, who) in [(String::new(), owner.clone()), (other.id.clone(), owner.clone())] {
        let request = ListPlansRequest {
            server_id,
            page_token: page.next_page_token.clone(),
            page_size: 2,
        };
        let no = who.list(request).await.unwrap_err();
        assert_eq!(
            (no.code, no.field.as_str()),
            (Code::InvalidArgument, "page_token")
        );
    }
    // In lists, positions would be most of what is sent.
    let first = owner
        .planned(&followed.id, accident(&shop))
        .await
        .summary
        .unwrap();
    let chosen = Filter {
        positions: vec![first.first.unwrap()],
        ..of_table(&shop, "orders")
    };
    let plan = owner.planned(&followed.id, chosen.clone()).await;
    let listed = owner
        .list(ListPlansRequest::default())
        .await
        .unwrap()
        .plans
        .remove(0);
    assert_eq!(listed.id, plan.id);
    assert!(listed.filter.unwrap().positions.is_empty());
    let got = owner.get(&plan.id).await.unwrap().plan.unwrap();
    assert_eq!(got.filter.unwrap(), chosen);

    let of_pool = owner.colleague(None, &[(&other.pool, Role::Operator)]);
    assert_eq!(of_pool.listed().await, [made[1].clone(), made[3].clone()]);
}
