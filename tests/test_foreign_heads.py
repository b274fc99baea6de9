"""Heads of attention that others wrote: found in any packing, cut out exactly, saved, exported, and cut again."""

import copy
import pickle

import bayesprune as bp
import pytest
import torch
from bayesprune.architectures.compaction.certificate import certify
from bayesprune.architectures.compaction.compact import compact
from bayesprune.architectures.discovery.units_of import groups_of, left_out, units
from bayesprune.architectures.layers.attention import FewerHeads
from bayesprune.architectures.saved import bundle
from bayesprune.architectures.units.mask import Mask
from bayesprune.datasets.errors import UsageError
from torch import nn
from torch.nn import functional as F

WIDTH, HEADS, TOKENS = 24, 6, 5


class Block(nn.Module):
    """Some attention on a residual stream, between an embedding and a classifier."""

    def __init__(self, attention):
        super().__init__()
        self.embed, self.norm, self.attention = nn.Linear(7, WIDTH), nn.LayerNorm(WIDTH), attention
        self.hidden, self.back, self.head = nn.Linear(WIDTH, 20), nn.Linear(20, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attention(self.norm(x))
        x = x + self.back(F.gelu(self.hidden(self.norm(x))))
        return self.head(x.mean(1))


class Packed(nn.Module):
    """q, k and v in one layer, viewed as (3, heads, width), with the sizes that `written` chooses."""

    def __init__(self, written):
        super().__init__()
        self.num_heads, self.head_dim, self.all_dim = HEADS, WIDTH // HEADS, WIDTH
        self.scale = self.head_dim**-0.5
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.written = written

    def forward(self, x):
        B, N = x.shape[:2]
        q, k, v = self.written(self, x, self.qkv(x))
        y = ((q @ k.transpose(-2, -1)) * self.scale).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(B, N, -1))


def five(m, x, qkv):
    return qkv.reshape(x.shape[0], TOKENS, 3, m.num_heads, -1).permute(2, 0, 3, 1, 4)


def of_the_inputs(m, x, qkv):
    B, N, C = x.shape
    return qkv.reshape(B, N, 3, m.num_heads, C // m.num_heads).permute(2, 0, 3, 1, 4).unbind(0)


def literal(m, x, qkv):
    return qkv.view(x.shape[0], TOKENS, 3, 6, 4).permute(2, 0, 3, 1, 4)


def heads_first(m, x, qkv):
    return qkv.view(x.shape[0], TOKENS, m.num_heads, 3 * m.head_dim).transpose(1, 2).chunk(3, -1)


def split_then_viewed(m, x, qkv):
    return [t.unflatten(-1, (m.num_heads, m.head_dim)).transpose(1, 2) for t in qkv.split(m.all_dim, -1)]


def sliced(m, x, qkv):
    w = m.num_heads * m.head_dim
    parts = qkv[..., :w], qkv[..., w : 2 * w], qkv[..., 2 * w :]
    return [t.reshape(x.shape[0], TOKENS, -1, m.head_dim).transpose(1, 2) for t in parts]


PACKINGS = [five, of_the_inputs, literal, heads_first, split_then_viewed, sliced]


class Separate(nn.Module):
    """q, k and v apart, and whatever is done to them or to the scores."""

    def __init__(self, kv_heads=HEADS, **parts):
        super().__init__()
        self.n_head, self.n_kv, self.width = HEADS, kv_heads, WIDTH // HEADS
        self.q, self.k = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, kv_heads * self.width)
        self.v, self.out = nn.Linear(WIDTH, kv_heads * self.width, bias=False), nn.Linear(WIDTH, WIDTH)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        B, N, C = x.shape
        q = self.q(x).view(B, N, self.n_head, self.width).transpose(1, 2)
        k = self.k(x).view(B, N, self.n_kv, self.width).transpose(1, 2)
        v = self.v(x).view(B, N, self.n_kv, self.width).transpose(1, 2)
        y = self.attend(q, k, v)
        return self.out(y.transpose(1, 2).contiguous().view(B, N, C))

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


