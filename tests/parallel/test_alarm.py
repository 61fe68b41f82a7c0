"""A rank that leaves is noticed by the others' threads; the groups are stand-ins, the store is torch's."""

from __future__ import annotations

import threading
import time

import torch.distributed as dist

from bigbatch.parallel.alarm import EVERY_SECONDS, Alarm


def test_the_others_are_let_out_and_only_they():
    store = dist.HashStore()
    out = [threading.Event() for _ in range(3)]
    alarms = [Alarm(store, 1, rank, out[rank].set) for rank in range(3)]
    later = threading.Event()
    next_time = Alarm(store, 2, 0, later.set)
    time.sleep(2 * EVERY_SECONDS)
    assert not any(each.is_set() for each in out)
    alarms[1].close()
    alarms[1].ring()
    assert out[0].wait(5) and out[2].wait(5)
    assert not out[1].is_set() and not later.is_set()
    for alarm in (alarms[0], alarms[2], next_time):
        alarm.close()


def test_a_closed_alarm_lets_nobody_out():
    store, out = dist.HashStore(), threading.Event()
    alarm = Alarm(store, 1, 0, out.set)
    alarm.close()
    Alarm(store, 1, 1, lambda: None).ring()
    time.sleep(2 * EVERY_SECONDS)
    assert not out.is_set()
