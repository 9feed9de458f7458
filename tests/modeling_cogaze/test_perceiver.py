"""The Perceiver against plain numpy, head by head."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from modeling_cogaze.perceiver import Perceiver, PerceiverAttention, PerceiverFeedForward, eager_attention_forward


def config(**changes):
    fields = {"hidden_size": 12, "perceiver_heads": 3, "perceiver_head_dim": 5, "perceiver_ff_mult": 2}
    fields |= {"perceiver_depth": 2, "dropout": 0.0, "_attn_implementation": "eager"}
    return SimpleNamespace(**fields | changes)


@pytest.fixture
def perceiver():
    torch.manual_seed(0)
    perceiver = Perceiver(config()).double().eval()
    with torch.no_grad():
        for parameter in perceiver.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    return perceiver


def normed(norm, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def linear(layer, x):
    y = x @ layer.weight.detach().numpy().T
    return y if layer.bias is None else y + layer.bias.detach().numpy()


def attended(layer, latents, context=None, keep=None):
    """One sample: latents (Q, D) over context (L, D), of which `keep` (L,) is read."""
    latents = normed(layer.norm, latents)
    context = latents if context is None else normed(layer.norm_context, context)
    keep = np.ones(len(context), bool) if keep is None else keep
    query, key, value = linear(layer.q_proj, latents), linear(layer.k_proj, context), linear(layer.v_proj, context)
    heads = []
    for head in range(3):
        part = slice(5 * head, 5 * head + 5)
        weights = np.exp(query[:, part] @ key[:, part].T / math.sqrt(5)) * keep
        heads.append(weights / weights.sum(1, keepdims=True) @ value[:, part])
    return linear(layer.out_proj, np.concatenate(heads, axis=1))


def fed_forward(layer, x):
    value, gate = np.split(linear(layer.in_proj, normed(layer.norm, x)), 2, axis=-1)
    gelu = gate * (1 + np.vectorize(math.erf)(gate / math.sqrt(2))) / 2
    return linear(layer.out_proj, value * gelu)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("masked", [False, True])
def test_latents_read_the_context_by_the_equations(perceiver, implementation, masked):
    for layer in perceiver.layers:
        layer.cross_attention.config._attn_implementation = implementation
    random = torch.Generator().manual_seed(1)
    latents, context = (torch.randn(2, n, 12, generator=random, dtype=torch.float64) for n in (4, 6))
    mask = torch.tensor([[1, 1, 0, 1, 0, 1], [0, 1, 1, 1, 1, 1]]) if masked else None
    found = perceiver(latents, context, mask).detach().numpy()
    for sample in range(2):
        x, keep = latents[sample].numpy(), mask[sample].numpy() if masked else None
        for layer in perceiver.layers:
            x = x + attended(layer.cross_attention, x, context[sample].numpy(), keep)
            x = x + fed_forward(layer.cross_feed_forward, x)
            x = x + attended(layer.self_attention, x)
            x = x + fed_forward(layer.self_feed_forward, x)
        # The eager softmax is taken in float32.
        np.testing.assert_allclose(found[sample], x, rtol=1e-4, atol=1e-4)


def test_names_of_weights_are_those_of_checkpoints(perceiver):
    attention = {"norm.weight", "norm.bias", "q_proj.weight", "k_proj.weight", "v_proj.weight"}
    attention |= {"out_proj.weight", "out_proj.bias"}
    layer = perceiver.layers[0]
    assert layer.self_attention.state_dict().keys() == attention
    assert layer.cross_attention.state_dict().keys() == attention | {"norm_context.weight", "norm_context.bias"}
    assert layer.self_attention.out_proj.weight.shape == (12, 15)
    assert [
        tuple(x.shape) for x in (layer.self_feed_forward.in_proj.weight, layer.self_feed_forward.out_proj.weight)
    ] == [
        (48, 12),
        (12, 24),
    ]
    assert len(perceiver.layers) == 2 and perceiver.gradient_checkpointing is False


def test_a_token_that_is_left_out_gets_no_gradient_and_changes_nothing(perceiver):
    latents, context = torch.randn(1, 3, 12, dtype=torch.float64), torch.randn(1, 5, 12, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    context.requires_grad_()
    out = perceiver(latents, context, mask)
    out.sum().backward()
    assert (context.grad[0, 3:] == 0).all() and (context.grad[0, :3] != 0).any(1).all()
    torch.testing.assert_close(out, perceiver(latents, context[:, :3]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_dropout_is_of_attention_and_of_feed_forward_in_training_alone(implementation):
    torch.manual_seed(0)
    latents, context = torch.randn(1, 8, 12), torch.randn(1, 50, 12)
    for layer, inputs in (
        (PerceiverAttention(config(dropout=0.5, _attn_implementation=implementation), True), (latents, context)),
        (PerceiverFeedForward(config(dropout=0.5)), (latents,)),
    ):
        assert not torch.equal(layer(*inputs), layer(*inputs))
        layer.eval()
        assert torch.equal(layer(*inputs), layer(*inputs))


def test_eager_attention_gives_its_weights_and_drops_nothing_unless_asked():
    module = torch.nn.Module()
    query, key, value = (torch.randn(2, 3, n, 4).half() for n in (5, 6, 6))
    out, weights = eager_attention_forward(module, query, key, value, None, scaling=0.5)
    assert weights.shape == (2, 3, 5, 6) and weights.dtype == out.dtype == torch.half
    torch.testing.assert_close(weights.float().sum(-1), torch.ones(2, 3, 5), atol=2e-3, rtol=0)
    assert out.shape == (2, 5, 3, 4) and out.is_contiguous()


def test_a_mask_never_meets_a_flash_kernel(monkeypatch):
    asked = []
    interface = type("Interface", (), {"get_interface": lambda self, name, default: asked.append(name) or default})()
    monkeypatch.setattr("modeling_cogaze.perceiver.ALL_ATTENTION_FUNCTIONS", interface)
    perceiver = Perceiver(config(perceiver_depth=1, _attn_implementation="flash_attention_2"))
    perceiver(torch.randn(1, 2, 12), torch.randn(1, 3, 12), torch.tensor([[1, 1, 0]]))
    assert asked == ["sdpa", "flash_attention_2"]
    perceiver(torch.randn(1, 2, 12), torch.randn(1, 3, 12))
    assert asked[2:] == ["flash_attention_2"] * 2
