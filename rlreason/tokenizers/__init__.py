"""Text to token ids and back, chat templates, and the files a Hugging Face folder needs."""

from rlreason.tokenizers.base import Tokenizer
from rlreason.tokenizers.chat import (
    ChatTokens, encode_chat, encode_completion, encode_example, encode_prompt, opened, render,
    with_chat_options)
from rlreason.tokenizers.gguf import tokenizer_from_gguf
from rlreason.tokenizers.hf import HFTokenizer, load_hf
from rlreason.tokenizers.incremental import IncrementalDecoder
from rlreason.tokenizers.load import load_tokenizer
from rlreason.tokenizers.sentencepiece import load_sentencepiece
from rlreason.tokenizers.word import WordTokenizer

__all__ = [
    "ChatTokens", "HFTokenizer", "IncrementalDecoder", "Tokenizer", "WordTokenizer", "encode_chat",
    "encode_completion", "encode_example", "encode_prompt", "load_hf", "load_sentencepiece",
    "load_tokenizer", "opened", "render", "tokenizer_from_gguf", "with_chat_options"]
