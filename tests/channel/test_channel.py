"""Channels in memory: calls both ways, limits, deadlines, heartbeats and ends."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IProtocol, IPushProducer
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pkengine.channel import Verbs
from pkengine.channel.incoming import MAX_KEPT_OCTETS, MAX_UNDER_WAY
from pkengine.channel.jsonrpc import (
    BUSY,
    CANCELLED,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    REFUSED,
)
from pkengine.channel.outgoing import MAX_ON_WIRE, MAX_WAITING
from pkengine.channel.records import MAX_PAYLOAD, PING, PONG, encode_record
from pkengine.errors import (
    CallRefused,
    CallTimeout,
    ChannelClosed,
    ChannelError,
    Conflict,
    ProtocolViolation,
)
from tests.channel.pairs import Pair


class Point(msgspec.Struct, forbid_unknown_fields=True):
    x: int
    y: int = 0


def request(method: str, call_id: Any = 1, **params: Any) -> bytes:
    return json.dumps(
        {"jsonrpc": "2.0", "id": call_id, "method": method, "params": params}
    ).encode()


class ChannelTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pair = Pair()
        self.engine, self.agent = self.pair.engine, self.pair.agent
        self.clock = self.pair.clock
        #: What was begun and awaits the test, and what of it was cancelled.
        self.slow: list[Deferred[Any]] = []
        self.cancelled: list[Deferred[Any]] = []
        verbs = self.pair.agent_verbs
        verbs.add("echo", Point, lambda params, _: params)
        verbs.add("any", Any, lambda params, _: params)
        verbs.add("slow", Any, self.answer_slowly)
        self.addCleanup(self.finish)

    def answer_slowly(self, params: Any, channel: Any) -> Deferred[Any]:
        self.slow.append(Deferred(self.cancelled.append))
        return self.slow[-1]

    def finish(self) -> None:
        self.pair.end()
        self.assertEqual(self.clock.getDelayedCalls(), [], "a timer is left")

    def call(self, *args: Any, **kwargs: Any) -> Deferred[Any]:
        result = self.engine.call(*args, **kwargs)
        self.pair.carry()
        return result

    def refused(self, *args: Any, **kwargs: Any) -> CallRefused:
        return self.failureResultOf(self.call(*args, **kwargs), CallRefused).value

    def drop(self, deferred: Deferred[Any]) -> None:
        deferred.addErrback(lambda _: None)


class Calling(ChannelTests):
    def test_the_channel_provides_its_interfaces(self) -> None:
        self.assertTrue(IProtocol.providedBy(self.engine))
        self.assertTrue(IPushProducer.providedBy(self.engine))

    def test_a_call_is_answered_with_typed_parameters_and_results(self) -> None:
        result = self.successResultOf(self.call("echo", Point(3, 4), result_type=Point))
        self.assertEqual(result, Point(3, 4))

    def test_without_a_type_a_result_is_plain(self) -> None:
        self.assertEqual(self.successResultOf(self.call("echo", {"x": 3})), {"x": 3, "y": 0})
        self.assertEqual(self.successResultOf(self.call("any")), {})
        self.assertEqual(self.successResultOf(self.call("any", [1, 2])), [1, 2])

    def test_a_result_of_nothing_is_a_result(self) -> None:
        self.pair.agent_verbs.add("nothing", Any, lambda *_: None)
        self.assertIsNone(self.successResultOf(self.call("nothing")))

    def test_both_ends_may_call(self) -> None:
        self.pair.engine_verbs.add("where", Any, lambda _, channel: channel.peer_name)
        result = self.agent.call("where")
        self.pair.carry()
        self.assertEqual(self.successResultOf(result), "agent")

    def test_a_handler_may_be_a_coroutine_a_deferred_or_anything_to_await(self) -> None:
        class Later:
            def __await__(self) -> Any:
                return (yield from Deferred.fromCoroutine(work()).__await__())

        async def work() -> str:
            return "done"

        async def coroutine(params: Any, channel: Any) -> str:
            return await work()

        self.pair.agent_verbs.add("coroutine", Any, coroutine)
        self.pair.agent_verbs.add("later", Any, lambda *_: Later())
        self.assertEqual(self.successResultOf(self.call("coroutine")), "done")
        self.assertEqual(self.successResultOf(self.call("later")), "done")
        result = self.call("slow")
        self.assertNoResult(result)
        self.slow[0].callback("done")
        self.pair.carry()
        self.assertEqual(self.successResultOf(result), "done")

    def test_answers_may_come_in_any_order(self) -> None:
        first, second = self.call("slow"), self.call("slow")
        self.slow[1].callback(2)
        self.slow[0].callback(1)
        self.pair.carry()
        self.assertEqual((self.successResultOf(first), self.successResultOf(second)), (1, 2))

    def test_a_notification_runs_the_verb_and_is_not_answered(self) -> None:
        seen = []
        self.pair.agent_verbs.add("event", Point, lambda params, _: seen.append(params))
        self.engine.notify("event", Point(1))
        self.clock.advance(0)
        self.agent.dataReceived(self.pair.engine_wire.take())
        self.assertEqual(seen, [Point(1)])
        self.assertEqual(self.pair.agent_wire.take(), b"")

    def test_a_notification_that_fails_is_not_answered(self) -> None:
        for method, params in (("none", {}), ("echo", {"x": "?"}), ("slow", {})):
            self.engine.notify(method, params)
            self.clock.advance(0)
            self.agent.dataReceived(self.pair.engine_wire.take())
            self.assertEqual(self.pair.agent_wire.take(), b"")
        self.slow[0].errback(Conflict("no"))
        self.clock.advance(0)
        self.assertEqual(self.pair.agent_wire.take(), b"")

    def test_a_verb_has_one_handler(self) -> None:
        with self.assertRaisesRegex(ValueError, "'echo' has a handler already"):
            self.pair.agent_verbs.add("echo", Any, lambda *_: None)
        self.assertIsNone(Verbs().find("echo"))


class Refusing(ChannelTests):
    def test_an_unknown_verb_is_refused_by_name(self) -> None:
        error = self.refused("Host.fly")
        self.assertEqual(
            (error.code, str(error)), (METHOD_NOT_FOUND, "There is no verb 'Host.fly'.")
        )

    def test_parameters_that_do_not_fit_are_refused_with_what_was_expected(self) -> None:
        for params, expected in (
            ({"x": "three"}, "Expected `int`, got `str`"),
            ({}, "missing required field `x`"),
            ({"x": 1, "z": 2}, "unknown field `z`"),
            ([1, 2], "Expected `object`, got `array`"),
        ):
            error = self.refused("echo", params)
            self.assertEqual(error.code, INVALID_PARAMS)
            self.assertIn(expected, str(error))

    def test_the_sentence_of_an_error_reaches_the_caller(self) -> None:
        def refuse(params: Any, channel: Any) -> None:
            raise Conflict("The host is not in maintenance.")

        self.pair.agent_verbs.add("refuse", Any, refuse)
        error = self.refused("refuse")
        self.assertEqual((error.code, str(error)), (REFUSED, "The host is not in maintenance."))
        self.assertIsNone(error.data)

    def test_a_verb_may_choose_code_and_data(self) -> None:
        result = self.call("slow")
        self.slow[0].errback(CallRefused("No such key.", 7, {"pin": "x"}))
        self.pair.carry()
        error = self.failureResultOf(result, CallRefused).value
        self.assertEqual((error.code, error.data, str(error)), (7, {"pin": "x"}, "No such key."))

    def test_any_other_exception_is_logged_and_tells_the_caller_nothing(self) -> None:
        def fail(params: Any, channel: Any) -> None:
            raise RuntimeError("the password is swordfish")

        self.pair.agent_verbs.add("fail", Any, fail)
        error = self.refused("fail")
        self.assertEqual(error.code, INTERNAL_ERROR)
        self.assertNotIn("swordfish", str(error))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_a_result_that_cannot_be_encoded_is_an_internal_error(self) -> None:
        self.pair.agent_verbs.add("object", Any, lambda *_: object())
        self.assertEqual(self.refused("object").code, INTERNAL_ERROR)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_a_result_that_is_too_long_is_refused_and_the_channel_goes_on(self) -> None:
        self.pair.agent_verbs.add("long", Any, lambda *_: "x" * MAX_PAYLOAD)
        error = self.refused("long")
        self.assertEqual(error.code, INTERNAL_ERROR)
        self.assertIn("too long", str(error))
        self.successResultOf(self.call("any"))

    def test_a_call_that_is_too_long_is_refused_and_the_channel_goes_on(self) -> None:
        failure = self.failureResultOf(self.call("any", {"x": "x" * MAX_PAYLOAD}), ChannelError)
        self.assertIn(f"at most {MAX_PAYLOAD} can be sent", str(failure.value))
        self.successResultOf(self.call("any"))

    def test_a_result_of_another_type_is_an_error_of_the_call(self) -> None:
        failure = self.failureResultOf(
            self.call("any", {"x": "?"}, result_type=Point), ChannelError
        )
        self.assertIn("agent answered any with an unexpected result", str(failure.value))


class Malformed(ChannelTests):
    def answer(self, message: bytes) -> dict[str, Any]:
        (answer,) = self.pair.to_agent(message)
        return json.loads(answer)

    def test_what_is_no_json_is_a_parse_error(self) -> None:
        for message in (b"", b"{", b"\xff", b'{"jsonrpc": nan}'):
            answer = self.answer(message)
            self.assertEqual(answer["error"]["code"], PARSE_ERROR, message[:20])
            self.assertIsNone(answer["id"])

    def test_what_is_no_request_is_refused_with_its_id_where_it_has_one(self) -> None:
        for message, call_id in (
            (b"17", None),
            (b'"x"', None),
            (b'{"id": 5, "method": "echo"}', 5),
            (b'{"jsonrpc": "1.0", "id": "a", "method": "echo"}', "a"),
            (b'{"jsonrpc": "2.0", "id": 5, "method": 6}', 5),
            (b'{"jsonrpc": "2.0", "id": 1.5, "method": "echo"}', None),
            (b'{"jsonrpc": "2.0", "id": null, "method": "echo"}', None),
            (b'{"jsonrpc": "2.0", "id": {}, "method": "echo"}', None),
            (b"[" * 5000, None),
            (b'{"jsonrpc": "1.0", "a": ' + b"[" * 5000, None),
        ):
            answer = self.answer(message)
            self.assertEqual(answer["error"]["code"], INVALID_REQUEST, message)
            self.assertEqual(answer["id"], call_id, message)

    def test_a_batch_is_refused(self) -> None:
        answer = self.answer(b"[" + request("any") + b"]")
        self.assertEqual(answer["error"]["code"], INVALID_REQUEST)

    def test_an_id_that_is_in_use_is_refused(self) -> None:
        self.assertEqual(self.pair.to_agent(request("slow", "one")), [])
        answer = self.answer(request("slow", "one"))
        self.assertEqual(answer["error"]["code"], INVALID_REQUEST)
        self.assertEqual(len(self.slow), 1)

    def test_deeply_nested_parameters_are_refused(self) -> None:
        message = (
            b'{"jsonrpc":"2.0","id":1,"method":"any","params":' + b"[" * 5000 + b"]" * 5000 + b"}"
        )
        self.assertIn(self.answer(message)["error"]["code"], (PARSE_ERROR, INVALID_PARAMS))

    def assert_ends(self, data: bytes, reason: str) -> None:
        with capturedLogs() as events:
            self.agent.dataReceived(data)
            self.clock.advance(0)
        self.assertTrue(self.pair.agent_wire.is_lost)
        closed = self.successResultOf(self.agent.closed)
        self.assertIsInstance(closed.__cause__, ProtocolViolation)
        self.assertIn(reason, str(closed))
        self.assertEqual(len([event for event in events if "reason" in event]), 1)

    def test_a_message_that_is_neither_request_nor_response_ends_the_channel(self) -> None:
        for message in (
            b'{"jsonrpc": "2.0"}',
            b'{"jsonrpc": "2.0", "id": 1}',
            b'{"jsonrpc": "2.0", "id": 1, "result": 1, "error": {"code": 1, "message": "x"}}',
        ):
            self.setUp()
            self.assert_ends(encode_record(1, message), "no request and no response")

    def test_an_answer_to_a_call_that_was_never_made_ends_the_channel(self) -> None:
        for call_id in (1, 0, -1, "x", None):
            self.setUp()
            message = json.dumps({"jsonrpc": "2.0", "id": call_id, "result": 1}).encode()
            self.assert_ends(encode_record(1, message), "answered a call that was not made")

    def test_a_record_over_the_limit_ends_the_channel(self) -> None:
        self.assert_ends(b"\x7f\xff\xff\xff\x01", "octets came: at most")

    def test_a_record_of_an_unknown_type_ends_the_channel(self) -> None:
        self.assert_ends(encode_record(9, b""), "unknown type 9")

    def test_a_ping_with_a_payload_ends_the_channel(self) -> None:
        self.assert_ends(encode_record(PING, b"x"), "with a payload")

    def test_nothing_behind_a_violation_is_run(self) -> None:
        self.agent.dataReceived(encode_record(9, b"") + encode_record(1, request("slow")))
        self.clock.advance(0)
        self.assertEqual(self.slow, [])

    @given(st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error", "code"]),
            inner | st.just("2.0"), max_size=5),
        max_leaves=8,
    ))  # fmt: skip
    def test_any_json_is_answered_or_ends_the_channel(self, value: Any) -> None:
        pair = Pair()
        with capturedLogs():
            pair.to_agent(json.dumps(value).encode())
        pair.end()


class Deadlines(ChannelTests):
    def test_a_call_that_is_not_answered_in_time_fails_and_is_cancelled_at_the_peer(self) -> None:
        result = self.call("slow", timeout_s=5)
        self.clock.advance(4.9)
        self.assertNoResult(result)
        self.clock.advance(0.1)
        failure = self.failureResultOf(result, CallTimeout)
        self.assertIn("agent did not answer slow before its deadline", str(failure.value))
        self.pair.carry()
        self.assertEqual(self.cancelled, self.slow)

    def test_each_call_has_its_own_deadline_and_one_timer_serves_all(self) -> None:
        late = self.call("slow", timeout_s=9)
        early = self.call("slow", timeout_s=3)
        later = self.call("slow", timeout_s=12)
        timers = [
            each for each in self.clock.getDelayedCalls() if "_deadline_passed" in str(each.func)
        ]
        self.assertEqual(len(timers), 1)
        self.clock.advance(3)
        self.failureResultOf(early, CallTimeout)
        self.assertNoResult(late)
        self.clock.advance(6)
        self.failureResultOf(late, CallTimeout)
        self.assertNoResult(later)
        self.clock.advance(3)
        self.failureResultOf(later, CallTimeout)

    def test_a_late_answer_is_ignored(self) -> None:
        result = self.call("slow", timeout_s=1)
        self.clock.advance(1)
        self.failureResultOf(result, CallTimeout)
        self.engine.dataReceived(encode_record(1, b'{"jsonrpc":"2.0","id":1,"result":1}'))
        self.successResultOf(self.call("any"))

    def test_cancelling_a_call_cancels_the_verb(self) -> None:
        result = self.call("slow")
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.clock.advance(0)
        self.agent.dataReceived(self.pair.engine_wire.take())
        (answer,) = self.pair.agent_wire.messages()
        self.assertEqual(json.loads(answer)["error"]["code"], CANCELLED)

    def test_cancelling_what_is_not_under_way_does_nothing(self) -> None:
        self.assertEqual(self.pair.to_agent(self.cancel(77), self.cancel(None)), [])

    def cancel(self, call_id: Any) -> bytes:
        return json.dumps(
            {"jsonrpc": "2.0", "method": "rpc.cancel", "params": {"id": call_id}}
        ).encode()

    def test_a_call_that_waits_is_not_sent_once_it_is_cancelled(self) -> None:
        for _ in range(MAX_ON_WIRE):
            self.drop(self.engine.call("slow"))
        waiting = [self.engine.call("any", {"number": number}) for number in range(2)]
        waiting[0].cancel()
        self.failureResultOf(waiting[0], CancelledError)
        self.pair.carry()
        self.slow[0].callback(None)
        self.pair.carry()
        self.assertEqual(self.successResultOf(waiting[1]), {"number": 1})

    def test_a_deadline_runs_while_a_call_waits(self) -> None:
        for _ in range(MAX_ON_WIRE):
            self.drop(self.engine.call("slow", timeout_s=100))
        waiting = self.engine.call("any", timeout_s=2)
        self.pair.carry()
        self.clock.advance(2)
        self.failureResultOf(waiting, CallTimeout)


class Limits(ChannelTests):
    def test_calls_beyond_the_limit_wait_in_order(self) -> None:
        order: list[int] = []
        self.pair.agent_verbs.add("order", Any, lambda params, _: order.append(params["n"]))
        for _ in range(MAX_ON_WIRE):
            self.drop(self.engine.call("slow"))
        waiting = [self.engine.call("order", {"n": number}) for number in range(5)]
        self.pair.carry()
        self.assertEqual((len(self.slow), order), (MAX_ON_WIRE, []))
        self.slow[0].callback(None)
        self.pair.carry()
        self.assertEqual(order, [0, 1, 2, 3, 4])
        for result in waiting:
            self.successResultOf(result)

    def test_a_timeout_lets_the_next_call_through(self) -> None:
        for _ in range(MAX_ON_WIRE):
            self.drop(self.engine.call("slow", timeout_s=1))
        waiting = self.engine.call("any", timeout_s=10)
        self.pair.carry()
        self.clock.advance(1)
        self.pair.carry()
        self.successResultOf(waiting)

    def test_there_is_a_limit_to_waiting(self) -> None:
        for _ in range(MAX_ON_WIRE + MAX_WAITING):
            self.drop(self.engine.call("slow"))
        failure = self.failureResultOf(self.engine.call("slow"), ChannelError)
        self.assertIn(f"{MAX_WAITING} calls to agent wait already", str(failure.value))

    def test_a_peer_that_calls_too_much_is_told_that_this_end_is_busy(self) -> None:
        flood = [request("slow", number) for number in range(MAX_UNDER_WAY + 3)]
        answers = [json.loads(answer) for answer in self.pair.to_agent(*flood)]
        self.assertEqual([answer["error"]["code"] for answer in answers], [BUSY] * 3)
        self.assertEqual(len(self.slow), MAX_UNDER_WAY)
        self.slow[0].callback(None)
        self.clock.advance(0)
        self.pair.agent_wire.take()
        self.assertEqual(self.pair.to_agent(request("slow", "next")), [])
        self.assertEqual(len(self.slow), MAX_UNDER_WAY + 1)

    def test_what_this_end_calls_at_once_never_makes_the_peer_busy(self) -> None:
        self.assertLessEqual(MAX_ON_WIRE, MAX_UNDER_WAY)


class BackPressure(ChannelTests):
    """The transport says that the peer does not take what is sent."""

    def test_calls_are_begun_only_when_there_is_room_for_the_answers(self) -> None:
        self.pair.agent_wire.producer.pauseProducing()
        self.assertEqual(self.pair.to_agent(request("any", 1, n=1), request("any", 2)), [])
        self.pair.agent_wire.producer.resumeProducing()
        answers = [json.loads(answer) for answer in self.pair.agent_wire.messages()]
        self.assertEqual([answer["id"] for answer in answers], [1, 2])

    def test_answers_to_own_calls_flow_while_the_peer_is_slow(self) -> None:
        self.pair.engine_wire.producer.pauseProducing()
        self.assertEqual(self.successResultOf(self.call("any", [1])), [1])
        self.assertTrue(self.pair.engine_wire.is_reading)

    def test_reading_stops_when_too_many_calls_are_kept(self) -> None:
        self.pair.agent_wire.producer.pauseProducing()
        self.pair.to_agent(*[request("any", number) for number in range(MAX_UNDER_WAY - 1)])
        self.assertTrue(self.pair.agent_wire.is_reading)
        self.pair.to_agent(request("any", "one too many"))
        self.assertFalse(self.pair.agent_wire.is_reading)
        self.pair.agent_wire.producer.resumeProducing()
        self.assertTrue(self.pair.agent_wire.is_reading)
        self.assertEqual(len(self.pair.agent_wire.messages()), MAX_UNDER_WAY)

    def test_reading_stops_when_too_many_octets_are_kept(self) -> None:
        self.pair.agent_wire.producer.pauseProducing()
        half = "x" * (MAX_PAYLOAD // 2)
        for number in range(2 * MAX_KEPT_OCTETS // MAX_PAYLOAD):
            self.pair.to_agent(request("any", number, half=half))
        self.assertFalse(self.pair.agent_wire.is_reading)

    def test_beginning_stops_again_when_the_transport_is_full_again(self) -> None:
        producer = self.pair.agent_wire.producer

        def fill(params: Any, channel: Any) -> None:
            producer.pauseProducing()

        self.pair.agent_verbs.add("fill", Any, fill)
        producer.pauseProducing()
        self.pair.to_agent(request("fill", 1), request("fill", 2))
        producer.resumeProducing()
        self.assertEqual(len(self.pair.agent_wire.messages()), 1)
        producer.resumeProducing()
        self.assertEqual(len(self.pair.agent_wire.messages()), 1)

    def test_a_call_that_is_kept_can_be_cancelled(self) -> None:
        self.pair.agent_wire.producer.pauseProducing()
        self.pair.to_agent(request("slow", 1), request("slow", 2))
        cancel = b'{"jsonrpc":"2.0","method":"rpc.cancel","params":{"id":%d}}'
        (answer,) = self.pair.to_agent(cancel % 1)
        self.assertEqual(json.loads(answer)["error"]["code"], CANCELLED)
        self.assertEqual(self.pair.to_agent(cancel % 7), [])
        self.pair.agent_wire.producer.resumeProducing()
        self.assertEqual(len(self.slow), 1)

    def test_a_channel_that_has_ended_begins_nothing_when_there_is_room(self) -> None:
        producer = self.pair.agent_wire.producer
        producer.pauseProducing()
        self.pair.to_agent(request("slow"))
        self.agent.abort()
        producer.resumeProducing()
        producer.stopProducing()
        self.assertEqual(self.slow, [])


class Turns(ChannelTests):
    def test_calls_of_one_turn_are_written_at_once(self) -> None:
        for number in range(10):
            self.drop(self.engine.call("any", [number]))
        self.assertEqual(self.pair.engine_wire.written, [])
        self.clock.advance(0)
        self.assertEqual(len(self.pair.engine_wire.written), 1)

    def test_answers_of_one_turn_are_written_at_once_without_waiting_for_another(self) -> None:
        flood = b"".join(encode_record(1, request("any", number)) for number in range(10))
        self.agent.dataReceived(flood)
        self.assertEqual(len(self.pair.agent_wire.written), 1)

    def test_a_call_made_on_an_answer_is_written_in_the_same_turn(self) -> None:
        again: list[Deferred[Any]] = []
        result = self.engine.call("any")
        result.addCallback(lambda _: again.append(self.engine.call("any")))
        self.clock.advance(0)
        self.agent.dataReceived(self.pair.engine_wire.take())
        self.engine.dataReceived(self.pair.agent_wire.take())
        self.assertEqual(len(self.pair.engine_wire.written), 1)
        self.pair.carry()
        self.successResultOf(again[0])


class Heartbeat(ChannelTests):
    def test_a_silent_peer_is_pinged_and_answers(self) -> None:
        self.clock.pump([1.0] * 9)
        self.assertEqual(self.pair.engine_wire.take(), b"")
        self.pair.agent_wire.take()
        self.clock.pump([1.0] * 2)
        ping = self.pair.engine_wire.take()
        self.assertEqual(ping, encode_record(PING, b""))
        self.agent.dataReceived(ping)
        self.assertIn(encode_record(PONG, b""), self.pair.agent_wire.written)

    def test_a_channel_with_a_living_peer_stays_open(self) -> None:
        for _ in range(100):
            self.clock.advance(1.0)
            self.pair.carry()
        self.assertFalse(self.pair.engine_wire.is_lost or self.pair.agent_wire.is_lost)

    def test_a_peer_that_talks_is_not_pinged(self) -> None:
        for _ in range(50):
            self.clock.advance(1.0)
            self.engine.dataReceived(b"")
        self.assertEqual(self.pair.engine_wire.take(), b"")

    def test_a_dead_peer_is_given_up_after_two_and_a_half_heartbeats(self) -> None:
        result = self.call("slow")
        self.clock.pump([1.0] * 24)
        self.assertNoResult(self.engine.closed)
        self.clock.pump([1.0] * 2)
        closed = self.successResultOf(self.engine.closed)
        self.assertIn("agent did not answer for 25 s", str(closed))
        self.assertIs(self.failureResultOf(result, ChannelClosed).value, closed)

    def test_a_clock_that_jumps_asks_before_it_gives_up(self) -> None:
        self.clock.advance(1000)
        self.assertNoResult(self.engine.closed)
        self.pair.carry()
        self.clock.advance(1)
        self.pair.carry()
        self.assertNoResult(self.engine.closed)

    def test_one_timer_serves_the_channels_of_a_reactor(self) -> None:
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)


class Ending(ChannelTests):
    def test_closing_sends_what_there_is_and_tells_everybody(self) -> None:
        result = self.engine.call("slow")
        self.engine.close()
        self.assertTrue(self.pair.engine_wire.written)
        self.assertIsNone(self.pair.engine_wire.producer)
        self.clock.advance(0)
        closed = self.successResultOf(self.engine.closed)
        self.assertIsInstance(closed, ChannelClosed)
        self.assertEqual(str(closed), "This end closed the channel to agent.")
        self.failureResultOf(result, ChannelClosed)

    def test_a_channel_that_has_ended_takes_no_more_calls(self) -> None:
        self.engine.close()
        self.engine.close()
        self.engine.notify("any")
        for _ in range(2):
            self.failureResultOf(self.engine.call("any"), ChannelClosed)
            self.clock.advance(0)
        self.assertEqual(self.pair.engine_wire.written, [])

    def test_aborting_tells_everybody(self) -> None:
        self.engine.abort()
        self.engine.abort()
        self.clock.advance(0)
        self.assertIn("This end cut", str(self.successResultOf(self.engine.closed)))

    def test_the_peers_close_is_told_from_a_lost_connection(self) -> None:
        self.pair.end()
        self.assertEqual(
            str(self.successResultOf(self.engine.closed)), "agent closed the channel."
        )
        self.setUp()
        self.pair.engine_wire.lost(ConnectionLost())
        closed = self.successResultOf(self.engine.closed)
        self.assertIn("The channel to agent ended: ", str(closed))
        self.assertIsInstance(closed.__cause__, ConnectionLost)

    def test_verbs_that_are_under_way_are_cancelled(self) -> None:
        self.drop(self.call("slow"))
        self.pair.agent_wire.lost(ConnectionLost())
        self.assertEqual(self.cancelled, self.slow)

    def test_a_handler_may_close_the_channel(self) -> None:
        self.pair.agent_verbs.add("quit", Any, lambda _, channel: channel.close())
        self.pair.to_agent(request("quit", 1), request("slow", 2))
        self.assertTrue(self.pair.agent_wire.is_lost)
        self.assertEqual(self.slow, [], "nothing is begun behind the close")

    def test_what_was_to_be_written_in_the_next_turn_is_dropped_with_the_connection(self) -> None:
        self.drop(self.engine.call("any"))
        self.pair.engine_wire.lost(ConnectionLost())
        self.clock.advance(0)
        self.assertEqual(self.pair.engine_wire.written, [])
