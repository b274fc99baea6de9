"""Operations of a forward pass against formulas: two for every multiplication and addition."""

import bayesprune as bp
import pytest
import torch
import torch.nn.functional as F
from bayesprune.bench.evaluation.flops import flops
from torch import nn

D, T, HEADS, HIDDEN, OUT = 8, 16, 2, 32, 3
PROJECT, PRODUCTS = 2 * T * D * 4 * D, 2 * 2 * T * T * D
FFN, HEAD = 2 * 2 * T * D * HIDDEN, 2 * D * OUT


class MHA(nn.Module):
    dense = PROJECT + PRODUCTS + HEAD

    def __init__(self, need_weights=False):
        super().__init__()
        self.a, self.o = nn.MultiheadAttention(D, HEADS, batch_first=True), nn.Linear(D, OUT)
        self.need = need_weights

    def forward(self, x):
        return self.o(self.a(x, x, x, need_weights=self.need)[0].mean(1))


class Encoder(nn.Module):
    dense = PROJECT + PRODUCTS + FFN + HEAD

    def __init__(self):
        super().__init__()
        self.e = nn.TransformerEncoderLayer(D, HEADS, HIDDEN, batch_first=True)
        self.o = nn.Linear(D, OUT)

    def forward(self, x):
        return self.o(self.e(x).mean(1))


class Decoder(nn.Module):
    """Attention to itself under a mask, and to a memory."""

    dense = 2 * (PROJECT + PRODUCTS) + FFN + HEAD

    def __init__(self):
        super().__init__()
        self.e = nn.TransformerDecoderLayer(D, HEADS, HIDDEN, batch_first=True)
        self.o = nn.Linear(D, OUT)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(T)
        return self.o(self.e(x, x, tgt_mask=mask).mean(1))


class SDPA(nn.Module):
    dense = PROJECT + PRODUCTS + HEAD

    def __init__(self):
        super().__init__()
        self.qkv, self.p, self.o = nn.Linear(D, 3 * D), nn.Linear(D, D), nn.Linear(D, OUT)

    def forward(self, x):
        q, k, v = self.qkv(x).view(-1, T, 3, HEADS, D // HEADS).permute(2, 0, 3, 1, 4)
        return self.o(self.p(self.attend(q, k, v).transpose(1, 2).flatten(2)).mean(1))

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


class Causal(SDPA):
    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class ByHand(SDPA):
    def attend(self, q, k, v):
        return (q @ k.mT / 2).softmax(-1) @ v


NETWORKS = [MHA, lambda: MHA(True), Encoder, Decoder, SDPA, Causal, ByHand]


@pytest.fixture
def x():
    return torch.randn(4, T, D, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_counts_by_the_formula(make, dtype, x):
    network = make().to(dtype)
    assert flops(network, x.to(dtype))["flops_dense"] == network.dense
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("make", NETWORKS)
def test_products_of_queries_keys_and_values_do_not_shrink_with_the_weights(make, x):
    network = make()
    products = PRODUCTS * (2 if isinstance(network, Decoder) else 1)
    for parameter in network.parameters():
        if parameter.dim() == 2:
            parameter.data[::2] = 0
    rows = HEAD * 2 / 3  # of three rows of the last layer two are zero
    expected = products + (network.dense - products - HEAD) / 2 + HEAD - rows
    assert flops(network, x)["flops_nonzero"] == pytest.approx(expected)


def test_recurrent_weights_count_by_their_own_density():
    lstm = nn.LSTM(6, 4, batch_first=True)
    with torch.no_grad():
        lstm.get_parameter("weight_hh_l0").zero_()
    steps, x = 5, torch.randn(1, 5, 6)
    found = flops(lstm, x)
    assert found["flops_dense"] == 2 * steps * 16 * (6 + 4)
    assert found["flops_nonzero"] == 2 * steps * 16 * 6


def test_a_budget_of_operations_is_met_in_a_transformer(x):
    x, y = torch.randn(40, T, D, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    torch.manual_seed(0)
    network = Encoder()
    half = bp.prune(network, (x, y), "magnitude", 0.5, structured="ffn_hidden")
    assert flops(half.compact(), x)["flops_dense"] == Encoder.dense - FFN // 2
    budget = bp.prune(network, (x, y), "magnitude", 0.15, structured="ffn_hidden", budget={"of": "flops"})
    left = flops(budget.compact(), x)["flops_dense"] / Encoder.dense
    assert 0.85 - FFN / HIDDEN / Encoder.dense < left <= 0.85
