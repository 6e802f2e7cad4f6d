"""Losses that tell pictures and texts apart see the pairs of all processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from torch import distributed

from triptych.blocks.contrast import contrastive, hard_negatives

PAIRS, WIDTH, RANKS = 6, 5, 2
GROUPS = (0, 1, 2, 2, 3, 4)
"""Two pairs show one picture."""
WEIGHTS = (1.0, 1.0, 1.0, 1.0, 0.0, 1.0)
"""One text is empty: others may give it as an answer, and it is not scored."""


def drawn():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, PAIRS, WIDTH, generator=generator)


def step(image, text, rows=slice(None)):
    """The loss of some of the pairs, and its gradients."""
    image, text = image.clone().requires_grad_(True), text.clone().requires_grad_(True)
    scale = torch.tensor(1.3, requires_grad=True)
    group, weight = torch.tensor(GROUPS)[rows], torch.tensor(WEIGHTS)[rows] / sum(WEIGHTS)
    loss = contrastive(image, text, scale, group, weight, smoothing=0.1)
    loss.backward()
    return [loss.detach(), image.grad, text.grad, scale.grad]


def rank(number: int, port: str, out: str) -> None:
    """One of several processes, with its share of the pairs; writes what it found."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    distributed.init_process_group("gloo", rank=number, world_size=RANKS)
    share = PAIRS // RANKS
    rows = slice(number * share, (number + 1) * share)
    image, text = drawn()
    Path(out).write_text(json.dumps([x.tolist() for x in step(image[rows], text[rows], rows)]))
    distributed.barrier()
    distributed.destroy_process_group()


def test_processes_contrast_with_the_pairs_of_all(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    outs = [str(tmp_path / str(number)) for number in range(RANKS)]
    children = [
        subprocess.Popen([sys.executable, __file__, str(number), port, out])
        for number, out in enumerate(outs)
    ]
    assert [child.wait(timeout=120) for child in children] == [0] * RANKS
    parts = [[torch.tensor(value) for value in json.loads(Path(out).read_text())] for out in outs]
    loss, image, text, scale = step(*drawn())
    assert torch.allclose(torch.stack([part[0] for part in parts]).sum(), loss, atol=1e-6)
    assert torch.allclose(torch.cat([part[1] for part in parts]), image, atol=1e-6)
    assert torch.allclose(torch.cat([part[2] for part in parts]), text, atol=1e-6)
    assert torch.allclose(torch.stack([part[3] for part in parts]).sum(), scale, atol=1e-6)


def test_a_hard_negative_is_another_picture_and_mostly_a_similar_one():
    torch.manual_seed(0)
    image, _ = drawn()
    text = image.roll(1, 0)  # each text is most like the picture before it
    group = torch.arange(PAIRS)
    chosen = torch.stack(
        [hard_negatives(image, text, torch.tensor(4.0), group) for _ in range(200)]
    )
    assert (chosen != group).all()
    likeliest = (group + 1) % PAIRS
    assert (chosen == likeliest).float().mean() > 0.9


def test_pairs_of_one_picture_are_no_negatives_unless_there_is_no_other():
    image, text = drawn()
    one = hard_negatives(image, text, torch.tensor(0.0), torch.tensor([0, 0, 0, 0, 0, 1]))
    assert one[:5].eq(5).all() and one[5] != 5
    alone = hard_negatives(image, text, torch.tensor(0.0), torch.zeros(PAIRS, dtype=torch.int64))
    assert (alone != torch.arange(PAIRS)).all()


if __name__ == "__main__":
    rank(int(sys.argv[1]), *sys.argv[2:])
