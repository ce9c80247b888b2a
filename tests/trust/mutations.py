"""Guards, how each is taken away, and the tests that must notice.

A mutation is an edit of the source: `old`, which stands there exactly once, becomes `new`, and the guard is gone.
It is applied to a copy of the package, never in place; there the named tests must fail, and nothing else than the
edit may be the reason, so all of them pass on a copy without one.

Whoever changes a guarded line changes its row here. A new guard gets a row.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).resolve().parents[2]
#: seconds for the tests that are named for one guard
PATIENCE_S = 200
#: seconds for all named tests, of a copy that is as it should be: some 40 on a quiet machine
ALL_S = 900
#: seconds for one test that waits in vain: with its guard it takes less than one
IN_VAIN_S = 5
#: what the tests of the table need beside the package
NEEDED = ("mmgevent", "tests", "docs", "pyproject.toml")


class Mutation(NamedTuple):
    guard: str  #: what holds as long as it is there
    file: str  #: within the package
    old: str
    new: str
    tests: tuple[str, ...]  #: node ids, less the leading "tests/"
    waits: bool = False  #: without the guard its tests wait for something that never comes


HANDSHAKE, FRAMES, LANES = "access/handshake.py", "wire/frames.py", "wire/lanes.py"
DRIVER_PEERS = "engine/server/driver_peers.py"
PEERS, BATCHES, ATTEMPTS = "engine/server/peers.py", "engine/server/batches.py", "engine/server/attempts.py"

MUTATIONS = [
    # bundles
    Mutation(
        "a bundle of another user is refused",
        "job/bundle.py",
        "    if status.st_uid != os.geteuid():",
        "    if False:",
        ("job/test_bundle.py::test_a_file_of_another_user_is_refused",),
    ),
    Mutation(
        "a bundle that others may write is refused",
        "job/bundle.py",
        "    if _others_may_write(status):",
        "    if False:",
        ("job/test_bundle.py::test_a_file_that_others_may_write_is_refused",),
    ),
    Mutation(
        "the input of a bundle stays plain data",
        "driver/failures/replay.py",
        """if self._header.get("is_plain"):""",
        "if False:",
        ("integration/test_replay.py::test_plain_results_stay_plain_in_a_bundle",),
    ),
    Mutation(
        "what a failure carries fits in a frame",
        "wire/failures.py",
        "    if INPUT in kept and not _has_room(kept):",
        "    if False:",
        ("wire/test_failures.py::test_an_input_that_has_no_room_is_left_out",),
    ),
    # looking at a server, and settings in files
    Mutation(
        "a looker submits nothing",
        DRIVER_PEERS,
        "            self._handlers = dict.fromkeys(QUESTIONS, self._on_question)",
        "            pass",
        ("integration/test_status.py::test_a_looker_may_have_another_python_and_submits_nothing",),
        waits=True,
    ),
    Mutation(
        "questions of one link that wait are limited",
        "engine/server/looking/lookout.py",
        "if len(looker.questions) >= MAX_QUESTIONS:",
        "if False:",
        ("integration/test_status.py::test_who_asks_without_end_loses_its_link",),
        waits=True,
    ),
    Mutation(
        "what jobs do is remembered within one limit for all",
        "engine/server/history/recent.py",
        "while self._used_bytes > self._max_bytes:",
        "while False:",
        ("engine/server/test_history.py::test_readers_see_each_event_once_or_learn_that_it_is_lost",),
    ),
    Mutation(
        "slots with bars are limited",
        "engine/server/history/tracks.py",
        "if len(self._tracks) >= MAX_TRACKS or self._all.tracks >= MAX_ALL_TRACKS:",
        "if False:",
        ("engine/server/test_tracks.py::test_tracks_have_limits_and_what_is_not_seen_is_counted",),
    ),
    Mutation(
        "groups of errors are limited",
        "engine/server/history/error_tally.py",
        "if len(self._groups) >= MAX_GROUPS or self._all.groups >= MAX_ALL_GROUPS:",
        "if False:",
        ("engine/server/test_history.py::test_groups_have_limits_and_no_error_is_uncounted",),
    ),
    Mutation(
        "connections to a dashboard without the token give way",
        "web/crowd.py",
        "if not self._unproved:",
        "if True:",
        ("web/test_dashboard.py::test_connections_that_prove_nothing_give_way_and_pages_stay",),
        waits=True,
    ),
    Mutation(
        "headers of a browser have a deadline",
        "web/dashboard.py",
        "late = gevent.Timeout.start_new(HEADERS_S)",
        "late = gevent.Timeout.start_new(None)",
        ("web/test_dashboard.py::test_headers_that_do_not_end_are_not_waited_for",),
        waits=True,
    ),
    Mutation(
        "an executor is asked for its stack only if it handles the signal",
        "engine/worker/stacks.py",
        "if not handles_signal(pid, STACK_SIGNAL):",
        "if False:",
        ("integration/test_status.py::test_an_executor_whose_handler_was_replaced_is_not_killed_by_asking",),
        waits=True,
    ),
    Mutation(
        "a password in a file of settings that others can read is refused",
        "cli/settings_file.py",
        "    if mode & 0o077:",
        "    if False:",
        ("cli/test_settings.py::test_what_is_wrong_in_it_is_named",),
    ),
    # remote inputs
    # job logs and reports
    Mutation(
        "data in a report cannot end their block",
        "report/embedded.py",
        "default=repr).translate(_ESCAPES)",
        "default=repr)",
        ("report/test_page.py::test_no_name_of_a_job_changes_the_page_or_hides_in_it",),
    ),
    Mutation(
        "texts in a report are escaped",
        "report/words.py",
        "    return html.escape(plain(value))",
        "    return plain(value)",
        ("report/test_page.py::test_no_name_of_a_job_changes_the_page_or_hides_in_it",),
    ),
    Mutation(
        "no part of a line stays in a job log",
        "driver/log/file.py",
        "                self._drop_part()",
        "                pass",
        ("driver/log/test_job_log.py::test_of_a_line_for_which_there_is_no_room_nothing_stays",),
    ),
    Mutation(
        "a driver that does not read gets no more rows of attempts",
        "engine/server/task_log.py",
        "while self._plain and link.control_bytes < MAX_UNREAD_BYTES:",
        "while self._plain:",
        ("engine/server/test_task_log.py::test_a_driver_that_does_not_read_costs_a_limited_number_of_rows",),
    ),
    Mutation(
        "names of workers cannot make a message about tasks too large",
        "engine/server/task_log.py",
        "if sum(each.name_bytes for each in places) <= MESSAGE_BYTES:",
        "if True:",
        ("engine/server/test_task_log.py::test_workers_with_long_names_share_messages_that_fit_a_frame",),
    ),
    Mutation(
        "attempts that never ran are not in a job log",
        "engine/server/task_log.py",
        'if outcome == "returned" or not (has_run or outcome):',
        "if False:",
        (
            "engine/server/test_task_log.py::test_attempts_that_never_ran_have_no_row_and_duplicates_are_marked",
        ),
    ),
    Mutation(
        "each answer of a web server is of the version that was listed",
        "job/remote/web.py",
        "    if hash_of(version) != old_hash:",
        "    if False:",
        ("job/remote/test_reading.py::test_an_object_that_changes_is_another_one",),
    ),
    Mutation(
        "each answer of a web server begins where it was asked to",
        "job/remote/web.py",
        "if status == _PARTIAL and first and int(first[1]) != start:",
        "if False:",
        ("job/remote/test_reading.py::test_bytes_from_elsewhere_are_not_taken",),
    ),
    Mutation(
        "the list of a folder has a deadline",
        "job/remote/objects.py",
        "found = within(LISTING_S, _find, url)",
        "found = _find(url)",
        ("job/remote/test_reading.py::test_a_server_that_never_answers_is_given_up",),
        waits=True,
    ),
    # remote outputs
    Mutation(
        "_SUCCESS of old results goes before anything is sent",
        "job/outputs/remote_folder.py",
        "        if self._had_success:",
        "        if False:",
        ("job/outputs/test_object_stores.py::test_success_is_sent_last_and_removed_first",),
    ),
    Mutation(
        "a remote output is sent when it is whole, and dropped otherwise",
        "job/outputs/remote_objects.py",
        "        file, self._file = self._file, None\n",
        "        self.commit() if self._file is not None else None\n        file, self._file = self._file, None\n",
        ("job/outputs/test_object_stores.py::test_an_object_appears_when_it_is_whole",),
    ),
    # remote paths
    Mutation(
        "calls of a file system that serves one at a time take turns",
        "job/remote/systems.py",
        'if getattr(system, "async_impl", False):',
        "if True:",
        ("job/remote/test_ssh_servers.py::test_calls_take_turns_where_only_one_is_served",),
    ),
    # large records
    Mutation(
        "a segment is small beside the memory of who reads it",
        "tasks/shares.py",
        "    if size <= 2 * most_bytes or is_single:",
        "    if True:",
        ("tasks/test_shares.py::test_shares_keep_to_their_size_and_put_together_are_what_was_cut",),
    ),
    Mutation(
        "large results leave before there are many",
        "tasks/results.py",
        "if self._left_bytes > 0 else 0",
        "if True else 0",
        ("tasks/test_shares.py::test_large_results_are_put_out_before_there_are_many",),
    ),
    # sorted values
    Mutation(
        "values to be sorted are not combined before",
        "tasks/map_task.py",
        "functions.collectfn is None and not functions.sort_values",
        "functions.collectfn is None",
        ("tasks/test_sort_values.py::test_known_reducers_get_the_values_in_order",),
    ),
    Mutation(
        "a failure while sorted values are read is no fault of the function, which may swallow it",
        "tasks/reduce_task.py",
        "        if self._input_error is not None:  # the function may have swallowed it",
        "        if False:",
        ("tasks/test_sort_values.py::test_a_failure_while_the_function_reads_is_no_fault_of_the_function",),
    ),
    # executors and their template
    Mutation(
        "a template that answers nothing is killed",
        "engine/worker/forker.py",
        "            elif finding := silence.note(",
        "            elif finding := False and silence.note(",
        (
            "integration/test_worker.py::"
            "test_of_several_jobs_none_is_blamed_for_their_template_and_each_gets_its_own[stop]",
        ),
        waits=True,
    ),
    Mutation(
        "a template that only waits for its turn is left alone",
        "engine/worker/silence.py",
        'look.state == "R" and before is not None and look.cpu_s - before.cpu_s >= BUSY_S',
        'look.state == "R"',
        ("integration/test_worker.py::test_a_template_that_gets_no_turn_is_not_killed",),
    ),
    Mutation(
        "a guess about a template fails no job",
        "engine/worker/crew.py",
        "and end.is_fact",
        "and True",
        (
            "integration/test_worker.py::"
            "test_a_template_that_is_ended_for_its_silence_alone_counts_for_no_job",
        ),
    ),
    Mutation(
        "several jobs of one template are not blamed for its end",
        "engine/worker/template_deaths.py",
        "if len(jobs) > 1:",
        "if False:",
        (
            "integration/test_worker.py::"
            "test_of_several_jobs_none_is_blamed_for_their_template_and_each_gets_its_own[kill]",
        ),
    ),
    Mutation(
        "a job that ended a template rests",
        "engine/worker/crew.py",
        "delay_s=rest_s(job.template_deaths)",
        "delay_s=0.0",
        ("integration/test_worker.py::test_a_job_that_ends_its_template_rests_longer_each_time",),
    ),
    Mutation(
        "a box whose template has ended starts another",
        "box/box.py",
        "if self._template.link.end is not None:",
        "if False:",
        ("box/test_box.py::test_a_template_that_dies_between_two_tasks_is_replaced_and_no_death",),
    ),
    Mutation(
        "a job that ends a box's template again and again fails",
        "box/trials.py",
        "is_last = self._box.template_deaths >= MAX_TEMPLATE_DEATHS",
        "is_last = False",
        (
            "driver/runners/test_contract.py::"
            "test_a_job_that_ends_it_again_and_again_fails_by_name_whatever_may_be_skipped[threads]",
        ),
        waits=True,
    ),
    Mutation(
        "a template that waited is used only if it was started as one would be now",
        "box/spares.py",
        "if self._waiting[index][0].origin == origin:",
        "if True:",
        ("box/test_spares.py::test_executors_have_the_environment_and_folder_of_their_host_now",),
    ),
    Mutation(
        "a failing action does not end the thread that starts templates",
        "box/templates.py",
        "except Exception:  # else",
        "except ZeroDivisionError:  # else",
        ("box/test_spares.py::test_an_action_that_fails_is_logged_and_the_thread_goes_on",),
        waits=True,
    ),
    Mutation(
        "what a dropped portion said is told",
        "box/portions.py",
        "notices=kept.notices + dropped.notices",
        "notices=kept.notices",
        ("box/test_portions.py::test_a_portion_that_is_dropped_leaves_its_notices_and_deaths",),
    ),
    Mutation(
        "a lease that a process holds stays",
        "box/leased.py",
        "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
        ("box/test_leased.py::test_a_lease_of_a_process_that_was_killed_is_deleted_by_the_next_job",),
    ),
    Mutation(
        "after abort no call is made again",
        "driver/cluster_executor.py",
        "if self._aborts == aborts:",
        "if True:",
        ("driver/test_cluster_executor.py::test_calls_of_a_job_that_fails_are_not_made_again_after_abort",),
    ),
    Mutation(
        "what a first task maps in its time is carried whole",
        "box/portions.py",
        "if done is not None and is_large:",
        "if False:",
        ("box/test_portions.py::test_what_depends_on_time_is_carried_whole",),
    ),
    Mutation(
        "a box that is put back after the end of its job ends",
        "box/boxes.py",
        "if box.job.id in self._ended:",
        "if False:",
        ("box/test_box.py::test_a_job_that_ends_while_its_box_is_put_back_leaves_no_box",),
    ),
    # what others choose
    Mutation(
        "the name of a peer is safe for terminals",
        "wire/hello.py",
        r're.sub(r"[^\w ./:@+-]", "?", name, flags=re.ASCII)[:MAX_NAME_CHARS]',
        "name[:MAX_NAME_CHARS]",
        ("wire/test_hello.py::test_the_name_of_a_peer_is_short_and_safe_for_terminals",),
    ),
    Mutation(
        "a host of ssh:// is nothing that a shell reads otherwise",
        "access/ssh_hosts.py",
        "is_host = bool(_WORD.fullmatch(host)) and",
        "is_host = bool(host) and",
        ("access/test_ssh_hosts.py::test_what_a_shell_or_ssh_could_read_otherwise_is_no_host",),
    ),
    Mutation(
        "an interpreter on other hosts is nothing that a shell changes",
        "access/ssh_hosts.py",
        "if not _PYTHON.fullmatch(text):",
        "if not text:",
        ("access/test_ssh_hosts.py::test_an_interpreter_is_a_name_or_a_path",),
    ),
    # getting in
    Mutation(
        "a proof names the side that gives it",
        HANDSHAKE,
        '_SERVER_LABEL = b"mmgevent/2 server"',
        "_SERVER_LABEL = _CLIENT_LABEL",
        ("access/test_handshake.py::test_the_proofs_are_computed_as_docs_protocol_says",),
    ),
    Mutation(
        "the transcript holds what came before a proof",
        HANDSHAKE,
        "hashlib.sha256(self._transcript).digest()",
        'hashlib.sha256(b"").digest()',
        ("access/test_handshake.py::test_no_changed_byte_goes_unnoticed",),
    ),
    Mutation(
        "nonces are new for each connection",
        HANDSHAKE,
        "os.urandom(NONCE_BYTES) if nonce is None",
        "bytes(NONCE_BYTES) if nonce is None",
        (
            "access/test_handshake.py::test_a_replayed_client_is_refused[worker]",
            "access/test_handshake.py::test_a_replayed_server_is_refused[worker]",
        ),
    ),
    Mutation(
        "a proof is over the server's certificate",
        HANDSHAKE,
        "label + transcript + self._certificate_sha256",
        "label + transcript",
        (
            "access/test_handshake.py::test_a_man_in_the_middle_with_his_own_certificate_is_found_by_both[worker]",
        ),
    ),
    Mutation(
        "the client compares the server's proof",
        HANDSHAKE,
        "return hmac.compare_digest(message, expected)",
        "return message != REFUSAL",
        (
            "access/test_handshake.py::test_a_server_that_does_not_know_the_password_is_found_before_anything_is_sent_to_it",
        ),
    ),
    Mutation(
        "the client waits for the server's proof before it sends anything",
        HANDSHAKE,
        "self._await(self._server_proof_bytes, self._on_server_proof, is_proof=True)",
        "self.done = True",
        (
            "access/test_handshake.py::test_a_server_that_does_not_know_the_password_is_found_before_anything_is_sent_to_it",
        ),
    ),
    Mutation(
        "the server compares the client's proof",
        HANDSHAKE,
        'if not hmac.compare_digest(message, expected):\n            self._fail(AuthenticationError(f"a {self.role}',
        'if False:\n            self._fail(AuthenticationError(f"a {self.role}',
        ("access/test_handshake.py::test_a_wrong_password_is_told_apart_from_a_lost_connection",),
    ),
    Mutation(
        "the server compares the proof of a lender",
        HANDSHAKE,
        "if not hmac.compare_digest(message, expected):\n            error =",
        "if False:\n            error =",
        ("access/test_handshake.py::test_a_wrong_worker_password_is_told_apart_from_a_lost_connection",),
    ),
    Mutation(
        "a role is verified with its own key",
        HANDSHAKE,
        'act = self._on_lender_proof if self.role == "lender" else self._on_client_proof',
        "act = self._on_lender_proof",
        (
            "access/test_handshake.py::test_who_has_the_worker_password_only_is_neither_a_driver_nor_a_worker_with_the_main_one",
        ),
    ),
    Mutation(
        "a lender checks the signature of the server",
        "access/worker_key.py",
        "except InvalidSignature:\n            return False",
        "except InvalidSignature:\n            return True",
        (
            "access/test_handshake.py::test_a_thief_of_a_worker_password_who_plays_the_server_is_refused_by_a_lender",
        ),
    ),
    Mutation(
        "a worker password is no main password",
        "access/password.py",
        "    if is_worker_password(password):",
        "    if False:",
        ("access/test_worker_password.py::test_a_worker_password_is_never_taken_for_a_main_one",),
    ),
    Mutation(
        "a lender never listens",
        "engine/net/election.py",
        "if not may_serve or isinstance(key, WorkerKey):",
        "if not may_serve:",
        ("engine/net/test_election.py::test_who_has_a_worker_password_only_is_never_elected",),
    ),
    Mutation(
        "a lender sends no user messages",
        PEERS,
        'if message["type"] == "tell":',
        "if False:",
        ("engine/server/test_server.py::test_a_lender_sends_no_user_messages",),
    ),
    Mutation(
        "a lender offers no functions",
        PEERS,
        'if message.get("offers"):',
        "if False:",
        ("engine/server/test_server.py::test_a_lender_works_and_offers_no_functions",),
    ),
    Mutation(
        "a link may do what its peer has proved",
        "engine/server/role.py",
        '"lender": LenderPeer}',
        '"lender": DriverPeer}',
        ("engine/server/test_server.py::test_a_lender_is_no_driver_whatever_its_hello_says",),
    ),
    Mutation(
        "strangers are told by their first bytes",
        HANDSHAKE,
        "return self._awaits_proof or MAGIC.startswith(self._buffer[: len(MAGIC)])",
        "return True",
        ("access/test_handshake.py::test_strangers_are_known_by_their_first_bytes",),
    ),
    Mutation(
        "the error of a handshake ends the connection",
        "engine/net/tls.py",
        "if machine.error is not None:",
        "if False:",
        ("engine/net/test_tls.py::test_a_wrong_password_is_said_to_both",),
    ),
    Mutation(
        "the server speaks TLS 1.3 and nothing older",
        "engine/net/tls.py",
        "context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n    context.minimum_version = ssl.TLSVersion.TLSv1_3",
        "context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)",
        ("engine/net/test_tls.py::test_a_client_with_older_tls_or_without_our_alpn_is_a_stranger",),
        waits=True,
    ),
    Mutation(
        "the server asks for our ALPN",
        "engine/net/tls.py",
        'if tls.selected_alpn_protocol() != ALPN:\n                raise ProtocolError("the client',
        'if False:\n                raise ProtocolError("the client',
        ("engine/net/test_tls.py::test_a_client_with_older_tls_or_without_our_alpn_is_a_stranger",),
        waits=True,
    ),
    Mutation(
        "no TLS session is resumed",
        "engine/net/tls.py",
        "context.num_tickets = 0",
        "pass",
        ("engine/net/test_tls.py::test_no_ticket_is_sent_so_no_session_can_be_resumed",),
    ),
    Mutation(
        "one deadline ends a handshake",
        "engine/net/listener.py",
        "with gevent.Timeout(HANDSHAKE_S, late):",
        "with gevent.Timeout(None, late):",
        ("engine/net/test_listener.py::test_the_deadline_of_a_stranger_begins_when_it_comes",),
        waits=True,
    ),
    Mutation(
        "unproved connections are bounded",
        "engine/net/listener.py",
        "if len(self._unproved) >= MAX_UNPROVED:",
        "if False:",
        ("engine/net/test_listener.py::test_the_longest_silent_makes_room_when_there_are_too_many",),
        waits=True,
    ),
    Mutation(
        "a password file that others may read is refused",
        "access/password.py",
        "if stat.S_IMODE(mode) & 0o077:",
        "if False:",
        ("access/test_password.py::test_file_that_others_may_read_or_change_is_refused",),
    ),
    Mutation(
        "an empty password is refused",
        HANDSHAKE,
        "if not password:",
        "if False:",
        ("access/test_handshake.py::test_unusable_passwords_are_refused",),
    ),
    # frames and lanes
    Mutation(
        "the checksum of a frame is compared",
        FRAMES,
        "if _checksum(header[:_CHECKED_BYTES], payload) != checksum:",
        "if False:",
        ("wire/test_frames.py::test_no_changed_byte_goes_unnoticed",),
    ),
    Mutation(
        "the checksum of a frame covers its header",
        FRAMES,
        "seed=xxh64_intdigest(header_start)",
        "seed=0",
        ("wire/test_frames.py::test_the_header_is_laid_out_as_docs_protocol_says",),
    ),
    Mutation(
        "the length of a frame is checked before its payload is waited for",
        FRAMES,
        "if not least <= length <= most:\n            raise self._broken(",
        "if False:\n            raise self._broken(",
        ("wire/test_frames.py::test_a_length_beyond_the_kind_is_refused_before_the_payload_comes",),
    ),
    Mutation(
        "no more is received in a lane than was granted",
        LANES,
        "if n_bytes > self._room:",
        "if False:",
        ("wire/test_lanes.py::test_more_than_was_granted_is_a_protocol_error",),
    ),
    Mutation(
        "data waits for credit",
        LANES,
        "if self.credit is not None and frame.kind in DATA_KINDS:",
        "if False:",
        ("wire/test_lanes.py::test_a_lane_without_credit_holds_up_no_other",),
    ),
    Mutation(
        "a peer that does not read is closed",
        "engine/net/link.py",
        "if self._outbox.control_bytes > MAX_CONTROL_BYTES:",
        "if False:",
        ("engine/net/test_link.py::test_a_peer_that_never_reads_is_closed_before_it_costs_unbounded_memory",),
    ),
    Mutation(
        "a silent peer is dead",
        "engine/net/socket_link.py",
        "if self._silent_s >= beats.SILENCE_S:",
        "if False:",
        ("engine/net/test_link.py::test_time_in_which_our_own_loop_stood_still_is_not_the_peers_silence",),
        waits=True,
    ),
    Mutation(
        "what a failed item counted does not count",
        "tasks/counters.py",
        "            self._open.clear()\n\n    def counts",
        "            pass\n\n    def counts",
        ("tasks/test_counters.py::test_items_that_are_set_aside_do_not_count_and_others_count_once",),
    ),
    Mutation(
        "a worker prints for jobs that it has only",
        "engine/server/peers.py",
        "if job is not None and frame.job in self._worker.jobs:",
        "if job is not None:",
        ("engine/server/test_server.py::test_only_a_worker_that_has_a_job_prints_for_it",),
    ),
    Mutation(
        "what is printed faster than it may go on is counted",
        "engine/server/prints.py",
        "if self._budget.spend(len(line) + len(item), now_s)",
        "if True",
        (
            "engine/worker/test_printed.py::test_a_job_passes_on_what_its_budget_allows_and_says_how_much_it_does_not",
        ),
    ),
    Mutation(
        "results with counts are delivered by whole tasks",
        "driver/submission.py",
        "elif not (self._packed.takes_whole_tasks or incoming.counters):",
        "elif not self._packed.takes_whole_tasks:",
        ("integration/test_counters.py::test_what_is_done_again_by_the_next_server_counts_once",),
    ),
    Mutation(
        "the fields of a message are of their types",
        "wire/messages.py",
        "if not field.shape.fits(value):",
        "if False:",
        ("wire/test_messages.py::test_a_field_of_another_type_is_named",),
    ),
    # segments
    Mutation(
        "the checksum of a segment is compared",
        "tasks/records.py",
        "if _checksum(view[offset : offset + _HEADER.size], view[keys_at:end]) != checksum:",
        "if False:",
        ("tasks/test_records.py::test_every_flipped_byte_of_a_segment_is_noticed",),
    ),
    Mutation(
        "a column is not longer than its bytes allow",
        "tasks/columns.py",
        "    if count <= 8 * len(view):  # each element takes a bit at least\n",
        "    if True:\n",
        ("tasks/test_records.py::test_columns_that_are_none_are_refused_behind_a_right_checksum",),
    ),
    Mutation(
        "folded values that are more than a share are cut",
        "tasks/map_task.py",
        "if parts is not None and are_shares(parts, self._share_bytes, are_ints_merged=are_ints_merged):",
        "if parts is not None:",
        ("tasks/test_tasks.py::test_folded_values_leave_in_shares_too",),
    ),
    Mutation(
        "folded columns of blocks that are more than a share are cut",
        "tasks/map_task.py",
        "most = numbers_of_share(self._share_bytes, are_objects=not are_ints)",
        "most = 1 << 62",
        ("tasks/test_blocks.py::test_folded_columns_leave_in_shares",),
    ),
    Mutation(
        "what a column has sizes of is there before it is made",
        "_speedups/_column_read.py",
        "if min(sizes) < 0 or sum(sizes) > a_byte * self.left:",
        "if False:",
        ("test_columns.py::test_damaged_columns_are_refused",),
    ),
    Mutation(
        "columns within one another are limited",
        "_speedups/_column_read.py",
        "if depth > MAX_DEPTH or kind >= len(_DECODERS)",
        "if kind >= len(_DECODERS)",
        ("test_columns.py::test_damaged_columns_are_refused",),
    ),
    Mutation(
        "a column names only elements that it has",
        "_speedups/_column_read.py",
        "if max(numbers) >= size:",
        "if False:",
        ("test_columns.py::test_damaged_columns_are_refused",),
    ),
    Mutation(
        "elements of a column take bits only where nothing larger is made of each",
        "_speedups/_column_read.py",
        "reader.bits(count, in_bits=in_bits and kind != TUPLES)",
        "reader.bits(count, in_bits=True)",
        ("test_columns.py::test_damaged_columns_are_refused",),
    ),
    Mutation(
        "a flush names partitions that there can be, in order",
        "wire/flushes.py",
        "if not last < partition < MAX_ROWS or n_bytes > MAX_SEGMENT_BYTES:",
        "if False:",
        ("wire/test_flushes.py::test_what_is_no_flush_is_refused",),
    ),
    Mutation(
        "the table of a flush is bounded before it is waited for",
        "wire/flushes.py",
        "or count > MAX_ROWS:",
        "or False:",
        ("wire/test_flushes.py::test_what_is_no_flush_is_refused",),
    ),
    Mutation(
        "output that ends inside a flush is not committed",
        "engine/server/store.py",
        "if not output.flushes.is_whole:",
        "if False:",
        ("engine/server/test_store.py::test_output_that_ends_inside_a_flush_is_refused",),
    ),
    Mutation(
        "hash() of a user's class is asked again where its key is reduced",
        "tasks/scratch.py",
        "if segment.hashed:",
        "if False:",
        ("tasks/test_tasks.py::test_a_hash_that_differs_between_processes_is_noticed_by_type",),
    ),
    Mutation(
        "nothing that a server is made of imports pickle",
        "engine/server/spill.py",
        "import os\nimport tempfile\n",
        "import os\nimport pickle\nimport tempfile\n",
        ("test_layers.py::test_nothing_that_a_server_is_made_of_imports_pickle_or_dill",),
    ),
    # the server and its peers
    Mutation(
        "nothing is taken before a hello: data",
        PEERS,
        "elif not self._has_hello:",
        "elif False:",
        ("engine/server/test_server.py::test_data_before_a_hello_closes_the_link",),
    ),
    Mutation(
        "nothing is taken before a hello: messages",
        PEERS,
        "message = message_of(frame)\n            if not self._has_hello:\n",
        "message = message_of(frame)\n            if False:\n",
        ("engine/server/test_server.py::test_a_first_frame_that_is_no_hello_closes_the_link",),
    ),
    Mutation(
        "a hello is of the role that was proved",
        PEERS,
        'if message["type"] != "hello" or message["role"] != self.role:',
        'if message["type"] != "hello":',
        ("engine/server/test_server.py::test_a_hello_of_another_role_than_was_proved_closes_the_link",),
    ),
    Mutation(
        "another version is refused",
        PEERS,
        "if mismatch:",
        "if False:",
        ("engine/server/test_server.py::test_another_python_version_is_refused_with_both_named",),
    ),
    Mutation(
        "an attempt is its worker's own",
        ATTEMPTS,
        "if attempt is not None and attempt.worker != worker:",
        "if False:",
        ("engine/server/test_server.py::test_an_attempt_of_another_worker_cannot_be_finished",),
    ),
    Mutation(
        "a message is about the attempt that its number says",
        ATTEMPTS,
        "attempt = self._attempts.get(number)\n        if attempt is not None and attempt.worker",
        "attempt = self._attempts.get(number) or next(\n"
        "            (a for a in self._attempts.values() if a.worker == worker), None)\n"
        "        if attempt is not None and attempt.worker",
        ("engine/server/test_server.py::test_what_comes_late_about_an_attempt_that_is_over_changes_nothing",),
    ),
    Mutation(
        "done counts when the announced bytes are here, and whole",
        ATTEMPTS,
        'if message["size"] != store.staged_bytes(attempt.number) or not store.is_whole(attempt.number):',
        "if False:",
        (
            "engine/server/test_server.py::test_done_before_the_whole_output_closes_the_link_and_commits_nothing",
        ),
    ),
    Mutation(
        "done waits for the disk",
        ATTEMPTS,
        "attempt.done = message\n        if not attempt.pending_bytes:\n",
        "attempt.done = message\n        if True:\n",
        ("engine/server/test_server.py::test_done_waits_for_what_the_disk_has_not_taken",),
    ),
    Mutation(
        "only done commits: what a lost attempt has staged is dropped",
        "engine/server/actions.py",
        "attempt.job.store.discard(c.attempt)",
        "attempt.job.store.commit_map(c.attempt, 99, c.attempt)",
        ("engine/server/test_server.py::test_what_a_lost_worker_had_sent_is_not_in_the_results",),
    ),
    Mutation(
        "output keeps to its window",
        ATTEMPTS,
        "attempt.window.received(len(data))",
        "attempt.window.received(0)",
        ("engine/server/test_server.py::test_output_beyond_its_window_closes_the_link",),
    ),
    Mutation(
        "a batch was allowed",
        BATCHES,
        "if known is None and number > self.allowed:",
        "if False:",
        ("engine/server/test_server.py::test_batches_that_cannot_be_close_their_driver_only",),
    ),
    Mutation(
        "a batch is no larger than announced, and announced",
        BATCHES,
        "if batch is None or batch.received + len(data) > batch.size:",
        "if batch is None:",
        ("engine/server/test_server.py::test_more_of_a_batch_than_was_announced_closes_its_driver",),
    ),
    Mutation(
        "a job's number is used once",
        DRIVER_PEERS,
        "if not frame.job or frame.job in self._jobs or not follows(frame.job, self._last_job):",
        "if False:",
        ("engine/server/test_server.py::test_a_job_submitted_twice_closes_its_driver",),
    ),
    Mutation(
        "a driver's jobs end with it",
        DRIVER_PEERS,
        "            self._conductor.cancel(job)\n        self._jobs.clear()",
        "            pass\n        self._jobs.clear()",
        ("engine/server/test_server.py::test_the_jobs_of_a_driver_that_is_gone_leave_nothing",),
    ),
    Mutation(
        "nothing comes behind a done",
        ATTEMPTS,
        "if attempt.done is not None:\n            raise",
        "if False:\n            raise",
        (
            "engine/server/test_server.py::test_output_behind_a_done_that_waits_for_the_disk_closes_the_link_and_is_not_committed",
        ),
    ),
    Mutation(
        "results that nobody took are freed",
        "engine/server/store.py",
        "self._results.add(output)",
        "pass",
        ("engine/server/test_server.py::test_results_that_their_driver_did_not_take_leave_nothing",),
    ),
    Mutation(
        "a failure can be told on, whoever made it",
        "wire/failures.py",
        " and _is_plain(name, value)",
        "",
        (
            "engine/server/test_server.py::test_a_failure_that_cannot_be_told_as_it_came_ends_its_job_all_the_same",
        ),
    ),
    Mutation(
        "segments are read in the order of tasks",
        "engine/server/store.py",
        "for key in sorted(self._committed)",
        "for key in list(self._committed)",
        ("engine/server/test_store.py::test_partitions_come_back_in_task_and_flush_order",),
    ),
    Mutation(
        "an attempt that is too slow does not fail a job by reading results that were freed",
        "engine/server/kept_results.py",
        "            if not self.is_released:",
        "            if True:",
        (
            "engine/server/test_kept_results.py::"
            "test_outputs_are_freed_with_their_last_batch_and_all_of_them_at_the_end[in memory]",
        ),
    ),
    Mutation(
        "kept results are the input of one job",
        DRIVER_PEERS,
        "source is None or source.kept is None or not source.kept.is_free:",
        "source is None or source.kept is None:",
        ("trust/test_hostile_driver.py::test_results_that_are_kept_are_taken_once_and_only_whole",),
    ),
    Mutation(
        "a stage of a chain goes when the one behind it is done",
        "engine/server/actions.py",
        "        job.input.end()\n",
        "",
        ("engine/server/test_server.py::test_of_a_chain_of_any_length_only_what_was_not_taken_stays",),
    ),
    Mutation(
        "what a driver has got is not reduced again",
        "engine/server/conductor.py",
        "sizes.items() if p not in delivered}",
        "sizes.items()}",
        ("engine/server/test_server.py::test_what_a_driver_has_got_of_a_former_server_is_not_reduced_again",),
    ),
    # the scheduler
    Mutation(
        "a link delivers frames for a moment before the others have their turn",
        "engine/net/socket_link.py",
        "if time.monotonic() >= until:",
        "if False:",
        ("engine/net/test_link.py::test_a_flood_of_short_frames_holds_up_no_other_link",),
    ),
    Mutation(
        "tasks of which nobody knows the duration get duplicates",
        "engine/scheduler/dispatcher.py",
        "if median_s is None:",
        "if median_s is None:\n            return\n        if median_s is None:",
        (
            "engine/scheduler/test_scheduler.py::test_a_worker_that_holds_every_task_of_a_phase_holds_up_its_job_for_seconds",
        ),
    ),
    Mutation(
        "a slot that did a duplicate takes the next at once",
        "engine/scheduler/scheduler.py",
        "if was_slow and not ledger.is_over:",
        "if False:",
        (
            "engine/scheduler/test_scheduler.py::test_a_worker_that_holds_every_task_of_a_phase_holds_up_its_job_for_seconds",
        ),
    ),
    Mutation(
        "a duplicate that takes long itself goes to a third worker",
        "engine/scheduler/dispatcher.py",
        "if ledger.pairs and self._replace_duplicates(ledger, least_s, now):",
        "if False:",
        (
            "engine/scheduler/test_scheduler.py::test_two_workers_that_hold_a_task_for_ever_do_not_hold_up_its_job_for_ever",
        ),
    ),
    Mutation(
        "tiny frames of a batch are joined",
        "engine/server/batches.py",
        "batch.chunks = [bytes(chunk) for chunk in join_payloads(batch.chunks)]",
        "pass",
        (
            "trust/test_worst_use.py::test_a_batch_in_tiny_frames_for_thousands_of_slots_costs_the_server_little",
        ),
    ),
    Mutation(
        "the duplicates of a done attempt are revoked",
        "engine/scheduler/scheduler.py",
        "if was_slow:\n            (duplicate,) = task.attempts\n            self._dispatcher.revoke(duplicate, now)\n"
        "        task.transition(_COMMITTED)",
        "task.transition(_COMMITTED)",
        (
            "engine/scheduler/test_scheduler.py::test_a_straggler_gets_one_duplicate_on_another_worker_and_the_first_to_end_counts",
        ),
    ),
    Mutation(
        "a lost worker gets nothing more",
        "engine/scheduler/scheduler.py",
        "self._roster.remove_worker(lost)",
        "pass",
        (
            "engine/scheduler/test_scheduler.py::test_what_a_lost_worker_held_is_done_elsewhere_and_nobody_is_blamed",
        ),
    ),
    Mutation(
        "a task under which executors die ends",
        "engine/scheduler/retries.py",
        "if ledger.count_death(task, item) < (1 if is_first_fatal else MAX_DEATHS):",
        "if True:",
        (
            "engine/scheduler/test_scheduler.py::test_a_task_under_which_executors_die_ends_the_job_with_its_advice",
        ),
    ),
    Mutation(
        "several culprits of a task have deaths of their own",
        "engine/scheduler/ledger.py",
        "return deaths if self.rules.max_skipped else task.deaths",
        "return task.deaths",
        ("engine/scheduler/test_scheduler.py::test_each_culprit_of_a_task_is_given_its_own_deaths",),
    ),
    Mutation(
        "what a task has set aside counts against max_skipped",
        "engine/scheduler/input.py",
        "self.set_aside += items",
        "pass",
        (
            "engine/scheduler/test_scheduler.py::test_what_an_executor_has_set_aside_counts_once_its_attempt_does",
        ),
    ),
    Mutation(
        "an item that fails leaves no record behind",
        "tasks/map_task.py",
        "if skipping is None:\n            return StreamedMapping",
        "if True:\n            return StreamedMapping",
        ("tasks/test_skipping.py::test_nothing_of_an_item_that_fails_counts_and_everything_of_the_others",),
    ),
    Mutation(
        "a call of many items that fails is halved",
        "tasks/calls.py",
        "if len(part) > 1:\n                        middle",
        "if False:\n                        middle",
        ("tasks/test_calls.py::test_halving_finds_exactly_the_items_that_fail_and_nothing_counts_twice",),
    ),
    Mutation(
        "pairs that follow a block count after it",
        "tasks/grouping.py",
        "            self.pour(groups)\n            records = chain",
        "            records = chain",
        ("tasks/test_blocks.py::test_a_pair_after_a_block_counts_after_it",),
    ),
    Mutation(
        "columns of unequal length are no block",
        "_speedups/_block.py",
        "if len(self._values) != self._length:",
        "if False:",
        ("tasks/test_blocks.py::test_what_a_block_holds_is_blamed_on_mapfn",),
    ),
    Mutation(
        "numbers of several kinds are no array",
        "tasks/number_arrays.py",
        "    if made is None:\n        failure",
        "    if False:\n        failure",
        ("tasks/test_number_arrays.py::test_other_values_are_refused_with_their_type_and_key",),
    ),
    Mutation(
        "a call of many items that fails leaves no record behind",
        "tasks/calls.py",
        "                table = Groups()\n",
        "                table = self._groups\n",
        ("tasks/test_calls.py::test_halving_finds_exactly_the_items_that_fail_and_nothing_counts_twice",),
    ),
    Mutation(
        "a file that is read is not blamed while other items of its call are held",
        "tasks/calls.py",
        "if not self._held:",
        "if True:",
        ("tasks/test_calls.py::test_a_file_that_is_read_is_not_blamed_while_others_are_held",),
    ),
    Mutation(
        "a row of a file that a function has changed is read again",
        "tasks/originals.py",
        "if isinstance(entry[1], Ref):",
        "if False:",
        ("tasks/test_skipping.py::test_a_row_of_a_file_that_a_function_has_changed_is_read_again",),
    ),
    Mutation(
        "an item that a function has changed is tried again as it came",
        "tasks/originals.py",
        "if self._decode is None or (",
        "if True or (",
        ("tasks/test_skipping.py::test_a_function_that_has_changed_its_item_gets_it_again_as_it_came",),
    ),
    Mutation(
        "the number of a live attempt is passed over",
        "wire/numbers.py",
        "while number in used:",
        "while False:",
        (
            "engine/scheduler/test_scheduler.py::test_attempt_numbers_start_again_at_one_and_pass_over_live_ones",
        ),
    ),
    Mutation(
        "what the tables do not list cannot happen to a task",
        "engine/scheduler/attempts.py",
        "NEXT_TASK_STATES[self.state].get(event)",
        "NEXT_TASK_STATES[self.state].get(event, self.state)",
        ("engine/scheduler/test_scheduler.py::test_a_task_changes_by_its_table_and_not_otherwise",),
    ),
    # the worker
    Mutation(
        "an attempt that has not begun holds no more input than its window",
        "engine/worker/held.py",
        "if self._held_bytes > INPUT_WINDOW or len(self._frames) > MAX_HELD_FRAMES:",
        "if False:",
        ("integration/test_worker.py::test_more_input_than_its_window_for_a_held_attempt_closes_the_link",),
    ),
    Mutation(
        "a job cannot put words on the command line of a worker's interpreter",
        "engine/worker/held.py",
        "        interpreter.are_flags,",
        "        lambda value: True,",
        ("integration/test_worker.py::test_options_that_make_no_sense_fail_their_job_and_no_other",),
    ),
    # the driver
    Mutation(
        "a job that is cancelled ends though its thread waits",
        "driver/handle.py",
        "self._start_ender()",
        "pass",
        ("driver/test_blocked.py::test_a_stream_that_waits_ends_with_its_job",),
        waits=True,
    ),
    Mutation(
        "a job that fails on a worker ends though its thread waits",
        "driver/handle.py",
        "self._state.on_failure = self._start_ender",
        "pass",
        ("driver/test_blocked.py::test_a_job_that_fails_while_its_datasource_waits_says_so",),
        waits=True,
    ),
    # a server and those who have the password
    Mutation(
        "a job calls only functions that it needs",
        "engine/server/terms.py",
        "if missing or not names:",
        "if not names and missing:",
        ("trust/test_worst_use.py::test_a_driver_that_does_its_worst_with_it_costs_time_at_most[submit]",),
    ),
    Mutation(
        "an assignment that a worker cannot do fails that attempt",
        "engine/worker/workload.py",
        "fault = job.fault or job.find_fault(message, has_offering=self._offering is not None)",
        "fault = job.fault",
        ("integration/test_offering.py::test_an_attempt_of_what_nobody_offers_fails_and_the_worker_stays",),
        waits=True,
    ),
    Mutation(
        "strangers get none of a job's tasks while one of them is doubted",
        "engine/scheduler/retries.py",
        "ledger.avoid_strangers(w for w in workers if not w.has_worked)",
        "",
        (
            "engine/scheduler/test_scheduler.py::test_strangers_that_fail_a_task_one_after_another_do_not_fail_its_job[attempt_failed]",
        ),
    ),
    Mutation(
        "strangers that join get none either",
        "engine/scheduler/scheduler.py",
        "ledger.avoid_strangers([joined])",
        "pass",
        (
            "engine/scheduler/test_scheduler.py::test_strangers_that_fail_a_task_one_after_another_do_not_fail_its_job[attempt_died]",
        ),
    ),
    Mutation(
        "no task is to blame for a worker that was sent away",
        "engine/server/watchers.py",
        "worker.is_dismissed = True",
        "pass",
        ("trust/test_worst_use.py::test_a_worker_that_is_sent_away_again_and_again_makes_no_task_suspect",),
    ),
    Mutation(
        "tiny chunks of output are joined",
        "engine/server/store.py",
        "if output._join(data, counted=counted):",
        "if False:",
        ("engine/server/test_store.py::test_tiny_chunks_that_wait_for_the_disk_are_written_together",),
    ),
    Mutation(
        "a task that takes workers down fails its job",
        "engine/scheduler/retries.py",
        "return [attempt.task for attempt in running if attempt.task.losses >= MAX_LOSSES]",
        "return []",
        (
            "engine/scheduler/test_scheduler.py::test_a_task_that_takes_workers_down_fails_its_job_and_no_other",
        ),
    ),
    Mutation(
        "links share the slots",
        "engine/scheduler/ranking.py",
        "self.held += change",
        "self.held += 0",
        ("engine/scheduler/test_scheduler.py::test_owners_share_the_slots_whatever_jobs_they_have",),
    ),
    Mutation(
        "code counts as it arrives",
        "engine/server/hosted.py",
        "if len(data) > self._share.room_bytes:",
        "if False:",
        ("engine/server/test_server.py::test_a_job_whose_code_has_no_room_is_rejected_and_the_link_stays",),
    ),
    # what is shown
    Mutation(
        "text that is shown holds no active character",
        "shown_text.py",
        "c if c.isprintable() or c in _BLANKS else _escape(c)",
        "c",
        ("test_shown_text.py::test_every_active_character_is_escaped_and_all_others_stay",),
    ),
    Mutation(
        "a shown line is bounded",
        "shown_text.py",
        "return line if len(line) <= max_chars else line[: max_chars - len(_CUT)] + _CUT",
        "return line",
        ("test_shown_text.py::test_a_line_is_bounded_and_stays_the_same_when_shown_again",),
    ),
    Mutation(
        "records of our logs are fit to be shown",
        "machine/logs.py",
        "        logger.addFilter(_make_fit)",
        "        pass",
        ("trust/test_hostile_server.py::test_log_records_of_ours_are_one_harmless_line",),
    ),
    Mutation(
        "what a command says is fit to be shown",
        "errors.py",
        "(shown(arg, self.max_lines) if isinstance(arg, str) else arg for arg in args)",
        "args",
        ("integration/test_accidents.py::test_names_of_files_are_shown_in_one_line",),
    ),
    Mutation(
        "a server names batches that it was sent",
        "driver/submission.py",
        "if not 1 <= number <= self._sent:",
        "if False:",
        (
            "trust/test_hostile_server.py::test_what_no_server_says_ends_its_job_and_names_the_server[content of batch 0]",
        ),
    ),
    Mutation(
        "options of a job fit one message",
        "driver/packing.py",
        "    _check_options(options)\n",
        "",
        ("integration/test_limits.py::test_options_that_are_too_large_are_named",),
    ),
    Mutation(
        "a number of an option has a range",
        "cli/options.py",
        "    if not _is_whole(number) or int(number) > MAX_SLOTS:",
        "    if not _is_whole(number):",
        ("cli/test_ranges.py::test_an_absurd_number_is_refused_with_the_range",),
    ),
    # plain results
    Mutation(
        "a pickle of others is checked before it is unpickled",
        "tasks/plain_data.py",
        "        weight = _speedups.check_pickle(data, MAX_DEPTH, max_hashed)\n",
        "        weight = 0\n",
        (
            "tasks/test_plain_data.py::test_an_extension_of_the_process_is_no_way_round",
            "tasks/test_plain_data.py::test_bytes_of_others_make_nothing_but_plain_data",
        ),
    ),
    Mutation(
        "keys that take too long to hash are refused",
        "tasks/plain_data.py",
        "check_pickle(data, MAX_DEPTH, max_hashed)",
        "check_pickle(data, MAX_DEPTH, 1 << 39)",
        ("tasks/test_plain_data.py::test_few_bytes_do_not_keep_the_reader_busy_or_fill_its_memory",),
    ),
    Mutation(
        "keys of a segment that take too long to hash are refused",
        "tasks/plain_data.py",
        "if has_keys and weight > max_hashed:",
        "if False:",
        ("tasks/test_plain_data.py::test_keys_that_take_too_long_to_hash_are_refused_in_keys_only",),
    ),
    Mutation(
        "no part is copied into objects again and again",
        "tasks/plain_data.py",
        "if self._copies < 0:",
        "if False:",
        ("tasks/test_plain_data.py::test_few_bytes_do_not_keep_the_reader_busy_or_fill_its_memory",),
    ),
    Mutation(
        "a kind that is no text is not shown",
        "tasks/plain_data.py",
        "if type(kind) is not str:",
        "if False:",
        ("tasks/test_plain_data.py::test_few_bytes_do_not_keep_the_reader_busy_or_fill_its_memory",),
    ),
    Mutation(
        "the types in an array type are counted",
        "tasks/plain_kinds.py",
        "if next(counter) > _MAX_DTYPES:",
        "if False:",
        ("tasks/test_plain_data.py::test_few_bytes_do_not_keep_the_reader_busy_or_fill_its_memory",),
    ),
    Mutation(
        "a class that takes part in pickling is not plain",
        "tasks/plain_rules.py",
        'return f"defines {name}"',
        "continue",
        ("tasks/test_plain_data.py::test_an_object_that_ends_with_code_of_its_own_is_not_plain",),
    ),
    Mutation(
        "an attribute from outside hides no method",
        "tasks/plain_data.py",
        "if not rules.methods_of(cls).isdisjoint(interned):",
        "if False:",
        ("tasks/test_plain_data.py::test_bytes_of_others_make_nothing_but_plain_data",),
    ),
    Mutation(
        "the fields of a datetime are checked",
        "tasks/plain_kinds.py",
        "return datetime(expect(data, bytes), _zone(zone)).replace()",
        "return datetime(expect(data, bytes), _zone(zone))",
        ("tasks/test_plain_data.py::test_bytes_of_others_make_nothing_but_plain_data",),
    ),
    Mutation(
        "the driver reads results by the rules of plain data",
        "driver/runners/decoding.py",
        "decode_segment(data, offset, plain)",
        "decode_segment(data, offset)",
        ("trust/test_plain_results.py::test_results_of_a_hostile_worker_run_nothing_in_the_driver",),
    ),
    Mutation(
        "executors read segments of others by the rules of plain data",
        "tasks/scratch.py",
        "decode_segment(data, plain=self._plain)",
        "decode_segment(data)",
        (
            "trust/test_plain_results.py::test_map_output_of_a_hostile_worker_runs_nothing_in_reduce_executors",
        ),
    ),
    Mutation(
        "the driver reads items set aside by the rules of plain data",
        "driver/failures/set_aside.py",
        "segment = decode_segment(data, offset, plain)",
        "segment = decode_segment(data, offset)",
        ("trust/test_plain_results.py::test_rows_of_items_set_aside_run_nothing_in_the_driver[key]",),
    ),
    Mutation(
        "the driver reads values of items set aside by the rules of plain data",
        "driver/failures/set_aside.py",
        "return decode_value(data, plain)",
        "return decode_value(data)",
        ("trust/test_plain_results.py::test_rows_of_items_set_aside_run_nothing_in_the_driver[value]",),
    ),
    Mutation(
        "results are plain where others take part",
        "cli/run.py",
        'return "plain" if of_job is None and others_take_part(arguments) else of_job',
        "return of_job",
        ("trust/test_plain_results.py::test_the_options_of_mmg_run_decide_where_results_are_plain",),
    ),
    # what workers say
    Mutation(
        "notices of workers do not flood the user",
        "driver/notices.py",
        "if self._of_others > MAX_NOTICES:",
        "if False:",
        (
            "trust/test_hostile_worker.py::test_a_worker_that_returns_every_attempt_with_a_notice_does_not_flood_the_user",
        ),
    ),
    Mutation(
        "a worker fails in its own name",
        PEERS,
        'return bound(ours | message["failure"] | ours)',
        'return bound(message["failure"])',
        ("trust/test_hostile_worker.py::test_no_worker_fails_in_the_name_of_another",),
    ),
    Mutation(
        "results drive no terminal",
        "job/outputs/sinks.py",
        "encode, header = _for_terminals(encode), harmless(header.decode()).encode()",
        "pass",
        ("job/outputs/test_sinks.py::test_results_drive_no_terminal_and_are_whole_anywhere_else",),
    ),
    # results
    Mutation(
        "a folder stops looking complete before its parts are replaced",
        "job/outputs/folder.py",
        "            self._files.remove(SUCCESS)\n            self._files.sync()\n",
        "            pass\n",
        (
            "job/outputs/test_folder.py::test_a_run_that_ends_between_two_removals_leaves_nothing_that_looks_complete",
        ),
    ),
    Mutation(
        "one run writes into a folder",
        "job/outputs/folder_lock.py",
        "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        ("job/outputs/test_folder.py::test_two_runs_at_once_are_one_too_many",),
    ),
    Mutation(
        "a part of a killed run that is not whole is not kept",
        "job/outputs/folder.py",
        "gone = {name for name in names if is_part(name) or is_leftover(name)} - kept",
        "gone = {name for name in names if is_leftover(name)}",
        ("job/outputs/test_resume.py::test_a_partition_in_several_parts_is_kept_whole_or_not_at_all",),
    ),
    Mutation(
        "a folder is not resumed with other inputs",
        "job/outputs/contents.py",
        "if difference is not None:",
        "if False:",
        ("job/outputs/test_resume.py::test_inputs_that_have_changed_are_named",),
    ),
    Mutation(
        "a folder that is not empty is not written into",
        "job/outputs/contents.py",
        "if found and not overwrite:",
        "if False:",
        ("job/outputs/test_folder.py::test_a_folder_that_is_not_empty_is_refused_by_name",),
    ),
    Mutation(
        "an executor writes only into a folder that has its driver's token",
        "job/outputs/part_files.py",
        "            if not self._place.has_token():\n                return f",
        "            if False:\n                return f",
        ("integration/test_parts.py::test_without_the_token_the_driver_writes_and_says_so_once",),
    ),
    Mutation(
        "an executor that is late leaves no part",
        "job/outputs/part_files.py",
        "if not is_wanted:",
        "if False:",
        ("integration/test_parts.py::test_an_executor_that_is_late_removes_its_part_itself",),
    ),
    Mutation(
        "parts of attempts that did not count are removed",
        "job/outputs/adoption.py",
        "for name in self._files.left_behind(self.plan):",
        "for name in ():",
        ("integration/test_parts.py::test_files_of_attempts_that_did_not_count_are_removed_at_the_end",),
    ),
    Mutation(
        "a worker names no files but those of its run",
        "driver/runners/decoding.py",
        "if not plan.is_temporary(file.name):",
        "if False:",
        ("driver/runners/test_receipts.py::test_a_receipt_names_files_of_its_run_only",),
    ),
    Mutation(
        "what executors have written is recorded before it is a part",
        "job/outputs/adoption.py",
        '            if part is parts[-1]:\n                before_last(parts)\n            self._files.rename(file.name, part["name"])\n',
        '            self._files.rename(file.name, part["name"])\n            if part is parts[-1]:\n                before_last(parts)\n',
        ("job/outputs/test_resume.py::test_a_kill_at_each_system_call_loses_only_what_was_not_whole",),
    ),
    Mutation(
        "a temporary file or folder of a living process is no leftover",
        "machine/leftovers.py",
        "        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n        return True\n",
        "        return True\n",
        ("machine/test_leftovers.py::test_what_a_living_process_has_stays_and_what_a_killed_one_left_goes",),
    ),
    Mutation(
        "rows have one number of columns",
        "job/outputs/rows.py",
        "if len(fields) != self._width:",
        "if self._width is None:",
        ("job/outputs/test_rows.py::test_a_record_that_does_not_fit_is_named",),
    ),
    Mutation(
        "values of Parquet are not changed to fit a column",
        "job/outputs/arrow_columns.py",
        "if merged is None or (expected is not None and merged != expected):",
        "if merged is None:",
        ("job/outputs/test_parquet.py::test_a_record_that_does_not_fit_the_first_ones_is_named",),
    ),
    Mutation(
        "all parts of Parquet have one schema",
        "job/outputs/folder.py",
        "self._parts.make_schemas_equal(self._write_file)",
        "pass",
        ("job/outputs/test_parquet.py::test_parts_whose_types_differ_get_the_one_that_holds_all",),
    ),
    Mutation(
        "parts of Parquet that do not go together are no output",
        "job/outputs/part_schemas.py",
        "        if merged is None:\n",
        "        if merged is None and not (merged := before):\n",
        ("job/outputs/test_parquet.py::test_parts_whose_types_do_not_go_together_are_named_by_their_rows",),
    ),
    Mutation(
        "units of a remote record that are lost are removed before a part has their name",
        "job/outputs/remote_parts.py",
        "self._remove_all([name for name in self._units() if name not in kept])",
        "pass",
        ("job/outputs/test_object_stores.py::test_a_remote_folder_goes_on_where_a_killed_run_ended",),
    ),
    Mutation(
        "sorting holds no more than its memory",
        "job/outputs/order.py",
        "if self._used_bytes > self._memory_bytes:",
        "if False:",
        ("job/outputs/test_order.py::test_memory_is_bounded_whatever_the_number_of_results",),
    ),
    # inputs
    Mutation(
        "rows are read only of splits that were cut where a row ends",
        "job/inputs/rows.py",
        "if self.content is None and self.end < self.size:",
        "if False:",
        ("job/inputs/test_tables.py::test_a_wrong_cut_ends_the_job_whatever_may_be_skipped",),
    ),
    Mutation(
        "a line without an end is not held",
        "job/inputs/pieces.py",
        "if rest_bytes > MAX_LINE_BYTES:",
        "if False:",
        (
            "job/inputs/test_long_records.py::"
            "test_a_stream_goes_on_behind_a_line_that_is_too_long[compress-2]",
        ),
    ),
    Mutation(
        "a task with little memory counts few words at once",
        "text/counting.py",
        "max_words = max(1, min(MAX_WORDS, budget // BYTES_A_WORD))",
        "max_words = MAX_WORDS",
        ("text/test_text.py::test_a_task_with_little_memory_holds_few_words",),
    ),
    Mutation(
        "truncated compressed data is an error",
        "job/inputs/members.py",
        "        if not data:\n            raise self._damaged(",
        "        if not data:\n            raise StopIteration(",
        (
            "job/inputs/test_compressed.py::TestDamage::test_a_file_that_was_cut_off_is_named_with_where_it_ends[gzip]",
        ),
    ),
    Mutation(
        "a connection is closed wherever the reading of a range ends",
        "job/inputs/databases.py",
        "with suppress(Exception):  # what was raised before says more\n            connection.close()",
        "pass",
        ("job/inputs/test_query.py::test_connections_are_closed_and_few_rows_are_in_memory",),
    ),
    Mutation(
        "the last range of a query has the largest key",
        "job/inputs/databases.py",
        "{'<=' if span.is_last else '<'} {marks[1]}",
        "< {marks[1]}",
        ("job/inputs/test_query.py::test_each_row_is_read_once[64]",),
    ),
    Mutation(
        "rows of one key are not cut apart by their numbers",
        "job/inputs/query.py",
        "return self.units() if high > low else iter(())",
        "return self.units()",
        ("job/inputs/test_query.py::test_rows_of_a_range_stay_together_however_often_it_is_cut",),
    ),
    Mutation(
        "a generator is not closed while another thread runs it",
        "driver/input/open_walk.py",
        "if self._thread not in (None, threading.get_ident()):",
        "if False:",
        (
            "driver/input/test_feeding.py::TestEnds::test_it_is_not_closed_while_it_runs_and_nobody_waits_for_it",
        ),
    ),
    Mutation(
        "a link that waits for its turn is not silent",
        "engine/net/socket_link.py",
        "has_heard = self._heard or self._is_read_due",
        "has_heard = self._heard",
        ("engine/net/test_link.py::test_a_link_with_frames_left_is_not_silent",),
    ),
]


class Outdated(Exception):
    """The table names source text that is not there any more."""


def copy_package(to: Path) -> None:
    """Copy what the tests need, the built C core among it."""
    unneeded = shutil.ignore_patterns("__pycache__", ".hypothesis")
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=unneeded)
        else:
            shutil.copy2(source, to / name)
    # A copy of the copy has this byte code too, and by its hash that of the mutated module does not count.
    options = ("-q", "--invalidation-mode", "checked-hash")
    subprocess.run([sys.executable, "-m", "compileall", *options, to / "mmgevent"], check=True)


def mutate(folder: Path, mutation: Mutation) -> None:
    """Take a guard away in a copy; Outdated if it does not stand there exactly once."""
    path = folder / "mmgevent" / mutation.file
    text = path.read_text("utf-8")
    count = text.count(mutation.old)
    if count != 1:
        raise Outdated(
            f"the guard {mutation.guard!r} was expected once in mmgevent/{mutation.file} and is there {count} times:\n"
            f"{mutation.old}\nupdate its row in tests/trust/mutations.py"
        )
    path.write_text(text.replace(mutation.old, mutation.new), "utf-8")


def run_tests(
    folder: Path, tests: list[str], each_s: float = PATIENCE_S, all_s: float = PATIENCE_S
) -> subprocess.CompletedProcess[str]:
    """Run tests of a copy, with the package of that copy; one that takes longer than `each_s` has failed.

    That is so for tests with a longer limit of their own, too: without its guard such a test may wait for ever.
    """
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    limit = ["-p", "tests.trust.one_limit", f"--timeout={each_s}"]
    command = [sys.executable, "-m", "pytest", "-x", "--tb=line", *limit]
    try:
        return subprocess.run(
            [*command, *(f"tests/{test}" for test in tests)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=all_s,
            check=False,
        )
    finally:
        kill_what_is_left(folder)


def kill_what_is_left(folder: Path) -> None:
    """Kill what still runs the code of a copy: without a guard, a template that was stopped stays so for ever."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it ended just now, or is another user's
            if process.environ().get("PYTHONPATH") == str(folder):
                process.kill()


def where_is_the_package(folder: Path) -> str:
    """Return the folder from which tests of a copy import the package."""
    code = "import mmgevent._speedups as s; print(s.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
