"""How much of the suite runs: what `make test` leaves out is marked `long`, `make test-all` leaves out nothing.

MMGEVENT_TEST_SEEDS=0.1 tries each tenth seed of all that is drawn at random, and MMGEVENT_TEST_SOAK_S=180 soaks for
three minutes (`.ci/run` sets both). Long is a test that takes seconds on a quiet machine, or the cases of a test
beyond the first few where all take the same way. Each area keeps something short.

Mark a test of your own with `@pytest.mark.long`, or write it into one of the tables below.
"""

import os
from collections.abc import Sequence
from typing import TypeVar

Seed = TypeVar("Seed")

#: share of the seeds to try, above 0, at most 1
SHARE = float(os.environ.get("MMGEVENT_TEST_SEEDS", "1"))
if not 0 < SHARE <= 1:
    raise ValueError(f"MMGEVENT_TEST_SEEDS is a share of all seeds, above 0 and at most 1, not {SHARE:g}")

#: seconds of `tests.trust.soak`, above 0
SOAK_S = float(os.environ.get("MMGEVENT_TEST_SOAK_S", "600"))
if not SOAK_S > 0:
    raise ValueError(f"MMGEVENT_TEST_SOAK_S is a number of seconds above 0, not {SOAK_S:g}")


#: the test that takes longest: it begins first, since it would run alone at the end of tests side by side
LONGEST = "trust/test_soak.py", "test_nothing_is_left_of_those_who_came_and_went"


def share_of(count: int) -> int:
    """Return how many of so many random trials to make, at least one."""
    return max(1, round(count * SHARE))


def some_of(seeds: Sequence[Seed]) -> Sequence[Seed]:
    """Return that share of the seeds, spread evenly, the first among them."""
    return seeds[:: round(1 / SHARE)]


