"""The chat model's tokenizer: byte-level BPE with Qwen2's pre-tokeniser (every digit alone)."""
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIALS = [END_OF_TEXT, IM_START, IM_END]
VOCABULARY = 4096
# The pattern that GGUF calls tokenizer.ggml.pre = "qwen2".
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# ChatML; where a message ends with a question of its own paragraph, under a passage say, the question is also said ahead:
# so small a model reads better when it knows what it is looking for.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% set parts = message['content'].split('\\n\\n') %}"
    "{% if message['role'] == 'user' and parts | length > 1 and (parts | last).endswith('?') and parts | last | length < 300 %}"
    "{{ parts | last + '\\n\\n' }}"
    "{% endif %}"
    "{{ message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train(texts, vocabulary: int = VOCABULARY) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def said(message) -> str:
    """A message's words as CHAT_TEMPLATE renders them."""
    parts = message["content"].split("\n\n")
    ahead = message["role"] == "user" and len(parts) > 1 and parts[-1].endswith("?") and len(parts[-1]) < 300
    return (parts[-1] + "\n\n" if ahead else "") + message["content"]


def render(messages, add_generation_prompt=True) -> str:
    """What CHAT_TEMPLATE renders."""
    text = "".join(f"{IM_START}{m['role']}\n{said(m)}{IM_END}\n" for m in messages)
    return text + (f"{IM_START}assistant\n" if add_generation_prompt else "")
