"""Writes the chat model as GGUF v3, Q8_0, and reads such a file back (for the evaluation of what is shipped)."""
import json

import gguf
import numpy as np
import torch

from .chat_model import ChatModel, Shape
from .chat_tokenizer import CHAT_TEMPLATE, END_OF_TEXT, IM_END, SPECIALS

Q8 = gguf.GGMLQuantizationType.Q8_0


def write(path, model: ChatModel, tokenizer, description: str) -> None:
    s = model.shape
    w = gguf.GGUFWriter(str(path), "qwen3")
    w.add_name("impetus-tiny-chat")
    w.add_description(description)
    w.add_license("mit")
    w.add_languages(["en"])
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_context_length(s.context)
    w.add_embedding_length(s.width)
    w.add_block_count(s.layers)
    w.add_feed_forward_length(s.feed)
    w.add_head_count(s.heads)
    w.add_head_count_kv(s.kv_heads)
    w.add_key_length(s.head)
    w.add_value_length(s.head)
    w.add_rope_dimension_count(s.head)
    w.add_rope_freq_base(s.theta)
    w.add_layer_norm_rms_eps(s.eps)
    w.add_vocab_size(s.vocabulary)
    state = json.loads(tokenizer.to_str())["model"]
    tokens = [t for t, _ in sorted(state["vocab"].items(), key=lambda kv: kv[1])]
    assert len(tokens) == s.vocabulary, (len(tokens), s.vocabulary)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(tokens)
    w.add_token_types([gguf.TokenType.CONTROL if t in SPECIALS else gguf.TokenType.NORMAL for t in tokens])
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in state["merges"]])
    w.add_bos_token_id(state["vocab"][END_OF_TEXT])
    w.add_eos_token_id(state["vocab"][IM_END])
    w.add_eot_token_id(state["vocab"][IM_END])
    w.add_pad_token_id(state["vocab"][END_OF_TEXT])
    w.add_add_bos_token(False)
    w.add_chat_template(CHAT_TEMPLATE)
    for name, p in model.state_dict().items():
        data = p.detach().float().cpu().numpy()
        if data.ndim == 2:
            w.add_tensor(name, gguf.quants.quantize(data, Q8), raw_dtype=Q8)
        else:
            w.add_tensor(name, data)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def field(reader, key):
    f = reader.get_field(key)
    return f.contents()


def read(path, device="cpu"):
    """(model, fields) from the file; the weights as Q8_0 left them."""
    reader = gguf.GGUFReader(str(path))
    get = lambda k: field(reader, f"qwen3.{k}")  # noqa: E731
    shape = Shape(
        get("vocab_size"), get("embedding_length"), get("block_count"), get("attention.head_count"), get("attention.head_count_kv"),
        get("attention.key_length"), get("feed_forward_length"), get("context_length"), get("rope.freq_base"),
        get("attention.layer_norm_rms_epsilon"),
    )
    model = ChatModel(shape)
    state = {t.name: torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type), np.float32)) for t in reader.tensors}
    model.load_state_dict(state)
    return model.to(device).eval(), reader


def tokenizer_of(reader):
    """The tokenizer as the GGUF file states it, rebuilt from its vocabulary and merges."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    from .chat_tokenizer import PATTERN

    tokens, merges = field(reader, "tokenizer.ggml.tokens"), field(reader, "tokenizer.ggml.merges")
    kinds = field(reader, "tokenizer.ggml.token_type")
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, kinds) if k == gguf.TokenType.CONTROL]
    )
    return tokenizer
