import pytest

from worker.errors import Unavailable
from worker.mailbox import Inbox, Outbox


def test_messages_are_done_in_their_order_before_the_end():
    inbox, done = Inbox(), []
    inbox.put(lambda: done.append(1))
    inbox.offer(lambda: done.append(2))
    assert inbox.take(wait=True) and done == [1, 2]
    inbox.put(lambda: done.append(3))
    inbox.close()
    assert not inbox.take(wait=False) and done == [1, 2, 3]


def test_nothing_is_taken_into_a_closed_box():
    inbox = Inbox()
    inbox.close()
    with pytest.raises(Unavailable):
        inbox.put(print)
    with pytest.raises(Unavailable):
        inbox.call(print)
    inbox.offer(print)


def test_an_empty_box_is_not_waited_for_unless_asked():
    assert Inbox().take(wait=False)


def test_a_call_gives_what_the_function_gave():
    inbox = Inbox()
    answer, failure = inbox.call(lambda: 42), inbox.call(lambda: 1 / 0)
    assert not answer.done()
    inbox.take(wait=False)
    assert answer.result(0) == 42
    with pytest.raises(ZeroDivisionError):
        failure.result(0)


def test_events_leave_together_and_once():
    posts = []
    outbox = Outbox(posts.append)
    outbox.send()
    outbox.put(print, "first")
    outbox.put(len, "second")
    outbox.send()
    outbox.send()
    assert posts == [[(print, "first"), (len, "second")]]
