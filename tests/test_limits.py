import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.errors import Overloaded, TenantOverShare
from webhookd.limits import Budget


def budget(deliveries=4, size=100, share=0.5):
    return Budget(deliveries, size, lambda: share)


def test_deliveries_are_counted_over_all_and_by_tenant():
    limits = budget()
    first, second = limits.admit("a"), limits.admit("a")
    with pytest.raises(TenantOverShare):
        limits.admit("a")
    limits.admit("b")
    limits.admit("c")
    with pytest.raises(Overloaded) as caught:
        limits.admit("d")
    assert not isinstance(caught.value, TenantOverShare)
    first.release()
    first.release()
    assert limits.deliveries == 3
    limits.admit("d")
    second.release()
    assert limits.deliveries == 3


def test_bytes_are_counted_over_all_and_by_tenant():
    limits = budget()
    a, b = limits.admit("a"), limits.admit("b")
    a.grow(50)
    with pytest.raises(TenantOverShare):
        a.grow(1)
    b.grow(49)
    c = limits.admit("c")
    with pytest.raises(Overloaded) as caught:
        c.grow(2)
    assert not isinstance(caught.value, TenantOverShare)
    assert limits.bytes == 99
    a.shrink(20)
    c.grow(2)
    a.release()
    a.grow(10)
    a.shrink(10)
    assert limits.bytes == 51


def test_one_tenant_alone_may_have_everything():
    limits = budget(share=1.0)
    tickets = [limits.admit("a") for _ in range(4)]
    tickets[0].grow(100)
    assert limits.bytes == 100


def test_a_small_share_still_lets_one_delivery_in():
    limits = budget(share=0.01)
    limits.admit("a")
    with pytest.raises(TenantOverShare):
        limits.admit("a")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40), st.booleans()), max_size=60))
def test_what_is_released_is_all_there_again(steps):
    limits = budget(deliveries=6)
    open_tickets = []
    for tenant, size, release in steps:
        try:
            ticket = limits.admit(tenant)
            open_tickets.append(ticket)
            ticket.grow(size)
        except Overloaded:
            pass
        assert limits.deliveries <= 6
        assert limits.bytes <= 100
        if release and open_tickets:
            open_tickets.pop(0).release()
    for ticket in open_tickets:
        ticket.release()
    assert (limits.deliveries, limits.bytes) == (0, 0)
    limits.admit("a").grow(50)