class Grouped(Separate):
    def attend(self, q, k, v):
        k, v = (t.repeat_interleave(self.n_head // self.n_kv, 1) for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v)


class Biased(Separate):
    """A bias per head from a table of relative positions, and a temperature per head."""

    def attend(self, q, k, v):
        bias = self.table[self.places].view(TOKENS, TOKENS, -1).permute(2, 0, 1)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.temperature.clamp(max=4).exp()
        return (scores + bias.unsqueeze(0)).softmax(-1) @ v


class Rotary(Separate):
    """Norms of q and k, and rotary positions."""

    def attend(self, q, k, v):
        q, k = (self.turned(self.norm_qk(t)) for t in (q, k))
        return F.scaled_dot_product_attention(q, k, v)

    def turned(self, t):
        one, other = t.chunk(2, -1)
        return t * self.cos + torch.cat([-other, one], -1) * self.sin


class Linearised(Separate):
    """Attention without softmax: k' v first."""

    def attend(self, q, k, v):
        return F.elu(q).add(1) @ (F.elu(k).add(1).mT @ v)


class AcrossChannels(Separate):
    """Cross-covariance: every head attends over its own channels."""

    def attend(self, q, k, v):
        return ((F.normalize(q, dim=-2).mT @ F.normalize(k, dim=-2)).softmax(-1) @ v.mT).mT


class Torch(nn.Module):
    """torch's own attention."""

    def __init__(self, **options):
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)

    def forward(self, x):
        return self.inner(x, x, x, need_weights=False)[0]


def places():
    return (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS) + TOKENS - 1).flatten()


def biased():
    module = Biased(
        table=nn.Parameter(torch.randn(2 * TOKENS - 1, HEADS)), temperature=nn.Parameter(torch.randn(HEADS, 1, 1))
    )
    module.register_buffer("places", places())
    return module


