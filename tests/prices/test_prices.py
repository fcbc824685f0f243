"""Prices: where they are found, and what usage costs."""

import contextlib
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from genai_prices import Usage as LibraryUsage
from genai_prices import calc_price
from genai_prices.data import providers
from hypothesis import given
from hypothesis import strategies as st

from services.outcome import Cost, Usage
from services.prices import (
    NANO_USD_MAX,
    PRICES_BYTES,
    TOKENS_MAX,
    Price,
    PriceTable,
    PriceTableError,
    Tier,
    UnknownModelError,
    load_prices,
    parse_prices,
)

ROOT = Path(__file__).resolve().parents[2]
DAY = date(2026, 11, 23)
TABLE = load_prices()
PLAIN = Price(model="plain", effective=date(2026, 1, 1), source="a test", input=Decimal("0.1234567"), output=Decimal(7))
TIERED = Price(
    model="tiered",
    effective=date(2026, 1, 1),
    source="a test",
    input=Decimal(1),
    output=Decimal(4),
    cache_read=Decimal("0.1"),
    tiers=(Tier(above_input_tokens=1000, input=Decimal(2), output=Decimal(6)),),
)
OWN = PriceTable((PLAIN, TIERED), fallback="none")

counts = st.integers(0, TOKENS_MAX)
usages = st.builds(
    Usage, input_tokens=counts, cache_read_tokens=counts, cache_write_tokens=counts, output_tokens=counts
)


def entry(**changes: object) -> bytes:
    fields = {"model": '"m"', "effective": "2026-01-01", "source": '"a test"', "input": '"1"', "output": '"2"'}
    fields |= {name: str(value) for name, value in changes.items()}
    return ("[[price]]\n" + "".join(f"{name} = {value}\n" for name, value in fields.items() if value)).encode()


def test_the_seed_s_example_costs_six_cents():
    cost = TABLE.cost("gpt-4", Usage(input_tokens=1000, output_tokens=500), at=DAY)
    assert cost == Cost(nano_usd=60_000_000, basis="list", table=TABLE.id)


@pytest.mark.parametrize("at", [DAY, date(2025, 11, 1)])
def test_cache_reads_and_writes_have_their_own_rates(at):
    """The measured split of Claude Code: 6500 tokens of input, of which 5000 were read from and 300 written to the cache."""
    usage = Usage(input_tokens=1200, cache_read_tokens=5000, cache_write_tokens=300)
    assert TABLE.cost("claude-sonnet-4-5", usage, at=at).nano_usd == 6_225_000
    with_output = msgspec.structs.replace(usage, output_tokens=17)
    assert TABLE.cost("claude-sonnet-4-5", with_output, at=at).nano_usd == 6_480_000


def test_every_shipped_entry_agrees_with_the_library_it_is_sourced_from():
    """But for claude-sonnet-4-5 above the context that was retired."""
    library = PriceTable((), fallback="genai-prices")
    usage = Usage(input_tokens=1_000_003, cache_read_tokens=70_001, cache_write_tokens=9_001, output_tokens=31_007)
    small = Usage(input_tokens=1_003, cache_read_tokens=701, cache_write_tokens=91, output_tokens=37)
    for price in TABLE.entries:
        for name in price.names():
            for one in (small,) if name.startswith("claude-sonnet-4") else (small, usage):
                ours = TABLE.cost(name, one, at=DAY, provider=price.provider)
                theirs = library.cost(name, one, at=DAY, provider=price.provider)
                assert ours.nano_usd == theirs.nano_usd, name


@pytest.mark.parametrize("read", [1_000, 150_000, 2_000_000])
def test_the_fallback_computes_what_the_library_computes(read):
    """Every model of three providers that has prices for tokens only, in and above its tiers."""
    usage = Usage(input_tokens=read, cache_read_tokens=read // 3, cache_write_tokens=read // 7, output_tokens=read // 5)
    at = datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC)
    total = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    theirs = LibraryUsage(
        input_tokens=total,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
    )
    table, compared = PriceTable(()), 0
    for provider in providers:
        if provider.id not in ("anthropic", "openai", "google"):
            continue
        for model in provider.models:
            ours = table.cost(model.id, usage, at=DAY, provider=provider.id, unknown="token_cap")
            if ours is not None:
                expected = calc_price(theirs, model.id, provider_id=provider.id, genai_request_timestamp=at)
                assert abs(ours.nano_usd - expected.total_price * 10**9) <= Decimal("0.5"), model.id
                compared += 1
    assert compared > 80


