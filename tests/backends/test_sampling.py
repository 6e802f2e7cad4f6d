"""Tokens are chosen as transformers chooses them, and the same again from the same seed."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from triptych.backends.sampling import Chooser, Sampling, kept


@pytest.fixture
def scores():
    return torch.randn(4, 50, generator=torch.Generator().manual_seed(1)) * 3


def chosen(sampling, scores, seed=0, numbers=(0, 1, 2, 3), seen=None):
    chooser = Chooser(sampling, seed, numbers)
    if seen is not None:
        chooser.see(seen, scores.shape[1])
    return chooser.choose(scores).tolist()


def test_a_temperature_of_zero_takes_the_likeliest(scores):
    assert chosen(Sampling(), scores) == scores.argmax(-1).tolist()


def test_the_same_seed_draws_the_same(scores):
    sampling = Sampling(temperature=1.5)
    runs = [chosen(sampling, scores, seed) for seed in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]


def test_a_row_draws_the_same_in_any_batch(scores):
    sampling = Sampling(temperature=1.5)
    whole = chosen(sampling, scores)
    assert chosen(sampling, scores[2:], numbers=(2, 3)) == whole[2:]


def test_draws_follow_the_probabilities():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    chooser = Chooser(Sampling(temperature=2.0), 0, [0])
    counts = torch.bincount(torch.cat([chooser.choose(logits) for _ in range(4000)]), minlength=4)
    assert torch.allclose(counts / 4000, (logits[0] / 2).softmax(-1), atol=0.03)


def test_a_penalty_lowers_what_was_seen_whatever_its_sign():
    logits = torch.tensor([[2.0, 1.9, -1.0, -1.1]])
    sampling = Sampling(repetition_penalty=1.5)
    assert chosen(sampling, logits, numbers=[0], seen=torch.tensor([[0, -1]])) == [1]
    assert chosen(sampling, logits[:, 2:], numbers=[0], seen=torch.tensor([[0]])) == [1]


def test_padding_is_not_seen():
    logits = torch.tensor([[2.0, 1.9]])
    seen = torch.tensor([[-1, -1]])
    assert chosen(Sampling(repetition_penalty=9), logits, numbers=[0], seen=seen) == [0]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(1.0, top_k=7),
        Sampling(1.0, top_p=0.8),
        Sampling(1.0, top_p=0.01),
        Sampling(1.0, top_p=0.9, top_k=9),
    ],
    ids=str,
)
def test_what_is_kept_is_what_transformers_keeps(scores, sampling):
    processors = pytest.importorskip("transformers.generation.logits_process")
    theirs = scores
    if sampling.top_k:
        theirs = processors.TopKLogitsWarper(sampling.top_k)(None, theirs)
    if sampling.top_p < 1:
        theirs = processors.TopPLogitsWarper(sampling.top_p)(None, theirs)
    assert torch.equal(kept(scores, sampling), theirs)


def test_a_penalty_is_that_of_transformers(scores):
    processors = pytest.importorskip("transformers.generation.logits_process")
    seen = torch.randint(50, (4, 12), generator=torch.Generator().manual_seed(2))
    theirs = processors.RepetitionPenaltyLogitsProcessor(1.7)(seen, scores)
    ours = chosen(Sampling(repetition_penalty=1.7), scores, seen=seen)
    assert ours == theirs.argmax(-1).tolist()


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_p": 0}, {"top_k": 0}, {"repetition_penalty": 0}]
)
def test_a_rule_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"top_p|temperature"):
        Sampling(**wrong)


def test_another_process_draws_the_same(scores):
    program = """
import torch
from triptych.backends.sampling import Chooser, Sampling
scores = torch.randn(4, 50, generator=torch.Generator().manual_seed(1)) * 3
chooser = Chooser(Sampling(1.0, top_p=0.95), 7, (0, 1, 2, 3))
print([chooser.choose(scores).tolist() for _ in range(5)])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    chooser = Chooser(Sampling(1.0, top_p=0.95), 7, (0, 1, 2, 3))
    assert done.stdout.strip() == str([chooser.choose(scores).tolist() for _ in range(5)])
