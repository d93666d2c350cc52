"""Names and shapes of every tensor in `speech_tokenizer/model.safetensors`."""

from qwen3_audio.random_weights.tensors import TensorPlan
from qwen3_audio.random_weights.tts_configs import Json


def plan_codec_decoder(plan: TensorPlan, config: Json) -> None:
    latent = config["latent_dim"]
    _plan_decoder_codebooks(plan, config)
    plan.conv("decoder.pre_conv.conv", latent, config["codebook_dim"], 3)
    _plan_decoder_transformer(plan, config)
    for i, ratio in enumerate(config["upsampling_ratios"]):
        _plan_upsampling(plan, f"decoder.upsample.{i}", latent, ratio)
    _plan_vocoder(plan, config)


def plan_codec_encoder(plan: TensorPlan, config: Json) -> None:
    _plan_encoder_convs(plan, config)
    for i in range(config["num_hidden_layers"]):
        _plan_encoder_layer(plan, f"encoder.encoder_transformer.layers.{i}", config)
    hidden = config["hidden_size"]
    plan.conv("encoder.downsample.conv", hidden, hidden, 4, bias=False)
    num_semantic = config["num_semantic_quantizers"]
    _plan_encoder_codebooks(plan, "semantic", num_semantic, config)
    _plan_encoder_codebooks(plan, "acoustic", config["num_quantizers"] - num_semantic, config)


def _plan_decoder_codebooks(plan: TensorPlan, config: Json) -> None:
    wide = config["codebook_dim"]
    narrow = wide // 2
    for part, num_layers in (("rvq_first", 1), ("rvq_rest", config["num_quantizers"] - 1)):
        prefix = f"decoder.quantizer.{part}"
        plan.conv(f"{prefix}.input_proj", narrow, wide, 1, bias=False)
        plan.conv(f"{prefix}.output_proj", wide, narrow, 1, bias=False)
        for i in range(num_layers):
            book = f"{prefix}.vq.layers.{i}._codebook"
            size = (config["codebook_size"], narrow)
            plan.codebook(f"{book}.cluster_usage", f"{book}.embedding_sum", size, scale=0.4)


def _plan_decoder_transformer(plan: TensorPlan, config: Json) -> None:
    prefix, hidden, latent = "decoder.pre_transformer", config["hidden_size"], config["latent_dim"]
    plan.linear(f"{prefix}.input_proj", hidden, latent, bias=True)
    plan.linear(f"{prefix}.output_proj", latent, hidden, bias=True)
    plan.norm(f"{prefix}.norm", hidden)
    width, inner = config["num_attention_heads"] * config["head_dim"], config["intermediate_size"]
    for i in range(config["num_hidden_layers"]):
        layer = f"{prefix}.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj"):
            plan.linear(f"{layer}.self_attn.{name}", width, hidden)
        plan.linear(f"{layer}.self_attn.o_proj", hidden, width)
        plan.linear(f"{layer}.mlp.gate_proj", inner, hidden)
        plan.linear(f"{layer}.mlp.up_proj", inner, hidden)
        plan.linear(f"{layer}.mlp.down_proj", hidden, inner)
        plan.norm(f"{layer}.input_layernorm", hidden)
        plan.norm(f"{layer}.post_attention_layernorm", hidden)
        _plan_layer_scales(plan, layer, hidden)


def _plan_layer_scales(plan: TensorPlan, layer: str, hidden: int) -> None:
    plan.normal(f"{layer}.self_attn_layer_scale.scale", hidden, scale=0.1, mean=0.5)
    plan.normal(f"{layer}.mlp_layer_scale.scale", hidden, scale=0.1, mean=0.5)


def _plan_upsampling(plan: TensorPlan, prefix: str, latent: int, ratio: int) -> None:
    plan.transposed_conv(f"{prefix}.0.conv", latent, latent, kernel=ratio, stride=ratio)
    plan.conv(f"{prefix}.1.dwconv.conv", latent, 1, 7)  # depthwise
    plan.norm(f"{prefix}.1.norm", latent, bias=True)
    plan.linear(f"{prefix}.1.pwconv1", 4 * latent, latent, bias=True)
    plan.linear(f"{prefix}.1.pwconv2", latent, 4 * latent, bias=True)
    plan.normal(f"{prefix}.1.gamma", latent, scale=0.1, mean=0.5)


