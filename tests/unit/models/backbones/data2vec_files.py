"""Parts of published files of data2vec 2.0 encoders, and torch's own layers with their weights."""

import torch


def block_shapes(name, width):
    """{published key: shape} of a block."""
    return {
        f"{name}.attn.qkv.weight": [3 * width, width],
        f"{name}.attn.qkv.bias": [3 * width],
        f"{name}.attn.proj.weight": [width, width],
        f"{name}.attn.proj.bias": [width],
        f"{name}.mlp.fc1.weight": [4 * width, width],
        f"{name}.mlp.fc1.bias": [4 * width],
        f"{name}.mlp.fc2.weight": [width, 4 * width],
        f"{name}.mlp.fc2.bias": [width],
        **{f"{name}.norm{n}.{part}": [width] for n in (1, 2) for part in ("weight", "bias")},
    }


def torchs_block(weights, name, heads, norm_eps):
    """torch's own layer with the weights of a published block, without its shortcuts for evaluation."""
    width = len(weights[f"{name}.norm1.weight"])
    layer = torch.nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", layer_norm_eps=norm_eps, batch_first=True
    )
    names = {"self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj.", "linear1.": "mlp.fc1.",
             "linear2.": "mlp.fc2.", "norm1.": "norm1.", "norm2.": "norm2."}  # fmt: skip
    pairs = [
        (ours + part, f"{name}.{key}{part}") for ours, key in names.items() for part in ("weight", "bias")
    ]
    layer.load_state_dict({ours: weights[theirs] for ours, theirs in pairs})
    return layer.train()


def fairseq_file(path, weights):
    """A file as fairseq saves it: the moving average lies among the weights, a dict of its own."""
    average = {key: torch.zeros_like(value) for key, value in weights.items() if "decoder" not in key}
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    content = {"args": None, "cfg": {"model": {"depth": 2}}, "model": weights | {"_ema": average}}
    torch.save(content | {"optimizer_history": [{}], "last_optimizer_state": optimizer}, path)
