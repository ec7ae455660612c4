"""Settings of a decoder, read from its modules."""
from typing import Any

from flax import nnx

from kt_jax.models.decoder import Decoder


def decoder_settings(model: Decoder) -> dict[str, Any]:
  """Keywords with which `models.decoder` builds the same model; JSON types."""
  block = model.blocks[0]
  attention, mlp = block.attention, block.mlp
  windows = [b.attention.window for b in model.blocks]
  base, scaling = attention.rope or (10000.0, ())
  norm = model.norm
  layer = isinstance(norm, nnx.LayerNorm)
  lora = attention.query.lora_a
  default = attention.scale == attention.size ** -0.5
  return dict(
      depth=len(windows), width=model.embed.features, heads=attention.heads,
      kv_heads=attention.groups, head_width=attention.size,
      hidden=mlp.up.out_features,
      positions='rotary' if model.position is None else 'learned',
      rope_base=base, rope_scaling=dict(scaling) or None,
      norm='layer' if layer else 'rms',
      norm_offset=0.0 if isinstance(norm, nnx.LayerNorm) else norm.offset,
      eps=norm.epsilon if isinstance(norm, nnx.LayerNorm) else norm.eps,
      qkv_bias=attention.query.bias is not None,
      out_bias=attention.out.bias is not None,
      mlp_bias=mlp.up.bias is not None,
      query_key_norm=attention.query_norm is not None,
      gated=mlp.gate is not None, activation=mlp.activation,
      post_norms=block.post1 is not None, embed_scale=model.embed_scale,
      tied=model.head is None,
      window=windows[0] if len(set(windows)) == 1 else windows,
      attention_softcap=attention.softcap, logit_softcap=model.logit_softcap,
      query_scale=0.0 if default else attention.scale,
      dropout=model.dropout.rate,
      lora_rank=0 if lora is None else lora.shape[1],
      lora_scale=attention.query.lora_scale)