def rotary():
    module = Rotary(norm_qk=nn.LayerNorm(WIDTH // HEADS))
    angle = torch.arange(TOKENS)[:, None] * torch.tensor([1.0, 0.1]).repeat(2)
    module.register_buffer("cos", angle.cos())
    module.register_buffer("sin", angle.sin())
    return module


ATTENTIONS = {written.__name__: (lambda written=written: Packed(written)) for written in PACKINGS} | {
    "separate": Separate,
    "grouped queries": lambda: Grouped(kv_heads=3),
    "one key for all": lambda: Grouped(kv_heads=1),
    "bias and temperature": biased,
    "rotary and norms": rotary,
    "linearised": Linearised,
    "across channels": AcrossChannels,
    "torch": Torch,
    "torch without biases": lambda: Torch(bias=False),
    "torch with more keys": lambda: Torch(add_bias_kv=True, add_zero_attn=True),
}
attention = pytest.mark.parametrize("name", ATTENTIONS)


def network_of(name):
    torch.manual_seed(0)
    network = Block(ATTENTIONS[name]()).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def inputs(n=9):
    return torch.randn(n, TOKENS, 7, generator=torch.Generator().manual_seed(1))


def half(owner, seed=0):
    generator = torch.Generator().manual_seed(seed)
    kept = torch.zeros(owner.n, dtype=torch.bool)
    for part in owner.split(kept):
        part[torch.randperm(len(part), generator=generator)[: max(1, len(part) // 2)]] = True
    return Mask(owner, kept)


@attention
def test_heads_are_found_and_cut_out_exactly(name, tmp_path):
    network, x = network_of(name), inputs()
    before = copy.deepcopy(network.state_dict())
    owner = units(network, "head", x)
    assert owner.layer_sizes == (3 if name == "grouped queries" else HEADS,)
    everything = units(network, "groups", x)
    mask = half(everything)
    small = compact(network, mask)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    masked = copy.deepcopy(network)
    mask.apply_(masked)
    assert certify(masked.double(), copy.deepcopy(small).double(), x.double()).difference < 1e-12
    assert sum(p.numel() for p in small.attention.parameters()) < 0.6 * sum(
        p.numel() for p in network.attention.parameters()
    )

    bundle.save(tmp_path / "small.safetensors", small, dense=network)
    again = bundle.load(tmp_path / "small.safetensors", network)
    assert torch.equal(again(x), small(x))
    exported = torch.export.export(small, (x[:3],), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.testing.assert_close(exported.module()(x), small(x))
    torch.testing.assert_close(copy.deepcopy(small)(x), small(x))


@pytest.mark.parametrize("name", ["five", "of_the_inputs", "literal", "separate", "bias and temperature", "torch"])
def test_a_compact_network_can_lose_more_heads(name):
    network, x = network_of(name).double(), inputs().double()
    small = compact(network, half(units(network, "head", x)))
    owner = units(small, "head", x)
    assert owner.layer_sizes == (HEADS // 2,)
    mask = half(owner, 1)
    smaller = compact(small, mask)
    masked = copy.deepcopy(small)
    mask.apply_(masked)
    assert certify(masked, smaller, x).difference < 1e-12


@pytest.mark.parametrize("name", ["five", "literal", "torch"])
def test_compact_attention_trains_and_keeps_its_numbers(name):
    network, x = network_of(name), inputs()
    small = compact(network, half(units(network, "head", x))).train()
    small(x).sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    attention = small.attention.inner if name == "torch" else small.attention
    assert attention.num_heads == HEADS // 2 or name == "literal"
    if name == "torch":
        assert isinstance(attention, FewerHeads)
        assert "FewerHeads" not in repr(network)


def test_modules_with_other_sizes_keep_their_class_and_can_be_pickled():
    network, x = network_of("literal"), inputs()
    small = compact(network, half(units(network, "head", x)))
    assert isinstance(small.attention, Packed)
    again = pickle.loads(pickle.dumps(small))
    assert torch.equal(again(x), small(x))
    assert type(again.attention) is type(small.attention)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_torchs_attention_with_masks_agrees_with_torch(need_weights, batch_first):
    """All heads kept, by the class for fewer: the same outputs and weights as torch's own."""
    torch.manual_seed(0)
    inner = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first, kdim=10, vdim=8, add_bias_kv=True).double()
    own = copy.deepcopy(inner)
    own.__class__ = FewerHeads
    shape = (lambda n, w: (4, n, w)) if batch_first else (lambda n, w: (n, 4, w))
    q, k, v = (torch.randn(shape(n, w), dtype=torch.float64) for n, w in ((3, WIDTH), (5, 10), (5, 8)))
    padding = torch.zeros(4, 5, dtype=torch.bool)
    padding[1, 3:] = True
    options = {"key_padding_mask": padding, "need_weights": need_weights}
    for mask in (
        None,
        torch.randn(3, 5, dtype=torch.float64),
        torch.rand(3, 5) > 0.8,
        torch.randn(4 * HEADS, 3, 5).double(),
    ):
        for average in (True, False):
            found = own(q, k, v, attn_mask=mask, average_attn_weights=average, **options)
            expected = inner(q, k, v, attn_mask=mask, average_attn_weights=average, **options)
            torch.testing.assert_close(found[0], expected[0])
            assert (found[1] is None) == (not need_weights)
            if need_weights:
                torch.testing.assert_close(found[1], expected[1])


def test_torchs_encoder_loses_heads_and_hidden_units():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 30, batch_first=True)
    network = nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(TOKENS * WIDTH, 3)).eval()
    x = torch.randn(6, TOKENS, WIDTH)
    owner = units(network, "groups", x)
    assert sorted(owner.layer_sizes) == [HEADS, HEADS, 30, 30]
    mask = half(owner)
    small = compact(network, mask)
    mask.apply_(network)
    with torch.no_grad():
        assert certify(network, small, x).difference < 1e-5


@attention
def test_hidden_units_of_feed_forward_parts_are_known_as_such(name):
    owner = units(network_of(name), "ffn_hidden", inputs())
    assert owner.layer_names == ("hidden neurons",)


def test_heads_that_are_mixed_are_not_offered():
    class Mixed(Separate):
        def attend(self, q, k, v):
            return (q @ k.mT).softmax(1) @ v  # over the heads

    network = Block(Mixed())
    with pytest.raises(UsageError, match="no unit that is known to be of the kind 'head'"):
        units(network, "head", inputs())
    assert [group.name for group in groups_of(network, inputs())] == ["hidden neurons"]


def test_heads_of_half_the_budget_by_the_face():
    network, x = network_of("of_the_inputs"), inputs(40)
    pruned = bp.prune(network, (x, torch.arange(40) % 3), "magnitude", 0.5, structured="head", progress=False)
    assert pruned.certificate.difference < 1e-5
    assert pruned.compact().attention.num_heads == HEADS // 2


# ---------------------------------------------------------------------------------- more ways to write it


class Sized(nn.Module):
    """Shapes put together from sizes and attributes, as in language models."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.head_size, self.all_head_size = HEADS, WIDTH // HEADS, WIDTH
        self.query, self.key, self.value, self.dense = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        q, k, v = (
            layer(x).view((*x.size()[:-1], self.num_heads, self.head_size)).permute(0, 2, 1, 3)
            for layer in (self.query, self.key, self.value)
        )
        y = (
            torch.matmul((q @ k.transpose(-1, -2) / self.head_size**0.5).softmax(-1), v)
            .permute(0, 2, 1, 3)
            .contiguous()
        )
        return self.dense(y.view((*y.size()[:-2], self.all_head_size)))


class Buckets(Separate):
    """A bias per head from an embedding of buckets of distances."""

    def attend(self, q, k, v):
        bias = self.bias(places().view(TOKENS, TOKENS)).permute(2, 0, 1)[None]
        return (q @ k.mT + bias).softmax(-1) @ v


class Slopes(Separate):
    """Linear biases whose slopes are a buffer, one for each head."""

    def attend(self, q, k, v):
        distance = (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)).abs()
        return (q @ k.mT - self.slopes.view(-1, 1, 1) * distance).softmax(-1) @ v


class Talking(Separate):
    """Heads that are mixed by learned layers before and after the softmax."""

    def attend(self, q, k, v):
        return self.after((self.before(q @ k.mT)).softmax(-1)) @ v


class Einsum(nn.Module):
    """Bare parameters with an axis of heads."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(torch.randn(HEADS, WIDTH, 4) / 3) for _ in range(3))
        self.out = nn.Parameter(torch.randn(HEADS, 4, WIDTH) / 3)

    def forward(self, x):
        q, k, v = (torch.einsum("bnc,hcd->bhnd", x, weight) for weight in (self.q, self.k, self.v))
        y = torch.einsum("bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1), v)
        return torch.einsum("bhnd,hdc->bnc", y, self.out)


def slopes():
    module = Slopes()
    module.register_buffer("slopes", 2.0 ** -torch.arange(HEADS))
    return module


MORE = {
    "sized": (Sized, [HEADS]),
    "buckets": (lambda: Buckets(bias=nn.Embedding(9, HEADS)), [HEADS]),
    "slopes": (slopes, [HEADS]),
    "talking": (lambda: Talking(before=nn.Conv2d(HEADS, 5, 1), after=nn.Conv2d(5, HEADS, 1)), [5, HEADS, HEADS]),
    "einsum": (Einsum, [HEADS]),
}


@pytest.mark.parametrize("name", MORE)
def test_heads_written_in_other_ways(name):
    torch.manual_seed(0)
    network, x = Block(MORE[name][0]()).double().eval(), inputs().double()
    owner = units(network, "groups", x)
    of_attention = [group for group in owner.groups if group.name.startswith("attention")]
    assert sorted(group.size for group in of_attention) == MORE[name][1]
    assert sum(group.kind == "head" for group in of_attention) == (2 if name == "talking" else 1)
    mask = half(owner)
    small = compact(network, mask)
    mask.apply_(network)
    assert certify(network, small, x).difference < 1e-12


def test_what_no_forward_pass_can_be_told_is_refused_for_that_group_alone():
    """torch's function computes the width of a head inside, from what it is given."""

    class Function(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = (
                nn.Parameter(torch.randn(3 * WIDTH, WIDTH) / 9),
                nn.Parameter(torch.zeros(3 * WIDTH)),
            )
            self.out = nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            x, more = x.transpose(0, 1), (None, None, False, 0.0, self.out.weight, self.out.bias)
            given = (x, x, x, WIDTH, HEADS, self.weight, self.bias, *more)
            return F.multi_head_attention_forward(*given, training=False, need_weights=False)[0].transpose(0, 1)

    network = Block(Function())
    assert [group.name for group in groups_of(network, inputs())] == ["hidden neurons"]
    assert "computes something else, or nothing" in left_out(network, inputs())["attention heads"]
