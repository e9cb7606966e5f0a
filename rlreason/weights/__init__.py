"""Reads and writes weights: Hugging Face safetensors folders and GGUF, never pickle."""

from rlreason.weights.conversion import check_destination, convert
from rlreason.weights.load import (
    STEP_LABELS, is_process_model, load_model, load_scalar_model, open_model, open_scalar_model,
    save_model, save_process_model, save_scalar_model)
from rlreason.weights.peft import load_adapters, save_adapters
from rlreason.weights.smollm2 import SMOLLM2, find_model, find_smollm2

__all__ = [
    "SMOLLM2", "STEP_LABELS", "check_destination", "convert", "find_model", "find_smollm2",
    "is_process_model", "load_adapters", "load_model", "load_scalar_model", "open_model",
    "open_scalar_model", "save_adapters", "save_model", "save_process_model", "save_scalar_model"]
