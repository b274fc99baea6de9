"""Judging large images: a pass over few at a time against one over as many as of small ones."""

import pytest
import torch
from bayesprune.architectures.build import build
from bayesprune.bench.evaluation import evaluate
from bayesprune.datasets.split import Split

IMAGES, ROUNDS = 1024, 5


@pytest.mark.benchmark(group="evaluation")
def test_large_images_few_at_a_time(contender, compare, monkeypatch):
    network = build("resnet", (3, 32, 32), 10, seed=0, depth=20).eval()
    x = torch.randn(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    split = Split(x, torch.arange(IMAGES) % 10)

    def judged(numbers: int) -> torch.Tensor:
        monkeypatch.setattr(evaluate, "NUMBERS", numbers)
        with torch.no_grad():
            return evaluate.predict(network, split)

    few, all_at_once = evaluate.NUMBERS, x.numel()
    torch.testing.assert_close(judged(few), judged(all_at_once))
    ratio = compare("judging 32² images few at a time / 1,024 at once, resnet-20", contender(lambda _: judged(few)),
                    contender(lambda _: judged(all_at_once)), ROUNDS)  # fmt: skip
    assert ratio.median < 1