def _plan_vocoder(plan: TensorPlan, config: Json) -> None:
    rates, width = config["upsample_rates"], config["decoder_dim"]
    plan.conv("decoder.decoder.0.conv", width, config["latent_dim"], 7)
    for i, rate in enumerate(rates):
        prefix = f"decoder.decoder.{i + 1}.block"
        _plan_snake(plan, f"{prefix}.0", width)
        plan.transposed_conv(f"{prefix}.1.conv", width, width // 2, kernel=2 * rate, stride=rate)
        width //= 2
        for j in (2, 3, 4):
            _plan_snake(plan, f"{prefix}.{j}.act1", width)
            plan.conv(f"{prefix}.{j}.conv1.conv", width, width, 7, scale=0.5)
            _plan_snake(plan, f"{prefix}.{j}.act2", width)
            plan.conv(f"{prefix}.{j}.conv2.conv", width, width, 1, scale=0.5)
    _plan_snake(plan, f"decoder.decoder.{len(rates) + 1}", width)
    plan.conv(f"decoder.decoder.{len(rates) + 2}.conv", 1, width, 7, scale=0.08)


def _plan_snake(plan: TensorPlan, prefix: str, width: int) -> None:
    plan.normal(f"{prefix}.alpha", width, scale=0.2)
    plan.normal(f"{prefix}.beta", width, scale=0.2)


def _plan_encoder_convs(plan: TensorPlan, config: Json) -> None:
    """The index counts activations too, which have no tensors."""
    prefix, width = "encoder.encoder.layers", config["num_filters"]
    plan.conv(f"{prefix}.0.conv", width, config["audio_channels"], config["kernel_size"])
    index = 1
    for rate in reversed(config["upsampling_ratios"]):
        for _ in range(config["num_residual_layers"]):
            narrow, kernel = width // config["compress"], config["residual_kernel_size"]
            plan.conv(f"{prefix}.{index}.block.1.conv", narrow, width, kernel)
            plan.conv(f"{prefix}.{index}.block.3.conv", width, narrow, 1)
            index += 1
        plan.conv(f"{prefix}.{index + 1}.conv", 2 * width, width, 2 * rate)
        width *= 2
        index += 2
    last = f"{prefix}.{index + 1}.conv"
    plan.conv(last, config["hidden_size"], width, config["last_kernel_size"])


def _plan_encoder_layer(plan: TensorPlan, layer: str, config: Json) -> None:
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    key = config["num_key_value_heads"] * config["head_dim"]
    plan.linear(f"{layer}.self_attn.q_proj", query, hidden)
    plan.linear(f"{layer}.self_attn.k_proj", key, hidden)
    plan.linear(f"{layer}.self_attn.v_proj", key, hidden)
    plan.linear(f"{layer}.self_attn.o_proj", hidden, query)
    plan.linear(f"{layer}.mlp.fc1", inner, hidden)
    plan.linear(f"{layer}.mlp.fc2", hidden, inner)
    plan.norm(f"{layer}.input_layernorm", hidden, bias=True)
    plan.norm(f"{layer}.post_attention_layernorm", hidden, bias=True)
    _plan_layer_scales(plan, layer, hidden)


def _plan_encoder_codebooks(plan: TensorPlan, part: str, num_layers: int, config: Json) -> None:
    prefix = f"encoder.quantizer.{part}_residual_vector_quantizer"
    size = (config["codebook_size"], config["codebook_dim"])
    plan.conv(f"{prefix}.input_proj", config["codebook_dim"], config["hidden_size"], 1, bias=False)
    plan.conv(f"{prefix}.output_proj", config["hidden_size"], config["codebook_dim"], 1, bias=False)
    for i in range(num_layers):
        book = f"{prefix}.layers.{i}.codebook"
        plan.constant(f"{book}.initialized", 1)
        plan.codebook(f"{book}.cluster_usage", f"{book}.embed_sum", size, scale=1 / (1 + i))