def test_every_price_of_the_library_can_be_read_or_is_unknown():
    table = PriceTable(())
    known = sum(
        table.cost(model.id, Usage(input_tokens=1, output_tokens=1), at=DAY, provider=provider.id, unknown="token_cap")
        is not None
        for provider in providers
        for model in provider.models
    )
    assert known > 1500


def test_where_the_price_differs_by_the_hour_the_dearest_counts():
    cost = TABLE.cost("deepseek-chat", Usage(output_tokens=1_000_000), at=DAY, provider="deepseek")
    assert cost.nano_usd == 1_100_000_000


@pytest.mark.parametrize(
    ("model", "provider", "found"),
    [
        ("claude-sonnet-4-5-20250929", None, "claude-sonnet-4-5"),
        ("claude-sonnet-4-5@20250929", None, "claude-sonnet-4-5"),
        ("claude-sonnet-4-5-2025-09-29", "anthropic", "claude-sonnet-4-5"),
        (" Claude-Sonnet-4-5 ", None, "claude-sonnet-4-5"),
        ("anthropic/claude-sonnet-4-5", None, "claude-sonnet-4-5"),
        ("anthropic/claude-sonnet-4-5", "Anthropic", "claude-sonnet-4-5"),
        ("gemini/gemini-2.5-pro", None, "gemini-2.5-pro"),
        ("gemini-2.5-pro", "gemini", "gemini-2.5-pro"),
        ("gpt-4-0613", None, "gpt-4"),
        ("openai/gpt-4o-mini", None, "gpt-4o-mini"),
        ("anthropic/claude-sonnet-4.5", "openrouter", "anthropic/claude-sonnet-4.5"),
    ],
)
def test_a_model_is_found_under_the_names_that_tools_report(model, provider, found):
    assert TABLE.price(model, at=DAY, provider=provider).model == found


def test_an_exact_name_goes_before_a_dated_one():
    cheap = TABLE.price("gpt-4o", at=DAY)
    assert TABLE.price("gpt-4o-2024-05-13", at=DAY).input > cheap.input


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("qwen3-coder-plus", None), ("mock-model", None), ("<synthetic>", None), ("m", None), ("", None), (" ", None),
        ("/", None), ("gpt-4" * 100, None), ("gpt-4\n;", None), ("\x1b[31mgpt-4", None), ("gpt-4", "my-gateway"),
        ("scripted/scripted-model", None), ("sonar", "perplexity"), ("gpt-4", "x" * 10_000), ("gpt-4", "a\nb"),
    ],
)  # fmt: skip
def test_an_unknown_model_is_an_error_or_none_and_never_free(model, provider):
    usage = Usage(input_tokens=1)
    with pytest.raises(UnknownModelError, match=r"docs/prices\.md") as caught:
        TABLE.cost(model, usage, at=DAY, provider=provider)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert TABLE.cost(model, usage, at=DAY, provider=provider, unknown="token_cap") is None


def test_without_a_fallback_only_own_prices_are_known():
    with pytest.raises(UnknownModelError):
        OWN.price("gpt-5", at=DAY)


@pytest.mark.parametrize(
    ("model", "window"),
    [("gpt-4", 8_192), ("openai/GPT-4", 8_192), ("m", 5_000), ("provider/m", 5_000), ("nobody-s", None), ("", None)],
)
def test_a_window_is_our_own_or_that_of_the_library(model, window):
    table = PriceTable(parse_prices(entry(window_tokens=5_000), "f")[1])
    assert table.window(model, at=DAY) == window
    if model == "gpt-4":
        assert OWN.window(model, at=DAY) is None


def test_an_entry_without_a_window_does_not_hide_the_library_s():
    table = PriceTable(parse_prices(entry(model='"gpt-4"'), "f")[1])
    assert table.window("gpt-4", at=DAY) == 8_192


def test_a_price_of_zero_is_believed_from_our_own_table():
    free = PriceTable(parse_prices(entry(input="0", output="0.0"), "f")[1])
    assert free.cost("m", Usage(input_tokens=5), at=DAY).nano_usd == 0


