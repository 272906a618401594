from hypothesis import given
from hypothesis import strategies as st

from webhookd.model import Hook
from webhookd.tenant_index import FEW, TenantIndex


def hook(tenant: str, datasource: str, event: str, token: str = "0" * 40) -> Hook:
    return Hook(
        token=token,
        api_token=f"api-{tenant}",
        tenant=tenant,
        datasource=datasource,
        event=event,
        base_url="https://webhook.example.org",
        created_at=1,
    )


HOOKS = st.builds(
    hook, st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(0, FEW).map(str), st.sampled_from("12")
)


@given(st.lists(st.tuples(st.sampled_from(["put", "put", "put", "discard"]), HOOKS), max_size=120))
def test_whatever_is_done_it_holds_what_a_plain_dict_would(steps):
    index, plain = TenantIndex(), {}
    for do, each in steps:
        if do == "put":
            index.put(each)
            plain[each.key] = each
        else:
            index.discard(each)
            plain.pop(each.key, None)
    assert len(index) == len({tenant for tenant, _, _ in plain})
    for tenant in "ab":
        held = [each for key, each in plain.items() if key[0] == tenant]
        assert sorted(index.of(tenant), key=lambda h: h.key) == sorted(held, key=lambda h: h.key)
        assert index.any(tenant) in (held or [None])
        for datasource in "xyz":
            for number in range(FEW + 1):
                key = (tenant, datasource, str(number))
                assert index.get(*key) == plain.get(key)


def test_many_hooks_of_one_tenant_are_found_and_forgotten_one_by_one():
    hooks = [hook("a", "x", str(number)) for number in range(FEW * 10)]
    index = TenantIndex(hooks)
    assert index.get("a", "x", "100") == hooks[100]
    for count, each in enumerate(hooks, 1):
        index.discard(each)
        assert len(index.of("a")) == len(hooks) - count
        assert index.get(*each.key) is None
    assert len(index) == 0
    assert index.any("a") is None
