"""Names and shapes of the published checkpoints, from the authors' own classes at full size.

Each table is the `state_dict` of that class on the `meta` device, as made once from the packages
that are named. `blocks.{32}.` stands for blocks 0 to 31; the shape of a number is 1.
"""

import re
from collections.abc import Mapping

# HPS v2 and v2.1: open_clip 3.3.0 (and the copy in hpsv2 1.2.0), CLIP of ViT-H-14.json.
HPS = """
positional_embedding 77x1024
text_projection 1024x1024
logit_scale 1
visual.class_embedding 1280
visual.positional_embedding 257x1280
visual.proj 1280x1024
visual.conv1.weight 1280x3x14x14
visual.ln_pre.weight 1280
visual.ln_pre.bias 1280
visual.transformer.resblocks.{32}.ln_1.weight 1280
visual.transformer.resblocks.{32}.ln_1.bias 1280
visual.transformer.resblocks.{32}.attn.in_proj_weight 3840x1280
visual.transformer.resblocks.{32}.attn.in_proj_bias 3840
visual.transformer.resblocks.{32}.attn.out_proj.weight 1280x1280
visual.transformer.resblocks.{32}.attn.out_proj.bias 1280
visual.transformer.resblocks.{32}.ln_2.weight 1280
visual.transformer.resblocks.{32}.ln_2.bias 1280
visual.transformer.resblocks.{32}.mlp.c_fc.weight 5120x1280
visual.transformer.resblocks.{32}.mlp.c_fc.bias 5120
visual.transformer.resblocks.{32}.mlp.c_proj.weight 1280x5120
visual.transformer.resblocks.{32}.mlp.c_proj.bias 1280
visual.ln_post.weight 1280
visual.ln_post.bias 1280
transformer.resblocks.{24}.ln_1.weight 1024
transformer.resblocks.{24}.ln_1.bias 1024
transformer.resblocks.{24}.attn.in_proj_weight 3072x1024
transformer.resblocks.{24}.attn.in_proj_bias 3072
transformer.resblocks.{24}.attn.out_proj.weight 1024x1024
transformer.resblocks.{24}.attn.out_proj.bias 1024
transformer.resblocks.{24}.ln_2.weight 1024
transformer.resblocks.{24}.ln_2.bias 1024
transformer.resblocks.{24}.mlp.c_fc.weight 4096x1024
transformer.resblocks.{24}.mlp.c_fc.bias 4096
transformer.resblocks.{24}.mlp.c_proj.weight 1024x4096
transformer.resblocks.{24}.mlp.c_proj.bias 1024
token_embedding.weight 49408x1024
ln_final.weight 1024
ln_final.bias 1024
"""

# ImageReward 1.0: image-reward 1.5, ImageReward(med_config of salesforce/BLIP), its MLP of 768.
IMAGEREWARD = """
blip.visual_encoder.cls_token 1x1x1024
blip.visual_encoder.pos_embed 1x197x1024
blip.visual_encoder.patch_embed.proj.weight 1024x3x16x16
blip.visual_encoder.patch_embed.proj.bias 1024
blip.visual_encoder.blocks.{24}.norm1.weight 1024
blip.visual_encoder.blocks.{24}.norm1.bias 1024
blip.visual_encoder.blocks.{24}.attn.qkv.weight 3072x1024
blip.visual_encoder.blocks.{24}.attn.qkv.bias 3072
blip.visual_encoder.blocks.{24}.attn.proj.weight 1024x1024
blip.visual_encoder.blocks.{24}.attn.proj.bias 1024
blip.visual_encoder.blocks.{24}.norm2.weight 1024
blip.visual_encoder.blocks.{24}.norm2.bias 1024
blip.visual_encoder.blocks.{24}.mlp.fc1.weight 4096x1024
blip.visual_encoder.blocks.{24}.mlp.fc1.bias 4096
blip.visual_encoder.blocks.{24}.mlp.fc2.weight 1024x4096
blip.visual_encoder.blocks.{24}.mlp.fc2.bias 1024
blip.visual_encoder.norm.weight 1024
blip.visual_encoder.norm.bias 1024
blip.text_encoder.embeddings.position_ids 1x512
blip.text_encoder.embeddings.word_embeddings.weight 30524x768
blip.text_encoder.embeddings.position_embeddings.weight 512x768
blip.text_encoder.embeddings.LayerNorm.weight 768
blip.text_encoder.embeddings.LayerNorm.bias 768
blip.text_encoder.encoder.layer.{12}.attention.self.query.weight 768x768
blip.text_encoder.encoder.layer.{12}.attention.self.query.bias 768
blip.text_encoder.encoder.layer.{12}.attention.self.key.weight 768x768
blip.text_encoder.encoder.layer.{12}.attention.self.key.bias 768
blip.text_encoder.encoder.layer.{12}.attention.self.value.weight 768x768
blip.text_encoder.encoder.layer.{12}.attention.self.value.bias 768
blip.text_encoder.encoder.layer.{12}.attention.output.dense.weight 768x768
blip.text_encoder.encoder.layer.{12}.attention.output.dense.bias 768
blip.text_encoder.encoder.layer.{12}.attention.output.LayerNorm.weight 768
blip.text_encoder.encoder.layer.{12}.attention.output.LayerNorm.bias 768
blip.text_encoder.encoder.layer.{12}.crossattention.self.query.weight 768x768
blip.text_encoder.encoder.layer.{12}.crossattention.self.query.bias 768
blip.text_encoder.encoder.layer.{12}.crossattention.self.key.weight 768x1024
blip.text_encoder.encoder.layer.{12}.crossattention.self.key.bias 768
blip.text_encoder.encoder.layer.{12}.crossattention.self.value.weight 768x1024
blip.text_encoder.encoder.layer.{12}.crossattention.self.value.bias 768
blip.text_encoder.encoder.layer.{12}.crossattention.output.dense.weight 768x768
blip.text_encoder.encoder.layer.{12}.crossattention.output.dense.bias 768
blip.text_encoder.encoder.layer.{12}.crossattention.output.LayerNorm.weight 768
blip.text_encoder.encoder.layer.{12}.crossattention.output.LayerNorm.bias 768
blip.text_encoder.encoder.layer.{12}.intermediate.dense.weight 3072x768
blip.text_encoder.encoder.layer.{12}.intermediate.dense.bias 3072
blip.text_encoder.encoder.layer.{12}.output.dense.weight 768x3072
blip.text_encoder.encoder.layer.{12}.output.dense.bias 768
blip.text_encoder.encoder.layer.{12}.output.LayerNorm.weight 768
blip.text_encoder.encoder.layer.{12}.output.LayerNorm.bias 768
blip.vision_proj.weight 256x1024
blip.vision_proj.bias 256
blip.text_proj.weight 256x768
blip.text_proj.bias 256
mlp.layers.0.weight 1024x768
mlp.layers.0.bias 1024
mlp.layers.2.weight 128x1024
mlp.layers.2.bias 128
mlp.layers.4.weight 64x128
mlp.layers.4.bias 64
mlp.layers.6.weight 16x64
mlp.layers.6.bias 16
mlp.layers.7.weight 1x16
mlp.layers.7.bias 1
"""