def test_an_entry_holds_from_its_day_on_and_a_newer_one_replaces_it():
    old = msgspec.structs.replace(PLAIN, effective=date(2026, 1, 1))
    new = msgspec.structs.replace(PLAIN, effective=date(2026, 6, 1), output=Decimal(9))
    table = PriceTable((new, old), fallback="none")
    spent = [
        table.cost("plain", Usage(output_tokens=10**6), at=date(2026, month, 1)).nano_usd for month in (1, 5, 6, 7)
    ]
    assert spent == [7 * 10**9, 7 * 10**9, 9 * 10**9, 9 * 10**9]
    with pytest.raises(UnknownModelError):
        table.price("plain", at=date(2025, 12, 31))


def test_a_provider_s_own_price_goes_before_one_for_any_provider():
    gateway = msgspec.structs.replace(PLAIN, provider="gateway", output=Decimal(1))
    table = PriceTable((PLAIN, gateway), fallback="none")
    assert table.price("plain", at=DAY, provider="gateway") is gateway
    assert table.price("plain", at=DAY, provider="else") is PLAIN


def test_a_cache_without_a_rate_is_charged_as_input():
    split = Usage(input_tokens=1, cache_read_tokens=2, cache_write_tokens=3)
    assert OWN.cost("plain", split, at=DAY) == OWN.cost("plain", Usage(input_tokens=6), at=DAY)


@pytest.mark.parametrize(
    ("usage", "requests", "nano", "basis"),
    [
        (Usage(input_tokens=1000), 1, 1_000_000, "list"),
        (Usage(input_tokens=1001), 1, 2_002_000, "list"),
        (Usage(cache_read_tokens=1001, output_tokens=1), 1, 2_002_000 + 6_000, "list"),
        (Usage(input_tokens=1001), 2, 1_001_000, "estimate"),
        (Usage(input_tokens=2002), 2, 4_004_000, "estimate"),
        (Usage(input_tokens=1001), 0, 2_002_000, "estimate"),
        (Usage(input_tokens=900), 0, 900_000, "list"),
    ],
)
def test_a_tier_belongs_to_the_mean_request(usage, requests, nano, basis):
    cost = OWN.cost("tiered", usage, at=DAY, requests=requests)
    assert (cost.nano_usd, cost.basis) == (nano, basis)


CHEAPER = msgspec.structs.replace(
    TIERED, model="cheaper", tiers=(Tier(above_input_tokens=1000, input=Decimal("0.5"), output=Decimal(3)),)
)
small = st.integers(0, 3000)
requests_made = st.lists(
    st.builds(Usage, input_tokens=small, cache_read_tokens=small, cache_write_tokens=small, output_tokens=small),
    min_size=1,
    max_size=10,
)


@given(requests_made, st.sampled_from(["tiered", "cheaper"]), st.integers(0, 20))
def test_the_least_is_never_more_than_any_requests_cost(made, model, told):
    """Neither than each of them by itself, nor than their sum however many are told."""
    table = PriceTable((TIERED, CHEAPER), fallback="none")
    fields = ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
    whole = Usage(**{name: sum(getattr(one, name) for one in made) for name in fields})
    least = table.at_least(model, whole, at=DAY).nano_usd
    assert least <= sum(table.cost(model, one, at=DAY).nano_usd for one in made)
    assert least <= table.cost(model, whole, at=DAY, requests=told).nano_usd


def test_the_least_is_the_cost_where_there_are_no_tiers():
    usage = Usage(input_tokens=10**6, output_tokens=10**6)
    assert OWN.at_least("plain", usage, at=DAY) == OWN.cost("plain", usage, at=DAY)
    assert OWN.at_least("nobody-s", usage, at=DAY) is None


@pytest.mark.parametrize(("tokens", "nano"), [(1, 123), (2, 247), (5, 617), (10**7, 1_234_567_000)])
def test_money_is_rounded_half_up_once(tokens, nano):
    """At 0.1234567 dollars per million, a token is 123.4567 nano-dollars."""
    assert OWN.cost("plain", Usage(input_tokens=tokens), at=DAY).nano_usd == nano


