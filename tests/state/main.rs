//! The state tier: one contract for each engine of the store, concurrent histories that are checked, and what is an engine's own.
//!
//! It needs no root. With the feature `etcd` it starts servers of its own, on loopback.

mod contract;
mod history;
mod linear;
mod model;
mod own;
#[cfg(feature = "etcd")]
mod servers;
mod stage;

use contract::{exports, leases, locks, pages, transactions, values, watches};

/// `NAME: STAGE, tests…` makes a module with the contract's tests of these names.
macro_rules! tests {
    ($name:ident: $stage:ty, $($part:ident::{$($test:ident),* $(,)?}),* $(,)?) => {
        mod $name {
            $($(
                #[tokio::test]
                async fn $test() {
                    let stage = <$stage as crate::stage::Stage>::begin().await;
                    crate::$part::$test(stage).await;
                }
            )*)*
        }
    };
}

/// What every engine promises.
macro_rules! keeps_the_contract {
    ($name:ident: $stage:ty) => {
        tests!($name: $stage,
            values::{
                a_put_is_read_back, deleting_twice_is_fine, values_know_their_kind_and_version, large_values_and_odd_keys,
                listed_keys_are_keys,
            },
            transactions::{
                all_or_nothing, each_check_is_checked, limits_are_told_before, sixteen_count_without_a_loss,
                one_of_sixteen_is_first,
            },
            pages::{
                scopes_end_at_their_edges, pages_are_of_one_revision, the_last_page_says_so, what_was_compacted_is_told,
            },
            watches::{
                each_revision_is_told_once_and_whole, a_watch_begins_where_it_is_asked_to,
                behind_a_compaction_everything_is_told_anew, many_watches_see_one_history, a_dropped_wait_loses_nothing,
            },
            leases::{
                an_ended_lease_takes_its_keys, a_lease_is_kept_while_it_is_held, a_lost_lease_is_known_before_it_is_over,
                a_lease_outlives_short_trouble, odd_leases_are_refused, a_lease_is_kept_for_another_by_its_id,
                a_lease_of_another_is_ended_by_its_id, it_is_told_what_became_of_a_lease,
            },
            locks::{
                one_holds_at_a_time, the_first_in_the_queue_is_the_next, who_gives_up_is_not_waited_for,
                a_lost_lock_is_fenced, a_leader_is_known_to_all, only_places_are_waited_for, a_lost_answer_does_not_lose_the_lock,
                a_place_that_comes_too_late_holds_nobody_up,
            },
            exports::{
                an_export_comes_back, a_damaged_export_changes_nothing, an_import_is_all_or_marked, the_mark_is_the_stores_own,
            },
            model::{agrees_with_the_model},
            linear::{one_order_explains_everything},
        );
    };
}

keeps_the_contract!(embedded: crate::stage::Embedded);
keeps_the_contract!(faulty: crate::stage::Faulty<crate::stage::Embedded>);
#[cfg(feature = "etcd")]
keeps_the_contract!(etcd: crate::servers::Etcd);
#[cfg(feature = "etcd")]
keeps_the_contract!(faulty_etcd: crate::stage::Faulty<crate::servers::Etcd>);
