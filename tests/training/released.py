"""The released models in plain torch, and small weights in their naming. Nothing here knows this project's models.

Functions take the weights `w`, by their released names, and one study without padding.
"""

import math

import torch
from torch.nn.functional import gelu, layer_norm, linear, softmax

WIDTH, HEAD = 128, 64


def _linear(x, w, name):
    return linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def _norm(x, w, name, eps=1e-5):
    return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def _attend(query, key, value, heads, bias=0.0):
    """Multi-head attention of (Q, D) over (L, D); bias (heads, Q, L) or a number."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in (query, key, value))
    scores = query @ key.mT / math.sqrt(query.shape[-1]) + bias
    return (softmax(scores, dim=-1) @ value).transpose(0, 1).flatten(1)


def bert(w, prefix, ids):
    """Hidden states (L, D) of all layers, the embeddings' first."""
    embeddings = f"{prefix}embeddings"
    x = w[f"{embeddings}.word_embeddings.weight"][ids] + w[f"{embeddings}.position_embeddings.weight"][: len(ids)]
    x = _norm(x + w[f"{embeddings}.token_type_embeddings.weight"][0], w, f"{embeddings}.LayerNorm", 1e-12)
    states, layer = [x], 0
    while f"{prefix}encoder.layer.{layer}.output.dense.weight" in w:
        name = f"{prefix}encoder.layer.{layer}"
        parts = [_linear(x, w, f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
        attended = _attend(*parts, heads=x.shape[-1] // HEAD)
        x = _norm(
            x + _linear(attended, w, f"{name}.attention.output.dense"), w, f"{name}.attention.output.LayerNorm", 1e-12
        )
        inner = gelu(_linear(x, w, f"{name}.intermediate.dense"))
        x = _norm(x + _linear(inner, w, f"{name}.output.dense"), w, f"{name}.output.LayerNorm", 1e-12)
        states.append(x)
        layer += 1
    return states


def perceiver(w, data, x):
    """Latents x (Q, D) after reading data (L, D)."""

    def attention(x, context, name):
        keys, values = linear(context, w[f"{name}.fn.to_kv.weight"]).chunk(2, dim=-1)
        queries = linear(x, w[f"{name}.fn.to_q.weight"])
        return _linear(_attend(queries, keys, values, heads=queries.shape[-1] // HEAD), w, f"{name}.fn.to_out")

    def feed_forward(x, name):
        value, gate = _linear(_norm(x, w, f"{name}.norm"), w, f"{name}.fn.net.0").chunk(2, dim=-1)
        return _linear(value * gelu(gate), w, f"{name}.fn.net.2")

    layer = 0
    while f"perceiver.layers.{layer}.0.norm.weight" in w:
        name = f"perceiver.layers.{layer}"
        x = x + attention(_norm(x, w, f"{name}.0.norm"), _norm(data, w, f"{name}.0.norm_context"), f"{name}.0")
        x = x + feed_forward(x, f"{name}.1")
        own = _norm(x, w, f"{name}.2.0.0.norm")
        x = x + attention(own, own, f"{name}.2.0.0")
        x = x + feed_forward(x, f"{name}.2.0.1")
        layer += 1
    return x


def text_features(w, ids):
    """Projected tokens (L, D)."""
    hidden = bert(w, "text_encoder.bert.", ids)[-1]
    return _linear(gelu(_linear(hidden, w, "text_projector.layers.0")), w, "text_projector.layers.2")


def vision_features(w, tokens, view_row):
    """Projected vision tokens (L, D)."""
    x = tokens + w["image_projector.add_pos_embed.pos_embed"][view_row]
    rms = x.norm(2, dim=-1, keepdim=True) / x.shape[-1] ** 0.5
    x = x / (rms + 1e-8) * w["image_projector.add_pos_embed.pos_norm.weight"]
    return _linear(gelu(_linear(x, w, "image_projector.projector.0")), w, "image_projector.projector.2")


def cogaze(w, tokens, view_row, context_ids=None):
    """Vision latents and context latents (Q, D) from the frozen encoder's tokens (L, W)."""
    vision = vision_features(w, tokens, view_row)
    if context_ids is None:
        start = w["shared_latent"] + w["latent_type_embed.image"]
    else:
        start = perceiver(w, text_features(w, context_ids), w["shared_latent"] + w["latent_type_embed.context"])
    return perceiver(w, vision, start), start


def gpt2(w, prefix, ids, memory):
    """Next-token logits (L, V) of a GPT-2 that reads memory (M, D) by cross-attention."""

    def conv(x, name):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    count = len(ids)
    x = w[f"{prefix}transformer.wte.weight"][ids] + w[f"{prefix}transformer.wpe.weight"][:count]
    causal = torch.full((count, count), -torch.inf).triu(1)
    layer = 0
    while f"{prefix}transformer.h.{layer}.ln_1.weight" in w:
        name = f"{prefix}transformer.h.{layer}"
        heads = x.shape[-1] // HEAD
        query, key, value = conv(_norm(x, w, f"{name}.ln_1"), f"{name}.attn.c_attn").chunk(3, dim=-1)
        x = x + conv(_attend(query, key, value, heads, causal), f"{name}.attn.c_proj")
        query = conv(_norm(x, w, f"{name}.ln_cross_attn"), f"{name}.crossattention.q_attn")
        key, value = conv(memory, f"{name}.crossattention.c_attn").chunk(2, dim=-1)
        x = x + conv(_attend(query, key, value, heads), f"{name}.crossattention.c_proj")
        inner = gelu(conv(_norm(x, w, f"{name}.ln_2"), f"{name}.mlp.c_fc"), approximate="tanh")
        x = x + conv(inner, f"{name}.mlp.c_proj")
        layer += 1
    return _norm(x, w, f"{prefix}transformer.ln_f") @ w[f"{prefix}transformer.wte.weight"].T


def swin(w, prefix, pixels, window):
    """The last stage's patches (P, D) before the final LayerNorm, and the pooled output (D) after it."""
    stem = f"{prefix}embeddings.patch_embeddings.projection"
    patch = w[f"{stem}.weight"].shape[-1]
    x = torch.nn.functional.conv2d(pixels[None], w[f"{stem}.weight"], w[f"{stem}.bias"], stride=patch)[0]
    x = _norm(x.permute(1, 2, 0), w, f"{prefix}embeddings.norm")  # (side, side, D)
    stage = 0
    while f"{prefix}encoder.layers.{stage}.blocks.0.layernorm_before.weight" in w:
        block = 0
        while f"{prefix}encoder.layers.{stage}.blocks.{block}.layernorm_before.weight" in w:
            name = f"{prefix}encoder.layers.{stage}.blocks.{block}"
            shift = window // 2 if block % 2 and x.shape[0] > window else 0
            x = x + _window_attention(_norm(x, w, f"{name}.layernorm_before"), w, f"{name}.attention", window, shift)
            inner = gelu(_linear(_norm(x, w, f"{name}.layernorm_after"), w, f"{name}.intermediate.dense"))
            x = x + _linear(inner, w, f"{name}.output.dense")
            block += 1
        down = f"{prefix}encoder.layers.{stage}.downsample"
        if f"{down}.reduction.weight" in w:
            x = torch.cat([x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]], dim=-1)
            x = _linear(_norm(x, w, f"{down}.norm"), w, f"{down}.reduction")
        stage += 1
    patches = x.flatten(0, 1)
    return patches, _norm(patches, w, f"{prefix}layernorm").mean(dim=0)


def _window_attention(x, w, name, window, shift):
    side = x.shape[0]
    x = torch.roll(x, (-shift, -shift), (0, 1))
    # Which parts of the picture are neighbours only because it was rolled.
    part = torch.zeros(side, side)
    if shift:
        edges = torch.tensor([0] * (side - window) + [1] * (window - shift) + [2] * shift)
        part = 3 * edges[:, None] + edges
    out = torch.empty_like(x)
    table = w[f"{name}.self.relative_position_bias_table"]
    place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    offset = place[:, None] - place + window - 1
    position = table[offset[..., 0] * (2 * window - 1) + offset[..., 1]].permute(2, 0, 1)
    for top in range(0, side, window):
        for left in range(0, side, window):
            tile = (slice(top, top + window), slice(left, left + window))
            own, parts = x[tile].flatten(0, 1), part[tile].flatten()
            apart = torch.where(parts[:, None] == parts, 0.0, -100.0)
            query, key, value = (_linear(own, w, f"{name}.self.{each}") for each in ("query", "key", "value"))
            attended = _attend(query, key, value, table.shape[1], position + apart)
            out[tile] = _linear(attended, w, f"{name}.output.dense").unflatten(0, (window, window))
    return torch.roll(out, (shift, shift), (0, 1))


class Weights(dict):
    """Random tensors by name."""

    def __init__(self, seed):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def add(self, name, *shape, scale=0.1):
        self[name] = torch.randn(*shape, generator=self.generator) * scale

    def linear(self, name, inputs, outputs, bias=True):
        self.add(f"{name}.weight", outputs, inputs)
        if bias:
            self.add(f"{name}.bias", outputs)

    def conv(self, name, inputs, outputs):
        self.add(f"{name}.weight", inputs, outputs)
        self.add(f"{name}.bias", outputs)

    def norm(self, name, width):
        self.add(f"{name}.weight", width, scale=1.0)
        self.add(f"{name}.bias", width)

    def bert(self, prefix, vocab, layers, inner=96, width=WIDTH):
        self.add(f"{prefix}embeddings.word_embeddings.weight", vocab, width)
        self.add(f"{prefix}embeddings.position_embeddings.weight", 40, width)
        self.add(f"{prefix}embeddings.token_type_embeddings.weight", 2, width)
        self[f"{prefix}embeddings.position_ids"] = torch.arange(40)[None]
        self.norm(f"{prefix}embeddings.LayerNorm", width)
        for layer in range(layers):
            name = f"{prefix}encoder.layer.{layer}"
            for part in ("query", "key", "value"):
                self.linear(f"{name}.attention.self.{part}", width, width)
            self.linear(f"{name}.attention.output.dense", width, width)
            self.norm(f"{name}.attention.output.LayerNorm", width)
            self.linear(f"{name}.intermediate.dense", width, inner)
            self.linear(f"{name}.output.dense", inner, width)
            self.norm(f"{name}.output.LayerNorm", width)

    def perceiver(self, layers, latents, inner=2 * HEAD, mult=2):
        self.add("perceiver.latents", latents, WIDTH)
        self.add("shared_latent", latents, WIDTH, scale=1.0)
        for kind in ("context", "image"):
            self.add(f"latent_type_embed.{kind}", 1, WIDTH, scale=1.0)
        for layer in range(layers):
            for place in ("0", "2.0.0"):
                name = f"perceiver.layers.{layer}.{place}"
                self.norm(f"{name}.norm", WIDTH)
                self.linear(f"{name}.fn.to_q", WIDTH, inner, bias=False)
                self.linear(f"{name}.fn.to_kv", WIDTH, 2 * inner, bias=False)
                self.linear(f"{name}.fn.to_out", inner, WIDTH)
            self.norm(f"perceiver.layers.{layer}.0.norm_context", WIDTH)
            for place in ("1", "2.0.1"):
                name = f"perceiver.layers.{layer}.{place}"
                self.norm(f"{name}.norm", WIDTH)
                self.linear(f"{name}.fn.net.0", WIDTH, 2 * mult * WIDTH)
                self.linear(f"{name}.fn.net.2", mult * WIDTH, WIDTH)

    def gpt2(self, prefix, vocab, layers, width=WIDTH):
        self.add(f"{prefix}transformer.wte.weight", vocab, width)
        self.add(f"{prefix}transformer.wpe.weight", 50, width)
        for layer in range(layers):
            name = f"{prefix}transformer.h.{layer}"
            for norm in ("ln_1", "ln_2", "ln_cross_attn"):
                self.norm(f"{name}.{norm}", width)
            self.conv(f"{name}.attn.c_attn", width, 3 * width)
            self.conv(f"{name}.attn.c_proj", width, width)
            self.conv(f"{name}.crossattention.q_attn", width, width)
            self.conv(f"{name}.crossattention.c_attn", width, 2 * width)
            self.conv(f"{name}.crossattention.c_proj", width, width)
            self.conv(f"{name}.mlp.c_fc", width, 160)
            self.conv(f"{name}.mlp.c_proj", 160, width)
            self[f"{name}.attn.bias"] = torch.ones(1, 1, 50, 50).tril()
            self[f"{name}.attn.masked_bias"] = torch.tensor(-1e4)
        self.norm(f"{prefix}transformer.ln_f", width)

    def swin(self, prefix, depths, heads, window, width=12, patch=2):
        self.add(f"{prefix}embeddings.patch_embeddings.projection.weight", width, 3, patch, patch)
        self.add(f"{prefix}embeddings.patch_embeddings.projection.bias", width)
        self.norm(f"{prefix}embeddings.norm", width)
        for stage, (depth, head) in enumerate(zip(depths, heads, strict=True)):
            for block in range(depth):
                name = f"{prefix}encoder.layers.{stage}.blocks.{block}"
                for norm in ("layernorm_before", "layernorm_after"):
                    self.norm(f"{name}.{norm}", width)
                for part in ("query", "key", "value"):
                    self.linear(f"{name}.attention.self.{part}", width, width)
                self.linear(f"{name}.attention.output.dense", width, width)
                self.add(f"{name}.attention.self.relative_position_bias_table", (2 * window - 1) ** 2, head, scale=1.0)
                self[f"{name}.attention.self.relative_position_index"] = torch.zeros(window**2, window**2).long()
                self.linear(f"{name}.intermediate.dense", width, 3 * width)
                self.linear(f"{name}.output.dense", 3 * width, width)
            if stage + 1 < len(depths):
                self.norm(f"{prefix}encoder.layers.{stage}.downsample.norm", 4 * width)
                self.linear(f"{prefix}encoder.layers.{stage}.downsample.reduction", 4 * width, 2 * width, bias=False)
                width *= 2
        self.norm(f"{prefix}layernorm", width)


def cogaze_weights(vocab, views, vision_width, seed=0):
    """What all of CoGaze's files hold."""
    w = Weights(seed)
    w.bert("text_encoder.bert.", vocab, layers=2)
    w.add("text_encoder.cls.predictions.bias", vocab)
    w.add("text_encoder.cls_projection_head.dense_to_hidden.weight", 16, WIDTH)
    w.add("image_projector.add_pos_embed.pos_embed", views, 1, vision_width, scale=1.0)
    w.add("image_projector.add_pos_embed.pos_norm.weight", vision_width, scale=1.0)
    for name, inputs in (("image_projector.projector", vision_width), ("text_projector.layers", WIDTH)):
        w.linear(f"{name}.0", inputs, 192)
        w.linear(f"{name}.2", 192, WIDTH)
    w.perceiver(layers=2, latents=5)
    return w


def pretraining_weights(*sizes):
    w = cogaze_weights(*sizes)
    for kind in ("vision", "report"):
        w.linear(f"{kind}_classifier.classifier", WIDTH, 14)
    w["logit_scale"], w["logit_scale_gaze"] = torch.tensor(2.5), torch.tensor(3.5)
    return w


def report_weights(vocab, *sizes):
    w = cogaze_weights(vocab, *sizes, seed=1)
    w.gpt2("language_model.encoder_decoder.decoder.", vocab, layers=2)
    return w


def egma_weights(vocab):
    w = Weights(2)
    w.swin("vision_model.model.", depths=[1, 2], heads=[2, 4], window=2)
    w.bert("text_model.model.", vocab, layers=5)
    w.linear("text_model.model.pooler.dense", WIDTH, WIDTH)
    w.linear("vision_model.projection_head", 24, 16, bias=False)
    w.linear("text_model.projection_head", WIDTH, 16, bias=False)
    w["logit_scale"] = torch.tensor(2.7)
    return w
