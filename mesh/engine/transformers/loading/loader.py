"""Loading a model from a folder or from the hub: everything that can be wrong with it is said in one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.models.auto import modeling_auto

from mesh.dialects import AUTO
from mesh.engine.chat import NO_STOPS, ChatRenderer
from mesh.engine.text import Tokenizer
from mesh.engine.transformers.layers import int8
from mesh.engine.transformers.loading.bars import Report, reported
from mesh.engine.transformers.loading.checkpoint import Checkpoint, find_checkpoint
from mesh.engine.transformers.loading.device import default_threads, find_device
from mesh.engine.transformers.loading.fingerprint import TOKENIZER_FILES, fingerprint, hash_parts
from mesh.engine.transformers.loading.placement import Placement, check_placed
from mesh.engine.transformers.loading.quantization import (
    Quantization,
    check_checkpoint,
    load_arguments,
    number_format,
    runs_int8,
)
from mesh.engine.transformers.loading.rope import condense_rope
from mesh.engine.transformers.loading.source import Hub, Source
from mesh.engine.transformers.vision.processor import find_processor, sees
from mesh.errors import MeshError, invalid
from mesh.templates import Template
from mesh.templates.choice import choose_template, find_stops

_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Up to here float32 is affordable on a CPU, and it makes answers equal in the last bit whatever the batch.
_FLOAT32_BELOW: Final = 1_500_000_000
_DEFAULT_CONTEXT: Final = 2048
# Models whose own `generate` puts something beside or behind the tokens.
_OWN_INPUTS: Final = ("cpmant", "xlm", "xlnet")


@dataclass(frozen=True)
class LoadOptions:
    """What to load and how.

    `path` is a folder, a *.gguf file or a hub name; `name` the served name (default: the last part of `path`); `device`
    auto, cpu, cuda, cuda:1, mps, xpu or npu; `dtype` auto, float32, bfloat16 or float16; `threads` of torch;
    `context_length` in tokens, at most the model's own; `chat_template` is jinja text, a file of it, or the name of a
    built-in template, and replaces the model's own; with `allow_chat_templates` requests may bring theirs. `gguf_file`
    names a file in the folder or on the hub; `allow_pickle` takes weights in torch's own format where there are no
    safetensors. `quantization` is how linear layers are quantized when loading: int8, nf4 or none. `num_gpus`,
    `max_gpu_memory` (bytes on each) and `cpu_offloading` spread the weights, see Placement. `tensor_parallel_size` is
    the number of processes that compute each layer together; None leaves it to the model, see parallel/plan.py.
    """

    path: str
    name: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    quantization: Quantization = "none"
    hub: Hub = "huggingface"
    revision: str | None = None
    gguf_file: str | None = None
    allow_pickle: bool = False
    num_gpus: int = 1
    tensor_parallel_size: int | None = None
    max_gpu_memory: int | None = None
    cpu_offloading: bool = False
    trust_remote_code: bool = False
    threads: int | None = None
    context_length: int | None = None
    chat_template: str | None = None
    allow_chat_templates: bool = False
    tool_parser: str = AUTO
    reasoning_parser: str = AUTO

    @property
    def ranks(self) -> int:
        """The number of processes, once it is settled."""
        return self.tensor_parallel_size or 1


@dataclass
class LoadedModel:
    """A model that is ready to run: in eval mode, on its device, without gradients.

    `vocab_size` is the width of the logits; `parameters` counts tied weights once. A model that does not generate has
    no head, and its output is hidden states, unless it `classifies`.
    """

    name: str
    model: PreTrainedModel
    tokenizer: Tokenizer
    chat: ChatRenderer
    config: PretrainedConfig
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    context_length: int
    eos_token_ids: tuple[int, ...]
    vocab_size: int
    parameters: int
    architecture: str
    has_chat_template: bool
    folder: Path
    generates: bool
    classifies: bool
    processor: ProcessorMixin | None = None  # of models that see pictures


def load(options: LoadOptions, progress: Report) -> LoadedModel:
    """Load a model; takes seconds to minutes. `progress` gets short sentences, on this thread.

    Raises invalid_request with one sentence naming the folder, file or option at fault.
    """
    device = find_device(options.device)
    placement = Placement(device, options.num_gpus, options.max_gpu_memory, options.cpu_offloading, ranks=options.ranks)
    torch.set_num_threads(options.threads or default_threads())
    folder, gguf = _source(options).find(progress)
    checkpoint = find_checkpoint(folder, gguf=gguf, allow_pickle=options.allow_pickle)
    config = _config(folder, gguf, options)
    names = _names(options.path, folder)
    if said := condense_rope(config, names):
        progress(said)
    hf_tokenizer = _tokenizer(folder, gguf, options)
    # Before the template: it may bring one.
    processor = None if gguf else find_processor(folder, config, hf_tokenizer)
    template = _template(options, hf_tokenizer, names, config.model_type, progress)
    context_length = _context_length(options, config)
    check_checkpoint(config, options.quantization)
    dtype = _dtype(options.dtype, device, checkpoint, config)
    placement.check_fits(checkpoint, dtype, options.quantization)
    model = _model(checkpoint, config, dtype, placement, options, progress)
    parameters, vocab_size = sum(parameter.numel() for parameter in model.parameters()), _vocab_size(model)
    if runs_int8(options.quantization, device):
        progress(f"{int8.quantize(model, vocab_size)} linear layers in 8 bits")
    eos_token_ids = _eos_token_ids(getattr(model, "generation_config", None), config, hf_tokenizer)
    tokenizer = Tokenizer(hf_tokenizer, eos_token_ids)
    chat = _chat(options, tokenizer, template)
    progress("computing the fingerprint")
    numbers = number_format(model, options.quantization, config, device)
    return LoadedModel(
        name=options.name or folder_name(options.path),
        model=model,
        tokenizer=tokenizer,
        chat=chat,
        config=config,
        device=device,
        dtype=model.dtype,
        fingerprint=fingerprint(checkpoint, config.to_dict(), chat.facts, numbers),
        context_length=context_length,
        eos_token_ids=eos_token_ids,
        vocab_size=vocab_size,
        parameters=parameters,
        architecture=type(model).__name__,
        has_chat_template=chat.has_template,
        folder=folder,
        generates=generates(config),
        classifies=_classifies(config),
        processor=processor,
    )


@dataclass(frozen=True)
class TextSide:
    """What a model's texts are made of, for engines that load the weights by themselves."""

    name: str
    folder: Path
    tokenizer: Tokenizer
    chat: ChatRenderer
    eos_token_ids: tuple[int, ...]
    architecture: str
    fingerprint: str


