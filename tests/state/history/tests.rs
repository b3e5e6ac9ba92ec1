//! The checker is checked: histories that must fail, each for one reason, and some that must not.

use std::collections::BTreeMap;

use super::{Call, Log, Saw, Wanted, check};

fn wanted(checks: &[(&str, Option<u64>)], writes: &[(&str, Option<&str>)]) -> Wanted {
    let own = |text: &&str| (*text).to_owned();
    Wanted {
        checks: checks.iter().map(|(key, at)| (own(key), *at)).collect(),
        writes: writes.iter().map(|(key, text)| (own(key), text.as_ref().map(own))).collect(),
    }
}

fn put(text: &str) -> Wanted {
    wanted(&[], &[("a", Some(text))])
}

fn read(revision: u64, text: Option<&str>) -> Saw {
    let found = text.map(|text| ("a".to_owned(), text.to_owned())).into_iter().collect();
    Saw::Read { revision, found }
}

fn call(begin: u64, end: u64, saw: Saw) -> Call {
    Call { begin, end, saw }
}

fn committed(revision: u64, wanted: Wanted) -> Saw {
    Saw::Committed { revision, wanted }
}

fn log(changes: &[(u64, Option<&str>)]) -> Log {
    let change = |text: &Option<&str>| BTreeMap::from([("a".to_owned(), text.map(str::to_owned))]);
    changes.iter().map(|(revision, text)| (*revision, change(text))).collect()
}

#[track_caller]
fn fails(calls: &[Call], log: &Log, reason: &str) {
    let error = check(calls, log).expect_err("no order explains it");
    assert!(error.contains(reason), "{error}");
}

#[test]
fn what_one_order_explains_passes() {
    let log = log(&[(2, Some("x")), (3, Some("y")), (5, None)]);
    let calls = [
        call(1, 2, read(1, None)),
        call(3, 10, committed(2, put("x"))),
        call(4, 11, committed(3, wanted(&[("a", Some(2))], &[("a", Some("y"))]))),
        call(5, 12, Saw::Refused { wanted: wanted(&[("a", None)], &[("a", Some("z"))]) }),
        call(6, 13, read(2, Some("x"))),
        call(20, 21, read(3, Some("y"))),
        call(22, 23, Saw::Unknown { wanted: wanted(&[], &[("a", None)]) }),
        call(24, 25, Saw::NotDone),
        call(30, 31, read(5, None)),
        call(32, 33, committed(5, wanted(&[], &[("b", None)]))),
    ];
    check(&calls, &log).expect("it is linearizable");
}

#[test]
fn a_stale_read_fails() {
    let log = log(&[(2, Some("x")), (3, Some("y"))]);
    let calls = [call(1, 2, committed(2, put("x"))), call(3, 4, committed(3, put("y")))];
    fails(&[&calls[..], &[call(5, 6, read(2, Some("x")))]].concat(), &log, "out of order");
}

#[test]
fn a_read_of_the_future_fails() {
    let log = log(&[(2, Some("x"))]);
    fails(&[call(1, 2, read(2, Some("x"))), call(3, 4, committed(2, put("x")))], &log, "out of order");
}

#[test]
fn a_read_of_what_never_was_fails() {
    fails(
        &[call(1, 2, read(2, Some("z"))), call(1, 3, committed(2, put("x")))],
        &log(&[(2, Some("x"))]),
        "not there",
    );
}

#[test]
fn reads_that_go_back_in_time_fail() {
    let log = log(&[(2, Some("x"))]);
    let calls =
        [call(1, 9, committed(2, put("x"))), call(2, 3, read(2, Some("x"))), call(4, 5, read(1, None))];
    fails(&calls, &log, "out of order");
}

#[test]
fn a_lost_change_fails() {
    fails(&[call(1, 2, committed(2, put("x")))], &log(&[]), "told otherwise");
}

#[test]
fn a_change_that_was_made_twice_fails() {
    let log = log(&[(2, Some("x")), (3, Some("x"))]);
    fails(&[call(1, 2, committed(3, put("x")))], &log, "nobody's");
    let unknown = Saw::Unknown { wanted: put("x") };
    fails(&[call(1, 2, unknown)], &log, "nobody's");
}

#[test]
fn a_change_that_was_said_not_to_be_done_fails() {
    fails(&[call(1, 2, Saw::NotDone)], &log(&[(2, Some("x"))]), "nobody's");
}

