"""Which price applies: the order of the sources, dates, and the table that comes with the gateway."""

import lzma

import msgspec
import pytest

from bluesminds.app.prices import bundled_prices
from bluesminds.common.money import Rates
from bluesminds.common.prices import PriceLine, combine, rate_texts, rates_from, read_day
from bluesminds.common.values import Server
from bluesminds.gateway.prices import book as book_module
from bluesminds.gateway.prices.book import PriceBook
from bluesminds.gateway.prices.bundled import BundledPrices

USD = 10**9
DAY = 86_400_000
NOW = read_day("2026-11-28")


def table(**vendors: dict[str, object]) -> BundledPrices:
    text = msgspec.json.encode({"date": "2026-01-01", "sources": [], "vendors": vendors})
    return BundledPrices(lzma.compress(text))


def row(usd: int, **more: object) -> dict[str, object]:
    return {"steps": [[0, {"input": usd * USD, "output": usd * USD}]], **more}


def line(model: str, usd: int, **more: object) -> PriceLine:
    return msgspec.structs.replace(PriceLine(model, Rates(input=usd * USD, output=usd * USD)), **more)


def server(name: str = "one", url: str = "https://api.openai.com/v1", dialect: str = "openai") -> Server:
    return Server(name, dialect, url, None, (), 1, 0, "file")


def usd(book: PriceBook, at: Server | None, model: str, now: int = NOW, served: str = "") -> int | None:
    price = book.find(at, model, now, served)
    return None if price is None or price.rates.input is None else price.rates.input // USD


BUNDLED = table(openai={"m": [row(5)], "only": [row(6)]}, groq={"m": [row(7)], "fast": [row(8)]})


def test_sources_are_asked_in_order() -> None:
    everything = PriceBook(combine([line("m", 1, server="one"), line("m", 2)]), BUNDLED)
    assert usd(everything, server(), "m") == 1
    assert usd(everything, server("two"), "m") == 2
    bundled = PriceBook((), BUNDLED)
    assert usd(bundled, server(), "m") == 5
    assert usd(bundled, server(url="https://api.groq.com/openai/v1"), "m") == 7
    assert usd(bundled, server(url="https://api.groq.com/openai/v1"), "only") is None, "another vendor's"
    assert usd(bundled, server(url="http://gateway.example/v1"), "fast") == 8
    assert usd(bundled, server(url="http://gateway.example/v1"), "unknown") is None


def test_name_of_the_server_has_priority_within_a_source() -> None:
    book = PriceBook(combine([line("alias", 1), line("real", 2)]), BUNDLED)
    assert usd(book, server(), "real", served="alias") == 2
    assert usd(book, server(), "m", served="alias") == 1, "the operator's price is before the table"
    assert usd(book, server(), "m", served="nothing") == 5


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("M", 5),
        ("m-2026-02-28", 5),
        ("m-20260228", 5),
        ("m-latest", 5),
        ("groq/m", 7),
        ("openai/m", 5),
        ("m-mini", None),
        ("other/m", None),
    ],
)
def test_name_in_another_spelling_finds_the_price(model: str, price: int | None) -> None:
    assert usd(PriceBook((), BUNDLED), server(url="http://127.0.0.1:4000", dialect="litellm"), model) == price


def test_price_counts_from_its_date() -> None:
    dated = combine([line("m", 1), line("m", 2, since=NOW), line("m", 3, since=NOW + DAY)])
    book = PriceBook(dated, None)
    assert [usd(book, None, "m", at) for at in (NOW - 1, NOW, NOW + DAY - 1, NOW + DAY)] == [1, 2, 2, 3]
    assert [usd(book, None, "m", at) for at in (NOW + DAY, NOW, NOW - 1)] == [3, 2, 1]


def test_price_is_replaced_by_an_earlier_one_after_its_end() -> None:
    offer = line("m", 2, since=NOW, until=NOW + DAY)
    times = (NOW - 1, NOW, NOW + DAY - 1, NOW + DAY, NOW)
    own = PriceBook(combine([line("m", 1), offer]), None)
    assert [usd(own, None, "m", at) for at in times] == [1, 2, 2, 1, 2]
    over_table = PriceBook(combine([offer, line("m", 3, since=NOW, service_tier="flex")]), BUNDLED)
    assert [usd(over_table, server(), "m", at) for at in times] == [5, 2, 2, 5, 2]
    two_ends = PriceBook(combine([offer, line("m", 3, since=NOW, from_tokens=9, until=NOW + 1)]), BUNDLED)
    assert [usd(two_ends, server(), "m", at) for at in times] == [5, 2, 5, 5, 2], "the first end counts"


