"""Names and shapes of every tensor in `model.safetensors` of a speech checkpoint."""

from torch import Generator, Tensor

from qwen3_audio.random_weights.tensors import TensorPlan
from qwen3_audio.random_weights.tts_configs import SPEAKER_ENCODER_DEFAULTS, Json


def plan_talker(plan: TensorPlan, talker: Json, *, eos_scale: float) -> None:
    hidden, text_hidden = talker["hidden_size"], talker["text_hidden_size"]
    plan.embedding("talker.model.text_embedding", talker["text_vocab_size"], text_hidden)
    plan.embedding("talker.model.codec_embedding", talker["vocab_size"], hidden)
    for i in range(talker["num_hidden_layers"]):
        _plan_qwen3_layer(plan, f"talker.model.layers.{i}", talker)
    plan.norm("talker.model.norm", hidden)
    plan.linear("talker.text_projection.linear_fc1", text_hidden, text_hidden, bias=True)
    plan.linear("talker.text_projection.linear_fc2", hidden, text_hidden, bias=True, scale=2.0)
    _plan_codec_head(plan, talker, eos_scale)
    _plan_code_predictor(plan, talker)


def plan_speaker_encoder(plan: TensorPlan, config: Json) -> None:
    config = SPEAKER_ENCODER_DEFAULTS | config
    channels, kernels = config["enc_channels"], config["enc_kernel_sizes"]
    widest, num_blocks = channels[-1], len(channels) - 2
    plan.conv("speaker_encoder.blocks.0.conv", channels[0], config["mel_dim"], kernels[0])
    for i in range(1, num_blocks + 1):
        _plan_res2net_block(plan, i, config)
    plan.conv("speaker_encoder.mfa.conv", widest, sum(channels[1:-1]), kernels[-1])
    attention = config["enc_attention_channels"]
    plan.conv("speaker_encoder.asp.tdnn.conv", attention, widest * 3, 1)
    plan.conv("speaker_encoder.asp.conv", widest, attention, 1)
    plan.conv("speaker_encoder.fc", config["enc_dim"], widest * 2, 1)


def _plan_qwen3_layer(plan: TensorPlan, prefix: str, config: Json) -> None:
    hidden, head_dim = config["hidden_size"], config["head_dim"]
    query = config["num_attention_heads"] * head_dim
    key = config["num_key_value_heads"] * head_dim
    inner = config["intermediate_size"]
    plan.linear(f"{prefix}.self_attn.q_proj", query, hidden)
    plan.linear(f"{prefix}.self_attn.k_proj", key, hidden)
    plan.linear(f"{prefix}.self_attn.v_proj", key, hidden)
    plan.linear(f"{prefix}.self_attn.o_proj", hidden, query)
    plan.norm(f"{prefix}.self_attn.q_norm", head_dim)
    plan.norm(f"{prefix}.self_attn.k_norm", head_dim)
    plan.linear(f"{prefix}.mlp.gate_proj", inner, hidden)
    plan.linear(f"{prefix}.mlp.up_proj", inner, hidden)
    plan.linear(f"{prefix}.mlp.down_proj", hidden, inner)
    plan.norm(f"{prefix}.input_layernorm", hidden)
    plan.norm(f"{prefix}.post_attention_layernorm", hidden)


def _plan_codec_head(plan: TensorPlan, talker: Json, eos_scale: float) -> None:
    """The row of the end token is scaled up, so that speech does end by itself."""
    shape = (talker["vocab_size"], talker["hidden_size"])
    scratch = TensorPlan()
    scratch.linear("head", *shape)
    draw_head = scratch.tensors[0].draw

    def draw(generator: Generator) -> Tensor:
        head = draw_head(generator)
        head[talker["codec_eos_token_id"]] *= eos_scale
        return head

    plan.add("talker.codec_head.weight", shape, draw)


def _plan_code_predictor(plan: TensorPlan, talker: Json) -> None:
    config, prefix = talker["code_predictor_config"], "talker.code_predictor"
    hidden, num_codes = config["hidden_size"], config["vocab_size"]
    for i in range(talker["num_code_groups"] - 1):
        name = f"{prefix}.model.codec_embedding.{i}"
        plan.embedding(name, num_codes, talker["hidden_size"])  # the talker's width, not its own
        plan.linear(f"{prefix}.lm_head.{i}", num_codes, hidden)
    if hidden != talker["hidden_size"]:
        name = f"{prefix}.small_to_mtp_projection"
        plan.linear(name, hidden, talker["hidden_size"], bias=True)
    for i in range(config["num_hidden_layers"]):
        _plan_qwen3_layer(plan, f"{prefix}.model.layers.{i}", config)
    plan.norm(f"{prefix}.model.norm", hidden)


def _plan_res2net_block(plan: TensorPlan, index: int, config: Json) -> None:
    prefix, scale = f"speaker_encoder.blocks.{index}", config["enc_res2net_scale"]
    width, kernel = config["enc_channels"][index], config["enc_kernel_sizes"][index]
    squeezed = config["enc_se_channels"]
    plan.conv(f"{prefix}.tdnn1.conv", width, config["enc_channels"][index - 1], 1)
    for j in range(scale - 1):
        name = f"{prefix}.res2net_block.blocks.{j}.conv"
        plan.conv(name, width // scale, width // scale, kernel)
    plan.conv(f"{prefix}.tdnn2.conv", width, width, 1)
    plan.conv(f"{prefix}.se_block.conv1", squeezed, width, 1)
    plan.conv(f"{prefix}.se_block.conv2", width, squeezed, 1)