#[test]
fn a_change_before_its_beginning_fails() {
    let log = log(&[(2, Some("x")), (3, Some("y"))]);
    let calls = [call(1, 2, committed(3, put("y"))), call(3, 4, Saw::Unknown { wanted: put("x") })];
    fails(&calls, &log, "nobody's");
}

#[test]
fn half_a_transaction_fails() {
    let both = wanted(&[], &[("a", Some("x")), ("b", Some("x"))]);
    fails(&[call(1, 2, committed(2, both))], &log(&[(2, Some("x"))]), "told otherwise");
}

#[test]
fn a_broken_check_fails() {
    let log = log(&[(2, Some("x")), (3, Some("y"))]);
    let swap = wanted(&[("a", None)], &[("a", Some("y"))]);
    fails(&[call(1, 2, committed(2, put("x"))), call(1, 3, committed(3, swap))], &log, "did not hold");
}

#[test]
fn two_winners_fail() {
    let log = log(&[(2, Some("x"))]);
    fails(&[call(1, 2, committed(2, put("x"))), call(1, 3, committed(2, put("x")))], &log, "one revision");
}

#[test]
fn a_refusal_without_a_reason_fails() {
    let log = log(&[(2, Some("x"))]);
    let check = wanted(&[("a", Some(2))], &[("a", Some("y"))]);
    let calls = [call(1, 2, committed(2, put("x"))), call(3, 4, Saw::Refused { wanted: check })];
    fails(&calls, &log, "refused");
}

/// Two deletions nobody was told of: each revision has one that may have made it only if the right one is given to the first.
#[test]
fn unknown_changes_are_given_to_revisions_as_they_fit() {
    let log = log(&[(2, Some("x")), (3, None), (4, Some("y")), (5, None)]);
    let delete = |checks| Saw::Unknown { wanted: wanted(checks, &[("a", None)]) };
    let calls = [
        call(1, 2, committed(2, put("x"))),
        call(3, 4, delete(&[])),
        call(5, 6, delete(&[("a", Some(2))])),
        call(7, 8, committed(4, put("y"))),
        call(9, 10, read(4, Some("y"))),
    ];
    check(&calls, &log).expect("the second made 3, and the first, much later, 5");
    fails(&calls[..2], &self::log(&[(2, Some("x")), (3, None), (4, Some("y")), (5, None)]), "nobody's");
}

#[test]
fn an_unknown_deletion_that_was_done_twice_fails() {
    let log = log(&[(2, Some("x")), (3, None), (4, Some("y")), (5, None)]);
    let calls = [
        call(1, 2, committed(2, put("x"))),
        call(3, 9, Saw::Unknown { wanted: wanted(&[], &[("a", None)]) }),
        call(4, 8, committed(4, put("y"))),
    ];
    fails(&calls, &log, "revision 5 is nobody's");
}

#[test]
fn an_unknown_change_whose_check_did_not_hold_fails() {
    let log = log(&[(2, Some("x")), (3, Some("y"))]);
    let unknown = Saw::Unknown { wanted: wanted(&[("a", None)], &[("a", Some("y"))]) };
    fails(&[call(1, 2, committed(2, put("x"))), call(1, 3, unknown)], &log, "nobody's");
}

#[test]
fn an_unknown_change_that_was_seen_and_taken_back_fails() {
    let calls = [call(1, 2, Saw::Unknown { wanted: put("x") }), call(3, 4, read(2, Some("x")))];
    fails(&calls, &log(&[]), "not there");
}

/// As a server that lost what it had told to be done, when it was killed.
#[test]
fn a_change_that_was_told_twice_at_one_revision_fails() {
    let calls = [call(1, 2, committed(2, put("x"))), call(3, 4, committed(2, put("y")))];
    fails(&calls, &log(&[(2, Some("y"))]), "told otherwise");
}

#[test]
fn a_change_that_overtakes_what_began_after_it_ended_fails() {
    let log = log(&[(2, Some("x")), (3, Some("y"))]);
    fails(&[call(1, 2, committed(3, put("y"))), call(3, 4, committed(2, put("x")))], &log, "out of order");
}

/// What one that had not heard of the others' changes might answer.
#[test]
fn a_refusal_by_what_was_long_ago_fails() {
    let log = log(&[(2, Some("x")), (3, Some("y"))]);
    let check = wanted(&[("a", Some(3))], &[("a", Some("z"))]);
    let calls = [
        call(1, 2, committed(2, put("x"))),
        call(3, 4, committed(3, put("y"))),
        call(5, 6, Saw::Refused { wanted: check }),
    ];
    fails(&calls, &log, "refused");
}