#: file -> tests that `make test` leaves out whole
LONG = {
    "test_benchmarks.py": """
        test_the_smallest_parts_are_timed
        test_engines_are_compared_side_by_side
        test_a_wrong_answer_and_a_failure_are_said_and_counted
        test_what_grows_is_measured
    """,
    "test_packaging.py": """
        test_a_wheel_holds_what_runs_and_its_types
    """,
    "integration/test_service.py": """
        test_a_service_manager_that_is_not_there_hurts_nobody
    """,
    "integration/test_status.py": """
        test_listings_have_pages_and_deltas_say_what_changed
        test_a_worker_that_answers_nothing_or_nonsense_is_listed_without_its_load
        test_a_drained_worker_finishes_what_it_runs
    """,
    "test_testing.py": """
        test_files_and_chains_are_checked
    """,
    "test_speedups.py": """
        test_no_call_keeps_memory_even_when_it_fails
    """,
    "driver/test_blocked.py": """
        test_a_callback_of_watch_that_waits_for_ever_keeps_no_cluster_open
        test_a_failed_job_waits_for_the_reader_of_its_stream
        test_a_thread_that_was_left_behind_changes_nothing_when_it_goes_on
        test_a_stream_that_waits_ends_with_its_job
        test_a_file_that_never_answers_does_not_keep_a_job_from_being_cancelled
        test_leaving_with_by_an_exception_does_not_wait_for_a_datasource
        test_a_cancelled_job_that_goes_on_by_itself_draws_no_warning
        test_a_job_that_fails_while_its_datasource_waits_says_so
        test_the_server_hears_of_it
    """,
    "driver/test_inline.py": """
        test_values_come_in_datasource_order
    """,
    "driver/test_watching.py": """
        test_a_flood_ends_at_the_engine_of_a_program_that_does_not_listen
        test_a_flood_while_the_program_does_not_listen_costs_messages_and_no_workers_link
        test_the_watch_of_a_cluster_that_cannot_start_ends
        test_a_cluster_that_is_connected_watches_the_next_server_at_the_address
    """,
    "engine/net/test_election.py": """
        test_who_stays_in_one_place_only_says_how_it_lost_the_only_one_there_was
        test_a_server_of_another_version_is_named_beside_one_that_is_lost
        test_as_many_as_come_at_once_elect_one_and_another_after_each_kill
        test_behind_a_server_that_takes_nobody_the_next_address_is_taken
        test_a_server_that_lost_a_part_of_itself_gives_its_place_up
    """,
    "engine/net/test_link.py": """
        test_time_in_which_our_own_loop_stood_still_is_not_the_peers_silence
    """,
    "engine/scheduler/test_simulation.py": """
        test_every_job_ends_by_the_rules_whatever_goes_wrong
        test_everything_that_can_happen_does_in_the_first_thousand_seeds
    """,
    "integration/test_bad_input.py": """
        test_datasource_that_fails_is_named
        test_old_results_stay_as_they_are_when_the_job_fails
        test_module_that_only_the_driver_can_import_is_sent_with_py_files
        test_signal_ends_a_job_whose_module_hangs_where_it_is_tried
        test_other_python_version_ends_with_5_and_names_both
        test_module_that_does_not_load_in_another_process_is_named_before_an_item_is_mapped
        test_killed_driver_leaves_nothing_while_it_looks_for_another_server
    """,
    "integration/test_cluster.py": """
        test_many_jobs_submitted_at_once_are_all_done_by_one_engine
        test_a_stopped_engine_does_not_keep_a_cluster_from_closing
        test_items_that_leave_cycles_behind_do_not_fill_the_memory_of_their_executor
        test_a_job_whose_templates_keep_dying_ends
        test_an_item_is_on_its_way_before_the_datasource_is_asked_for_the_next
        test_intermediate_data_beyond_every_memory_comes_out_right
        test_progress_is_reported
        test_a_callback_of_watch_may_submit_while_its_engine_dies
        test_an_engine_that_takes_the_place_of_another_listens_where_that_did
        test_task_timeout_ends_an_endless_loop
        test_closing_waits_for_what_jobs_call_back_and_a_callback_may_close
        test_the_callbacks_of_two_jobs_may_both_close
        test_an_engine_that_is_killed_while_it_starts_is_replaced_as_well
        test_equal_keys_of_different_types_meet
        test_progress_says_how_a_job_ended
        test_jobs_run_side_by_side_and_call_back
    """,
    "integration/test_commands.py": """
        test_a_file_beside_the_job_may_have_the_name_of_a_module_we_need
        test_suffix_of_the_output_decides_its_format
        test_what_is_found_wrong_before_the_job_ran_ends_with_2
        test_wrong_output_or_option_is_found_before_the_job_runs
    """,
    "integration/test_debugging.py": """
        test_ctrl_c_in_the_debugger_ends_nothing
    """,
    "integration/test_examples.py": """
        test_kmeans_finds_the_centres_of_a_plain_loop
        test_topk_is_the_top_of_all_counts
        test_inverted_index_lists_files_in_their_order
        test_topk_sends_no_more_than_k_words_a_share_home
        test_topwords_is_the_top_of_all_counts
        test_stats_hears_of_every_worker_once
        test_crawl_fetches_many_pages_at_once
    """,
    "integration/test_mincemeat.py": """
        test_a_client_that_answers_no_pings_is_closed_and_a_plain_worker_is_not
        test_any_number_of_clients_gives_the_same_results
        test_daemons_of_two_equal_scripts
        test_a_client_leaves_a_server_that_answers_no_pings
        test_a_permanent_server_outlives_a_job_that_fails
        test_a_program_that_gevent_has_patched
        test_transactions_queued_before_the_start_are_all_done_in_order
        test_a_client_that_is_refused_returns_and_says_why
        test_a_permanent_server_idles_between_transactions_and_ends_when_told
        test_commands_go_both_ways_and_keep_what_they_carry
        test_run_server_returns_the_results_and_process_comes_in_steps
        test_a_job_that_fails_comes_out_of_process_as_joberror
        test_a_job_that_fails_ends_the_server_and_says_why
        test_no_interface_is_all_of_them_for_a_server_and_localhost_for_a_client
        test_closing_a_channel_ends_its_client
        test_without_a_map_phase_values_go_to_reducefn_as_they_are
        test_a_script_without_a_server_starts_one_and_works_for_it
        test_a_command_that_a_client_does_not_know_closes_its_connection_only
        test_pings_are_answered_at_both_ends
        test_who_sends_more_than_a_server_processes_is_closed
        test_one_set_of_credentials_serves_both
        test_of_several_equal_scripts_one_becomes_the_server
        test_scheduled_events_and_a_tidy_end
        test_oneshot_transactions_come_in_three_ways_and_reach_every_client
    """,
    "integration/test_node_examples.py": """
        test_masterless_goes_on_when_the_server_leaves_first
        test_repl_at_a_terminal_has_a_history_and_ends_at_ctrl_d
        test_webfarm_leaves_nothing_behind_when_its_first_process_is_killed
        test_daemon_cancels_its_jobs_and_ends_at_a_signal
        test_the_application_of_webfarm_serves_under_a_server_that_forks_after_importing_it
        test_webfarm_answers_again_after_the_elected_process_is_killed
        test_masterless_processes_count_for_one_another
        test_repl_answers_lines_of_a_pipe_and_survives_what_fails
        test_ctrl_c_cancels_a_job_of_the_repl_and_at_the_prompt_ends_it
    """,
    "integration/test_nodes.py": """
        test_a_server_on_a_later_address_moves_to_the_earlier
        test_nodes_of_a_stopped_server_say_so_and_go_on_after_it
        test_nodes_leave_a_stopped_server_for_the_next_address
        test_a_node_of_another_version_on_an_earlier_address_leaves_a_cluster_alone
        test_every_forked_child_of_a_host_may_be_a_node
        test_a_monkey_patched_host_runs_jobs_from_greenlets
        test_many_threads_of_a_host_submit_at_once
        test_a_signal_ends_an_electing_job_with_all_its_processes
        test_a_node_for_once_closes_with_its_server
        test_commands_tell_what_they_became
        test_who_stays_for_once_leaves_with_the_server
        test_the_first_node_serves_and_all_run_jobs
        test_localhost_and_its_addresses_are_one_cluster
        test_kills_of_the_server_of_many_nodes_lose_and_repeat_nothing
        test_a_cluster_of_others_on_an_earlier_address_ends_no_node
        test_a_node_whose_engine_is_killed_starts_another
        test_a_node_tells_where_it_stands
        test_a_node_that_may_not_serve_waits_for_one_that_may
        test_a_node_is_closed_at_the_end_of_its_block
        test_a_wrong_password_closes_a_node
        test_a_node_whose_engine_is_killed_in_its_first_moment_starts_another
    """,
    "integration/test_offered.py": """
        test_a_host_serves_the_next_server_when_its_function_has_returned
        test_a_node_closes_although_its_function_runs
        test_oneshot_reaches_every_worker_that_offers_it
        test_another_that_offers_it_takes_over_from_one_that_is_killed
        test_a_job_waits_for_a_worker_that_offers_its_function
        test_each_worker_gets_what_it_offers
        test_fifty_megabytes_come_through
    """,
    "integration/test_output.py": """
        test_a_terminal_that_is_closed_ends_the_job_with_129
    """,
    "integration/test_own_modules.py": """
        test_files_of_a_package_travel_to_workers_that_have_none
        test_a_package_whose_files_are_too_large_is_refused_by_name
        test_a_module_of_the_users_called_numpy_is_theirs
        test_an_extension_beside_the_job_is_imported_on_this_machine
    """,
    "integration/test_query_jobs.py": """
        test_a_connect_that_blocks_in_an_executor_ends_by_the_time_limit
    """,
    "integration/test_remote.py": """
        test_a_job_whose_server_stays_away_says_what_it_waits_for_and_ends_with_the_reason
        test_a_server_that_dies_and_comes_back_gets_the_job_again
        test_workers_join_a_local_cluster_that_listens
        test_a_worker_waits_for_a_server_and_comes_back_to_the_next
        test_a_driver_may_bring_executors_along
        test_killed_executors_and_workers_in_both_phases_change_nothing
        test_files_that_a_worker_does_not_have_are_sent
        test_a_server_at_work_neither_imports_nor_uses_pickle
    """,
    "integration/test_replay.py": """
        test_what_ends_an_executor_ends_the_replay
        test_a_call_that_hangs_is_stopped_where_it_hangs
        test_a_call_has_the_memory_that_it_had
        test_a_slow_disk_for_bundles_leaves_no_thread_behind
        test_a_call_that_no_longer_fails_says_what_it_gives
        test_values_too_large_to_be_sent_are_named_by_their_key
        test_the_failing_item_of_a_chain_is_kept
        test_plain_results_stay_plain_in_a_bundle
        test_the_command_keeps_them_in_the_cache_of_its_user_unless_told_otherwise
    """,
    "integration/test_settings.py": """
        test_a_locale_that_a_worker_has_not_is_named_once
        test_the_error_state_and_print_options_of_numpy_hold_in_executors
    """,
    "integration/test_setup.py": """
        test_a_slow_import_for_its_effect_is_named_with_v
        test_where_setupfn_fails_nothing_more_is_run_while_there_are_other_workers
        test_the_time_of_setupfn_is_not_that_of_an_item
        test_deaths_in_setupfn_are_told_of_setupfn
        test_setupfn_of_a_program_is_called_once_whatever_phases_there_are
        test_setupfn_sets_what_the_threads_of_a_greenlet_job_see_after_monkey_patching
        test_an_import_for_its_effect_that_fails_in_executors_is_named_once_and_fails_nothing
    """,
    "integration/test_skipping.py": """
        test_unreadable_lines_and_files_are_set_aside
        test_what_ends_greenlets_costs_its_own_item_too
        test_a_line_whose_output_kills_is_found_by_halves
    """,
    "integration/test_suite.py": """
        test_the_suite_passes_where_it_is_started_with_signals_ignored
    """,
    "integration/test_worker.py": """
        test_a_refusal_is_kept
        test_with_greenlets_the_oldest_item_is_the_one_that_took_too_long
        test_an_executor_without_descriptors_is_tried_again
        test_each_set_of_flags_has_a_template_and_idle_ones_end
        test_an_executor_that_cannot_be_set_up_is_replaced_and_all_that_waited_for_it_comes_back
    """,
    "trust/test_certificates.py": """
        test_programs_take_certificates_as_well
        test_equals_ask_one_another
    """,
    "trust/test_clocks.py": """
        test_clocks_that_differ_by_years_and_jump_change_nothing
    """,
    "trust/test_cluster_simulation.py": """
        test_results_are_those_of_plain_python_and_nothing_is_left
        test_everything_that_can_happen_does_in_the_first_hundred_seeds
    """,
    "trust/test_containers.py": """
        test_an_engine_that_the_kernel_kills_is_told_of_with_the_limit
        test_with_few_processes_a_job_is_done_or_one_sentence_says_why_not
    """,
    "trust/test_crowds.py": """
        test_a_driver_that_never_reads_its_results_costs_the_memory_that_the_server_may_take
        test_whoever_is_heard_of_again_after_it_was_declared_dead_hurts_nobody
        test_a_driver_that_vanishes_takes_its_job_its_memory_and_its_spill_along
        test_batches_beyond_the_bound_come_when_there_is_room_and_all_come
        test_a_worker_that_never_reads_holds_up_no_job_and_costs_no_memory
        test_with_64_descriptors_for_200_workers_the_server_waits_and_serves_all_in_the_end
        test_a_job_that_fills_the_bound_keeps_no_other_from_its_input
        test_done_of_an_attempt_that_lost_is_late_and_changes_nothing
        test_as_many_workers_as_join_at_once_are_all_served_and_hurt_nobody
        test_drivers_reset_after_any_byte_leave_nothing
    """,
    "trust/test_death_certificates.py": """
        test_mmg_run_says_it_on_stderr_while_the_job_goes_on
        test_an_executor_near_its_memory_limit_is_warned_of_once_and_killed_beyond_it
    """,
    "trust/test_disks.py": """
        test_a_folder_that_is_removed_under_an_open_spill_file_is_not_missed
        test_a_worker_without_disk_ends_the_job_that_needs_it_and_no_other
        test_a_server_without_disk_ends_the_job_that_needs_it_and_no_other
    """,
    "trust/test_fuzz.py": """
        test_the_memory_of_whoever_starts_a_search_is_not_counted_as_its_own
        test_a_search_finds_its_way_through_magic_and_version_from_nothing
    """,
    "trust/test_getting_in.py": """
        test_who_dawdles_is_cut_when_the_time_is_up
        test_a_byte_changed_anywhere_on_the_wire_ends_the_connection
        test_500_half_open_handshakes_do_not_keep_a_worker_out
    """,
    "trust/test_graceful_ends.py": """
        test_an_executor_that_ignores_everything_holds_up_no_end
        test_a_worker_ends_though_its_server_does_not_read
        test_a_driver_closes_though_its_server_is_stopped
        test_sigterm_lets_a_worker_finish_what_runs_and_hand_back_the_rest
        test_a_server_ends_though_peers_do_not_read
        test_a_second_signal_ends_a_worker_at_once
        test_a_second_signal_ends_a_server_at_once
        test_a_server_says_goodbye_to_everybody
    """,
    "trust/test_hostile_driver.py": """
        test_a_job_that_was_cancelled_takes_what_is_late
        test_what_is_too_large_ends_its_own_job_and_no_other_of_its_driver
    """,
    "trust/test_hostile_worker.py": """
        test_done_counts_once_and_what_comes_after_it_is_late
        test_a_wrong_number_of_records_in_a_table_changes_nothing
    """,
    "trust/test_keys_and_values.py": """
        test_20000_keys_with_one_hash_are_grouped_rightly
        test_a_key_of_100_mib_comes_through
        test_a_value_that_cannot_be_unpickled_fails_the_job
        test_10_million_values_of_one_key_are_reduced_at_once
    """,
    "trust/test_kills.py": """
        test_stopped_workers_and_servers_are_given_up_when_silent_and_may_come_back
        test_workers_that_are_killed_one_after_another_while_others_come_lose_nothing
        test_when_the_only_worker_dies_the_job_waits_for_another
    """,
    "trust/test_misbehaving_functions.py": """
        test_a_gib_of_output_is_read_and_not_kept
        test_a_fork_that_returns_marks_nothing_and_is_blamed_for_nothing
        test_whatever_never_ends_is_ended_by_task_timeout_and_by_cancel
    """,
    "trust/test_mutations.py": """
        test_the_named_tests_import_the_copy_and_pass_on_it
    """,
    "trust/test_networks.py": """
        test_a_cluster_that_is_split_works_on_both_sides_and_becomes_one_again
        test_hosts_cut_off_without_a_word_are_given_up_and_come_back
        test_a_short_cut_is_not_noticed
        test_a_server_that_nobody_can_reach_any_more_ends_and_says_why
    """,
    "trust/test_password_guesses.py": """
        test_a_hundred_guesses_side_by_side_come_no_faster
        test_guesses_from_one_address_hold_up_no_other
        test_guesses_are_free_at_first_and_then_twice_a_second
    """,
    "trust/test_poison_items.py": """
        test_an_item_that_hangs_is_set_aside_like_one_that_kills
        test_progress_counts_what_was_set_aside
        test_a_poison_item_costs_a_bounded_number_of_executors
    """,
    "trust/test_sandboxes.py": """
        test_servers_and_workers_run_without_them
    """,
}