def load_text_side(options: LoadOptions, progress: Report, *, number_format: str) -> TextSide:
    """Find a model and read all but its weights. `number_format` tells engines apart in the fingerprint.

    Raises invalid_request as `load` does.
    """
    folder, gguf = _source(options).find(progress)
    config = _config(folder, gguf, options)
    hf_tokenizer = _tokenizer(folder, gguf, options)
    saved = (folder / "generation_config.json").is_file()
    generation = transformers.GenerationConfig.from_pretrained(folder) if saved else None
    eos_token_ids = _eos_token_ids(generation, config, hf_tokenizer)
    tokenizer = Tokenizer(hf_tokenizer, eos_token_ids)
    template = _template(options, hf_tokenizer, _names(options.path, folder), config.model_type, progress)
    chat = _chat(options, tokenizer, template)
    progress("computing the fingerprint")
    checkpoint = find_checkpoint(folder, gguf=gguf, allow_pickle=options.allow_pickle)
    return TextSide(
        name=options.name or folder_name(options.path),
        folder=folder,
        tokenizer=tokenizer,
        chat=chat,
        eos_token_ids=eos_token_ids,
        architecture=next(iter(getattr(config, "architectures", None) or [config.model_type])),
        fingerprint=fingerprint(checkpoint, config.to_dict(), chat.facts, number_format),
    )


