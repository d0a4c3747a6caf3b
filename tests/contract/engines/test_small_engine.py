"""What the small engine adds to the contract: rows that come and go in one batch, prefixes, bounds, an orderly end."""

import asyncio
import json
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.serving.engines.transformers_server.adapters import Adapter, BadAdapter
from services.serving.engines.transformers_server.answers import Detokenizer
from services.serving.engines.transformers_server.model import Model
from services.serving.engines.transformers_server.sampling import NotFinite, choose, nucleus
from services.serving.engines.transformers_server.scheduler import Row, Scheduler
from tests.contract.engines.adapters import load
from tests.contract.engines.conftest import START_SECONDS, engine_python
from tests.contract.engines.running import Running, chat

pytestmark = pytest.mark.timeout(1_800)  # the last test starts an engine of its own

TEXT = st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"]), max_size=20)


@given(text=TEXT, stops=st.lists(st.text("abé日", min_size=1, max_size=3), max_size=3))
def test_pieces_are_the_text_up_to_the_first_stop_string(text: str, stops: list[str]) -> None:
    """Tokens are single bytes here: the hardest case for whole characters."""
    whole = text.encode()
    prefixes = [whole[:end].decode(errors="ignore") for end in range(len(whole) + 1)]
    reached = next((p for p in prefixes if any(stop in p for stop in stops)), None)
    wanted = (
        text if reached is None else reached[: min(at for stop in stops if (at := reached.find(stop)) >= 0)]
    )

    detokenizer = Detokenizer(lambda tokens: bytes(tokens).decode(errors="replace"), tuple(stops))
    pieces, stopped = [], False
    for byte in whole:
        piece, stopped = detokenizer.feed(byte)
        pieces.append(piece)
        if stopped:
            break
    if not stopped:
        pieces.append(detokenizer.end())
    assert "".join(pieces) == wanted
    assert stopped == (reached is not None)
    assert not any("\ufffd" in piece for piece in pieces)


@given(st.lists(st.floats(-8, 8), min_size=1, max_size=12), st.floats(0.01, 1))
def test_the_nucleus_is_the_smallest_likeliest_set(logits: list[float], top_p: float) -> None:
    probabilities = torch.tensor(logits).softmax(-1)
    kept = nucleus(torch.tensor(logits), top_p)
    inside, outside = probabilities[kept > 0], probabilities[kept == 0]
    assert inside.sum() >= min(top_p, 1) - 1e-5
    assert len(outside) == 0 or inside.min() >= outside.max()
    assert inside.sum() - inside.min() < top_p + 1e-5


def test_what_is_not_finite_is_never_chosen() -> None:
    for bad in (torch.tensor([0.0, torch.nan]), torch.full((3,), torch.nan), torch.tensor([0.0, torch.inf])):
        for temperature in (0.0, 1.0):
            with pytest.raises(NotFinite):
                choose(bad, temperature, 0.9, None)
    assert choose(torch.tensor([0.0, 2.0, 1.0]), 0.0, 1.0, None).token == 1


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Model:
    return Model(tiny_base, "float32", max_rank=16)


@pytest.fixture(scope="module")
def prefix(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import PrefixTuningConfig, get_peft_model

    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("prefix")
    tuned = get_peft_model(load(tiny_base), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6))
    tuned.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def kinds(model: Model, adapters: dict[str, Path], prefix: Path) -> dict[str, Adapter | None]:
    """Base, two LoRAs and a prefix."""
    loras = {name: model.read(adapters[name]) for name in ("intent-v1", "mail-v1")}
    return {"base": None, **loras, "prefix": model.read(prefix)}


def _alone(model: Model, prompt: Sequence[int], adapter: Adapter | None, count: int) -> list[int]:
    logits, batch = model.prefill([prompt], [adapter])
    tokens = [int(logits.argmax(-1))]
    while len(tokens) < count:
        tokens.append(int(model.decode(batch, torch.tensor(tokens[-1:])).argmax(-1)))
    return tokens


def test_a_prefix_is_computed_as_peft_does(
    model: Model, kinds: dict[str, Adapter | None], prefix: Path, tiny_base: Path
) -> None:
    from peft import PeftModel

    tuned = PeftModel.from_pretrained(load(tiny_base), prefix)
    for prompt in ([5, 6, 7], [300], list(range(40, 60))):
        tokens = torch.tensor([prompt])
        with torch.inference_mode():
            expected = tuned(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[0, -1]
        logits, _ = model.prefill([prompt], [kinds["prefix"]])
        torch.testing.assert_close(logits[0], expected, atol=1e-4, rtol=1e-4)
        assert _alone(model, prompt, kinds["prefix"], 5) != _alone(model, prompt, None, 5)


class _Sink:
    """A row, and what it was given."""

    def __init__(self, prompt: list[int], adapter: Adapter | None, count: int, ends: frozenset[int]) -> None:
        self.tokens: list[int] = []
        self.done = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.row = Row(prompt, adapter, count, 0.0, 1.0, None, ends, self.deliver)

    def deliver(self, item: Any) -> None:
        assert item is None or not isinstance(item, Exception), item
        if item is None:
            self._loop.call_soon_threadsafe(self.done.set)
        else:
            self.tokens.append(item.token)


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["base", "intent-v1", "mail-v1", "prefix"]),
        st.lists(st.integers(20, 2_000), min_size=1, max_size=9),
        st.integers(1, 6),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(rows=ROWS, room=st.integers(1, 5))
