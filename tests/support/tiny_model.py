"""A language model small enough to be made for a test: GPT-2 with two layers, random weights, a letter per byte.

Written with the standard library alone, in the two forms that engines read. It is noise, but real noise: whoever runs
it tokenizes, fills a window and generates. GPT-2 because its positions are learnt: beyond the window there is nothing,
so an engine has to refuse a longer prompt.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

NAME: Final = "tiny-random"
WINDOW: Final = 512  # tokens, which are bytes

_WIDTH: Final = 64
_LAYERS: Final = 2
_HEADS: Final = 4
_INNER: Final = 4 * _WIDTH

# Byte-level BPE, as GPT-2 has it: a printable letter stands for each byte. Engines refuse a list without any merge.
_PRINTABLE: Final = (*range(33, 127), *range(161, 173), *range(174, 256))
_HIDDEN: Final = tuple(byte for byte in range(256) if byte not in _PRINTABLE)
_LETTERS: Final = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(256 + i) for i, byte in enumerate(_HIDDEN)}
_MERGES: Final = ["h o"]
_PLAIN: Final = [*(_LETTERS[byte] for byte in range(256)), "ho"]
_CONTROL: Final = ["<|bos|>", "<|im_start|>", "<|im_end|>"]
_WORDS: Final = [*_PLAIN, *_CONTROL]
_BOS: Final = _WORDS.index("<|bos|>")
_EOS: Final = _WORDS.index("<|im_end|>")
_TEMPLATE: Final = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)


@dataclass(frozen=True, slots=True)
class _Tensor:
    """`gguf` and `torch` are its names. `lengths` are the lengths of its axes in torch's order; GGUF counts from the
    innermost axis, and has matrices the other way round, so that those of a `table` alone are turned.
    """

    gguf: str
    torch: str
    lengths: tuple[int, ...]
    values: array[float]
    table: bool = False

    @property
    def gguf_lengths(self) -> tuple[int, ...]:
        return self.lengths[::-1] if self.table else self.lengths


def _tensors() -> Iterator[_Tensor]:
    random = Random(0)

    def noise(n: int) -> array[float]:
        return array("f", (random.gauss(0.0, 0.05) for _ in range(n)))

    def norm(gguf: str, torch: str) -> Iterator[_Tensor]:
        yield _Tensor(f"{gguf}.weight", f"{torch}.weight", (_WIDTH,), array("f", [1.0] * _WIDTH))
        yield _Tensor(f"{gguf}.bias", f"{torch}.bias", (_WIDTH,), array("f", [0.0] * _WIDTH))

    def layer(gguf: str, torch: str, into: int, out: int) -> Iterator[_Tensor]:
        yield _Tensor(f"{gguf}.weight", f"{torch}.weight", (into, out), noise(into * out))
        yield _Tensor(f"{gguf}.bias", f"{torch}.bias", (out,), noise(out))

    for gguf, torch, rows in ("token_embd", "wte", len(_WORDS)), ("position_embd", "wpe", WINDOW):
        yield _Tensor(f"{gguf}.weight", f"transformer.{torch}.weight", (rows, _WIDTH), noise(rows * _WIDTH), table=True)
    for i in range(_LAYERS):
        ours, theirs = f"blk.{i}.", f"transformer.h.{i}."
        yield from norm(ours + "attn_norm", theirs + "ln_1")
        yield from layer(ours + "attn_qkv", theirs + "attn.c_attn", _WIDTH, 3 * _WIDTH)
        yield from layer(ours + "attn_output", theirs + "attn.c_proj", _WIDTH, _WIDTH)
        yield from norm(ours + "ffn_norm", theirs + "ln_2")
        yield from layer(ours + "ffn_up", theirs + "mlp.c_fc", _WIDTH, _INNER)
        yield from layer(ours + "ffn_down", theirs + "mlp.c_proj", _INNER, _WIDTH)
    yield from _head(noise(len(_WORDS) * _WIDTH))


def _head(values: array[float]) -> Iterator[_Tensor]:
    """The way out never says a control token, so that every answer is exactly as long as it may be.

    The first of the last layer's numbers is always 1, and only the rows of the control tokens look at it.
    """
    weight, bias = array("f", [1.0] * _WIDTH), array("f", [0.0] * _WIDTH)
    weight[0], bias[0] = 0.0, 1.0
    for row in range(len(_WORDS)):
        values[row * _WIDTH] = 0.0 if row < len(_PLAIN) else -1000.0
    yield _Tensor("output_norm.weight", "transformer.ln_f.weight", (_WIDTH,), weight)
    yield _Tensor("output_norm.bias", "transformer.ln_f.bias", (_WIDTH,), bias)
    yield _Tensor("output.weight", "lm_head.weight", (len(_WORDS), _WIDTH), values, table=True)


def write_transformers(folder: Path) -> None:
    """A folder as `save_pretrained` leaves it."""
    folder.mkdir()
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    files: dict[str, Any] = {
        "config.json": {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_embd": _WIDTH,
            "n_layer": _LAYERS,
            "n_head": _HEADS,
            "n_positions": WINDOW,
            "vocab_size": len(_WORDS),
            "bos_token_id": _BOS,
            "eos_token_id": _EOS,
            "tie_word_embeddings": False,
            "dtype": "float32",
        },
        "generation_config.json": {"bos_token_id": _BOS, "eos_token_id": _EOS},
        "tokenizer.json": {
            "version": "1.0",
            "added_tokens": [{"id": _WORDS.index(w), "content": w, "special": True, **flags} for w in _CONTROL],
            "pre_tokenizer": byte_level,
            "decoder": byte_level,
            "model": {"type": "BPE", "vocab": {word: i for i, word in enumerate(_WORDS)}, "merges": _MERGES},
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": _WORDS[_BOS],
            "eos_token": _WORDS[_EOS],
            "model_max_length": WINDOW,
            "clean_up_tokenization_spaces": False,
            "chat_template": _TEMPLATE,
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(_safetensors())


def _safetensors() -> bytes:
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for tensor in _tensors():
        start = len(data)
        data += tensor.values.tobytes()
        head[tensor.torch] = {"dtype": "F32", "shape": tensor.lengths, "data_offsets": [start, len(data)]}
    written = json.dumps(head).encode()
    return struct.pack("<Q", len(written)) + written + data


def write_gguf(path: Path) -> None:
    """The one file that llama.cpp reads, version 3 of its form."""
    facts: dict[str, Any] = {
        "general.architecture": "gpt2",
        "general.name": NAME,
        "gpt2.context_length": WINDOW,
        "gpt2.embedding_length": _WIDTH,
        "gpt2.block_count": _LAYERS,
        "gpt2.feed_forward_length": _INNER,
        "gpt2.attention.head_count": _HEADS,
        "gpt2.attention.layer_norm_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": _WORDS,
        "tokenizer.ggml.token_type": [1] * len(_PLAIN) + [3] * len(_CONTROL),
        "tokenizer.ggml.merges": _MERGES,
        "tokenizer.ggml.bos_token_id": _BOS,
        "tokenizer.ggml.eos_token_id": _EOS,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": _TEMPLATE,
    }
    path.write_bytes(_gguf(facts))


_ALIGNED: Final = 32  # bytes, where nothing else is told
_F32: Final = 0


def _gguf(facts: Mapping[str, Any]) -> bytes:
    tensors = list(_tensors())
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts))
    head += b"".join(_text(name) + _fact(value) for name, value in facts.items())
    data = bytearray()
    for tensor in tensors:
        lengths = tensor.gguf_lengths
        head += _text(tensor.gguf)
        head += struct.pack(f"<I{len(lengths)}QIQ", len(lengths), *lengths, _F32, len(data))
        data += _aligned(tensor.values.tobytes())
    return _aligned(head) + data


def _fact(value: Any) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _text(value)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
        case _:
            return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _aligned(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % _ALIGNED)
