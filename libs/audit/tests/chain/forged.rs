//! What was done to a chain is named, at the first record that it touches.

use audit::{Finding, Head, Link, Record, genesis, link};
use proptest::prelude::*;

use crate::made::{DAY, TENANT, append, body, chain, head, other, trim, verify};

/// A chain that may have been trimmed, and heads that cover it: one at the end, one somewhere before.
fn good() -> impl Strategy<Value = (Vec<Link>, Vec<Head>)> {
    (
        2i64..40,
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        0..3,
    )
        .prop_map(|(size, cut, at, trims)| {
            let mut good = chain(size);
            for _ in 0..trims {
                let first = good[0].sequence;
                let through = first + cut.index(good.len().min(10)) as i64;
                if through < good[good.len() - 1].sequence {
                    trim(&mut good, through);
                }
            }
            append(&mut good, body(901, 1));
            append(&mut good, body(902, 1));
            let last = good[good.len() - 1].sequence;
            let heads = vec![
                head(&good, good[at.index(good.len())].sequence),
                head(&good, last),
            ];
            (good, heads)
        })
}

fn rehash(link_: &mut Link) {
    link_.hash = link(link_.sequence, link_.prev, &link_.body);
}

/// The records from `at` on as if they had always been so.
fn rewrite(chain: &mut [Link], at: usize) {
    for i in at..chain.len() {
        if i > 0 {
            chain[i].prev = chain[i - 1].hash;
        }
        rehash(&mut chain[i]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_chain_as_it_was_written_is_whole((good, heads) in good()) {
        let report = verify(&good, &heads);
        prop_assert_eq!(report.finding, None);
        prop_assert_eq!(report.last, good[good.len() - 1].sequence);
        prop_assert_eq!(report.covered, report.last);
        prop_assert!(report.outdated.is_empty());
    }

    #[test]
    fn one_field_of_one_record_is_named((mut bad, heads) in good(), at in any::<prop::sample::Index>(),
                                       what in 0..4, place in any::<prop::sample::Index>(), by in 1i64..50) {
        let at = at.index(bad.len());
        let sequence = bad[at].sequence;
        match what {
            0 => {
                let mut text: Vec<char> = bad[at].body.chars().collect();
                let place = place.index(text.len());
                text[place] = if text[place] == 'x' { 'y' } else { 'x' };
                bad[at].body = text.into_iter().collect();
            }
            1 => bad[at].prev = other(bad[at].prev),
            2 => bad[at].hash = other(bad[at].hash),
            _ => bad[at].sequence += by,
        }
        let finding = verify(&bad, &heads).finding;
        prop_assert_eq!(finding.map(Finding::sequence), Some(sequence), "{:?}", finding);
        prop_assert_eq!(finding, Some(Finding::Changed { sequence }));
    }

    #[test]
    fn a_record_that_was_replaced_with_its_hash_is_named((mut bad, heads) in good(), at in any::<prop::sample::Index>()) {
        let at = at.index(bad.len() - 1);
        let sequence = bad[at].sequence;
        prop_assume!(!heads.iter().any(|head| head.size == sequence));
        bad[at].body = body(sequence, 7);
        rehash(&mut bad[at]);
        prop_assert_eq!(verify(&bad, &heads).finding, Some(Finding::Changed { sequence }));
    }

    #[test]
    fn records_that_were_removed_are_named((good, heads) in good(), at in any::<prop::sample::Index>(), count in 1usize..5) {
        let mut bad = good.clone();
        let at = at.index(bad.len());
        let end = (at + count).min(bad.len());
        let (first, last) = (bad[at].sequence, bad[end - 1].sequence);
        bad.drain(at..end);
        // A cut at the end or the front that takes a trim along is missed where the trim cut.
        let edge = at == 0 || end == good.len();
        prop_assume!(!edge || !good[at..end].iter().any(|link| link.body.contains("\"trim\"")));
        let expected = if end == good.len() { Finding::CutOff { first } } else { Finding::Removed { first, last } };
        prop_assert_eq!(verify(&bad, &heads).finding, Some(expected));
    }

    #[test]
    fn records_that_changed_places_are_named((good, heads) in good(), one in any::<prop::sample::Index>(), two in any::<prop::sample::Index>()) {
        let mut bad = good.clone();
        let (one, two) = (one.index(bad.len()), two.index(bad.len()));
        prop_assume!(one != two && one.min(two) > 0);
        bad.swap(one, two);
        let sequence = good[one.min(two)].sequence;
        prop_assert_eq!(verify(&bad, &heads).finding, Some(Finding::Moved { sequence }));
    }

    #[test]
    fn records_that_were_put_in_are_named((good, heads) in good(), after in any::<prop::sample::Index>(), what in 0..3) {
        let after = after.index(good.len() - 1);
        let sequence = good[after].sequence;
        let mut bad = good.clone();
        let expected = match what {
            // The same one twice.
            0 => {
                bad.insert(after + 1, good[after].clone());
                sequence
            }
            // A new one, made to fit the one before.
            1 => {
                let mut new = Link { sequence: sequence + 1, prev: good[after].hash, body: body(77, 7), ..good[after].clone() };
                rehash(&mut new);
                bad.insert(after + 1, new);
                prop_assume!(!heads.iter().any(|head| head.size == sequence + 1));
                sequence + 1
            }
            // And those after it given new numbers.
            _ => {
                let mut new = Link { sequence: sequence + 1, prev: good[after].hash, body: body(77, 7), ..good[after].clone() };
                rehash(&mut new);
                for later in &mut bad[after + 1..] {
                    later.sequence += 1;
                }
                bad.insert(after + 1, new);
                prop_assume!(!heads.iter().any(|head| head.size == sequence + 1));
                sequence + 1
            }
        };
        prop_assert_eq!(verify(&bad, &heads).finding, Some(Finding::Inserted { sequence: expected }));
    }

    #[test]
    fn a_chain_written_anew_is_not_the_one_that_was_signed((good, heads) in good(), at in any::<prop::sample::Index>()) {
        let mut bad = good.clone();
        let at = at.index(bad.len());
        prop_assume!(!good[at].body.contains("\"trim\"") && (at > 0 || good[0].sequence == 1));
        bad[at].body = body(bad[at].sequence, 7);
        rewrite(&mut bad, at);
        let sequence = good[at].sequence;
        let mut sizes: Vec<i64> = heads.iter().map(|head| head.size).collect();
        sizes.sort_unstable();
        let after = sizes.iter().copied().filter(|size| *size < sequence).max().unwrap_or(0);
        let by = sizes.iter().copied().find(|size| *size >= sequence).unwrap();
        prop_assert_eq!(verify(&bad, &heads).finding, Some(Finding::Rewritten { after, by }));
    }

    #[test]
    fn nothing_that_is_read_stops_the_verifier(sequence in any::<i64>(), body in "\\PC{0,40}", a in any::<[u8; 32]>(), b in any::<[u8; 32]>()) {
        let mut bad = chain(3);
        bad.push(Link { sequence, prev: audit::Hash(a), hash: audit::Hash(b), body });
        prop_assert_eq!(verify(&bad, &[]).finding, Some(Finding::Changed { sequence: 4 }));
        bad.remove(0);
        bad.rotate_right(1);
        prop_assert!(verify(&bad, &[]).finding.is_some());
    }
}

#[test]
fn a_front_that_no_trim_explains_is_named() {
    let mut bad = chain(10);
    bad.drain(..4);
    assert_eq!(
        verify(&bad, &[]).finding,
        Some(Finding::Removed { first: 1, last: 4 })
    );
    let mut bad = chain(10);
    trim(&mut bad, 3);
    bad.drain(..2);
    assert_eq!(
        verify(&bad, &[]).finding,
        Some(Finding::Removed { first: 4, last: 5 })
    );
}

#[test]
fn what_a_trim_says_is_gone_may_not_be_there() {
    let whole = chain(10);
    let mut bad = whole.clone();
    trim(&mut bad, 5);
    bad.splice(0..0, whole[2..5].iter().cloned());
    assert_eq!(verify(&bad, &[]).finding, Some(Finding::Inserted { sequence: 3 }));
}

#[test]
fn a_trim_that_no_plan_allows_is_named() {
    for (days, before) in [(7, 40 * DAY), (30, 80 * DAY), (i64::MAX, 0), (0, 0)] {
        let mut bad = chain(4);
        let record = Record::Trim {
            id: "trim_2".to_owned(),
            time: 100 * DAY,
            through: 2,
            hash: bad[1].hash.to_string(),
            days,
            before,
        };
        append(&mut bad, record.body().unwrap());
        bad.drain(..2);
        let finding = verify(&bad, &[]).finding;
        assert_eq!(finding, Some(Finding::Changed { sequence: 5 }), "{days} {before}");
    }
}

#[test]
fn the_chain_of_another_tenant_is_foreign() {
    let mut bad = chain(3);
    bad[0].prev = genesis("tnt_other");
    rewrite(&mut bad, 0);
    assert_eq!(verify(&bad, &[]).finding, Some(Finding::Foreign));
}

#[test]
fn an_empty_chain_is_whole_unless_a_head_says_more() {
    assert_eq!(verify(&[], &[]).finding, None);
    let signed = head(&chain(3), 3);
    assert_eq!(verify(&[], &[signed]).finding, Some(Finding::CutOff { first: 1 }));
}

#[test]
fn heads_of_what_was_trimmed_since_prove_nothing_and_are_told() {
    let mut good = chain(10);
    let old = head(&good, 3);
    trim(&mut good, 6);
    let report = verify(&good, &[old, head(&good, 11), head(&good, 8)]);
    assert_eq!(
        (report.finding, report.covered, report.outdated),
        (None, 11, vec![3])
    );
}

#[test]
fn a_tail_after_the_last_head_is_read_and_not_covered() {
    let good = chain(10);
    let report = verify(&good, &[head(&good, 7)]);
    assert_eq!((report.finding, report.covered, report.last), (None, 7, 10));
    assert_eq!(good[0].prev, genesis(TENANT));
}