# HPS v3: hpsv3 1.0.0's Qwen2VLRewardModelBT by its HPSv3_7B.yaml over transformers 4.45.2, of
# Qwen2-VL-7B's size; <|Reward|> is the 151,658th token, to which the table of words is cut.
HPS_V3 = """
visual.patch_embed.proj.weight 1280x3x2x14x14
visual.blocks.{32}.norm1.weight 1280
visual.blocks.{32}.norm1.bias 1280
visual.blocks.{32}.norm2.weight 1280
visual.blocks.{32}.norm2.bias 1280
visual.blocks.{32}.attn.qkv.weight 3840x1280
visual.blocks.{32}.attn.qkv.bias 3840
visual.blocks.{32}.attn.proj.weight 1280x1280
visual.blocks.{32}.attn.proj.bias 1280
visual.blocks.{32}.mlp.fc1.weight 5120x1280
visual.blocks.{32}.mlp.fc1.bias 5120
visual.blocks.{32}.mlp.fc2.weight 1280x5120
visual.blocks.{32}.mlp.fc2.bias 1280
visual.merger.ln_q.weight 1280
visual.merger.ln_q.bias 1280
visual.merger.mlp.0.weight 5120x5120
visual.merger.mlp.0.bias 5120
visual.merger.mlp.2.weight 3584x5120
visual.merger.mlp.2.bias 3584
model.embed_tokens.weight 151658x3584
model.layers.{28}.self_attn.q_proj.weight 3584x3584
model.layers.{28}.self_attn.q_proj.bias 3584
model.layers.{28}.self_attn.k_proj.weight 512x3584
model.layers.{28}.self_attn.k_proj.bias 512
model.layers.{28}.self_attn.v_proj.weight 512x3584
model.layers.{28}.self_attn.v_proj.bias 512
model.layers.{28}.self_attn.o_proj.weight 3584x3584
model.layers.{28}.mlp.gate_proj.weight 18944x3584
model.layers.{28}.mlp.up_proj.weight 18944x3584
model.layers.{28}.mlp.down_proj.weight 3584x18944
model.layers.{28}.input_layernorm.weight 3584
model.layers.{28}.post_attention_layernorm.weight 3584
model.norm.weight 3584
lm_head.weight 151658x3584
rm_head.0.weight 1024x3584
rm_head.0.bias 1024
rm_head.3.weight 16x1024
rm_head.3.bias 16
rm_head.5.weight 2x16
rm_head.5.bias 2
"""


def tensors(table: str) -> dict[str, tuple[int, ...]]:
    """Return name -> shape, with every layer by itself."""
    found: dict[str, tuple[int, ...]] = {}
    for line in table.split("\n")[1:-1]:
        name, sizes = line.split()
        shape = () if name == "logit_scale" else tuple(map(int, sizes.split("x")))
        before, _, rest = name.partition(".{")
        count, _, after = rest.partition("}")
        names = [f"{before}.{i}{after}" for i in range(int(count))] if count else [name]
        found |= dict.fromkeys(names, shape)
    return found


def shrunk(table: str, sizes: Mapping[int, int], layers: int = 2) -> dict[str, tuple[int, ...]]:
    """Return the table with other sizes, and only the first layers of each tower.

    sizes: a number of the table -> the small one; one that is not named stays.
    """
    fewer = re.sub(r"\{\d+\}", f"{{{layers}}}", table)
    return {
        name: tuple(sizes.get(size, size) for size in shape)
        for name, shape in tensors(fewer).items()
    }
