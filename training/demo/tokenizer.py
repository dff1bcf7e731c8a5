"""The tokenizer: byte-level BPE learnt from the conversations, one token per digit, and the chat template."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.demo.conversation import Conversation

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
PAD_ID, BEGIN_ID, END_ID = 0, 1, 2
ROLES = {"system": 3, "user": 4, "assistant": 5}
"""The id of the token `<|role|>` that begins a message of that role."""

VOCABULARY = 3072
CONTEXT = 2048

CHAT_TEMPLATE = """\
{%- set marks = {'system': '<|system|>', 'developer': '<|system|>', 'user': '<|user|>'} -%}
{%- macro text(content) -%}
  {%- if content is string -%}
    {{- content -}}
  {%- else -%}
    {%- for part in content or [] if part.type == 'text' -%}{{- part.text -}}{%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{%- for message in messages -%}
  {%- if message.role == 'assistant' -%}
    {{- '<|assistant|>' -}}
    {%- generation -%}{{- text(message.content) + '<|end|>' -}}{%- endgeneration -%}
  {%- elif message.role in marks -%}
    {{- marks[message.role] + text(message.content) + '<|end|>' -}}
  {%- else -%}
    {{- raise_exception('this model knows the roles system, user and assistant, not ' + message.role) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of `VOCABULARY` entries for texts like these; every Unicode text goes through it unharmed.

    Digits stay single: a sum is then written digit by digit and can be learnt from few examples. All 256 bytes
    are in the vocabulary, so there is no unknown token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BEGIN, END, *(f"<|{role}|>" for role in ROLES)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def texts_of(conversations: Iterable[Conversation]) -> Iterable[str]:
    """All that is said in these conversations, message by message."""
    for conversation in conversations:
        for message in conversation.messages():
            yield message["content"]


def encode(tokenizer: PreTrainedTokenizerFast, conversation: Conversation) -> tuple[list[int], list[float]]:
    """Token ids as the chat template gives them, and for each the weight of learning to say it, 0 for what users say.

    The template gives the same ids (a test compares them); putting them together here is twenty times as fast. A
    token of an answer weighs one over the square root of the answer's length: a story of 150 tokens then counts
    four times as much as a sum of 10, not fifteen times, and it is the sums that are hard to learn.
    """
    ids = [BEGIN_ID]
    weights = [0.0]
    for message in conversation.messages():
        said = [*tokenizer.backend_tokenizer.encode(message["content"], add_special_tokens=False).ids, END_ID]
        ids += [ROLES[message["role"]], *said]
        weight = len(said) ** -0.5 if message["role"] == "assistant" else 0.0
        weights += [0.0, *[weight] * len(said)]
    return ids, weights
