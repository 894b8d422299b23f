//! Chains as the database writes them.

use std::collections::BTreeMap;

use audit::{Actor, Call, Hash, Head, Kind, Link, Outcome, Record, Report, Verifier, genesis, link};

pub(crate) const TENANT: &str = "tnt_01hzy3v6k8m2n4p6q8r0s2t4v6";

pub(crate) const DAY: i64 = 86_400_000_000;

pub(crate) fn call() -> Call {
    Call {
        actor: Actor {
            user_id: "usr_1".to_owned(),
            ..Actor::default()
        },
        kind: Kind::Change,
        method: "/trailmesh.tenant.v1.ServerService/DeleteServer".to_owned(),
        path: "DELETE /v1/servers/{server_id}".to_owned(),
        targets: BTreeMap::from([("server_id".to_owned(), "srv_1".to_owned())]),
        client_address: "192.0.2.1".parse().ok(),
        user_agent: "curl/8".to_owned(),
        request_id: "req_1".to_owned(),
    }
}

/// The body of record `n`, which is `salt`'s.
pub(crate) fn body(n: i64, salt: u64) -> String {
    let time = 400 * DAY + n;
    let record = if n % 2 == 1 {
        Record::Intent {
            id: format!("aud_{n}_{salt}"),
            time,
            deadline: time + 5,
            call: call(),
        }
    } else {
        Record::Result {
            id: format!("aud_{}_{salt}", n - 1),
            time,
            outcome: Outcome::Succeeded,
            code: "OK".to_owned(),
            reason: String::new(),
            targets: BTreeMap::new(),
        }
    };
    record.body().unwrap()
}

/// One more record at the end.
pub(crate) fn append(chain: &mut Vec<Link>, body: String) {
    let (sequence, prev) = chain
        .last()
        .map_or_else(|| (1, genesis(TENANT)), |last| (last.sequence + 1, last.hash));
    let hash = link(sequence, prev, &body);
    chain.push(Link {
        sequence,
        prev,
        hash,
        body,
    });
}

pub(crate) fn chain(size: i64) -> Vec<Link> {
    let mut chain = Vec::new();
    for n in 1..=size {
        append(&mut chain, body(n, 0));
    }
    chain
}

/// Cuts off the front through `through`, as retention does.
pub(crate) fn trim(chain: &mut Vec<Link>, through: i64) {
    let time = 500 * DAY;
    let at = chain.iter().position(|link| link.sequence == through).unwrap();
    let record = Record::Trim {
        id: format!("trim_{through}"),
        time,
        through,
        hash: chain[at].hash.to_string(),
        days: 30,
        before: time - 30 * DAY,
    };
    append(chain, record.body().unwrap());
    chain.drain(..=at);
}

pub(crate) fn head(chain: &[Link], size: i64) -> Head {
    let hash = chain.iter().find(|link| link.sequence == size).unwrap().hash;
    Head {
        tenant: TENANT.to_owned(),
        size,
        hash,
        time: String::new(),
    }
}

pub(crate) fn verify(chain: &[Link], heads: &[Head]) -> Report {
    let mut verifier = Verifier::new(TENANT, heads.to_vec());
    for link in chain {
        verifier.push(link);
    }
    verifier.finish()
}

/// Another hash.
pub(crate) fn other(hash: Hash) -> Hash {
    Hash::of_text(&hash.to_string())
}