#: file -> {test: n}: `make test` takes each n-th of its cases, and always the first
SAMPLED = {
    "test_testing.py": {
        "test_a_job_that_keeps_its_promises_gives_its_results": 4,
    },
    "driver/test_blocked.py": {
        "test_a_job_whose_own_code_waits_for_ever_is_cancelled": 5,
        "test_ctrl_c_ends_a_program_whose_datasource_waits": 5,
        "test_ctrl_c_ends_mmg_run_whose_datasource_waits": 4,
        "test_a_callback_that_waits_for_ever_does_not_keep_a_job_from_being_cancelled": 2,
    },
    "driver/runners/test_contract.py": {
        "test_a_job_log_counts_every_item_once": 3,
    },
    "engine/net/test_election.py": {
        "test_who_had_a_place_outlasts_strangers_in_it": 2,
        "test_a_server_that_is_lost_by_chance_before_its_hello_is_joined_again": 4,
        "test_behind_a_server_of_another_version_the_next_address_is_taken": 4,
    },
    "integration/test_bad_input.py": {
        "test_function_that_fails_is_named_with_item_line_and_worker": 8,
        "test_signal_ends_a_command_whose_own_functions_hang": 6,
        "test_signal_ends_a_listening_job_and_its_worker_goes_on": 6,
        "test_signal_ends_driver_worker_and_server_in_the_middle_of_a_job": 6,
        "test_input_that_is_not_there_or_is_none": 8,
        "test_function_that_cannot_be_called": 4,
        "test_misspelt_name_is_met_with_the_nearest_right_one": 4,
        "test_job_file_that_cannot_be_one": 3,
        "test_command_line_that_will_not_do": 4,
        "test_what_cannot_travel_is_named": 2,
        "test_job_file_with_a_name_that_will_not_do": 3,
        "test_signal_ends_an_embedded_job": 3,
    },
    "integration/test_cluster.py": {
        "test_every_form_of_a_word_count_gives_the_same": 6,
        "test_when_the_engine_dies_the_job_is_handed_in_again": 3,
        "test_a_signal_that_the_system_hands_to_another_thread_is_heard": 2,
    },
    "integration/test_commands.py": {
        "test_inline_gives_what_executors_give": 3,
    },
    "integration/test_debugging.py": {
        "test_who_wants_a_terminal_in_an_executor_is_told_to_use_inline": 3,
    },
    "integration/test_limits.py": {
        "test_an_environment_larger_than_a_frame_travels": 3,
    },
    "integration/test_mincemeat.py": {
        "test_methods_of_a_client_are_used_where_the_server_sends_none": 4,
        "test_a_command_that_the_server_does_not_know_closes_that_connection_only": 2,
    },
    "integration/test_nodes.py": {
        "test_a_node_is_of_no_use_in_a_child_and_is_not_hurt_by_it": 2,
        "test_a_wrong_password_ends_a_command": 2,
    },
    "integration/test_offered.py": {
        "test_offered_and_shipped_functions_mix": 3,
    },
    "integration/test_output.py": {
        "test_a_signal_leaves_no_file_and_has_its_exit_code": 3,
    },
    "integration/test_own_modules.py": {
        "test_our_processes_import_nothing_from_the_folders_of_a_job": 3,
        "test_a_program_gets_its_own_modules_whenever_it_imports_them": 2,
        "test_a_module_of_which_there_is_bytecode_only_travels": 2,
        "test_a_job_in_a_package_runs_by_its_name": 2,
        "test_a_name_that_is_no_job_is_refused": 2,
        "test_the_users_code_gets_its_own_modules_as_in_plain_python": 2,
    },
    "integration/test_places.py": {
        "test_what_would_have_been_there_is_named": 3,
        "test_a_job_runs_where_the_working_directory_is_gone": 3,
    },
    "integration/test_readme.py": {
        "test_each_command_gives_what_the_page_promises": 4,
        "test_each_program_runs": 2,
    },
    "integration/test_replay.py": {
        "test_a_call_that_failed_fails_again": 5,
    },
    "integration/test_settings.py": {
        "test_flags_that_change_answers_hold_in_executors": 16,
        "test_the_time_zone_is_that_of_the_program_whether_or_not_it_calls_tzset": 4,
    },
    "integration/test_setup.py": {
        "test_a_setupfn_that_fails_is_tried_three_times_and_fails_the_job_by_name_whatever_may_be_skipped": 6,
        "test_modules_imported_for_their_effect_are_imported_in_executors_in_the_order_of_the_file": 3,
        "test_functions_see_the_arguments_of_the_job_file_everywhere": 2,
    },
    "integration/test_skipping.py": {
        "test_an_item_that_kills_is_named_by_its_key_whatever_its_type": 12,
        "test_lines_that_kill_are_found_and_only_they_are_set_aside": 2,
        "test_a_broken_line_is_set_aside_and_all_others_count": 4,
        "test_items_that_killed_are_given_again": 2,
    },
    "machine/test_python_path.py": {
        "test_a_job_runs_in_a_program_that_is_not_python": 3,
    },
    "tasks/test_skipping.py": {
        "test_what_is_wrong_with_a_record_is_told_of_with_the_key_of_the_item_that_is_set_aside": 3,
    },
    "trust/test_certificates.py": {
        "test_files_that_will_not_do_are_named_in_one_line": 6,
        "test_a_server_without_a_certificate_of_the_authority_is_refused": 3,
    },
    "trust/test_containers.py": {
        "test_a_job_that_is_larger_than_the_container_runs_in_it": 2,
    },
    "trust/test_crowds.py": {
        "test_workers_reset_at_any_moment_lose_nothing": 6,
    },
    "trust/test_fuzz.py": {
        "test_a_search_by_coverage_finds_nothing_that_breaks_a_target": 10,
    },
    "trust/test_getting_in.py": {
        "test_passwords_agree_when_they_are_the_same_text": 12,
        "test_an_impostor_hears_a_hello_and_a_proof_and_nothing_of_the_job": 3,
        "test_an_impostor_without_tls_hears_no_more_than_the_beginning_of_tls": 2,
    },
    "trust/test_hostile_driver.py": {
        "test_only_the_connection_of_the_fault_is_closed_and_its_job_ends": 12,
        "test_batches_that_do_not_decode_fail_their_own_job_cleanly": 3,
        "test_code_that_is_none_fails_its_own_job_cleanly": 3,
    },
    "trust/test_hostile_worker.py": {
        "test_only_the_connection_of_the_fault_is_closed_and_its_tasks_are_done_elsewhere": 12,
        "test_nobody_speaks_for_the_attempt_of_another": 2,
    },
    "trust/test_keys_and_values.py": {
        "test_a_value_that_cannot_be_pickled_fails_the_job_by_name": 6,
        "test_an_unhashable_key_fails_the_job_by_name": 6,
        "test_a_key_that_raises_or_says_nothing_fails_the_job_with_its_words": 4,
    },
    "trust/test_kills.py": {
        "test_a_kill_at_any_moment_changes_no_result_and_leaves_nothing": 30,
    },
    "trust/test_misbehaving_functions.py": {
        "test_what_concerns_the_function_alone_fails_nothing_and_leaves_nothing": 5,
        "test_whatever_is_raised_fails_the_job_by_name": 12,
        "test_whatever_kills_the_executor_fails_the_job_by_name": 4,
        "test_10_gib_end_at_the_memory_limit": 3,
        "test_patching_what_the_executor_needs_ends_its_own_job_only": 3,
    },
    "trust/test_mutations.py": {
        "test_a_guard_that_is_gone_is_missed": 100,
    },
    "trust/test_poison_items.py": {
        "test_poison_items_are_found_set_aside_and_reported_and_the_job_goes_on": 6,
        "test_more_poison_than_allowed_fails_the_job_with_its_own_error": 3,
        "test_without_max_skipped_the_job_fails_and_names_the_item": 3,
    },
    "trust/test_sandboxes.py": {
        "test_jobs_run_without_calls_that_the_kernel_refuses": 4,
        "test_without_ipv6_and_with_a_name_that_nobody_knows": 2,
        "test_deaths_are_seen_and_nothing_is_left": 4,
        "test_where_no_folder_can_be_written_to_jobs_run_that_need_none": 4,
        "test_an_engine_ends_with_its_driver_though_the_kernel_does_not_tell": 3,
    },
}