async def test_rows_that_come_and_go_get_the_tokens_they_get_alone(
    model: Model, kinds: dict[str, Adapter | None], rows: list[tuple[str, list[int], int, bool]], room: int
) -> None:
    """Any mix of adapters and lengths, in a batch that is too small for all, some of them cancelled."""
    scheduler = Scheduler(model, max_rows=room, max_queued=100)
    sinks = [_Sink(prompt, kinds[name], count, frozenset()) for name, prompt, count, _ in rows]
    scheduler.start()
    try:
        for sink, (*_, cancelled) in zip(sinks, rows, strict=True):
            scheduler.submit([sink.row])
            sink.row.cancelled = cancelled
        async with asyncio.timeout(60):
            for sink, (*_, cancelled) in zip(sinks, rows, strict=True):
                if not cancelled:
                    await sink.done.wait()
            while scheduler.running or scheduler.queued:
                await asyncio.sleep(0.001)
    finally:
        scheduler.stop()
    for sink, (name, prompt, count, cancelled) in zip(sinks, rows, strict=True):
        alone = _alone(model, prompt, kinds[name], count)
        assert sink.tokens == (alone[: len(sink.tokens)] if cancelled else alone)


async def test_an_end_token_ends_the_answer_and_is_counted(model: Model) -> None:
    alone = _alone(model, [5, 6, 7], None, 6)
    sink = _Sink([5, 6, 7], None, 6, frozenset({alone[2]}))
    scheduler = Scheduler(model, max_rows=2, max_queued=2)
    scheduler.submit([sink.row])
    scheduler.start()
    async with asyncio.timeout(60):
        await sink.done.wait()
    scheduler.stop()
    assert sink.tokens == alone[: alone.index(alone[2]) + 1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"r": 17}, "rank 17 is not between 1 and 16"),
        ({"lora_alpha": "16"}, "not a finite number"),
        ({"use_dora": True}, "does not know use_dora"),
        ({"modules_to_save": ["lm_head"]}, "does not know modules_to_save"),
        ({"bias": "all"}, "trained bias"),
        ({"peft_type": "IA3"}, "not IA3"),
        ({"r": 4}, "other shapes than rank 4"),
    ],
)
def test_an_adapter_that_would_be_computed_wrongly_is_refused(
    model: Model, adapters: dict[str, Path], tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    folder = shutil.copytree(adapters["intent-v1"], tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text()) | changes
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(BadAdapter, match=reason):
        model.read(folder)


@pytest.fixture
def narrow(tiny_base: Path, tmp_path: Path) -> Iterator[Running]:
    """An engine with room for one answer and one that waits."""
    options = {"max_num_seqs": 1, "max_queued": 1, "max_cpu_loras": 1, "shutdown_seconds": 30}
    log = tmp_path / "engine.log"
    with Running("transformers", tiny_base, log, engine_python("transformers"), options) as running:
        asyncio.run(running.wait_ready(START_SECONDS["transformers"]))
        yield running


def test_a_full_engine_says_so_and_a_stopped_one_finishes_what_runs(
    narrow: Running, adapters: dict[str, Path]
) -> None:
    async def story() -> None:
        body = chat("base", "hello", max_tokens=60, ignore_eos=True)
        answers = await asyncio.gather(*(narrow.post("/v1/chat/completions", body) for _ in range(8)))
        statuses = sorted(status for status, _ in answers)
        assert statuses[0] == 200
        assert statuses[-1] == 429
        assert set(statuses) == {200, 429}
        assert (
            len({answer["choices"][0]["message"]["content"] for status, answer in answers if status == 200})
            == 1
        )

        async with narrow.client() as client:
            await client.load("a-v1", adapters["intent-v1"])
            status, answer = await narrow.post(
                "/v1/load_lora_adapter", {"lora_name": "b-v1", "lora_path": str(adapters["intent-v1"])}
            )
            assert (status, "1 adapters are loaded" in answer["error"]["message"]) == (400, True)

        events = narrow.stream("/v1/chat/completions", chat("a-v1", "hello", max_tokens=300, ignore_eos=True))
        await anext(events)
        narrow.process.send_signal(signal.SIGTERM)
        rest = [event async for event in events]
        assert rest[-1] == "[DONE]"
        assert rest[-2]["choices"][0]["finish_reason"] == "length"
        assert await asyncio.to_thread(narrow.process.wait, 30) in (0, -signal.SIGTERM)

    asyncio.run(story())