def load_tokenizer_side(
    options: LoadOptions, progress: Report, *, eos_token_ids: Sequence[int], architecture: str, identity: str
) -> TextSide:
    """The same of a folder with a tokenizer and nothing else; `identity` stands in the fingerprint for the weights."""
    folder = Path(options.path)
    hf_tokenizer = _tokenizer(folder, None, options)
    tokenizer = Tokenizer(hf_tokenizer, eos_token_ids)
    name = options.name or folder_name(options.path)
    chat = _chat(options, tokenizer, _template(options, hf_tokenizer, [name], "", progress))
    files = [file for file in sorted(folder.iterdir()) if file.name in TOKENIZER_FILES]
    parts = [identity, json.dumps(chat.facts, sort_keys=True, default=str), *(file.name for file in files)]
    return TextSide(
        name=name,
        folder=folder,
        tokenizer=tokenizer,
        chat=chat,
        eos_token_ids=tokenizer.eos_token_ids,
        architecture=architecture,
        fingerprint=hash_parts([*(part.encode() for part in parts), *(file.read_bytes() for file in files)]),
    )


def read_config(options: LoadOptions, progress: Report) -> PretrainedConfig:
    """The configuration of a model, which is downloaded if need be. Raises invalid_request as `load` does."""
    folder, gguf = _source(options).find(progress)
    return _config(folder, gguf, options)


def folder_name(path: str) -> str:
    """The served name of a model without one: the last part of its folder or hub name, of a file without its ending."""
    if path.endswith(".gguf"):
        return Path(path).stem
    return Path(path).resolve().name if Path(path).is_dir() else path.rsplit("/", 1)[-1]


def _source(options: LoadOptions) -> Source:
    return Source(
        options.path,
        hub=options.hub,
        revision=options.revision,
        gguf=options.gguf_file,
        with_code=options.trust_remote_code,
        allow_pickle=options.allow_pickle,
    )


def _config(folder: Path, gguf: str | None, options: LoadOptions) -> PretrainedConfig:
    file = folder / (gguf or "config.json")
    kind = None if gguf else _raw_config(file).get("model_type")
    auto: Any = AutoConfig
    arguments = {"gguf_file": gguf} if gguf else {}
    try:
        return auto.from_pretrained(folder, trust_remote_code=options.trust_remote_code, **arguments)
    except Exception as error:  # any exception is about the file, whatever its type
        reason = (
            f"model type '{kind}' is not known to transformers {transformers.__version__}"
            if not gguf and kind not in transformers.CONFIG_MAPPING
            else _first_sentence(error)
        )
        raise invalid("path", f"'{file}' cannot be used: {reason}") from error


