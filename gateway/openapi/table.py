"""All routes of the gateway. A test compares them with those of the application."""

from __future__ import annotations

from typing import Any, Final

from gateway.anthropic.messages import COUNT_TOKENS, MESSAGES
from gateway.batches.batches import CANCEL_BATCH, CREATE_BATCH, GET_BATCH, LIST_BATCHES
from gateway.batches.files import DELETE_FILE, GET_CONTENT, GET_FILE, LIST_FILES, UPLOAD
from gateway.health import HEALTH, METRICS, READY, ROOT, VERSION
from gateway.openai.chat import CHAT
from gateway.openai.classify import CLASSIFY, CLASSIFY_OF_VLLM
from gateway.openai.completions import COMPLETIONS
from gateway.openai.conversations import CONVERSATIONS
from gateway.openai.decisions import DECISIONS
from gateway.openai.embeddings import EMBEDDINGS
from gateway.openai.models import GET_MODEL, LIST_MODELS
from gateway.openai.moderations import MODERATIONS
from gateway.openai.responses.routes import COUNT_INPUT, CREATE_RESPONSE
from gateway.openai.responses.stored import CANCEL, DELETE_RESPONSE, GET_RESPONSE, LIST_INPUT
from gateway.openai.scores import RERANK, SCORE
from gateway.openai.stored_chats import STORED_CHATS
from gateway.openai.tokenizer import DETOKENIZE, TOKENIZE
from gateway.operation import Operation

DOCUMENT: Final = Operation(
    method="GET",
    path="/openapi.json",
    summary="This API as an OpenAPI document.",
    group="Operations",
    answer=dict[str, Any],
)
PAGE: Final = Operation(
    method="GET", path="/docs", summary="The same for people.", group="Operations", gives="text/html"
)

OPERATIONS: Final[tuple[Operation, ...]] = (
    CHAT,
    *STORED_CHATS,
    MESSAGES,
    COUNT_TOKENS,
    COMPLETIONS,
    CREATE_RESPONSE,
    COUNT_INPUT,
    GET_RESPONSE,
    DELETE_RESPONSE,
    CANCEL,
    LIST_INPUT,
    *CONVERSATIONS,
    EMBEDDINGS,
    SCORE,
    RERANK,
    CLASSIFY,
    CLASSIFY_OF_VLLM,
    MODERATIONS,
    DECISIONS,
    TOKENIZE,
    DETOKENIZE,
    UPLOAD,
    LIST_FILES,
    GET_FILE,
    DELETE_FILE,
    GET_CONTENT,
    CREATE_BATCH,
    LIST_BATCHES,
    GET_BATCH,
    CANCEL_BATCH,
    LIST_MODELS,
    GET_MODEL,
    HEALTH,
    READY,
    METRICS,
    VERSION,
    ROOT,
    DOCUMENT,
    PAGE,
)