def test_future_price_hides_no_current_one_of_another_source() -> None:
    book = PriceBook(combine([line("m", 1, since=NOW + DAY)]), BUNDLED)
    assert [usd(book, server(), "m", at) for at in (NOW, NOW + DAY)] == [5, 1]


def test_hours_of_the_day_are_followed() -> None:
    book = PriceBook((), table(openai={"m": [row(1), row(2, hours=[60, 120]), row(3, hours=[1400, 10])]}))
    minute = 60_000
    times = (10, 59, 60, 119, 120, 1399, 1400, 1449)
    assert [usd(book, server(), "m", NOW + at * minute) for at in times] == [1, 1, 2, 2, 1, 1, 3, 3]


def test_lines_of_one_price_are_combined() -> None:
    lines = [
        line("m", 1),
        PriceLine("m", Rates(input=2 * USD), from_tokens=100),
        PriceLine("m", Rates(output=7 * USD), service_tier="flex"),
        PriceLine("m", Rates(input=9 * USD), since=5),
    ]
    first, second = combine(lines)
    assert first.price.steps == (
        (0, Rates(input=USD, output=USD)),
        (100, Rates(input=2 * USD, output=USD)),
    )
    assert first.price.tiers == {"flex": ((0, Rates(input=USD, output=7 * USD)),)}
    assert second.price.steps == ((0, Rates(input=9 * USD)),)
    changed = combine([line("m", 2)])[0].price
    assert len({first.price.version, second.price.version, changed.version}) == 3
    assert combine(reversed(lines[:3]))[0].price.version == first.price.version


def test_rates_round_trip_as_text() -> None:
    fields = {"input_usd": "1.25", "image_usd": "0.04", "second_usd": "0.0001", "request_usd": "0.002"}
    rates = rates_from(fields)
    assert (rates.input, rates.image, rates.second) == (1_250_000_000, 4 * 10**13, 10**11)
    assert {name: text for name, text in rate_texts(rates).items() if text is not None} == fields


def test_remembered_prices_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "MAX_CACHED", 10)
    book = PriceBook((), BUNDLED)
    for number in range(100):
        book.find(None, f"m{number}", NOW)
    assert len(book._found) <= 10


def test_local_server_has_no_price_of_a_hosted_model() -> None:
    assert usd(PriceBook((), BUNDLED), server(url="http://127.0.0.1:11434/v1"), "m") is not None
    local = msgspec.structs.replace(server(url="http://127.0.0.1:11434/v1"), vendor="ollama")
    assert usd(PriceBook((), BUNDLED), local, "m") is None


def test_bundled_table_has_ordinary_models_with_source_and_licence() -> None:
    table = bundled_prices()
    assert {(one.name, one.licence) for one in table.sources} == {("genai-prices", "MIT"), ("litellm", "MIT")}
    assert all(one.version and one.url.startswith("https://pypi.org/project/") for one in table.sources)
    assert table.date > "2026"
    book = PriceBook((), table)
    gpt = book.find(server(), "gpt-5", NOW)
    assert gpt is not None
    assert (gpt.rates.input, gpt.rates.output, gpt.max_output) == (1_250_000_000, 10_000_000_000, 128_000)
    assert gpt.tiers["flex"][0][1].input == 625_000_000
    claude = server(url="https://api.anthropic.com/v1", dialect="anthropic")
    assert book.find(claude, "claude-sonnet-4-5-20250929", NOW) is not None
    for model, unit in (("whisper-1", "second"), ("tts-1", "character"), ("gpt-5", "cached_input")):
        price = book.find(server(), model, NOW)
        assert price is not None
        assert getattr(price.rates, unit)


def test_every_bundled_row_can_be_read() -> None:
    rows = list(bundled_prices())
    assert len(rows) > 2000
    for _, _, prices in rows:
        assert prices
        for one in prices:
            starts = [start for start, _ in one.price.steps]
            assert starts == sorted(set(starts))
            assert starts[0] == 0
            for _, rates in one.price.steps:
                assert all(rate is None or rate >= 0 for rate in msgspec.structs.astuple(rates))
