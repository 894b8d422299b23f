//! Records: their bytes, their bounds, and the entries they make up.

use std::collections::BTreeMap;

use audit::{Entry, Event, Outcome, Record, genesis, link};
use proptest::prelude::*;

use crate::made::{TENANT, call};

fn intent() -> Record {
    Record::Intent {
        id: "aud_1".to_owned(),
        time: 10,
        deadline: 20,
        call: call(),
    }
}

fn result() -> Record {
    Record::Result {
        id: "aud_1".to_owned(),
        time: 15,
        outcome: Outcome::Failed,
        code: "NOT_FOUND".to_owned(),
        reason: "SERVER_NOT_FOUND".to_owned(),
        targets: BTreeMap::from([("rule_id".to_owned(), "acr_1".to_owned())]),
    }
}

/// These bytes and hashes are those of all logs that were ever written: a change here breaks their proofs.
#[test]
fn the_bytes_of_records_and_their_hashes_never_change() {
    let body = result().body().unwrap();
    assert_eq!(
        body,
        r#"{"part":"result","id":"aud_1","time":15,"outcome":"failed","code":"NOT_FOUND","reason":"SERVER_NOT_FOUND","targets":{"rule_id":"acr_1"}}"#
    );
    assert_eq!(
        intent().body().unwrap(),
        r#"{"part":"intent","id":"aud_1","time":10,"deadline":20,"call":{"actor":{"user_id":"usr_1"},"kind":"change","method":"/trailmesh.tenant.v1.ServerService/DeleteServer","path":"DELETE /v1/servers/{server_id}","targets":{"server_id":"srv_1"},"client_address":"192.0.2.1","user_agent":"curl/8","request_id":"req_1"}}"#
    );
    // printf 'trailmesh.audit.genesis.v1\0tnt_…' | sha256sum, and so on.
    assert_eq!(genesis(TENANT).to_string(), GENESIS);
    assert_eq!(link(1, genesis(TENANT), &body).to_string(), FIRST);
}

const GENESIS: &str = "e486d6b27ec7d80414e05671e1e3a7924ae56b56879b93e80869d242b18da5cb";
const FIRST: &str = "0c300a33df72eb56d0de904112acba949991c63ff31e50eecc2415fc97fa96c6";

#[test]
fn an_intent_and_its_result_are_one_entry() {
    let open = Entry::of((4, intent()), None).unwrap();
    assert!(!open.ended && open.sequence == 4 && open.event.time == 10);
    let ended = Entry::of((4, intent()), Some((9, result()))).unwrap();
    assert!(ended.ended && ended.sequence == 9);
    assert_eq!((ended.event.time, ended.event.end_time), (10, 15));
    assert_eq!(ended.event.outcome, Outcome::Failed);
    assert_eq!(ended.event.targets.len(), 2);
    assert_eq!(Entry::of((9, result()), None), None);
    assert_eq!(Entry::of((4, intent()), Some((9, intent()))), None);
}

proptest! {
    #[test]
    fn whatever_a_client_says_is_bounded_and_read_back(text in any::<String>(), times in 1usize..400, fields in 0usize..100) {
        let long = text.repeat(times);
        let mut call = call();
        call.user_agent = long.clone();
        call.method = long.clone();
        call.path = long.clone();
        call.request_id = long.clone();
        call.actor.user_id = long.clone();
        call.targets = (0..fields).map(|n| (format!("{n}{long}"), long.clone())).collect();
        let record = Record::Intent { id: long, time: 1, deadline: 2, call }.bounded();
        let body = record.body().unwrap();
        prop_assert!(body.len() <= 32_768, "{}", body.len());
        let steers = ['\n', '\r', '\0', '\u{1b}', '\u{7f}', '\u{85}', '\u{202e}', '\u{2028}'];
        prop_assert!(!body.contains(steers));
        prop_assert_eq!(&Record::read(&body).unwrap(), &record);
        prop_assert_eq!(record.clone().bounded(), record);
    }
}

#[test]
fn an_event_is_bounded_in_all_its_texts() {
    let event: Event = serde_json::from_str(
        r#"{"id":"aud_1","time":1,"end_time":2,"actor":{"user_id":"u"},"kind":"security","method":"/m","outcome":"failed","code":"C","user_agent":"a\u0000b\nc"}"#,
    )
    .unwrap();
    assert_eq!(event.count, 1);
    assert_eq!(event.bounded().user_agent, "a\u{fffd}b\u{fffd}c");
}