def _raw_config(file: Path) -> dict[str, Any]:
    try:
        raw: object = json.loads(file.read_bytes())
    except ValueError as error:
        raise invalid("path", f"'{file}' is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise invalid("path", f"'{file}' is not a JSON object")
    return cast("dict[str, Any]", raw)


def _tokenizer(folder: Path, gguf: str | None, options: LoadOptions) -> Any:
    # Without any file transformers would make up an empty tokenizer.
    if not gguf and not any(any(folder.glob(pattern)) for pattern in ("token*", "*vocab*", "*.model")):
        raise invalid("path", f"'{folder}' holds no tokenizer (no tokenizer.json, tokenizer.model or vocabulary)")
    place = folder / gguf if gguf else folder
    auto: Any = AutoTokenizer
    arguments = {"gguf_file": gguf} if gguf else {}
    try:
        tokenizer: Any = auto.from_pretrained(folder, trust_remote_code=options.trust_remote_code, **arguments)
    except Exception as error:  # any exception is about the files, whatever its type
        raise invalid("path", f"the tokenizer in '{place}' cannot be used: {_first_sentence(error)}") from error
    if not len(tokenizer):
        raise invalid("path", f"the tokenizer in '{place}' has no vocabulary")
    return tokenizer


def _dtype(name: str, device: torch.device, checkpoint: Checkpoint, config: PretrainedConfig) -> torch.dtype | str:
    if name != "auto":
        if name not in _DTYPES:
            raise invalid("dtype", f"'dtype' must be auto, {', '.join(_DTYPES)}, not '{name}'")
        return _DTYPES[name]
    if device.type != "cpu" or getattr(config, "quantization_config", None):
        # A GGUF file of blocks does not say in which format it is to be computed.
        return torch.bfloat16 if checkpoint.kind == "gguf" else "auto"
    small = sum(numbers for numbers, _ in checkpoint.tensors()) < _FLOAT32_BELOW
    # Without hardware support bfloat16 is several times slower than float32 in batches.
    return torch.float32 if small or not torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.bfloat16


def _model(
    checkpoint: Checkpoint,
    config: PretrainedConfig,
    dtype: torch.dtype | str,
    placement: Placement,
    options: LoadOptions,
    progress: Report,
) -> PreTrainedModel:
    folder = checkpoint.folder
    kind = _auto_class(config, folder)
    progress(
        f"loading weights ({checkpoint.bytes / 1e9:.2f} GB in {len(checkpoint.files)} files) to {placement.device}"
    )
    quantized = load_arguments(
        options.quantization, checkpoint, placement.device, dtype, cpu_offloading=placement.cpu_offloading
    )
    try:
        with reported(progress):
            model, info = kind.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                trust_remote_code=options.trust_remote_code,
                output_loading_info=True,
                **_format_arguments(checkpoint),
                **quantized,
                **placement.arguments(),
            )
    except Exception as error:  # memory, damage, shapes: any exception is about these weights
        raise invalid("path", f"the weights in '{folder}' cannot be loaded: {_first_sentence(error)}") from error
    check_placed(model)
    # A pooler of the model's own is not used: see pooling.py.
    if missing := sorted(key for key in info["missing_keys"] if not key.startswith("pooler.")):
        # Transformers would go on with random numbers.
        raise invalid("path", f"the weights in '{folder}' lack {len(missing)} tensors, such as '{missing[0]}'")
    return cast(PreTrainedModel, model.eval().requires_grad_(False))


def _format_arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    match checkpoint.kind:
        case "safetensors":
            return {"use_safetensors": True}
        case "pickle":
            return {"use_safetensors": False, "weights_only": True}
        case "gguf":
            return {"gguf_file": checkpoint.files[0].name, **_unpacked_gguf()}


def _unpacked_gguf() -> dict[str, Any]:
    """Newer transformers would compute with the file's blocks where it finds kernels: with other numbers elsewhere."""
    kind: Any = getattr(transformers, "GgufConfig", None)
    return {} if kind is None else {"quantization_config": kind(dequantize=True)}


def _auto_class(config: PretrainedConfig, folder: Path) -> Any:
    """The transformers class that loads a model: for text generation, for classes, or for embedding without a head."""
    if _is_headless(config):
        name = _architecture(config)
        return getattr(transformers, name if name.endswith("Model") else "AutoModel", transformers.AutoModel)
    if _classifies(config):
        return transformers.AutoModelForSequenceClassification
    kind = config.model_type
    remote: dict[str, str] = getattr(config, "auto_map", None) or {}
    seq_to_seq = kind in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    # Bart and its kin are in both lists: as a causal model their encoder would be dropped without a word.
    if seq_to_seq and config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    if kind in _OWN_INPUTS:
        raise invalid("path", f"'{folder}' holds a model of type '{kind}', which needs inputs beyond its tokens")
    if _is_encoder(config):
        raise invalid("path", f"'{folder}' holds an encoder (type '{kind}'), which does not generate text")
    if sees(config):
        return transformers.AutoModelForImageTextToText
    if kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or "AutoModelForCausalLM" in remote:
        return transformers.AutoModelForCausalLM
    if seq_to_seq or "AutoModelForSeq2SeqLM" in remote:
        return transformers.AutoModelForSeq2SeqLM
    if kind in modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return transformers.AutoModelForImageTextToText
    raise invalid("path", f"'{folder}' holds a model of type '{kind}', which does not generate text")


def _architecture(config: PretrainedConfig) -> str:
    return next(iter(config.architectures or ()), "")


