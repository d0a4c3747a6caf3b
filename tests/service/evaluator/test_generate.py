"""Our batched generation against transformers' own, one row at a time: the same tokens, the same losses."""

import json
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from services.evaluator.generate import LanguageModel
from services.evaluator.rows import Row, Turn, make_row, shown
from shared.contracts.errors import Invalid

QUESTIONS = (
    "hello",
    "what is my balance",
    "tell me how to change the oil of my car, please, step by step",
    "no",
    "why?",
)


def rows(system: str = "") -> list[Row]:
    first = [Turn("system", system)] if system else []
    answers = ("greeting", "balance", "oil change how", "no", "a much longer answer than the others have")
    return [make_row([*first, Turn("user", q)], a) for q, a in zip(QUESTIONS, answers, strict=True)]


@pytest.fixture(scope="module")
def model(tiny: Path, make_adapter: Callable[..., Path]) -> LanguageModel:
    made = LanguageModel(tiny, threads=1)
    made.add_adapter("one", make_adapter(1))
    made.add_adapter("two", make_adapter(2))
    return made


def alone(
    tiny: Path, adapter: Path | None, model: LanguageModel, row: Row, shots: list[Turn]
) -> tuple[str, float]:
    """The reference: no batch, no shared prefix, no cache of ours."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(tiny).eval()
    if adapter:
        plain = PeftModel.from_pretrained(plain, adapter).eval()
    encoded = model.encode(row, shots)
    prompt, answer = torch.tensor([encoded.prompt]), torch.tensor([encoded.answer])
    with torch.no_grad():
        out = plain.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=2,
        )
        labels = torch.cat([torch.full_like(prompt, -100), answer], 1)
        loss = plain(input_ids=torch.cat([prompt, answer], 1), labels=labels).loss
    text = AutoTokenizer.from_pretrained(tiny).decode(out[0, prompt.shape[1] :], skip_special_tokens=True)
    return text, float(loss) * answer.shape[1]


@pytest.mark.parametrize("system", ["", "Name the intent of the customer's query."])
@pytest.mark.parametrize("which", [None, "one", "two"])
@pytest.mark.parametrize("few_shot", [False, True])
def test_a_batch_answers_as_each_row_does_alone(
    tiny: Path,
    model: LanguageModel,
    make_adapter: Callable[..., Path],
    system: str,
    which: str | None,
    few_shot: bool,
) -> None:
    shots = shown(rows()[:2]) if few_shot else []
    asked = rows(system)
    encoded = [model.encode(row, shots) for row in asked]
    prefix = model.prefix(which, encoded)
    assert prefix is not None
    outputs = model.answer(which, encoded, prefix, 12)
    without = model.answer(which, encoded, None, 12)
    folder = {None: None, "one": make_adapter(1), "two": make_adapter(2)}[which]
    for row, output, plain in zip(asked, outputs, without, strict=True):
        text, nll = alone(tiny, folder, model, row, shots)
        assert output.row == row.key
        assert output.answer == plain.answer == text
        assert output.nll == pytest.approx(nll, rel=1e-4)
        assert plain.nll == pytest.approx(nll, rel=1e-4)
        assert output.margin >= 0


def test_adapters_and_base_do_not_leak_into_each_other(model: LanguageModel) -> None:
    encoded = [model.encode(row) for row in rows()]

    def texts(which: str | None) -> list[str]:
        return [output.answer for output in model.answer(which, encoded, None, 8)]

    before = {which: texts(which) for which in (None, "one", "two")}
    assert len({tuple(found) for found in before.values()}) == 3
    assert {which: texts(which) for which in ("two", None, "one")} == before


def test_nothing_is_looked_up_elsewhere(
    tiny: Path, make_adapter: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter names its base as a hub would; that name is never resolved."""
    folder = make_adapter(4)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "somebody/some-model"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    asked: list[object] = []

    def refuse(*where: object, **_: object) -> None:
        asked.append(where)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    LanguageModel(tiny, threads=1).add_adapter("one", folder)
    assert asked == []


def test_an_answer_ends_at_the_end_of_turn_and_is_scored_with_it(model: LanguageModel) -> None:
    encoded = model.encode(make_row([Turn("user", "hi")], "greeting"))
    assert encoded.answer[-1] == 2
    assert encoded.answer.count(2) == 1
    cut = model.answer(None, [encoded], None, 1)[0]
    assert cut.tokens == len(encoded.answer)
    assert not cut.finished


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda w: {k: np.full_like(v, np.nan) for k, v in w.items()}, "not finite"),
        (lambda w: {k: v[:1] if "lora_A" in k else v for k, v in w.items()}, "does not fit"),
        (lambda w: {k.replace("layers.0", "layers.7"): v for k, v in w.items()}, "not those"),
        (lambda w: dict(list(w.items())[1:]), "not those"),
    ],
    ids=["nan", "halved", "other-layers", "incomplete"],
)
def test_a_ruined_adapter_is_refused(
    tiny: Path,
    make_adapter: Callable[..., Path],
    harm: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
    reason: str,
) -> None:
    folder = make_adapter(3)
    file = folder / "adapter_model.safetensors"
    save_file({k: np.ascontiguousarray(v) for k, v in harm(load_file(file)).items()}, file)
    with pytest.raises(Invalid, match=reason):
        LanguageModel(tiny, threads=1).add_adapter("ruined", folder)
