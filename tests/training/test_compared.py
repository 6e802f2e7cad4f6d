"""Stages that compare the pictures and texts of a batch take it as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field

from safetensors.torch import load_file

from triptych.backends.listening import Silence
from triptych.backends.options import Options
from triptych.dsl.load import load_recipe

from .eager import train


@dataclass
class Notices(Silence):
    """What a person was told."""

    said: list[str] = field(default_factory=list)

    def notice(self, text):
        self.said.append(text)


def test_workers_do_not_part_what_is_compared(folder, tmp_path):
    told, ended = {}, {}
    for workers in (1, 2):
        told[workers] = Notices()
        result = train(
            load_recipe("internvl_14b_tiny"),
            [f"pairs={folder / 'pictures.json'}"],
            tmp_path / str(workers),
            stages=["contrastive"],
            weights={},
            options=Options(steps=2, workers=workers),
            listener=told[workers],
        )
        ended[workers] = load_file(result.weights)
    assert not told[1].said
    assert told[2].said == [
        "contrastive compares the pairs of a whole batch: one worker computes it"
    ]
    assert all(tensor.equal(ended[2][name]) for name, tensor in ended[1].items())