def _is_headless(config: PretrainedConfig) -> bool:
    """Whether the weights are those of a model without a head for generation: an encoder, or the body of a decoder."""
    name = _architecture(config)
    return name.endswith(("Model", "ForMaskedLM")) and not name.endswith("LMHeadModel")


def _classifies(config: PretrainedConfig) -> bool:
    """Whether the weights have a head for classes of texts."""
    return _architecture(config).endswith("ForSequenceClassification")


def generates(config: PretrainedConfig) -> bool:
    """Whether a model answers with text, and not with vectors or classes."""
    return not (_is_headless(config) or _classifies(config))


def _is_encoder(config: PretrainedConfig) -> bool:
    """Bert and its kin are decoders only if their configuration says so; else each token sees the ones after it."""
    both = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys() & modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return config.model_type in both and not (getattr(config, "is_decoder", False) or getattr(config, "causal", False))


def _context_length(options: LoadOptions, config: PretrainedConfig) -> int:
    text_config = config.get_text_config(decoder=True)
    names = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length")
    found = (getattr(text_config, name, None) for name in names)
    own = next((value for value in found if isinstance(value, int) and value > 0), None)
    wanted = options.context_length
    if wanted is None:
        return own or _DEFAULT_CONTEXT
    if wanted < 1 or (own is not None and wanted > own):
        limit = f"between 1 and the model's own {own}" if own else "at least 1"
        raise invalid("context_length", f"'context_length' must be {limit}, not {wanted}")
    return wanted


def _eos_token_ids(generation: object, config: PretrainedConfig, tokenizer: Any) -> tuple[int, ...]:
    """Ends of turn: those of the generation settings (else of the configuration), and the tokenizer's own."""
    given: Any = getattr(generation, "eos_token_id", None)
    if given is None:
        given = getattr(config.get_text_config(decoder=True), "eos_token_id", None)
    listed: Iterable[Any] = cast(list[Any], given) if isinstance(given, list) else [given]
    ids = [*listed, tokenizer.eos_token_id]
    return tuple(dict.fromkeys(token_id for token_id in ids if isinstance(token_id, int) and token_id >= 0))


def _vocab_size(model: PreTrainedModel) -> int:
    head: Any = cast(Any, model).get_output_embeddings()
    weight: torch.Tensor | None = getattr(head, "weight", None)
    return int(weight.shape[0]) if weight is not None else int(model.config.get_text_config().vocab_size)


def _template(
    options: LoadOptions, tokenizer: Any, names: list[str], model_type: str, progress: Report
) -> Template | None:
    choice = choose_template(options.chat_template, tokenizer, names, model_type)
    template = choice.template
    progress(f"chat template: {f'{template.name}, ' if template else ''}{choice.reason}")
    return template


def _chat(options: LoadOptions, tokenizer: Tokenizer, template: Template | None) -> ChatRenderer:
    return ChatRenderer(
        tokenizer,
        template.text if template else None,
        stops=find_stops(template, tokenizer.hf) if template else NO_STOPS,
        allow_others=options.allow_chat_templates,
        tool_parser=options.tool_parser,
        reasoning_parser=options.reasoning_parser,
    )


def _names(path: str, folder: Path) -> list[str]:
    """What a model is called: by its path, by the folder of a hub's cache that it is in, by who saved it."""
    cached = [part.rsplit("--", 1)[-1] for part in folder.resolve().parts if part.startswith("models--")]
    # Transformers puts the path that it loads from in the place of this one.
    file = folder / "config.json"
    saved: Any = json.loads(file.read_bytes()).get("_name_or_path") if file.is_file() else None
    return [folder_name(path), *cached, *([saved.rsplit("/", 1)[-1]] if isinstance(saved, str) else [])]


def _first_sentence(error: Exception) -> str:
    if isinstance(error, MeshError):
        return error.message
    text = " ".join(str(error).split())
    return re.split(r"(?<=[a-z'\"\)])\. ", text, maxsplit=1)[0][:300] or type(error).__name__