def test_half_a_nano_dollar_is_one():
    table = PriceTable((msgspec.structs.replace(PLAIN, input=Decimal("0.0005")),), fallback="none")
    assert table.cost("plain", Usage(input_tokens=1), at=DAY).nano_usd == 1


def test_an_absurd_cost_saturates():
    table = PriceTable((msgspec.structs.replace(PLAIN, input=Decimal(10_000)),), fallback="none")
    cost = table.cost("plain", Usage(input_tokens=TOKENS_MAX, cache_read_tokens=TOKENS_MAX), at=DAY)
    assert cost.nano_usd == NANO_USD_MAX
    assert msgspec.json.decode(msgspec.json.encode(cost), type=Cost) == cost


@pytest.mark.parametrize("tokens", [-1, TOKENS_MAX + 1])
def test_impossible_counts_are_refused(tokens):
    with pytest.raises(ValueError, match="token counts"):
        OWN.cost("plain", Usage(input_tokens=tokens), at=DAY)


@given(usages, st.sampled_from(["plain", "tiered"]), st.integers(0, 50))
def test_a_cost_is_a_whole_number_and_never_negative(usage, model, requests):
    nano = OWN.cost(model, usage, at=DAY, requests=requests).nano_usd
    assert type(nano) is int
    assert 0 <= nano <= NANO_USD_MAX
    assert (
        nano > 0 or usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens + usage.output_tokens == 0
    )


@given(usages, usages, st.sampled_from(["plain", "tiered"]))
def test_more_tokens_never_cost_less(usage, more, model):
    larger = Usage(**{name: max(getattr(usage, name), getattr(more, name)) for name in usage.__struct_fields__})
    assert OWN.cost(model, larger, at=DAY).nano_usd >= OWN.cost(model, usage, at=DAY).nano_usd


small = st.integers(0, 10**11)


@given(small, small, small, small)
def test_parts_cost_what_their_sum_costs_but_for_rounding(left, right, out_left, out_right):
    def nano(tokens: int, output: int) -> int:
        return OWN.cost("plain", Usage(input_tokens=tokens, output_tokens=output), at=DAY).nano_usd

    assert abs(nano(left, out_left) + nano(right, out_right) - nano(left + right, out_left + out_right)) <= 1


@given(usages)
def test_the_arithmetic_is_exact(usage):
    """Against integers in units of 10^-7 nano-dollars."""
    reads = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    exact = reads * 1_234_567 * 1000 + usage.output_tokens * 70_000_000 * 1000
    assert OWN.cost("plain", usage, at=DAY).nano_usd == min((exact + 5_000_000) // 10_000_000, NANO_USD_MAX)


# Tables


def test_equal_tables_have_equal_ids_and_any_change_has_another():
    assert load_prices().id == TABLE.id
    other = PriceTable((*TABLE.entries, PLAIN))
    assert len({TABLE.id, other.id, PriceTable(TABLE.entries, fallback="none").id}) == 3
    assert len(TABLE.id) == 16


# Price files


def test_an_own_file_replaces_the_shipped_price_of_a_model(tmp_path: Path):
    own = tmp_path / "own.toml"
    own.write_bytes(b'fallback = "none"\n' + entry(model='"gpt-4"', provider='"openai"', input=1, output=2.5))
    table = load_prices(own)
    assert table.cost("gpt-4", Usage(input_tokens=10**6, output_tokens=10**6), at=DAY).nano_usd == 3_500_000_000
    assert table.price("claude-opus-5", at=DAY).output == 25
    with pytest.raises(UnknownModelError):
        table.price("gpt-5", at=DAY)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"input": '"NaN"'}, "input"), ({"input": "nan"}, "input"), ({"input": "inf"}, "input"),
        ({"input": '"-Infinity"'}, "input"), ({"output": '"-1"'}, "output"), ({"output": "-0.5"}, "output"),
        ({"output": '"-0"'}, "output"), ({"cache_read": '"1e-40"'}, "cache_read"), ({"cache_write": "1e99"}, "cache_write"),
        ({"input": '"10001"'}, "input"), ({"input": "1" * 4000}, "input"), ({"input": "true"}, "input"),
        ({"input": '""'}, "input"), ({"input": '"1 dollar"'}, "input"), ({"input": '"1e999999999999999999999"'}, "input"),
        ({"input": "[1]"}, "input"), ({"input": ""}, "input"), ({"output": ""}, "output"), ({"effective": ""}, "effective"),
        ({"source": ""}, "source"), ({"source": '""'}, "source"), ({"source": r'"\u0000"'}, "source"),
        ({"effective": '"soon"'}, "effective"), ({"inptu": '"1"'}, "inptu"), ({"model": '"GPT-4"'}, "model"),
        ({"model": r'"gpt-4\n"'}, "model"), ({"model": '"a b"'}, "model"), ({"model": '""'}, "model"),
        ({"model": '"' + "m" * 201 + '"'}, "model"), ({"provider": '"a/b"'}, "provider"), ({"also": '"n"'}, "also"),
        ({"also": '["N"]'}, "also"), ({"dated": '"yes"'}, "dated"),
        ({"tiers": "[{above_input_tokens = 0, input = 1, output = 1}]"}, "above_input_tokens"),
        ({"tiers": "[{above_input_tokens = 5, input = nan, output = 1}]"}, "input"),
        ({"tiers": "[{above_input_tokens = 5, input = 1}]"}, "output"),
        ({"tiers": "[{above_input_tokens = 5, input = 1, output = 1}, {above_input_tokens = 5, input = 1, output = 1}]"},
         "tiers"),
    ],
)  # fmt: skip
def test_an_entry_that_cannot_be_used_is_named_with_its_file_model_and_field(changes, field):
    with pytest.raises(PriceTableError) as caught:
        parse_prices(entry(**changes), "own.toml")
    text = str(caught.value)
    assert "own.toml: price 1" in text
    assert f"`{field}`" in text or f".{field}" in text
    assert "mend that field" in text
    assert len(text) < 700
    assert text.isprintable()
    if "model" not in changes:
        assert "model 'm'" in text


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"prices = 1", "unknown key 'prices'"), (b'fallback = "litellm"', "genai-prices"), (b"price = 1", r"\[\[price"),
        (b"[price]\nmodel = 1", r"\[\[price"), (b"price = [1]", "price 1"), (b"\xff", "not TOML"), (b"[[price]", "not TOML"),
        (b"a = " + b"[" * 100_000, "not TOML"), (b"a = " + b"1" * 5000, "not TOML"), (b"a = 1e" + b"9" * 400, "not TOML"),
        (b"#" * (PRICES_BYTES + 1), "larger than"), (b"[[price]]\n" * 501, "at most 500"), (entry() + entry(), "two prices"),
        (entry() + entry(model='"n"', also='["m"]'), "two prices"), (entry(also='["m"]'), "two prices"),
        (entry(model=1), "price 1"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_says_why(data, says):
    with pytest.raises(PriceTableError, match=f"own.toml.*{says}"):
        parse_prices(data, "own.toml")


def test_a_file_that_is_not_there_says_so(tmp_path: Path):
    with pytest.raises(PriceTableError, match="cannot be read"):
        load_prices(tmp_path / "none.toml")


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: b"[[price]]\n" + text.encode()))
def test_no_bytes_do_worse_than_a_price_table_error(data):
    with contextlib.suppress(PriceTableError):
        parse_prices(data, "own.toml")


def test_numbers_may_be_written_as_text_or_as_they_are_and_stay_exact():
    text, number = (parse_prices(entry(input=value), "f")[1][0] for value in ('"0.1"', "0.1"))
    assert text.input == number.input == Decimal("0.1")
    assert parse_prices(entry(input=3), "f")[1][0].input == 3


# What the documentation says


def test_the_documented_entry_is_one_and_every_field_is_described():
    text = (ROOT / "docs" / "prices.md").read_text()
    example = text.partition("```toml\n")[2].partition("```")[0]
    (price,) = parse_prices(example.encode(), "docs/prices.md")[1]
    assert price.provider == "my-gateway"
    described = re.findall(r"^\| `(\w+)` \|", text.partition("| field |")[2].partition("\n\n")[0], re.MULTILINE)
    assert set(described) == set(Price.__struct_fields__)


def test_the_shipped_file_explains_every_field():
    comments = "".join(line for line in (ROOT / "config" / "prices.toml").read_text().splitlines() if line[:1] == "#")
    assert all(field in comments for field in (*Price.__struct_fields__, "above_input_tokens"))
